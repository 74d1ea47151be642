"""`--replicas`, `scale` and `restart` of a set, up to where a supervisor would be asked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher.documents.plan import Plan
from launcher.documents.run import Peak
from launcher.documents.service_state import ReplicaState, ServiceState
from launcher.linux import processes
from launcher.service import store
from launcher.service.replica_set import asking
from tests.checkpoints import make_bert
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.cli.services import leave_service
from tests.cli.test_export import service
from tests.samples import GIB, machine


def a_set(count: int = 2, name: str = "svc", **given: Any) -> Plan:
    """A set as `up` left it, at work: its supervisor is this process."""
    plan = service(name=name, replicas=str(count), **given)
    at_work(plan)
    return plan


def at_work(plan: Plan, *, replicas: bool = True) -> None:
    named = [f"{plan.service}.{n}" for n in (1, 2)] if replicas else []
    leave_service(
        plan.service,
        "run",
        "ready",
        supervisor=processes.process_id(os.getpid()),
        endpoint="http://127.0.0.1:30000/v1",
        replicas=tuple(ReplicaState(service=each, state="ready", serving=True) for each in named),
        measured=Peak(ram_peak_bytes=2 * GIB),
    )


class Asked:
    """What sets were asked to become."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plans: list[Plan] = []
        self.how: list[tuple[str, bool]] = []
        monkeypatch.setattr(asking, "change", self)

    def __call__(self, plan: Plan, kind: str, *, afresh: bool, **_: object) -> ServiceState:
        self.plans.append(plan)
        self.how.append((kind, afresh))
        state = store.read_state(plan.service)
        assert state is not None
        return state


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(monkeypatch)


def count(plan: Plan) -> int:
    assert plan.replica_set is not None
    return plan.replica_set.count


class TestPlan:
    def test_it_shows_the_sum(self, run: Run, ready: Path) -> None:
        one = run("plan", "cpu-minilm", "--json").data
        two = run("plan", "cpu-minilm", "--replicas", "2", "--json").data
        assert (two["replicas"], "replicas" in one) == (2, False)
        each = two["replica"]["memory"]["predicted"]
        total, alone = two["memory"]["predicted"]["ram_bytes"], each["ram_bytes"]
        assert alone < total < 2 * alone  # what both import is there once
        assert alone == one["memory"]["predicted"]["ram_bytes"]
        assert "replicas  2, each " in run("plan", "cpu-minilm", "--replicas", "2").out

    def test_what_does_not_fit_is_not_started(self, run: Run, ready: Path, on: SetMachine) -> None:
        on(machine(available=3 * GIB))
        answer = run("up", "cpu-minilm", "--replicas", "30", "--json")
        assert (answer.code, answer.error["code"]) == (4, "does_not_fit")
        assert answer.error["message"].count("30 replicas") == 1
        assert answer.error["fix"].startswith("--replicas ")
        assert "`--`" not in answer.error["fix"]

    @pytest.mark.parametrize("number", ["0", "33", "two", "1.5"])
    def test_what_is_no_number_of_replicas(self, number: str, run: Run, ready: Path) -> None:
        answer = run("up", "cpu-minilm", "--replicas", number, "--json")
        assert (answer.code, answer.error["code"]) == (2, "setting_invalid")
        assert "at least 1 and at most 32" in answer.error["message"]

    def test_a_profile_says_it_too(self, run: Run, ready: Path) -> None:
        folder = ready / "config" / "profiles"
        (folder / "own.yaml").write_text("extends: cpu-minilm\nreplicas: 3\n")
        assert run("plan", "own", "--json").data["replicas"] == 3
        (folder / "own.yaml").write_text("extends: cpu-minilm\nreplicas: 0\n")
        assert run("plan", "own", "--json").code == 2


