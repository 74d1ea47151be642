"""A change of a set that serves: asked for by a file and a signal, done step by step.

Whoever asks leaves `request.json` in the service's folder, by atomic replace, and sends SIGUSR1.
The set's supervisor takes it, and says in its state (`rollout`) that it has, how far it is, and
what came of it. A step that fails is undone, and the set is as it was.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import msgspec

from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.documents.service_state import ExecutedEngine, Rollout
from launcher.errors import QlaunchError
from launcher.linux.files import read_bounded, write_atomic
from launcher.service import process_tree, store
from launcher.service.replica_set.naming import replica_name, runs_the_same
from launcher.service.replica_set.replica import Replica
from launcher.service.replica_set.steps import Step, steps
from launcher.service.store import STATE_LIMIT, Folder
from launcher.service.supervisor.cache_gateway import CacheGateway
from launcher.service.supervisor.records import ServiceRecords
from launcher.units import counted

DRAIN_S: Final = 60.0
"""For the requests of a replica that leaves; what is then under way is retried by the gateway."""
Steps = Generator[float, None, None]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What a set is asked to become."""

    rollout: Rollout
    plan: Plan
    afresh: bool = False
    """Whether replicas that would run the same are started again too."""


def request_path(where: Folder) -> Path:
    """The file by which a set is asked."""
    return where.path / "request.json"


def leave(where: Folder, request: Request) -> None:
    """Leave a request in the folder.

    Raises:
        QlaunchError: `state_not_written` (exit 1).
    """
    try:
        write_atomic(request_path(where), msgspec.json.encode(request))
    except OSError as error:
        raise store.not_written(where.path, error) from error


class RolloutOwner(Protocol):
    """The set that changes."""

    plan: Plan
    wanted: int
    replicas: list[Replica]
    records: ServiceRecords
    gateway: CacheGateway

    def replica(self, number: int) -> Replica:
        """A replica that has not been started."""

    def begin(self, replicas: Sequence[Replica]) -> Steps:
        """Start them and wait until each serves or was given up."""

    def update(self) -> int:
        """Tell everybody how it stands; the serial of what the gateway was told."""

    def drive(self, steps: Steps) -> None:
        """Run steps that end where the set does."""


def begin(owner: RolloutOwner, where: Folder) -> None:
    """Take the request that lies in the folder, if it is a new one, and begin with it."""
    records = owner.records
    try:
        request = msgspec.json.decode(read_bounded(request_path(where), STATE_LIMIT), type=Request)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        records.journal.write(f"asked for a change that cannot be read: {error}")
        return
    now, asked = records.status.now.rollout, request.rollout
    if now is not None and (not now.done or now.id == asked.id):
        return  # whoever asks waits for the one under way, or has been heard
    with suppress(OSError):
        request_path(where).unlink()  # taken: nobody shall wonder about it later
    records.journal.write(f"asked to {asked.kind}: {counted(asked.replicas, 'replica')}")
    records.recorder.event("rollout", kind=asked.kind, replicas=asked.replicas)
    records.status.change(rollout=asked)
    owner.drive(_Change(owner, where, request).run())


def executed(plan: Plan) -> ExecutedEngine:
    """What a set's engines run, as its state says it."""
    engine = plan.engine
    return ExecutedEngine(
        release=engine.release, version=engine.version, argv=engine.argv, env=engine.env
    )


class _Change:
    """One change, from its first step to its last."""

    def __init__(self, owner: RolloutOwner, where: Folder, request: Request) -> None:
        self._owner, self._where, self._request = owner, where, request
        self._before = owner.wanted
        self._replaced: list[tuple[Replica, Plan]] = []
        """With what each ran before."""

    def run(self) -> Steps:
        owner, plan = self._owner, self._request.plan
        assert plan.replica_set is not None
        gone = [n for n, each in enumerate(owner.replicas, 1) if each.given_up is not None]
        running = [each.plan for each in owner.replicas]
        # Fewer are wanted from the beginning, more only once they serve.
        owner.wanted = min(self._before, plan.replica_set.count)
        for step in steps(running, plan, afresh=self._request.afresh, given_up=gone):
            self._say(step)
            failure = yield from self._take(step)
            if failure is not None:
                yield from self._undo()
                self._over(failure)
                return
        owner.wanted, owner.plan = plan.replica_set.count, plan
        self._keep(plan)
        owner.update()
        self._over(None)

    def _say(self, step: Step) -> None:
        words = {"begin": "is started", "replace": "is started again", "end": "leaves"}[step.kind]
        self._told(detail=f"{replica_name(self._owner.plan.service, step.number)} {words}")

    def _told(self, **changes: object) -> None:
        status = self._owner.records.status
        assert status.now.rollout is not None
        status.change(rollout=msgspec.structs.replace(status.now.rollout, **changes))

    def _take(self, step: Step) -> Generator[float, None, Failure | None]:
        """Take one step; why it failed."""
        owner = self._owner
        if step.kind == "begin":
            owner.replicas.append(owner.replica(step.number))
        replica = owner.replicas[step.number - 1]
        if step.kind == "end":
            yield from self._end(replica)
            return None
        assert step.plan is not None
        if step.kind == "replace":
            self._replaced.append((replica, replica.plan))
            yield from self._out(replica)
        replica.plan = step.plan
        yield from owner.begin([replica])
        return replica.given_up

    def _undo(self) -> Steps:
        """Have everything as it was: end what was begun, and start again what ran before."""
        owner = self._owner
        owner.wanted = self._before
        for replica, plan in reversed(self._replaced):
            if not runs_the_same(plan, replica.plan):
                yield from self._out(replica)
                replica.plan = plan
                yield from owner.begin([replica])
        for replica in owner.replicas[self._before :]:
            yield from self._end(replica)
        owner.update()

    def _end(self, replica: Replica) -> Steps:
        yield from self._out(replica)
        self._owner.replicas.remove(replica)
        self._owner.update()

    def _out(self, replica: Replica) -> Steps:
        """Have it finish its requests, and end it."""
        owner = self._owner
        serving = replica.settled and replica.given_up is None
        replica.leaving = True
        serial = owner.update()
        if serving:
            gateway, life = owner.gateway, owner.gateway.pids()
            yield from process_tree.until(
                lambda: gateway.pids() != life or gateway.drained.get(replica.name, -1) >= serial,
                DRAIN_S,
            )
        for line in (yield from replica.stopped()):
            owner.records.journal.write(f"{replica.name}: {line} is left")

    def _keep(self, plan: Plan) -> None:
        """Write down the plan that is in force, for a restart and for whoever reads it."""
        records = self._owner.records
        try:
            store.write_plan(self._where, plan)
        except QlaunchError as error:  # a full disk: the set serves, and the old plan is there
            records.journal.write(error.message)
        if plan.predicted != records.status.now.predicted:
            records.recorder.resized(plan)
        records.status.change(predicted=plan.predicted, engine_plan=executed(plan))
        self._owner.gateway.replan(plan)

    def _over(self, failure: Failure | None) -> None:
        records = self._owner.records
        detail = "done" if failure is None else failure.message
        records.journal.write(f"the change is over: {detail}")
        records.recorder.event("rollout_over", message=detail)
        self._told(done=True, failure=failure, detail=detail)
