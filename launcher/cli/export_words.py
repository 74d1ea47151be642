"""What the options of `export` take: names that the target takes too, else one sentence here."""

from __future__ import annotations

import re
from typing import Final

import click

MOST_REPLICAS: Final = 150_000
"""Pods of the largest cluster that Kubernetes is made for."""
_OBJECT: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
_PART: Final = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE: Final = re.compile(
    rf"(?:[A-Za-z0-9][A-Za-z0-9.-]*(?::[0-9]{{1,5}})?/)?{_PART}(?:/{_PART})*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?",
    re.ASCII,
)
_CARD: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9_.-]*(?::([0-9]{1,4}(?:\.[0-9]{1,4})?))?", re.ASCII
)
_USER: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,254}\$?", re.ASCII)
_NO_UID: Final = 2**32 - 1


def object_name(_context: object, _option: object, value: str | None) -> str | None:
    """A name that Kubernetes takes.

    Raises:
        click.BadParameter: it takes no such name.
    """
    if value is not None and not _OBJECT.fullmatch(value):
        raise click.BadParameter(
            f"{value!r} is not a name in Kubernetes: small letters, digits, `-` and `.` only"
        )
    return value


def image(_context: object, _option: object, value: str | None) -> str | None:
    """The name of an image.

    Raises:
        click.BadParameter: no registry has such a name.
    """
    if value is not None and not _IMAGE.fullmatch(value):
        raise click.BadParameter(
            f"{value!r} is not the name of an image, such as registry/qlaunch-cpu:1.0"
        )
    return value


def card(_context: object, _option: object, value: str | None) -> str | None:
    """A card and how many, as SkyPilot calls them.

    Raises:
        click.BadParameter: it is none.
    """
    found = None if value is None else _CARD.fullmatch(value)
    if value is not None and (found is None or float(found[1] or 1) <= 0):
        raise click.BadParameter(f"{value!r} is not NAME:COUNT with one card or more, such as T4:1")
    return value


def user(_context: object, _option: object, value: str | None) -> str | None:
    """A user that a unit can run as: a name, or a number.

    Raises:
        click.BadParameter: no user is called so.
    """
    if value is None:
        return None
    number = int(value) if value.isdecimal() else 0
    if not _USER.fullmatch(value) or number >= _NO_UID:
        raise click.BadParameter(
            f"{value!r} is not the name of a user: letters, digits, `_`, `-`, `.` and `@` only"
        )
    return value


def requirement(name: str) -> str:
    """What pip is told: a requirement, an address or a path.

    Raises:
        click.BadParameter: it is nothing that pip takes.
    """
    from packaging.requirements import InvalidRequirement, Requirement

    if name.strip() and name.isprintable() and "/" in name and not name.startswith("-"):
        return name
    try:
        Requirement(name)
    except InvalidRequirement:
        said = (
            f"{name!r} is neither a requirement such as qlaunch==1.0, nor an address, nor a wheel"
        )
        raise click.BadParameter(said, param_hint="--package") from None
    return name
