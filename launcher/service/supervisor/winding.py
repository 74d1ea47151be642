"""How a life is wound down, and what comes after: another one, an end, or none until it is needed.

The supervisor's own code, apart for its length: it has one of these as its base.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from functools import partial

from launcher.documents.failure import Failure
from launcher.documents.service_state import State
from launcher.service import failures, process_tree
from launcher.service.supervisor import stopping
from launcher.service.supervisor.cache_gateway import CacheGateway
from launcher.service.supervisor.engine_life import EngineLife
from launcher.service.supervisor.resources import PortReservation
from launcher.service.supervisor.service_owner import ServiceOwner
from launcher.service.supervisor.smoke_round import SmokeRound
from launcher.service.supervisor.template import Template

RESTING = "the engine is stopped; the next request that needs it starts it"


class Winding(ServiceOwner):
    """The part of the supervisor that ends lives."""

    _life: EngineLife | None
    _gateway: CacheGateway | None
    _holders: PortReservation
    _smoke: SmokeRound
    _template: Template
    _delay: float
    _hurry: bool
    _has_heir = False
    """Whether another supervisor is to follow, and inherit the template."""
    _sample: Callable[[], None]

    def _ports(self) -> list[PortReservation]:
        """The engine's port, and that of the gateway before it: the last is the service's own."""
        return [self._holders, *([] if self._gateway is None else [self._gateway.port])]

    def _announce(self, failure: Failure | None, detail: str) -> None:
        if self._goal == "idle":  # from now on its end is nobody's fault
            self.records.enter("idle", detail, engine=None, engine_endpoint=None)
        elif self._goal != "restart":
            super()._announce(failure, detail)

    def _wind(self) -> Generator[float, None, None]:
        self._timers.cancel_all()
        self._smoke.quiet()
        life, ever = self._life, self.records.roll.ever
        kept = self._gateway if self._goal == "idle" else None
        report = yield from stopping.stop(
            life,
            self._gateway if kept is None else None,
            self._timing,
            hurry=self._hurry,
            forced=lambda: self._forced,
            proofs=(
                *(
                    partial(each.of_port, self._failure, ever)
                    for each in (self._ports() if kept is None else [self._holders])
                ),
                lambda: self._recorder.gpu_held(ever),
            ),
        )
        if life is not None and life.verified_at is None:
            self._template.forget()  # the next one shall owe it nothing
        self._life = None
        self._smoke.close()
        self._recorder.end_life()
        if kept is not None and self._goal != "idle":  # asked to end meanwhile
            rest = yield from stopping.stop(
                None, kept, self._timing, hurry=True, forced=lambda: self._forced, proofs=()
            )
            report.left += rest.left
        if self._goal not in {"restart", "idle", "succeeded"}:
            report.left += yield from self._template.stop()
        self._wound_down(report)

    def _wound_down(self, report: process_tree.StopReport) -> None:
        self.records.stopped(report)
        self._winding = self._hurry = False
        goal, self._goal = self._goal, "run"
        if report.left:
            self._finish("failed", failures.left_over(report.left, self._failure))
        elif goal == "idle":
            self._rest()
        elif goal == "restart":
            with suppress(OSError):  # the start tries again
                # Its imports then cost the start nothing.
                self._smoke.prepare(self._plan, self._holders.url)
            self._timers.after("restart", self._delay, self._again)
        elif goal == "failed":
            self._finish("failed", self._failure)
        else:
            self._has_heir = goal == "succeeded"
            self._finish("stopped", None, "; ".join(report.steps))

    def _again(self, why: str = "") -> None:
        detail = why or f"restart {self.status.now.restarts}"
        self.records.enter("starting", detail, engine=None)
        self._start()

    # Without an engine ------------------------------------------------------------------------

    def engine_unneeded(self, after_s: float) -> bool:
        """Stop the engine until it is needed; False where this is no time for it."""
        state: State = self.status.state
        if state != "ready" or self._winding or self._goal != "run":
            return False
        detail = f"stopping the engine: nothing has needed it for {after_s:g} s"
        self._end("idle", detail=detail)
        return True

    def engine_wanted(self) -> None:
        """A request waits for the engine."""
        if self.status.state == "idle" and not self._winding:
            self._again("a request needs the engine")

    def _rest(self) -> None:
        assert self._gateway is not None
        self.records.roll.gone()
        self.status.change(detail=RESTING)
        self._timers.after("sample", self._timing.poll_s, self._sample)
        if self._gateway.wants_engine:
            self.engine_wanted()
