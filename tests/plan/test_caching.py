"""A plan with a cache: who listens where, and what the gateway takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from launcher.app.gateway import identity_of
from launcher.app.service_gateway import _server
from launcher.config.service_cache import ServiceCache
from launcher.documents.gateway import GatewayRequest
from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.gateway.backends.known_keys import size_for
from launcher.gateway.store import _PENDING_BYTES
from launcher.plan import caching
from launcher.plan.calibration import Observed, base_bytes
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs

GATEWAY_BYTES = caching.GATEWAY_BYTES["embedded"]
EMBEDDED = ServiceCache(backend="embedded", url=None)


def plan(**changes: Any) -> Plan:
    return make_plan(inputs(**changes))


def option(made: Plan, name: str) -> str:
    return made.engine.argv[made.engine.argv.index(name) + 1]


def test_the_engine_listens_on_loopback_at_a_port_of_its_own() -> None:
    made = plan(cache=EMBEDDED, host="0.0.0.0", port=8080, api_key_file="/keys/key")
    assert (option(made, "--host"), option(made, "--port")) == ("127.0.0.1", "{port}")
    assert (made.host, made.port) == ("0.0.0.0", 8080)
    assert (made.engine_host, made.engine_port) == ("127.0.0.1", 0)
    assert made.guard is not None
    assert made.guard.loopback
    assert any(reason.startswith("cache: a gateway answers") for reason in made.reasons)


def test_without_a_cache_it_is_the_services_own_address() -> None:
    made = plan(host="127.0.0.1", port=8080)
    assert (made.engine_host, made.engine_port) == ("127.0.0.1", 8080)
    assert option(made, "--port") == "8080"


def test_listening_for_others_without_a_key_is_refused_all_the_same() -> None:
    with pytest.raises(QlaunchError) as caught:
        plan(cache=EMBEDDED, host="0.0.0.0")
    assert caught.value.code == "unauthenticated_bind"


def test_the_gateways_memory_is_predicted() -> None:
    with_cache, without = plan(cache=EMBEDDED), plan().predicted
    predicted, guard = with_cache.predicted, with_cache.guard
    assert guard is not None
    assert predicted.ram_bytes is not None
    assert predicted.ram_full_bytes is not None
    assert predicted.ram_bytes - (without.ram_bytes or 0) == GATEWAY_BYTES
    terms = {term.name: term for term in predicted.terms if term.kind == "gateway"}
    assert {name: term.reserve for name, term in terms.items()} == {
        "gateway": False,
        "gateway's vectors": True,
        "gateway's requests at once": True,
        "gateway's tokenizer": True,
    }
    more = predicted.ram_full_bytes - (without.ram_full_bytes or 0)
    assert more == sum(term.bytes for term in terms.values())
    keys = 2 * size_for(EMBEDDED.max_bytes)
    assert terms["gateway's vectors"].bytes == (
        EMBEDDED.memory_bytes + _PENDING_BYTES + keys + caching.FILE_BYTES
    )
    settings = _server(GatewayRequest(plan=with_cache, engine=None, port=1))
    assert terms["gateway's requests at once"].bytes == (
        caching.CALL_FACTOR * settings.most_open_bytes + settings.most_answer_bytes
    )


def test_no_part_of_the_gateway_is_predicted_below_what_was_measured() -> None:
    """34 MB were predicted where 35.9 were measured, and nothing for requests and tokenizers."""
    assert min(caching.GATEWAY_BYTES.values()) >= 35_900_000
    assert caching.GATEWAY_BYTES["redis"] >= 35_900_000 + 9_800_000
    made = plan(cache=EMBEDDED)
    assert made.guard is not None
    for vocabulary, measured in ((30_522, 10.3e6), (151_643, 134e6), (250_002, 570e6)):
        guard = msgspec.structs.replace(made.guard, vocabulary=vocabulary)
        full = caching.predicted(plan().predicted, EMBEDDED, guard)
        (tokenizer,) = [term for term in full.terms if term.name == "gateway's tokenizer"]
        assert tokenizer.bytes >= measured
    four_large_calls = 4 * 2048 * 384 * 29.7
    assert caching.answers_bytes(made.guard, 2) >= four_large_calls
    assert caching.CALL_FACTOR >= 7.1


@pytest.mark.parametrize("bound", [1, 32 << 20, (32 << 20) + 1, 1 << 30, 3 << 30, 1 << 40])
def test_keys_take_what_the_gateway_makes_of_them(bound: int) -> None:
    assert caching.filter_bytes(bound) == size_for(bound)


def test_runs_with_a_gateway_say_the_same_of_the_engine() -> None:
    bases = []
    for made, more in ((plan(), 0), (plan(cache=EMBEDDED), GATEWAY_BYTES)):
        run = Observed(plan=made, peak_bytes=1_000_000_000 + more, began="2026-01-01T00:00:00Z")
        version = made.engine.version
        bases.append(base_bytes(run, version=version, method="fork", model="encoder"))
    assert bases[0] is not None
    assert bases[0] == bases[1]


def test_a_cache_changes_no_vector() -> None:
    """With and without a cache a model's vectors have the same keys, whatever cache it is."""
    other = msgspec.structs.replace(EMBEDDED, memory_bytes=0)
    identities = {identity_of(plan(cache=cache)) for cache in (None, EMBEDDED, other)}
    assert len(identities) == 1


def test_replicas_that_are_not_stopped_are_told() -> None:
    """`idle_stop_s` was ignored beside `replicas: 2`, in silence."""
    cache = msgspec.structs.replace(EMBEDDED, idle_stop_s=60.0)
    (said,) = caching.notes(cache, 2)
    assert "replicas are not stopped" in said
    assert not caching.notes(cache, 1) + caching.notes(EMBEDDED, 2) + caching.notes(None, 2)
