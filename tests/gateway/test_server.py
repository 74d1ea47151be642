"""The HTTP interface: what is refused and how, keys, ids, pages for machines."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from launcher.app.cache_warming import _first_key
from launcher.cli.gateway import _upstream_key
from launcher.errors import QlaunchError
from launcher.gateway.access import Keys, host_allowed, secret
from launcher.gateway.problems import RequestError
from launcher.gateway.request import read_call
from launcher.gateway.server import Gateway, ServerSettings
from tests.engine.guarding import routes
from tests.gateway.harness import Bench, Memory, run
from tests.gateway.scripted_server import truth
from tests.patience import PATIENCE_S

CANARY = "wednesday's secret sentence"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"[]", "bad_json"),
        (b"\xff", "bad_json"),
        (b'{"model":"m","input":"\xff"}', "bad_json"),
        (b'{"model":"m","input":"x","more":"\xff"}', "bad_json"),
        (b'{"model":"m","input":"x","user":5}', "bad_user"),
        (b'{"model":1,"input":"x"}', "bad_model"),
        (b'{"model":"m"}', "bad_input"),
        (b'{"model":"m","input":null}', "bad_input"),
        (b'{"model":"m","input":[]}', "bad_input"),
        (b'{"model":"m","input":[[]]}', "bad_input"),
        (b'{"model":"m","input":["a",1]}', "bad_input"),
        (b'{"model":"m","input":["a",["b"]]}', "bad_input"),
        (b'{"model":"m","input":[true]}', "bad_input"),
        (b'{"model":"m","input":[1.5]}', "bad_input"),
        (b'{"model":"m","input":[-1]}', "foreign_token_ids"),
        (b'{"model":"m","input":[1,2.5]}', "bad_input"),
        (b'{"model":"m","input":[1.0,"a"]}', "bad_input"),
        (b'{"model":"m","input":[1e300]}', "foreign_token_ids"),
        (b'{"model":"m","input":[[2.5]]}', "bad_input"),
        (b'{"model":"m","input":"x","dimensions":8.5}', "bad_dimensions"),
        (b'{"model":"m","input":"x","dimensions":true}', "bad_dimensions"),
        (b'{"model":"m","input":[4294967296]}', "foreign_token_ids"),
        (b'{"model":"m","input":{"a":1}}', "bad_input"),
        (b'{"model":"m","input":"\\ud800"}', "bad_json"),
        (b'{"model":"m","input":"x","encoding_format":"int8"}', "bad_encoding_format"),
        (b'{"model":"m","input":"x","dimensions":0}', "bad_dimensions"),
        (b'{"model":"m","input":"x","dimensions":"8"}', "bad_dimensions"),
        (b'{"model":"m","input":"x","dimensions":1e30}', "bad_dimensions"),
        (b'{"model":"m","input":"x","more":' + b"[" * 5000 + b"]" * 5000 + b"}", "bad_json"),
        (b'{"model":"m","input":' + b"[" * 5000 + b"]" * 5000 + b"}", "bad_json"),
    ],
)
def test_what_is_no_request_is_a_400_in_one_sentence(body: bytes, code: str) -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            reply = await bench.post(body)
            assert reply.status == 400
            error = reply.body["error"]
            assert error["code"] == code
            assert error["type"] == "invalid_request_error"
            assert bench.server.calls == []

    run(work())


@given(body=st.binary(max_size=60) | st.text(max_size=60).map(lambda t: f'{{"model":{t}'.encode()))
@settings(max_examples=300)
def test_any_bytes_are_a_request_or_a_refusal(body: bytes) -> None:
    refused = None
    try:
        read_call(body, most_inputs=8)
    except RequestError as refusal:
        refused = refusal.status
    assert refused in {None, 400}


def test_an_integer_may_be_written_with_a_point() -> None:
    """5.0 is an integer in JSON Schema, and some clients' numbers are all floats."""
    body = b'{"model":"m","input":%b,"dimensions":8.0}'
    for value, inputs in ((b"[5.0,7]", ((5, 7),)), (b"[[5],[1e1]]", ((5,), (10,)))):
        call = read_call(body % value, most_inputs=8)
        assert (call.inputs, call.dimensions) == (inputs, 8)
        assert {type(one) for ids in call.inputs for one in ids} == {int}


