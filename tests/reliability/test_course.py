"""Any course of events: a hypothesis state machine over the real supervisor and the fake engine."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from launcher.config.profile import Restart
from launcher.documents.service_state import FINAL, UP, ServiceState
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.service import control
from launcher.service.supervisor.states import may_follow
from tests.service.home import Home, eventually

LONG = bool(os.environ.get("QLAUNCH_SOAK"))


class Course(RuleBasedStateMachine):
    """Ups, downs and deaths in any order; what the state says must be true after each."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.before = os.environ.get("QLAUNCH_HOME")
        os.environ["QLAUNCH_HOME"] = str(self.root)
        self.home = Home(self.root)
        restart = Restart(max_attempts=3, backoff_initial_s=0.02, backoff_max_s=0.02)
        self.plan = self.home.plan("--workers", "--setsid-grandchild", restart=restart)
        self.running = False

    def settled(self) -> ServiceState:
        """The state once it is not between two others."""

        def still() -> ServiceState | None:
            state = control.status("svc")
            return state if state.state in UP | FINAL else None

        found: ServiceState = eventually(still)
        names: list[Any] = [phase.name for phase in found.phases]
        for old, new in itertools.pairwise(names):
            assert may_follow(old, new), names
        self.running = found.state in UP
        if self.running:
            assert processes.is_alive(found.supervisor)
            assert processes.is_alive(found.engine)
        else:
            assert not [p for p in self.home.processes() if p != found.supervisor]
        return found

    @precondition(lambda self: not self.running)
    @rule()
    def up(self) -> None:
        assert self.home.up(self.plan).state == "ready"
        self.settled()

    @precondition(lambda self: self.running)
    @rule()
    def up_again(self) -> None:
        try:
            self.home.up(self.plan)
        except QlaunchError as error:
            assert error.exit_code == 9  # noqa: PT017 - no `raises`: a death may have come between
        self.settled()

    @rule()
    def down(self) -> None:
        assert control.down("svc").left == ()
        if self.home.state() is not None:
            assert self.settled().state in FINAL

    @precondition(lambda self: self.running)
    @rule()
    def the_engine_dies(self) -> None:
        state = control.status("svc")
        assert state.engine is not None
        processes.send(state.engine, signal.SIGKILL)
        eventually(lambda: control.status("svc").engine != state.engine)
        self.settled()

    @precondition(lambda self: self.running)
    @rule()
    def the_supervisor_dies(self) -> None:
        state = control.status("svc")
        assert state.supervisor is not None
        processes.send(state.supervisor, signal.SIGKILL)
        eventually(lambda: not processes.is_alive(state.supervisor))
        assert self.settled().state == "failed"

    def teardown(self) -> None:
        if not hasattr(self, "home"):
            return
        control.down("svc")
        self.home.assert_nothing_left()
        if self.before is None:
            del os.environ["QLAUNCH_HOME"]
        else:
            os.environ["QLAUNCH_HOME"] = self.before
        shutil.rmtree(self.root)


TestCourse = Course.TestCase
TestCourse.settings = settings(
    max_examples=30 if LONG else 6,
    stateful_step_count=12 if LONG else 6,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
