"""A plan of several engines: their shares of a machine, and what they take together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from launcher.config.service_cache import ServiceCache
from launcher.documents.plan import Plan
from launcher.hardware.inventory import Hardware
from launcher.plan import caching, replica_set
from launcher.plan.engine_and_card import Choice
from launcher.plan.resolve import make_plan
from launcher.service.replica_set.naming import replica_plan, runs_the_same
from tests.plan.inputs import inputs, qwen3
from tests.samples import GIB, gpu, machine

SPAWNED = {"start_method": "spawn"}
GATEWAY_BYTES = caching.GATEWAY_BYTES["embedded"]


def plan(count: int = 1, **changes: Any) -> Plan:
    return make_plan(inputs(replicas=count, **changes))


def whole(threads: int) -> Hardware:
    """A machine without a limit on its processors: their numbers are known."""
    found = machine(threads=threads)
    cpu = msgspec.structs.replace(found.cpu, usable_source="machine")
    return msgspec.structs.replace(found, cpu=cpu)


def option(made: Plan, name: str) -> str:
    return made.engine.argv[made.engine.argv.index(name) + 1]


def test_one_replica_is_the_plan_as_it_was() -> None:
    assert plan(1) == make_plan(inputs())
    assert plan(1).replica_set is None
    assert "replicas" not in " ".join(plan(1).reasons)


def test_one_engine_can_be_a_set_that_is_given_more() -> None:
    made = make_plan(replace(inputs(), as_set=True))
    assert made.replica_set is not None
    assert made.replica_set.count == 1
    assert made.replica_set.one == make_plan(inputs()).predicted
    assert (option(made, "--port"), made.port) == ("{port}", 30000)


def test_the_service_has_its_address_and_the_engines_ports_of_loopback() -> None:
    made = plan(2, host="0.0.0.0", port=8080, api_key_file="/keys/key")
    assert (made.host, made.port) == ("0.0.0.0", 8080)
    assert (option(made, "--host"), option(made, "--port")) == ("127.0.0.1", "{port}")
    assert made.guard is not None
    assert made.guard.loopback
    one = replica_plan(made, 1)
    assert (one.engine_host, one.engine_port, one.movable) == ("127.0.0.1", 0, True)
    assert any(reason.startswith("replicas: 2 engines behind a gateway") for reason in made.reasons)


def test_memory_is_that_of_all_with_the_gateway() -> None:
    alone, three = plan(1, **SPAWNED).predicted, plan(3, **SPAWNED).predicted
    assert three.ram_bytes == 3 * (alone.ram_bytes or 0) + GATEWAY_BYTES
    before = [term for term in three.terms if term.kind == "gateway"]
    assert [term.name for term in before] == [
        "gateway",
        "gateway's requests at once",
        "gateway's tokenizer",
    ]
    more = sum(term.bytes for term in before)
    assert three.ram_full_bytes == 3 * (alone.ram_full_bytes or 0) + more
    assert three.gpu_bytes is None
    by_name = {term.name: term for term in three.terms}
    weights = next(term for term in alone.terms if term.name == "weights")
    assert by_name["weights"].bytes == 3 * weights.bytes
    assert by_name["weights"].source.startswith("3 replicas × (")
    assert replica_plan(plan(3, **SPAWNED), 3).predicted == alone


def test_what_is_imported_once_is_not_counted_for_each_replica() -> None:
    """Their supervisors are forked from the set's template: each more has pages of its own only."""
    alone, two, three = (plan(count).predicted.terms for count in (1, 2, 3))
    base = sum(term.bytes for term in alone if term.kind == "engine")
    for count, several in ((2, two), (3, three)):
        engines = [term for term in several if term.kind == "engine"]
        more = (count - 1) * replica_set.FORKED_BYTES["encoder"]
        assert sum(term.bytes for term in engines) == pytest.approx(base + more, abs=5)
        assert all(f"{count} replicas, imported once (" in term.source for term in engines)
    assert replica_plan(plan(3), 3).predicted == plan(1).predicted


def test_a_cache_before_a_set_is_counted_once() -> None:
    cache = ServiceCache(backend="embedded", url=None)
    two, without = plan(2, cache=cache).predicted, plan(2).predicted
    assert two.ram_bytes == without.ram_bytes
    (kept,) = [term.bytes for term in two.terms if term.name == "gateway's vectors"]
    assert kept > cache.memory_bytes + caching.PENDING_BYTES
    assert two.ram_full_bytes == (without.ram_full_bytes or 0) + kept


@pytest.mark.parametrize(("count", "threads"), [(2, "2"), (3, "1"), (4, "1"), (8, "1")])
def test_threads_are_shared_out(count: int, threads: str) -> None:
    made = plan(count, hardware=machine(threads=4))
    assert made.engine.env["OMP_NUM_THREADS"] == threads
    assert any(f"{count} replicas of {threads} thread" in reason for reason in made.reasons)
    assert any("slower" in reason for reason in made.reasons) is (count > 4)