def test_sizes_have_limits() -> None:
    async def work() -> None:
        limits = ServerSettings(most_inputs=3, most_bytes=1000)
        async with Bench(Memory(), settings=limits) as bench:
            assert (await bench.ask(["a"] * 4)).body["error"]["code"] == "too_many_inputs"
            assert (await bench.ask([1, 2, 3, 4, 5])).status == 200
            big = await bench.ask("a" * 2000)
            assert big.status == 413
            assert big.body["error"]["code"] == "body_too_large"
            page = (await bench.get("metrics"))[1]
            assert 'requests_total{model="unknown",status="413"} 1.0' in page

    run(work())


def test_other_models_and_paths_are_404() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            reply = await bench.post({"model": "gpt", "input": "x"})
            assert reply.status == 404
            assert "there are: m" in reply.body["error"]["message"]
            assert (await bench.get("v1/completions"))[0] == 404
            assert (await bench.get("v1/embeddings"))[0] == 405

    run(work())


def test_pages_for_machines() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            assert (await bench.get("health"))[0] == 200
            assert (await bench.get("ready")) == (200, '{"status":"ready"}')
            assert '"id":"m"' in (await bench.get("v1/models"))[1]
            for _ in range(2):
                await bench.ask(["a", "b"])
                await bench.kept()
            await bench.ask(["a", "c"])
            await bench.kept()
            status, page = await bench.get("metrics")
            assert status == 200
            samples = {
                (s.name, *sorted(s.labels.values())): s.value
                for family in text_string_to_metric_families(page)
                for s in family.samples
            }
            assert samples["qlaunch_gateway_inputs_total", "cache", "m"] == 3
            assert samples["qlaunch_gateway_inputs_total", "m", "server"] == 3
            assert samples["qlaunch_gateway_requests_total", "200", "m"] == 3
            assert samples["qlaunch_gateway_request_seconds_count", "hit", "m"] == 1
            assert samples["qlaunch_gateway_request_seconds_count", "m", "part"] == 1
            assert samples["qlaunch_gateway_cache_total", "written"] == 3
            bench.sources[0].url = None
            assert (await bench.get("ready"))[0] == 503
            assert (await bench.get("health"))[0] == 200

    run(work())


def test_ids_of_requests_go_through_and_nothing_else_does() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            reply = await bench.ask("x", headers={"X-Request-Id": "trace-1.a"})
            assert reply.headers["X-Request-Id"] == "trace-1.a"
            assert bench.server.headers[0]["X-Request-Id"] == "trace-1.a"
            odd = await bench.ask("y", headers={"X-Request-Id": "a b\tc"})
            assert len(odd.headers["X-Request-Id"]) == 16
            assert "Authorization" not in bench.server.headers[0]

    run(work())


def test_no_text_of_a_user_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        async with Bench(Memory(), settings=ServerSettings(log_requests=True)) as bench:
            await bench.ask([CANARY])
            bench.server.status = 500
            bench.server.error_body = CANARY
            await bench.ask(["other"])
            bench.server.status = 200
            bench.server.spoil = lambda _answer: f'{{"{CANARY}'
            await bench.ask(["third"])
            await bench.post(f'{{"model": "{CANARY}", "input": "x"}}'.encode())
            await bench.post(f'{{"model": "m", "input": {{"{CANARY}": 1}}'.encode())

    with caplog.at_level(logging.DEBUG):
        run(work())
    assert "inputs 1 hits 0" in caplog.text
    assert CANARY not in caplog.text


