"""Services of this machine behind the gateway: plans decide the keys, states the URL."""

from __future__ import annotations

import asyncio
import os
import signal
import time
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
from launcher.gateway.calls import Caller
from launcher.gateway.identity import space_of
from launcher.gateway.pool import Group, Limits
from launcher.gateway.problems import RequestError
from launcher.gateway.replica import Replica
from launcher.gateway.request import EmbeddingCall
from launcher.gateway.resolver import Resolver
from launcher.gateway.store import Store
from launcher.model.checkpoint import Prompts
from launcher.service import control
from tests import samples
from tests.gateway.harness import SECRET, Memory, run
from tests.patience import HANG_S, PATIENCE_S, eventually, no_hang
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
        async with aiohttp.ClientSession() as session, Caller(session) as caller:
            store = Store(Memory(), SECRET, budget_s=PATIENCE_S)
            resolver = Resolver(caller, SECRET, store)
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


async def _load(
    resolver: Resolver, group: Group, disturbance: Callable[[], object]
) -> tuple[int, list[str]]:
    """Requests one after the other by eight clients, until `disturbance` is over; and refusals."""
    made, refused, over = 0, [], False

    async def client(number: int) -> None:
        nonlocal made
        turn = 0
        while not over:
            turn += 1
            call = EmbeddingCall(model="fake", inputs=(f"text {number} {turn}",))
            try:
                await resolver.resolve(group, call, "r")
                made += 1
            except RequestError as error:
                refused.append(f"{error.status} {error.code}: {error.message}")

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    await asyncio.to_thread(disturbance)
    over = True
    await asyncio.gather(*clients)
    return made, refused


def _under_load(names: tuple[str, ...], hold_s: float, disturbance: Callable[[], object]) -> Any:
    """What eight clients of a gateway before these services get meanwhile."""

    async def work() -> tuple[int, list[str]]:
        async with aiohttp.ClientSession() as session, Caller(session) as caller:
            store = Store(Memory(), SECRET, budget_s=PATIENCE_S)
            resolver = Resolver(caller, SECRET, store)
            sources = [ServiceSource(name) for name in names]
            limits = service_limits(sources[0].plan, PATIENCE_S, hold_s=hold_s)
            group = Group("fake", [Replica(source) for source in sources], SECRET, limits)
            try:
                return await _load(resolver, group, disturbance)
            finally:
                await resolver.drain()
                await store.close()

    return run(work())


class TestRestartsUnderLoad:
    """A restart costs requests time, and none of them fails."""

    def test_a_killed_engine_is_waited_for(self, home: Home) -> None:
        state = home.up(home.plan("--workers"))

        def kill() -> None:
            assert state.engine is not None
            os.kill(state.engine.pid, signal.SIGKILL)
            eventually(lambda: control.status("svc").restarts == 1)
            home.wait_for("ready")

        made, refused = _under_load(("svc",), PATIENCE_S, kill)
        assert refused == []
        assert made > 0

    def test_services_restarted_one_after_the_other_answer_all_the_time(self, home: Home) -> None:
        plans = {name: home.plan("--workers", name=name) for name in ("one", "two")}
        for plan in plans.values():
            home.up(plan)

        def roll() -> None:
            for name, plan in plans.items():
                control.down(name)
                home.up(plan)

        made, refused = _under_load(("one", "two"), PATIENCE_S, roll)
        assert refused == []
        assert made > 0

    def test_a_service_that_was_stopped_for_good_is_not_waited_for(
        self, home: Home, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("launcher.app.gateway._BETWEEN_S", 0.2)
        home.up(home.plan())

        def stop() -> None:
            control.down("svc")
            time.sleep(0.5)

        with no_hang():
            _, refused = _under_load(("svc",), 10 * HANG_S, stop)
        assert refused
        assert {each.partition(":")[0] for each in refused} == {"503 upstream_down"}


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
            ("svc", "two=http://a:1/v1/,http://b:1/v1", "http://c:1/x=y/v1"),
            key="k",
            revision="r",
            timeout_s=9.0,
        )
        assert [(one.name, one.limits.timeout_s) for one in services] == [("fake", 9.0)]
        assert [(one.name, one.urls) for one in urls] == [
            ("two", ("http://a:1/v1", "http://b:1/v1")),
            (None, ("http://c:1/x=y/v1",)),
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
            (("=http://x/v1",), "bad_target"),
            (("a=http://x/v1,http://x/v1/",), "bad_target"),
            (("http://u:geheim@x/v1",), "bad_target"),
            (("a=http://u:geheim@x/v1,svc",), "bad_target"),
            (("http://x/v1?key=geheim",), "bad_target"),
            (("http://[::1/v1",), "bad_target"),
            (("ftp://x/v1",), "bad_target"),
        ],
    )
    def test_what_names_no_server_is_refused(
        self, home: Home, words: tuple[str, ...], code: str
    ) -> None:
        with pytest.raises(QlaunchError) as caught:
            parse_targets(words, key=None, revision="", timeout_s=1.0)
        assert caught.value.code == code
        assert "geheim" not in str(caught.value)


def test_limits_are_those_of_the_plan() -> None:
    limits = service_limits(samples.plan(), 5.0)
    assert isinstance(limits, Limits)
    assert 1 <= limits.call_inputs <= 64
    assert limits.timeout_s == 5.0
