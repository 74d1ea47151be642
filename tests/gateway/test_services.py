"""Services of this machine behind the gateway: plans decide the keys, states the URL."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import aiohttp
import msgspec
import pytest

from launcher.app.gateway import (
    ServiceSource,
    _service_group,
    checkpoint_of,
    identity_of,
    parse_targets,
    service_limits,
)
from launcher.documents.failure import TakenFallback
from launcher.documents.plan import Fallback, Plan
from launcher.errors import QlaunchError
from launcher.gateway.identity import space_of
from launcher.gateway.pool import Group, Limits, Replica
from launcher.gateway.problems import RequestError
from launcher.gateway.request import EmbeddingCall
from launcher.gateway.resolver import Resolver
from launcher.gateway.store import Store
from launcher.model.checkpoint import Prompts
from launcher.service import control
from tests import samples
from tests.gateway.harness import SECRET, Memory, run
from tests.patience import PATIENCE_S, eventually
from tests.service.conftest import home
from tests.service.home import Home

__all__ = ["home"]


def changed(**fields: Any) -> Callable[[Plan], Plan]:
    return lambda plan: msgspec.structs.replace(plan, **fields)


def engine(**fields: Any) -> Callable[[Plan], Plan]:
    return lambda plan: msgspec.structs.replace(
        plan, engine=msgspec.structs.replace(plan.engine, **fields)
    )


def expectation(**fields: Any) -> Callable[[Plan], Plan]:
    return lambda plan: msgspec.structs.replace(
        plan, expectation=msgspec.structs.replace(plan.expectation, **fields)
    )


OTHERS = {
    "weights": changed(fingerprint="another"),
    "model": changed(model_name="another"),
    "pooling": expectation(pooling="last"),
    "normalisation": expectation(normalize=False),
    "dtype": expectation(dtype="int8"),
    "dimensions": expectation(dimensions=7),
    "version": engine(version="9.9.9"),
    "release": engine(release="cuda13"),
    "plugin": engine(plugin=False),
    "option": engine(argv=("sglang", "--dtype", "float16")),
    "variable": engine(env={"ONEDNN_MAX_CPU_ISA": "AVX2"}),
}
SAME = {
    "service": changed(service="another"),
    "port": changed(port=1),
    "metrics": changed(metrics_port=1),
    "start": changed(start_timeout_s=1.0),
    "guard": engine(env={**samples.plan().engine.env, "REQUEST_GUARD": "{}"}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_may_change_vectors_begins_another_cache(what: str) -> None:
    plan = samples.plan()
    assert space_of(SECRET, identity_of(plan)) != space_of(SECRET, identity_of(OTHERS[what](plan)))


@pytest.mark.parametrize("what", SAME)
def test_what_changes_no_vector_keeps_the_cache(what: str) -> None:
    plan = samples.plan()
    assert identity_of(plan) == identity_of(SAME[what](plan))


def test_addresses_and_secrets_are_in_no_key() -> None:
    plan = samples.plan()
    argv = ("sglang", "--host", "h", "--port", "1", "--config", "/s", "--dtype", "bfloat16")
    identity = identity_of(engine(argv=argv)(plan))
    assert identity.settings[:3] == ("sglang", "--dtype", "bfloat16")


def test_a_service_is_followed_through_its_lives(home: Home) -> None:
    """Stopped, its vectors are still there; started with other weights, they are not."""

    async def work() -> None:
        async with aiohttp.ClientSession() as session:
            store = Store(Memory(), SECRET, budget_s=PATIENCE_S)
            resolver = Resolver(session, SECRET, store)
            limits = service_limits(plan, PATIENCE_S)
            group = Group("fake", [Replica(source)], SECRET, limits)
            call = EmbeddingCall(model="fake", inputs=("one", "two"))

            first = await resolver.resolve(group, call, "r")
            assert first.made == 2
            before = group.space()
            await asyncio.to_thread(control.down, "svc")
            again = await resolver.resolve(group, call, "r")
            assert again.hits == 2
            assert again.vectors == first.vectors
            fresh = EmbeddingCall(model="fake", inputs=("three",))
            with pytest.raises(RequestError) as refused:
                await resolver.resolve(group, fresh, "r")
            assert refused.value.status == 503
            assert not group.ready()

            await asyncio.to_thread(home.up, plan)
            assert group.space() == before
            assert (await resolver.resolve(group, fresh, "r")).made == 1
            await asyncio.to_thread(control.down, "svc")

            other = msgspec.structs.replace(plan, fingerprint="other weights")
            await asyncio.to_thread(home.up, other)
            assert group.space() not in {None, before}
            assert (await resolver.resolve(group, call, "r")).made == 2
            await resolver.drain()
            await store.close()

    plan = home.plan()
    home.up(plan)
    source = ServiceSource("svc")
    assert source.model == "fake"
    assert source.look().url == f"http://127.0.0.1:{plan.port}/v1"
    run(work())


def test_a_service_whose_processes_were_killed_has_no_url(home: Home) -> None:
    state = home.up(home.plan("--die-after", "1e9"))
    source = ServiceSource("svc")
    assert source.look().url
    assert state.supervisor is not None
    os.kill(state.supervisor.pid, signal.SIGKILL)
    eventually(lambda: source.look().url is None)


def test_what_is_known_of_a_services_model_is_that_of_its_plan(home: Home) -> None:
    """After a memory failure the engine takes shorter texts than planned at first."""
    plan = samples.plan()
    state = home.up(home.plan())
    prompts = Prompts(named={"query": "q: "})
    plan = expectation(context_length=513, prompts=prompts)(plan)
    known = checkpoint_of(plan, state)
    assert (known.folder, known.longest, known.of_service) == (plan.model_path, 512, True)
    assert dict(known.prompts) == {"query": "q: "}
    step = Fallback(
        flags={"context-length": 129},
        argv=(),
        expectation=msgspec.structs.replace(plan.expectation, context_length=129),
        predicted=plan.predicted,
    )
    taken = TakenFallback(step=1, of=1, flags=step.flags, after="host_oom", message="")
    smaller = msgspec.structs.replace(state, fallbacks=(taken,))
    assert checkpoint_of(changed(fallbacks=(step,))(plan), smaller).longest == 128


class Known(ServiceSource):
    """A service of which nothing but its plan is known."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.model = plan, plan.model_name


