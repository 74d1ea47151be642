"""Starting again with less after a memory failure: the plan's own steps, each taken once. Pure.

The steps were resolved with the plan (argv, expectation, prediction), so that a supervisor needs
no planning. They end; after the last one a memory failure is a failure like any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from launcher.argv import FlagValue
from launcher.documents.failure import Failure, TakenFallback
from launcher.documents.plan import Fallback, Plan

MEMORY_CLASSES = frozenset(
    {
        "gpu_oom_capture",
        "gpu_oom_load",
        "gpu_oom_pool",
        "gpu_oom_runtime",
        "gpu_shared",
        "graph_capture",
        "host_oom",
        "kv_budget",
        "kv_budget_negative",
        "ram_exhausted",
    }
)
"""Failure classes (launcher/engine/failures/failures.yaml) that less memory can cure."""


class FallbackSteps:
    """The plan in force, and the steps that are left."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        """What to run now."""
        self._left = list(plan.fallbacks)
        self._all = len(self._left)

    def offers(self, failure: Failure) -> Fallback | None:
        """The step to try after `failure`; None where it is not one of memory, or none is left."""
        if failure.failure_class not in MEMORY_CLASSES or not self._left:
            return None
        return self._left[0]

    def take(self, failure: Failure) -> TakenFallback:
        """Put the next step in force and return its entry for status and record."""
        step = self._left.pop(0)
        self.plan = msgspec.structs.replace(
            self.plan,
            engine=msgspec.structs.replace(self.plan.engine, argv=step.argv),
            expectation=step.expectation,
            predicted=step.predicted,
        )
        return TakenFallback(
            step=self._all - len(self._left),
            of=self._all,
            flags=step.flags,
            after=failure.failure_class,
            message=failure.message,
        )


def words(flags: Mapping[str, FlagValue]) -> str:
    """The changed options as a person types them: `--max-total-tokens 4096`."""
    return " ".join(
        f"--{name}" if value is True else f"--{name} {value}" for name, value in flags.items()
    )
