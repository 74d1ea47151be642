"""The steps a profile offers after a memory failure, resolved to what would run. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from launcher.argv import FlagValue, options
from launcher.documents.plan import Fallback, Plan

if TYPE_CHECKING:
    from launcher.plan.inputs import Inputs


def resolved(given: Inputs, make: Callable[[Inputs], Plan]) -> tuple[Fallback, ...]:
    """The profile's fallback steps as plans of their own, each on top of those before it.

    What the user set on the command line (an option of qlaunch, or of the engine after `--`) is
    never touched: such keys are left out of a step, and a step that is then empty is no step.

    Raises:
        QlaunchError: as `make`: a step with an option that the engine does not have.
    """
    own = _users_own(given)
    flags, said = dict(given.settings.flags), given.settings.sources
    places: dict[str, str] = {}
    steps = []
    for number, step in enumerate(given.profile.fallback):
        changes: dict[str, FlagValue] = {k: v for k, v in step.items() if k not in own}
        if not changes or flags == {**flags, **changes}:
            continue
        flags |= changes
        places |= {
            f"flags.{k}": said[at] for k in changes if (at := f"fallback.{number}.{k}") in said
        }
        settings = msgspec.structs.replace(
            given.settings, flags=dict(flags), sources={**said, **places}
        )
        bare = msgspec.structs.replace(given.profile, fallback=[])
        plan = make(dataclasses.replace(given, settings=settings, profile=bare))
        steps.append(
            Fallback(
                flags=changes,
                argv=plan.engine.argv,
                expectation=plan.expectation,
                predicted=plan.replica_set.one if plan.replica_set else plan.predicted,
            )
        )
    return tuple(steps)


def _users_own(given: Inputs) -> set[str]:
    """Engine options that the command line set."""
    own = set(options(given.extra))
    for key, source in given.settings.sources.items():
        if key.startswith("flags.") and source == "command line":
            own.add(key.removeprefix("flags."))
    return own