class TestTargets:
    def test_names_replicas_and_urls(self, home: Home) -> None:
        home.up(home.plan())
        services, urls = parse_targets(
            ("svc", "two=http://a:1/v1/,http://b:1/v1", "http://c:1/v1?x=y"),
            key="k",
            revision="r",
            timeout_s=9.0,
        )
        assert [(one.name, one.limits.timeout_s) for one in services] == [("fake", 9.0)]
        assert [(one.name, one.urls) for one in urls] == [
            ("two", ("http://a:1/v1", "http://b:1/v1")),
            (None, ("http://c:1/v1?x=y",)),
        ]
        assert {one.key for one in urls} == {"k"}

    def test_a_service_has_the_other_names_of_its_model(self) -> None:
        plan = samples.plan()
        names = ("text-embedding-3-small",)
        guard: Any = SimpleNamespace(aliases=names, inputs=3, call_bytes=1 << 16)
        source = Known(msgspec.structs.replace(plan, guard=guard))
        group = _service_group("", (source,), 1.0)
        assert (group.name, group.aliases) == (plan.model_name, names)
        assert (group.limits.call_inputs, group.limits.call_bytes) == (3, 1 << 16)
        named = _service_group("mine", (source,), 1.0)
        assert (named.name, named.aliases) == ("mine", ())

    @pytest.mark.parametrize(
        ("words", "code"),
        [
            (("absent",), "no_such_service"),
            (("../x",), "bad_service_name"),
            (("",), "bad_target"),
            (("a=",), "bad_target"),
            (("a=http://x/v1,svc",), "bad_target"),
            (("a=http://x/v1", "a=http://y/v1"), "bad_target"),
        ],
    )
    def test_what_names_no_server_is_refused(
        self, home: Home, words: tuple[str, ...], code: str
    ) -> None:
        with pytest.raises(QlaunchError) as caught:
            parse_targets(words, key=None, revision="", timeout_s=1.0)
        assert caught.value.code == code


def test_limits_are_those_of_the_plan() -> None:
    limits = service_limits(samples.plan(), 5.0)
    assert isinstance(limits, Limits)
    assert 1 <= limits.call_inputs <= 64
    assert limits.timeout_s == 5.0
