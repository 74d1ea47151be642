"""The smoke of one life after another: prepared early, begun when the engine is healthy, heard."""

from __future__ import annotations

from typing import Protocol

from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.documents.smoke import SmokeReport
from launcher.service import failures
from launcher.service.supervisor.drift import Numbers
from launcher.service.supervisor.event_loop import Loop, Timers
from launcher.service.supervisor.records import ServiceRecords
from launcher.service.supervisor.smoke_process import Verifier, verify_request
from launcher.service.supervisor.timing import Dependencies

_WORD_S = 0.3
"""For the death of an engine to be told: it explains more than the smoke that failed by it."""


class SmokeOwner(Protocol):
    """Who is told: the supervisor."""

    def smoke_passed(self, report: SmokeReport) -> None:
        """The vectors are right."""

    def smoke_failed(self, failure: Failure) -> None:
        """They are not, or nobody could tell."""


class SmokeRound:
    """The process that runs the smoke, where there is one."""

    def __init__(
        self, loop: Loop, wiring: Dependencies, records: ServiceRecords, owner: SmokeOwner
    ) -> None:
        self._loop, self._wiring, self._records, self._owner = loop, wiring, records, owner
        self._timers = Timers(loop)
        self._endpoint = ""
        self.process: Verifier | None = None

    def prepare(self, plan: Plan, endpoint: str) -> None:
        """Start its process, if none waits for this endpoint: its imports take as long as the
        engine's.

        Raises:
            OSError: it cannot be started.
        """
        if self.process is not None and endpoint == self._endpoint:
            return
        self.close()
        self._endpoint = endpoint
        self.process = Verifier(
            self._loop,
            self._wiring.verify_argv,
            verify_request(plan, endpoint),
            done=self._answered,
            **self._records.for_smoke(),
        )

    def go(self) -> None:
        """The engine is healthy: begin."""
        assert self.process is not None
        self._timers.after("verify", self._wiring.timing.verify_s, self._timed_out)
        self.process.go()

    @property
    def proved(self) -> Numbers | None:
        """The beat's text as the engine embeds it, proved with the rest."""
        return None if self.process is None else self.process.proved

    def pids(self) -> list[int]:
        """Its process, which is no part of the engine."""
        return [] if self.process is None else self.process.pids()

    def halted(self) -> str:
        """A sentence if somebody has stopped its process; else empty."""
        return "" if self.process is None else self.process.halted()

    def quiet(self) -> None:
        """End its process; nothing more will be heard of it."""
        self._timers.cancel_all()
        if self.process is not None:
            self.process.close()

    def close(self) -> None:
        """The same, and forget it: the next life has its own."""
        self.quiet()
        self.process = None

    def _answered(self, answer: SmokeReport | str) -> None:
        if self._records.status.state != "verifying":  # it ended before it was asked to begin
            early = "the smoke began before the engine was healthy"
            self._failed(answer if isinstance(answer, str) else early)
        elif isinstance(answer, SmokeReport) and answer.ok:
            self._timers.cancel("verify")
            self._owner.smoke_passed(answer)
        else:
            # An engine that dies under the smoke fails the smoke too: its death explains more.
            self._timers.after("verify", _WORD_S, lambda: self._failed(answer))

    def _failed(self, answer: SmokeReport | str) -> None:
        if isinstance(answer, SmokeReport):
            self._records.status.change(smoke=answer)
        self._owner.smoke_failed(failures.smoke_verdict(answer))

    def _timed_out(self) -> None:
        self._owner.smoke_failed(failures.wedged(self._wiring.timing.verify_s))