def test_threads_that_were_asked_for_are_those_of_each() -> None:
    made = plan(2, hardware=machine(threads=4), threads=3)
    assert made.engine.env["OMP_NUM_THREADS"] == "3"
    assert any("6" not in reason and "slower" in reason for reason in made.reasons)


def test_processors_are_named_where_their_numbers_are_known() -> None:
    made = plan(2, hardware=whole(4))
    bound = [replica_plan(made, n).engine.env["SGLANG_CPU_OMP_THREADS_BIND"] for n in (1, 2)]
    assert bound == ["0-1", "2-3"]
    both = make_plan(replace(inputs(replicas=2, hardware=whole(4)), extra=("--dp-size", "2")))
    bound = [replica_plan(both, n).engine.env["SGLANG_CPU_OMP_THREADS_BIND"] for n in (1, 2)]
    assert bound == ["0|1", "2|3"]
    alone = make_plan(replace(inputs(hardware=whole(4), threads=2), as_set=True))
    two = plan(2, hardware=whole(4), threads=2)
    assert runs_the_same(replica_plan(alone, 1), replica_plan(two, 1))
    under_a_quota = replica_plan(plan(2, hardware=machine(threads=4)), 1)
    assert "SGLANG_CPU_OMP_THREADS_BIND" not in under_a_quota.engine.env
    too_many = plan(8, hardware=whole(4)).replica_set
    assert too_many is not None
    assert too_many.shares == ()


def test_more_than_fits_is_refused_with_the_number_that_does() -> None:
    one = plan(1).predicted.ram_full_bytes or 0
    made = plan(8, hardware=machine(available=3 * one))
    assert not made.fits
    assert made.misfit is not None
    assert made.misfit.startswith("8 replicas: it is predicted to take ")
    assert made.remedy is not None
    fewer = int(made.remedy.removeprefix("--replicas ").removesuffix(" fits"))
    assert 1 < fewer < 8
    assert plan(fewer, hardware=machine(available=3 * one)).fits
    none = plan(2, hardware=machine(available=one // 2))
    assert none.remedy is None
    assert "one alone does not fit" in (none.misfit or "")


def test_each_replica_on_a_gpu_has_a_cache_of_its_own_size_within_its_share() -> None:
    card = machine(gpus=(gpu("A10", (8, 6), 24 * GIB),))
    alone, four = (
        plan(n, release="cuda12", hardware=card, model=qwen3(), dtype="bfloat16") for n in (1, 4)
    )
    assert int(option(four, "--max-total-tokens")) <= int(option(alone, "--max-total-tokens"))
    assert four.fits
    assert four.predicted.gpu_bytes == 4 * (replica_plan(four, 1).predicted.gpu_bytes or 0)
    assert (four.predicted.gpu_full_bytes or 0) < 24 * GIB
    assert any("shared by 4 replicas" in reason for reason in four.reasons)
    assert any("one after another" in reason for reason in four.reasons)
    too_small = machine(gpus=(gpu("RTX 3050", (8, 6), 4 * GIB),))
    made = plan(8, release="cuda12", hardware=too_small, model=qwen3(), dtype="bfloat16")
    assert not made.fits
    assert "GPU memory" in (made.misfit or "")


def several_cards(count: int, **changes: Any) -> Plan:
    """A plan on three A10, one of them nearly full, and a card of another kind."""
    cards = (
        msgspec.structs.replace(gpu("A10", (8, 6), 24 * GIB, 23 * GIB), index=0),
        msgspec.structs.replace(gpu("Tesla T4", (7, 5), 16 * GIB), index=1),
        msgspec.structs.replace(gpu("A10", (8, 6), 24 * GIB, 2 * GIB), index=2),
        msgspec.structs.replace(gpu("A10", (8, 6), 24 * GIB, 22 * GIB), index=3),
    )
    hardware = machine(gpus=cards)
    found = inputs(replicas=count, release="cuda12", hardware=hardware, model=qwen3(), **changes)
    choice = Choice(found.engine.release, cards[0], only_gpu=False, reasons=())
    return make_plan(replace(found, choice=choice))


def test_replicas_are_spread_over_cards_of_one_kind() -> None:
    made = several_cards(2, dtype="bfloat16")
    shown = [replica_plan(made, n).engine.env["CUDA_VISIBLE_DEVICES"] for n in (1, 2)]
    assert shown == ["0", "3"]
    assert made.fits
    assert any("on 2 cards in turn (A10)" in reason for reason in made.reasons)
    alone = several_cards(1, dtype="bfloat16")
    assert alone.engine.env["CUDA_VISIBLE_DEVICES"] == "0"
    assert option(made, "--max-total-tokens") == option(alone, "--max-total-tokens")


def test_a_card_that_is_full_is_named_and_fewer_replicas_fit() -> None:
    made = several_cards(3, dtype="bfloat16", flags={"max-total-tokens": 32768})
    assert (made.fits, made.remedy) == (False, "--replicas 2 fits")
    assert "3 replicas: 1 on A10 2: it is predicted to take" in (made.misfit or "")
