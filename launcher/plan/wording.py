"""Engine options in one spelling before a plan is made, and the place of a refused one. Pure."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection

import msgspec

from launcher.argv import FlagValue
from launcher.config.settings import Resolved, written_at
from launcher.engine.options import flags as flag_tables
from launcher.engine.options.spelling import spelled, spelled_words
from launcher.errors import QlaunchError
from launcher.plan.inputs import Inputs

_ABOUT = re.compile(r"(^|; )--([a-z0-9][a-z0-9-]*)")
"""An option that a refusal, or a part of one, begins with: that is what it is about."""


def in_one_spelling(inputs: Inputs) -> Inputs:
    """`inputs` with options by their main names, and whole numbers as numbers, however they are
    written: what is checked and predicted is then what the engine reads."""
    table = inputs.engine.options or flag_tables.table(inputs.engine.version)
    if table is None:
        return inputs
    known, settings = table.index(), inputs.settings
    flags, renamed = spelled(settings.flags, known)
    sources = {_renamed(key, renamed): source for key, source in settings.sources.items()}
    fallback: list[dict[str, FlagValue]] = []
    for number, step in enumerate(inputs.profile.fallback):
        one, others = spelled(step, known)
        fallback.append(one)
        for written, main in others.items():
            if said := sources.pop(f"fallback.{number}.{written}", None):
                sources[f"fallback.{number}.{main}"] = said
    replaced = msgspec.structs.replace
    return dataclasses.replace(
        inputs,
        settings=replaced(settings, flags=flags, sources=sources),
        profile=replaced(inputs.profile, fallback=fallback),
        extra=spelled_words(inputs.extra, known),
    )


def _renamed(key: str, renamed: dict[str, str]) -> str:
    main = renamed.get(key.removeprefix("flags.")) if key.startswith("flags.") else None
    return f"flags.{main}" if main else key


def placed(error: QlaunchError, settings: Resolved, again: Collection[str]) -> QlaunchError:
    """`error` with file and line of each option that it is about, where a file says it.

    Args:
        error: what a plan ends with.
        settings: with the places.
        again: options that the user gave after `--`: they win, and are about no file.
    """

    def located(found: re.Match[str]) -> str:
        if found[2] in again:
            return found[0]
        return f"{found[1]}{written_at(settings, f'flags.{found[2]}')}--{found[2]}"

    message = _ABOUT.sub(located, error.message)
    return error if message == error.message else error.saying(message)
