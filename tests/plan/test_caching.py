"""A plan with a cache: who listens where, and what the gateway takes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from launcher.app.gateway import identity_of
from launcher.config.service_cache import ServiceCache
from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
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
    with_cache, without = plan(cache=EMBEDDED).predicted, plan().predicted
    assert with_cache.ram_bytes is not None
    assert with_cache.ram_full_bytes is not None
    assert with_cache.ram_bytes - (without.ram_bytes or 0) == GATEWAY_BYTES
    kept = EMBEDDED.memory_bytes + (32 << 20)
    assert with_cache.ram_full_bytes - (without.ram_full_bytes or 0) == GATEWAY_BYTES + kept
    terms = [term for term in with_cache.terms if term.kind == "gateway"]
    assert [(term.name, term.reserve) for term in terms] == [
        ("gateway", False),
        ("gateway's vectors", True),
    ]


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
