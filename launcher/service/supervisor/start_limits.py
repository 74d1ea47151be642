"""How long one start of an engine may take: at most, and without anything happening in it."""

from __future__ import annotations

from collections.abc import Callable

from launcher.documents.plan import Plan
from launcher.service.supervisor.event_loop import Timers
from launcher.service.supervisor.timing import Timing


class StartLimits:
    """The limits of one start after another."""

    def __init__(
        self,
        timers: Timers,
        timing: Timing,
        stalled_for: Callable[[], float],
        over: Callable[[str], object],
    ) -> None:
        """`stalled_for`: seconds since the start last did anything; `over` hears of its limit."""
        self._timers, self._timing = timers, timing
        self._stalled_for, self._over = stalled_for, over
        self._plan: Plan | None = None

    def begin(self, plan: Plan) -> None:
        """A start has begun."""
        self._plan = plan
        limit_s, budget_s = plan.start_timeout_s, plan.start_budget_s
        self._timers.after("start", limit_s, lambda: self._over(f"{limit_s:g} s"))
        if budget_s is not None:
            self._timers.after("budget", budget_s, self._past_budget)

    def end(self) -> None:
        """The engine is there."""
        self._timers.cancel("start")
        self._timers.cancel("budget")

    def _past_budget(self) -> None:
        """A start longer than usual here goes on for as long as anything happens in it."""
        assert self._plan is not None
        if self._stalled_for() < self._timing.stalled_s:
            self._timers.after("budget", self._timing.stalled_s / 4, self._past_budget)
            return
        limit, source = self._plan.start_budget_s, self._plan.start_budget_source
        self._over(f"{limit:g} s ({source}), and nothing happens in it")
