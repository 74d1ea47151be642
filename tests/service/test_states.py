"""The contract of the states, and the restart budget."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.config.profile import Restart
from launcher.documents.service_state import FINAL, UP, State
from launcher.service.supervisor import states
from launcher.service.supervisor.states import NEXT, RestartBudget, may_follow

STATES: tuple[State, ...] = get_args(State)


def test_every_state_has_its_row() -> None:
    assert set(NEXT) == set(STATES)
    for name in set(STATES) - {"unknown"}:
        assert f"| {name} |" in str(states.__doc__)


def test_final_states_stay() -> None:
    assert all(not NEXT[state] for state in FINAL)


def test_every_other_state_can_be_stopped_and_can_fail() -> None:
    for state in set(STATES) - FINAL - {"stopping"}:
        assert may_follow(state, "stopping")
        assert may_follow(state, "failed")


def test_ready_comes_only_after_verifying_or_degraded() -> None:
    assert {state for state in STATES if may_follow(state, "ready")} == {"verifying", "degraded"}


def test_a_new_start_comes_only_out_of_backoff_and_idle() -> None:
    assert {state for state in STATES if may_follow(state, "starting")} == {"backoff", "idle"}


@given(st.lists(st.sampled_from(STATES), max_size=40))
def test_no_walk_reaches_ready_without_having_been_verified(wishes: list[State]) -> None:
    state: State = "starting"
    verified = False
    for wish in wishes:
        if may_follow(state, wish):
            state = wish
            verified = state == "verifying" or (verified and state != "backoff")
        assert state not in UP or verified


@given(st.floats(0.01, 10), st.floats(0.01, 100), st.integers(0, 100), st.floats(0, 1))
def test_delays_are_bounded_and_the_budget_ends(
    initial: float, most: float, attempts: int, jitter: float
) -> None:
    policy = Restart(max_attempts=attempts, backoff_initial_s=initial, backoff_max_s=most)
    budget = RestartBudget(policy)
    delays = [budget.next_delay(jitter) for _ in range(attempts)]
    assert budget.next_delay(jitter) is None
    known = [delay for delay in delays if delay is not None]
    assert len(known) == attempts
    assert all(0 < delay <= max(most, 0) for delay in known)
    assert known == sorted(known)


def test_delays_double_up_to_the_cap() -> None:
    budget = RestartBudget(Restart(max_attempts=5, backoff_initial_s=1, backoff_max_s=5))
    assert [budget.next_delay(1.0) for _ in range(5)] == [1, 2, 4, 5, 5]


def test_jitter_spreads_by_half() -> None:
    budget = RestartBudget(Restart(backoff_initial_s=4))
    assert budget.next_delay(0.0) == 2.0
    delay = RestartBudget(Restart(backoff_initial_s=4)).next_delay()
    assert delay is not None
    assert 2.0 <= delay <= 4.0


@pytest.mark.parametrize(("seconds", "left"), [(9.9, 0), (10.0, 1)])
def test_a_stable_stretch_gives_the_budget_back(seconds: float, left: int) -> None:
    budget = RestartBudget(Restart(max_attempts=1, stable_after_s=10))
    assert budget.next_delay() is not None
    budget.verified_for(seconds)
    assert (budget.next_delay() is not None) == bool(left)
