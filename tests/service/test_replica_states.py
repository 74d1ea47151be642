"""What follows from what is known of replicas. Nothing is started."""

from __future__ import annotations

from itertools import product
from typing import Any, get_args

import msgspec
import pytest

from launcher.documents.plan import EnginePlan, Plan, ReplicaSet
from launcher.documents.service_state import START, UP, State
from launcher.service.replica_set import states
from launcher.service.replica_set.naming import replica_plan, same_front
from launcher.service.replica_set.states import (
    Facts,
    may_follow,
    rotation,
    running,
    stage,
    starting,
)
from launcher.service.replica_set.steps import Step, steps
from tests.samples import plan as sample_plan


def replica(name: str = "svc.1", state: State = "ready", **changes: Any) -> Facts:
    values: dict[str, Any] = {"runs": True, "agrees": True, "detail": "it says why"}
    return Facts(name=name, state=state, **{**values, **changes})


def two(first: dict[str, Any], second: dict[str, Any]) -> list[Facts]:
    return [replica("svc.1", **first), replica("svc.2", **second)]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (replica(), "serving"),
        (replica(agrees=False), "proving"),
        (replica(state="degraded"), "ill"),
        (replica(state="degraded", agrees=False), "proving"),
        (replica(state="unknown"), "ill"),
        (replica(state="backoff"), "coming"),
        (replica(state="verifying", agrees=False), "coming"),
        (replica(state="failed"), "coming"),  # its supervisor is about to end
        (replica(runs=False), "waiting"),
        (replica(leaving=True), "leaving"),
        (replica(leaving=True, runs=False), "leaving"),
        (replica(given_up="gave up after 2 restarts"), "given up"),
    ],
)
def test_the_stage_of_a_replica(facts: Facts, expected: states.Stage) -> None:
    assert stage(facts) == expected


def test_only_those_that_serve_are_asked() -> None:
    assert rotation(two({}, {"state": "degraded"})) == ("svc.1",)
    assert rotation(two({"agrees": False}, {})) == ("svc.2",)
    assert rotation(two({"leaving": True}, {"given_up": "why"})) == ()


def test_where_all_are_ill_they_are_asked_all_the_same() -> None:
    assert rotation(two({"state": "degraded"}, {"state": "degraded"})) == ("svc.1", "svc.2")
    assert rotation(two({"state": "unknown"}, {"state": "backoff"})) == ("svc.1",)
    assert rotation(two({"state": "degraded", "agrees": False}, {"state": "backoff"})) == ()


@pytest.mark.parametrize(
    ("first", "second", "fronted", "expected"),
    [
        ({"state": "loading"}, {"runs": False}, False, "loading"),
        ({"state": "verifying"}, {"runs": False}, False, "verifying"),
        ({}, {"runs": False}, False, "verifying"),
        ({}, {}, False, "verifying"),  # the gateway has to be proved yet
        ({}, {"state": "loading", "agrees": False}, True, "loading"),
        ({}, {"agrees": False}, True, "verifying"),
        ({}, {}, True, "ready"),
        ({}, {"given_up": "no memory"}, True, "degraded"),
    ],
)
def test_the_first_start_is_where_its_last_replica_is(
    first: dict[str, Any], second: dict[str, Any], fronted: bool, expected: State
) -> None:
    assert starting(two(first, second), 2, fronted=fronted).state == expected


def test_a_start_says_how_many_are_verified() -> None:
    verdict = starting(two({}, {"state": "loading", "agrees": False}), 2, fronted=True)
    assert verdict.detail == "1 of 2 replicas verified; svc.2 is loading"


@pytest.mark.parametrize(
    ("first", "second", "complaint", "expected"),
    [
        ({}, {}, "", "ready"),
        ({}, {"state": "backoff"}, "", "degraded"),
        ({}, {}, "the gateway does not answer", "degraded"),
        ({"runs": False}, {"state": "loading"}, "", "backoff"),
        ({"runs": False}, {"given_up": "why"}, "", "backoff"),
        ({"state": "degraded"}, {"state": "degraded"}, "", "degraded"),
        ({"given_up": "why"}, {"given_up": "why"}, "", "failed"),
    ],
)
def test_the_state_of_a_set_follows_from_its_replicas(
    first: dict[str, Any], second: dict[str, Any], complaint: str, expected: State
) -> None:
    assert running(two(first, second), 2, complaint=complaint).state == expected