class TestKeys:
    def test_only_with_a_key(self, tmp_path: Path) -> None:
        async def work() -> None:
            file = tmp_path / "keys"
            file.write_text("# ours\nfirst-key-1\n\nsecond-key\n")
            async with Bench(Memory(), keys=Keys(file)) as bench:
                assert (await bench.ask("x")).status == 401
                for wrong in ("first-key", "first-key-12", "", "# ours", "é"):
                    reply = await bench.ask("x", headers={"Authorization": f"Bearer {wrong}"})
                    assert reply.status == 401
                good = {"Authorization": "Bearer second-key"}
                assert (await bench.ask("x", headers=good)).status == 200
                assert "Authorization" not in bench.server.headers[0]
                assert (await bench.get("metrics"))[0] == 401
                assert (await bench.get("v1/models", good))[0] == 200
                assert (await bench.get("ready"))[0] == 200

        run(work())

    def test_a_byte_order_mark_is_no_part_of_a_key(self, tmp_path: Path) -> None:
        file = tmp_path / "keys"
        file.write_text("first-key-1\n", "utf-8-sig")
        keys = Keys(file)
        assert keys.client("Bearer first-key-1") is not None
        file.write_text("another-key\n", "utf-8-sig")
        assert keys.reload() is None
        assert keys.client("Bearer another-key") is not None
        for read in (_upstream_key, _first_key):
            assert read(file) == "another-key"

    def test_an_indented_comment_is_no_key_to_who_sends_one(self, tmp_path: Path) -> None:
        """`cache warm` sent `#` as its key."""
        file = tmp_path / "keys"
        file.write_text("  # of the team\nfirst-key-1 texts=5\n")
        assert Keys(file).client(f"Bearer {_first_key(file)}") is not None

    def test_a_changed_file_counts_at_once_and_a_broken_one_does_not(self, tmp_path: Path) -> None:
        async def work() -> None:
            file = tmp_path / "keys"
            file.write_text("first-key-1\n")
            async with Bench(Memory(), keys=Keys(file)) as bench:
                file.write_text("another-key\n")
                old = {"Authorization": "Bearer first-key-1"}
                new = {"Authorization": "Bearer another-key"}
                assert (await bench.ask("x", headers=old)).status == 401
                assert (await bench.ask("x", headers=new)).status == 200
                for broken in ("", "short\n", None):
                    file.unlink() if broken is None else file.write_text(broken)
                    assert (await bench.ask("x", headers=new)).status == 200

        run(work())

    def test_a_file_without_keys_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "keys").write_text("# none\n")
        with pytest.raises(QlaunchError, match="no key"):
            Keys(tmp_path / "keys")


class TestHost:
    def test_pages_of_other_names_are_refused_on_loopback(self) -> None:
        async def work() -> None:
            names = frozenset({"models.internal"})
            async with Bench(Memory(), settings=ServerSettings(host_names=names)) as bench:
                assert (await bench.ask("x")).status == 200
                evil = await bench.ask("x", headers={"Host": "evil.example"})
                assert evil.status == 403
                own = await bench.ask("x", headers={"Host": "models.internal:8080"})
                assert own.status == 200

        run(work())

    @pytest.mark.parametrize(
        ("header", "allowed"),
        [
            ("127.0.0.1:8000", True),
            ("localhost", True),
            ("[::1]:80", True),
            ("[::1]", True),
            ("127.0.0.1.evil.example", False),
            ("10.0.0.1:80", False),
            ("", True),
            (None, True),
            ("evil.example:127", False),
            ("localhost.", True),
            ("a.localhost:1", True),
            ("::1", True),
            ("127.0.0.1:", True),
            ("[::ffff:127.0.0.1]", True),
            ("[::ffff:10.0.0.1]", False),
            ("127.0.0.1:80@evil.example", False),
            ("localhost:evil", False),
            ("xlocalhost", False),
        ],
    )
    def test_names_are_those_that_the_guard_takes(self, header: str | None, allowed: bool) -> None:
        """HTTP/1.0 without `Host` (health checks of load balancers) got 403 with a cache alone."""
        assert host_allowed(header, frozenset()) is allowed
        assert routes.local(None if header is None else header.encode(), ()) is allowed


