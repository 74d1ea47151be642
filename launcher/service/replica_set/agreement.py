"""Whether a replica gives the vector of the others: asked of it before requests are.

Each replica is held to the checkpoint's own vectors by its own supervisor. This holds them to each
other: who asks twice must not see which one answered.
"""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.errors import ExitCode
from launcher.service import ports
from launcher.service.replica_set.replica import Replica
from launcher.service.supervisor import http_probe
from launcher.service.supervisor.drift import Numbers, Proof
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.http_probe import HttpAnswer, HttpProbe

TIMES = 2
"""Looks at a vector that differs, before it counts: one alone may be a fault on the way."""


class Agreement:
    """The vector of a set: that of the first replica that was verified."""

    def __init__(
        self,
        loop: Loop,
        plan: Plan,
        key: str | None,
        timeout_s: float,
        done: Callable[[Replica], object],
    ) -> None:
        """`done` is told of each replica that was compared."""
        self._loop, self._timeout_s, self._done = loop, timeout_s, done
        self._model = plan.model_name
        self._headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        expectation = plan.expectation
        self._proof = Proof(None, dimensions=expectation.dimensions, dtype=expectation.dtype)
        self._asking: dict[str, HttpProbe] = {}
        self._odd: dict[str, int] = {}

    @property
    def proved(self) -> Numbers | None:
        """The vector; None before the first."""
        return self._proof.proved

    def ask(self, replica: Replica) -> None:
        """Compare it, unless it is being compared; it is asked again where it does not answer."""
        if replica.name in self._asking or replica.endpoint is None:
            return
        parts, child = urlsplit(replica.endpoint), replica.child
        host, port = parts.hostname or "", parts.port or 0
        self._asking[replica.name] = HttpProbe(
            self._loop,
            (host, port),
            "/v1/embeddings",
            done=lambda answer: self._answered(replica, child, answer),
            headers=self._headers,
            body=http_probe.embedding_request(self._model, 1),
            connected=lambda: ports.ownership(replica.members(), host, port) != "foreign",
            timeout_s=self._timeout_s,
        )

    def _answered(self, replica: Replica, child: object, answer: HttpAnswer) -> None:
        self._asking.pop(replica.name, None)
        if replica.child is not child or not replica.runs:
            return  # it is another life's answer
        vectors = http_probe.embeddings(answer)
        if isinstance(vectors, str):
            if answer.status != 400:
                return  # busy or gone: asked again at the next look
            # A context too short for the text: its own supervisor cannot watch it by that either.
        elif fault := self._proof.look(vectors).fault:
            self._odd[replica.name] = self._odd.get(replica.name, 0) + 1
            if self._odd[replica.name] >= TIMES:
                del self._odd[replica.name]
                replica.kill(_differs(replica.plan, fault))
            return
        self._odd.pop(replica.name, None)
        replica.agree()
        self._done(replica)

    def close(self) -> None:
        """Ask nothing more."""
        for probe in self._asking.values():
            probe.cancel()
        self._asking.clear()


def _differs(plan: Plan, fault: str) -> Failure:
    service = plan.part_of or plan.service
    return Failure(
        code="replicas_differ",
        exit_code=ExitCode.VERIFY_FAILED,
        failure_class="drift",
        message=f"the vector of {plan.service} is not that of the replicas before it: {fault}",
        fix="see what differs: qlaunch runs diff, with two of their runs; where other vectors are "
        f"meant, and what was embedded is embedded again: qlaunch restart {service} --at-once",
    )