class TestScale:
    def test_the_plan_is_made_again_for_another_number(
        self, run: Run, ready: Path, asked: Asked
    ) -> None:
        before = a_set(2, port="0", dtype="float32")
        assert run("scale", "svc", "3", "--json").code == 0
        (plan,) = asked.plans
        assert asked.how == [("scale", False)]
        assert (count(plan), plan.service, plan.port) == (3, "svc", 0)
        assert plan.expectation.dtype == "float32"
        assert plan.fingerprint == before.fingerprint
        assert plan.origin is not None
        assert plan.origin.settings["replicas"] == 3

    def test_one_is_a_set_that_can_be_given_more(self, run: Run, ready: Path, asked: Asked) -> None:
        a_set(2)
        assert run("scale", "svc", "1", "--json").code == 0
        assert count(asked.plans[0]) == 1

    def test_what_the_set_itself_holds_counts_as_free(
        self, run: Run, ready: Path, asked: Asked, on: SetMachine
    ) -> None:
        a_set(2)
        on(machine(available=GIB))
        assert run("scale", "svc", "2", "--json").code == 0
        answer = run("scale", "svc", "32", "--json")
        assert (answer.code, answer.error["code"]) == (4, "does_not_fit")
        assert len(asked.plans) == 1

    def test_a_single_engine_is_refused(self, run: Run, ready: Path, asked: Asked) -> None:
        at_work(service(name="svc"), replicas=False)
        answer = run("scale", "svc", "2", "--json")
        assert (answer.code, answer.error["code"]) == (9, "not_a_set")
        assert "--replicas" in answer.error["fix"]

    def test_one_that_does_not_run_is_refused(self, run: Run, ready: Path, asked: Asked) -> None:
        service(name="svc", replicas="2")
        answer = run("scale", "svc", "3", "--json")
        assert (answer.code, answer.error["code"]) == (3, "not_running")

    def test_replicas_of_two_kinds_are_refused(self, run: Run, ready: Path, asked: Asked) -> None:
        own = ready / "config" / "profiles" / "own.yaml"
        own.write_text("extends: cpu-minilm\nreplicas: 2\n")
        at_work(service(profile="own"))
        own.write_text("extends: cpu-minilm\nreplicas: 2\ndtype: float32\n")
        answer = run("scale", "own", "3", "--json")
        assert (answer.code, answer.error["code"]) == (9, "profile_changed")
        assert answer.error["fix"].endswith("qlaunch restart own --reread")
        model = make_bert(ready / "m", seed=1)
        a_set(2, model=str(model))
        make_bert(model, seed=2)
        assert run("scale", "svc", "3", "--json").error["code"] == "checkpoint_changed"
        assert asked.plans == []

    def test_numbers_beyond_the_bounds(self, run: Run, ready: Path) -> None:
        assert run("scale", "svc", "0", "--json").code == 2
        assert run("scale", "svc", "33", "--json").code == 2


class TestRestart:
    def test_it_rolls(self, run: Run, ready: Path, asked: Asked) -> None:
        plan = a_set(2)
        answer = run("restart", "svc", "--json")
        assert (answer.code, answer.data["rolling"]) == (0, True)
        assert (asked.plans, asked.how) == ([plan], [("restart", True)])

    def test_a_new_plan_rolls_where_clients_see_nothing_of_it(
        self, run: Run, ready: Path, asked: Asked
    ) -> None:
        own = ready / "config" / "profiles" / "own.yaml"
        own.write_text("extends: cpu-minilm\nreplicas: 2\n")
        at_work(service(profile="own"))
        own.write_text("extends: cpu-minilm\nreplicas: 3\ndtype: float32\n")
        assert run("restart", "own", "--reread", "--json").data["rolling"] is True
        assert (count(asked.plans[0]), asked.plans[0].expectation.dtype) == (3, "float32")
        own.write_text("extends: cpu-minilm\nreplicas: 2\naliases: [another-name]\n")
        again = run("restart", "own", "--reread", "--json")
        assert (again.code, again.error["code"]) == (9, "not_rolling")
        assert again.error["fix"].endswith("qlaunch restart own --reread --at-once")

    def test_at_once_stops_all(
        self, run: Run, ready: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plan = a_set(2)
        done: list[object] = []

        def down(name: str) -> object:
            from launcher.service.control import DownResult

            done.append(name)
            return DownResult(service=name, was_running=True, state=None, seconds=0.0)

        def launch(plan: Plan, **_: object) -> object:
            done.append(plan)
            return store.read_state("svc")

        monkeypatch.setattr("launcher.service.control.down", down)
        monkeypatch.setattr("launcher.service.control.launch", launch)
        assert run("restart", "svc", "--at-once", "--json").data["rolling"] is False
        assert done == ["svc", plan]
        assert asked.plans == []
