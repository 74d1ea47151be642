"""Replicas inside one engine: threads shared out, processors named, memory for each."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.documents.plan import Plan, Term
from launcher.plan import replicas
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs


def side_by_side(count: int) -> Plan:
    return make_plan(replace(inputs(), extra=("--dp-size", str(count))))


def terms(plan: Plan) -> dict[str, Term]:
    return {term.name: term for term in plan.predicted.terms}


def test_one_replica_is_the_plan_as_it_was() -> None:
    assert "SGLANG_CPU_OMP_THREADS_BIND" not in make_plan(inputs()).engine.env
    assert side_by_side(1).predicted == make_plan(inputs()).predicted


def test_each_replica_has_a_model_and_a_cache_of_its_own() -> None:
    one, two = terms(make_plan(inputs())), terms(side_by_side(2))
    for name in ("weights", "KV cache", "request table", "activations", "largest batch"):
        assert two[name].bytes == 2 * one[name].bytes
        assert two[name].source.startswith("2 replicas × ")
    assert two["engine: front (fork)"] == one["engine: front (fork)"]
    more = two["engine: 1 more scheduler, and what hands out requests"]
    assert more.bytes == replicas.SCHEDULER_BYTES + replicas.CONTROLLER_BYTES
    plan = side_by_side(2)
    assert plan.predicted.ram_bytes == sum(t.bytes for t in plan.predicted.terms if not t.reserve)
    assert plan.predicted.ram_full_bytes == sum(t.bytes for t in plan.predicted.terms)


def test_threads_are_shared_out_and_the_smoke_asks_for_more_than_all_take() -> None:
    plan, alone = side_by_side(2), make_plan(inputs())
    usable = inputs().hardware.cpu.usable
    assert plan.engine.env["OMP_NUM_THREADS"] == str(max(1, usable // 2))
    assert plan.expectation.max_running_requests == 2 * alone.expectation.max_running_requests
    assert any(reason.startswith("2 replicas of ") for reason in plan.reasons)


@pytest.mark.parametrize(
    ("count", "threads", "bound"),
    [(2, 1, "0|1"), (2, 4, "0-3|4-7"), (3, 2, "0-1|2-3|4-5"), (2, None, "0|1")],
)
def test_processors_are_named_by_replica(count: int, threads: int | None, bound: str) -> None:
    assert replicas.environment(count, threads) == {"SGLANG_CPU_OMP_THREADS_BIND": bound}


def test_a_machine_with_fewer_threads_than_replicas_gives_each_one() -> None:
    assert replicas.threads_each(2, 8) == 1
    assert replicas.threads_each(9, 2) == 4