def test_a_degraded_set_says_which_replica_is_missing_and_why() -> None:
    facts = two({}, {"state": "backoff", "detail": "the engine ended with exit code 3"})
    assert running(facts, 2, complaint="").detail == (
        "1 of 2 replicas serve: svc.2 backoff: the engine ended with exit code 3"
    )


def test_every_state_that_is_judged_may_follow_every_other_that_is() -> None:
    """From the first `ready` on the judge must never ask for what the contract forbids."""
    judged: tuple[State, ...] = ("ready", "degraded", "backoff")
    forbidden = [
        (old, new)
        for old, new in product(judged, (*judged, "failed"))
        if old != new and not may_follow(old, new)
    ]
    assert forbidden == []
    for state in START:
        assert all(may_follow(state, to) for to in (*UP - {"idle"}, "stopping", "failed"))
    assert set(states.NEXT) == set(get_args(State))


# The steps of a change ----------------------------------------------------------------------------


def a_set(count: int, threads: int = 1, **changes: Any) -> Plan:
    plan = sample_plan()
    engines = ReplicaSet(
        count=count, one=plan.predicted, shares=tuple({"CORES": str(n)} for n in range(count))
    )
    env = {**plan.engine.env, "OMP_NUM_THREADS": str(threads)}
    engine = msgspec.structs.replace(plan.engine, env=env)
    return msgspec.structs.replace(plan, engine=engine, replica_set=engines, **changes)


def plans(plan: Plan) -> list[Plan]:
    assert plan.replica_set is not None
    return [replica_plan(plan, n) for n in range(1, plan.replica_set.count + 1)]


def kinds(found: list[Step]) -> list[tuple[str, int]]:
    return [(step.kind, step.number) for step in found]


def test_more_replicas_are_begun_before_the_others_get_smaller_parts() -> None:
    found = steps(plans(a_set(2, threads=2)), a_set(3, threads=1), afresh=False)
    assert kinds(found) == [("begin", 3), ("replace", 1), ("replace", 2)]
    assert found[1].plan is not None
    assert found[1].plan.engine.env["OMP_NUM_THREADS"] == "1"


def test_fewer_replicas_leave_after_the_others_have_larger_parts() -> None:
    found = steps(plans(a_set(3, threads=1)), a_set(1, threads=3), afresh=False)
    assert kinds(found) == [("replace", 1), ("end", 3), ("end", 2)]


def test_what_would_run_the_same_goes_on() -> None:
    two_of_them = a_set(2)
    assert steps(plans(two_of_them), two_of_them, afresh=False) == []
    assert kinds(steps(plans(two_of_them), a_set(3), afresh=False)) == [("begin", 3)]
    assert kinds(steps(plans(two_of_them), two_of_them, afresh=False, given_up=[2])) == [
        ("replace", 2)
    ]


def test_a_restart_takes_each_in_turn() -> None:
    two_of_them = a_set(2)
    found = steps(plans(two_of_them), two_of_them, afresh=True)
    assert kinds(found) == [("replace", 1), ("replace", 2)]


def test_a_replica_is_an_ordinary_service_on_loopback_with_its_own_share() -> None:
    found = replica_plan(a_set(2, host="0.0.0.0", port=8000, metrics_port=9000), 2)
    assert (found.service, found.part_of) == (f"{a_set(2).service}.2", a_set(2).service)
    assert (found.host, found.port, found.metrics_port) == ("127.0.0.1", 0, None)
    assert (found.replica_set, found.cache, found.fronted, found.movable) == (
        None,
        None,
        False,
        True,
    )
    assert found.engine.env["CORES"] == "1"
    assert isinstance(found.engine, EnginePlan)


def test_a_change_that_clients_would_see_is_not_rolled_out() -> None:
    assert same_front(a_set(2), a_set(3, threads=2))
    assert not same_front(a_set(2), a_set(2, port=1))
    assert not same_front(a_set(2), a_set(2, model_name="another"))