class TestSecret:
    def test_it_is_made_once_and_private(self, tmp_path: Path) -> None:
        file = tmp_path / "new" / "key"
        first = secret(file)
        assert len(first) == 32
        assert secret(file) == first
        assert file.stat().st_mode & 0o077 == 0
        assert list(file.parent.iterdir()) == [file]

    def test_one_that_others_read_or_that_is_cut_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "key"
        secret(file)
        file.chmod(0o644)
        with pytest.raises(QlaunchError, match="others can read it"):
            secret(file)
        file.chmod(0o600)
        file.write_bytes(b"short")
        with pytest.raises(QlaunchError, match="5 bytes instead of 32"):
            secret(file)


def test_too_many_at_once_are_refused() -> None:
    async def work() -> None:
        async with Bench(Memory(), settings=ServerSettings(most_open=2)) as bench:
            bench.server.gate = asyncio.Event()
            asked = [asyncio.create_task(bench.ask(str(n))) for n in range(2)]
            await bench.server.wait_for_calls(2)
            refused = await bench.ask("x")
            assert refused.status == 429
            assert (await bench.get("health"))[0] == 200
            bench.server.gate.set()
            assert {reply.status for reply in await asyncio.gather(*asked)} == {200}

    run(work())


def test_answers_on_their_way_have_a_bound_and_one_alone_always_is_answered() -> None:
    """Eight calls of 2048 vectors as numbers took 190 MB that nothing bounded."""

    async def work() -> None:
        async with Bench(Memory(), settings=ServerSettings(most_answer_bytes=1)) as bench:
            texts = [str(n) for n in range(50)]
            assert (await bench.ask(texts)).status == 200
            await nothing_on_its_way(bench.gateway)
            bench.server.gate = asyncio.Event()
            first = asyncio.create_task(bench.ask(["new"]))
            await bench.server.wait_for_calls(len(bench.server.calls) + 1)
            refused = await bench.ask(texts)  # hits, which wait for nobody
            assert refused.status == 429
            assert refused.headers["Retry-After"] == "1"
            bench.server.gate.set()
            assert (await first).status == 200
            await nothing_on_its_way(bench.gateway)
            assert (await bench.ask(texts)).status == 200

    run(work())


def test_an_idle_connection_holds_nothing_of_its_last_answer() -> None:
    """aiohttp keeps it until the next request: its memory, and the room that others need."""

    async def work() -> None:
        async with Bench(Memory(), settings=ServerSettings(most_answer_bytes=1)) as bench:
            assert (await bench.ask(["a", "b"])).status == 200
            async with asyncio.timeout(KEPT_ALIVE_S / 3):
                await nothing_on_its_way(bench.gateway)

    run(work())


def test_an_answer_that_is_refused_or_given_up_holds_no_bytes() -> None:
    async def work() -> None:
        async with Bench(Memory(), settings=ServerSettings(most_answer_bytes=1)) as bench:
            bench.server.status = 400
            assert (await bench.ask(["bad"])).status == 400
            await nothing_on_its_way(bench.gateway)

    run(work())


KEPT_ALIVE_S = 60.0
"""An idle connection is closed after as long, or more."""


async def nothing_on_its_way(gateway: Gateway) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while gateway._answer_bytes:  # noqa: ASYNC110 - it is given back when an object goes
            await asyncio.sleep(0.01)


def test_the_openai_client_works_as_it_is() -> None:
    async def work() -> None:
        async with Bench(Memory()) as bench:
            client = openai.AsyncOpenAI(base_url=f"{bench.url}v1", api_key="none", max_retries=0)
            async with client:
                for _ in range(2):
                    answer = await client.embeddings.create(model="m", input=["a", "b"])
                    assert [item.embedding for item in answer.data] == [
                        pytest.approx(truth(text)) for text in "ab"
                    ]
                    await bench.kept()
                answer = await client.embeddings.create(
                    model="m", input=[[1, 2], [3]], encoding_format="float", dimensions=8
                )
                assert [item.embedding for item in answer.data] == [
                    truth([1, 2], 8),
                    truth([3], 8),
                ]
                names = [model.id async for model in client.models.list()]
                assert names == ["m"]
                with pytest.raises(openai.NotFoundError):
                    await client.embeddings.create(model="other", input="a")

    run(work())
