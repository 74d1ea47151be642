"""What can be reached through the guard, by whom, and what comes back of it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.engine.guarding import RUN, TOKEN, Service

OPEN = ("/v1/models", "/v1/models/tiny", "/health", "/health_generate", "/model_info")
ADMIN = (
    "/generate",
    "/encode",
    "/update_weights_from_disk",
    "/configure_logging",
    "/start_profile",
    "/pause_generation",
    "/flush_cache",
    "/freeze_gc",
    "/server_info",
    "/get_server_info",
    "/v1/rerank",
    "/v1/completions",
    "/openapi.json",
    "/docs",
    "/",
    "",
    "*",
)
TRICKS = (
    "//v1/embeddings",
    "/v1//embeddings",
    "/v1/embeddings/",
    "/V1/embeddings",
    "/v1/./embeddings",
    "/x/../v1/embeddings",
    "http://127.0.0.1/v1/embeddings",
    "/v1/embeddings;x",
    "/v1/embeddings\0",
    "/v1/models/",
    "/v1/models/another",
    "/v1/models/tiny/..",
    "/metrics",
    "/metrics/",
)


@pytest.mark.parametrize("path", OPEN)
def test_what_an_embedding_service_needs_is_there(path: str) -> None:
    said = Service().ask("GET", path)
    assert said.status == 200
    assert said.passed is not None


@pytest.mark.parametrize("key", [None, "secret"])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", [*ADMIN, *TRICKS])
def test_nothing_else_is_with_or_without_the_key(path: str, method: str, key: str | None) -> None:
    headers = {"authorization": f"Bearer {key}"} if key else {}
    said = Service(key).ask(method, path, b"{}", headers)
    assert said.status == 404
    assert said.passed is None


@pytest.mark.parametrize("path", OPEN)
def test_load_balancers_may_ask_by_head(path: str) -> None:
    """The gateway answered HEAD, the guard 405. The engine knows GET alone."""
    said = Service().ask("HEAD", path)
    assert said.status == 200
    assert said.passed is not None
    assert said.passed["method"] == "GET"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS"])
@pytest.mark.parametrize("path", OPEN)
def test_other_methods_are_refused(path: str, method: str) -> None:
    said = Service().ask(method, path, b"{}", {"x-http-method-override": "GET"})
    assert said.status == 405
    assert said.headers["allow"] == "GET, HEAD"
    assert said.passed is None


def test_embeddings_are_asked_by_post_only() -> None:
    said = Service().ask("GET", "/v1/embeddings", headers={"x-http-method-override": "POST"})
    assert said.status == 405
    assert said.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("path", "raw"),
    [("/v1/embeddings", b"/v1%2Fembeddings"), ("/health", b"/%68ealth"), ("/health", b"//health")],
)
def test_paths_that_were_escaped_are_none_of_ours(path: str, raw: bytes) -> None:
    for method in ("GET", "POST"):
        assert Service().ask(method, path, b"{}", raw_path=raw).status == 404


def test_a_models_name_may_be_escaped() -> None:
    service = Service(model="größe 1")
    said = service.ask("GET", "/v1/models/größe 1", raw_path=b"/v1/models/gr%C3%B6%C3%9Fe%201")
    assert said.status == 200


def test_metrics_where_they_are_asked_for() -> None:
    assert Service(metrics=True).ask("GET", "/metrics").status == 200


def test_websockets_are_refused() -> None:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    service = Service()
    scope = {"type": "websocket", "path": "/v1/embeddings", "headers": []}
    asyncio.run(service.guard.serve(service.app, None, scope, None, send))
    assert sent == [{"type": "websocket.close", "code": 1008}]


class TestOwnCalls:
    """SGLang's front warms up and freezes its heap over HTTP."""

    @pytest.mark.parametrize("path", ["/encode", "/freeze_gc"])
    def test_the_engines_own_are_let_through(self, path: str) -> None:
        assert Service().ask("POST", path, b"{}", {"x-qlaunch-own": TOKEN}).status == 200
        assert Service().ask("POST", path, b"{}", {"x-qlaunch-own": "guess"}).status == 404

    def test_and_nothing_else(self) -> None:
        said = Service().ask("POST", "/update_weights_from_disk", b"{}", {"x-qlaunch-own": TOKEN})
        assert said.status == 404


class TestHosts:
    """A page that makes a name of its own point to loopback (DNS rebinding) reaches nothing."""

    @pytest.mark.parametrize(
        "host",
        [
            "127.0.0.1:30000",
            "127.0.0.1",
            "127.9.9.9:1",
            "localhost",
            "LOCALHOST.:80",
            "a.localhost",
            "[::1]:30000",
            "[::1]",
            "::1",
            "[::ffff:127.0.0.1]",
            "",
        ],
    )
    def test_loopbacks_own_names(self, host: str) -> None:
        assert Service().ask(headers={"host": host}).status == 200

    @pytest.mark.parametrize(
        "host",
        [
            "evil.example",
            "evil.example:30000",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "10.0.0.1",
            "[::2]:1",
            "[fe80::1%25lo]",
            "2130706433",
            "0x7f000001",
            "evil@127.0.0.1",
            "localhost:evil.example",
            "localhost:1:2",
            "[::1]evil.example",
            "[::1]:80@evil.example",
            "[::1",
            "evil.example[::1]",
            "[]",
            ":80",
        ],
    )
    def test_others_are_refused(self, host: str) -> None:
        said = Service().ask(headers={"host": host})
        assert said.status == 403
        assert said.passed is None

    def test_a_proxys_name_is_given_in_the_profile(self) -> None:
        host = {"host": "embeddings.example:443"}
        assert Service(hosts=("embeddings.example",)).ask(headers=host).status == 200

    def test_beyond_loopback_any_name_may_lead_here(self) -> None:
        assert Service(loopback=False).ask(headers={"host": "evil.example"}).status == 200


ELSEWHERE = {"origin": "http://evil.example"}
APP = "https://app.example"


class TestOrigins:
    def test_no_page_may_ask(self) -> None:
        for origin in ("http://evil.example", "null", "http://127.0.0.1:30000", "file://"):
            said = Service().embed({"input": "a"}, headers={"origin": origin})
            assert said.status == 403
            assert said.passed is None
            assert not any(name.startswith("access-control") for name in said.headers)

    def test_no_page_can_read(self) -> None:
        said = Service().ask("GET", "/v1/models", headers=ELSEWHERE)
        assert said.status == 200
        assert not any(name.startswith("access-control") for name in said.headers)
        assert said.passed is not None
        assert not [value for name, value in said.passed["headers"] if name == b"origin"]

    def test_no_page_is_told_that_it_may(self) -> None:
        asks = {**ELSEWHERE, "access-control-request-method": "POST"}
        said = Service().ask("OPTIONS", "/v1/embeddings", headers=asks)
        assert said.status == 405
        assert not any(name.startswith("access-control") for name in said.headers)

    def test_a_named_origin_may(self) -> None:
        service, origin = Service(origins=(APP,)), {"origin": APP}
        asks = {
            **origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "content-type, x-stainless-lang",
        }
        told = service.ask("OPTIONS", "/v1/embeddings", headers=asks)
        assert told.status == 204
        assert told.headers["access-control-allow-origin"] == APP
        assert told.headers["access-control-allow-methods"] == "POST"
        assert told.headers["access-control-allow-headers"] == "content-type, x-stainless-lang"
        assert "access-control-allow-credentials" not in told.headers
        said = service.embed({"input": "a"}, headers=origin)
        assert said.status == 200
        assert said.headers["access-control-allow-origin"] == APP
        refused = service.embed({"input": ""}, headers=origin)
        assert refused.headers["access-control-allow-origin"] == APP
        assert service.embed({"input": "a"}, headers=ELSEWHERE).status == 403

    def test_all_where_all_are_named(self) -> None:
        said = Service(origins=("*",)).embed({"input": "a"}, headers=ELSEWHERE)
        assert said.headers["access-control-allow-origin"] == "http://evil.example"


class TestHeaders:
    @pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
    def test_a_form_of_a_page_is_no_call(self, kind: str) -> None:
        said = Service().embed({"input": "a"}, headers={"content-type": kind})
        assert said.status == 415
        assert "application/json" in said.error["message"]

    @pytest.mark.parametrize(
        "kind", ["application/json; charset=utf-8", "Application/JSON", "application/json ; x=y"]
    )
    def test_json_by_any_spelling(self, kind: str) -> None:
        said = Service().embed({"input": "a"}, headers={"content-type": kind})
        assert said.status == 200
        assert said.passed is not None
        sent = [value for name, value in said.passed["headers"] if name == b"content-type"]
        assert sent == [b"application/json"], "SGLang refuses what has a blank before its `;`"

    def test_compressed_bodies_are_refused(self) -> None:
        assert Service().embed(b"x", headers={"content-encoding": "gzip"}).status == 415

    def test_a_body_with_two_lengths_is_refused_and_its_connection_ends(self) -> None:
        two = {"content-length": "4", "transfer-encoding": "chunked"}
        said = Service().embed({"input": "a"}, headers=two)
        assert (said.status, said.headers["connection"]) == (400, "close")
        assert said.error["code"] == "bad_body"
        assert said.passed is None

    def test_a_body_too_large_by_its_header_is_not_read(self) -> None:
        said = Service().embed(b"", headers={"content-length": "50000000"})
        assert said.status == 413

    def test_a_vector_that_is_not_finite_is_refused_by_its_input(self) -> None:
        async def engine(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            headers = [(b"content-type", b"application/json"), (b"x-qlaunch-odd", b"1")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": b'{"data"', "more_body": True})
            await send({"type": "http.response.body", "body": b": null}", "more_body": False})

        body = json.dumps({"input": ["a", "b"]}).encode()
        said = Service(app=engine).embed(body)
        assert (said.status, said.error["code"], said.error["param"]) == (
            422,
            "not_finite",
            "input",
        )
        assert "input[1]" in said.error["message"]
        # The supervisor's own call is answered as it is: it finds out why.
        assert Service(app=engine).embed(body, headers={"x-qlaunch-run": RUN}).status == 200

    def test_a_length_of_thousands_of_digits_is_too_large(self) -> None:
        assert Service().embed(b"", headers={"content-length": "9" * 5000}).status == 413

    def test_a_body_too_large_without_a_header_is_read_to_the_limit(self) -> None:
        said = Service().ask("POST", "/v1/embeddings", [b" " * 30_000, b" " * 30_000, b"{}"])
        assert said.status == 413

    def test_a_body_in_parts(self) -> None:
        said = Service().ask("POST", "/v1/embeddings", [b'{"inp', b'ut":', b'"a"}'])
        assert json.loads(said.given)["input"] == "a"

    def test_the_engine_sees_no_header_that_steers_it(self) -> None:
        headers = {"x-smg-routing-key": "1", "x-data-parallel-rank": "9", "user-agent": "me"}
        said = Service().embed({"input": "a"}, headers=headers, query_string=b"x=1")
        assert said.passed is not None
        names = {name for name, _ in said.passed["headers"]}
        assert names == {b"host", b"content-type", b"content-length", b"user-agent"}
        assert said.passed["query_string"] == b""


class TestKey:
    def test_it_is_asked_for_before_the_body(self) -> None:
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            said = Service("secret").embed({"input": "", "model": "x"}, headers=given)
            assert said.status == 401
            assert "tiny" not in said.error["message"]

    def test_with_it_all_is_as_ever(self) -> None:
        for words in ("Bearer secret", "bearer secret"):
            given = {"authorization": words}
            assert Service("secret").embed({"input": "a"}, headers=given).status == 200
            assert Service("secret").ask("GET", "/model_info", headers=given).status == 200

    def test_probes_need_none(self) -> None:
        assert Service("secret").ask("GET", "/health").status == 200
        assert Service("secret").ask("GET", "/v1/models").status == 401


class TestLengths:
    """The engine tells its context, which no text may fill: clients that cut to it are refused."""

    def answering(self, body: bytes, **changes: Any) -> Service:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            headers = [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            for part, more in ((body[:9], True), (body[9:], False)):
                await send({"type": "http.response.body", "body": part, "more_body": more})

        return Service(app=app, **changes)

    @pytest.mark.parametrize(("context", "told"), [(11, 10), (12, 10), (8, 7)])
    def test_a_text_may_have_what_the_models_are_said_to_take(
        self, context: int, told: int
    ) -> None:
        model = {"id": "tiny", "created": 1, "max_model_len": context}
        listed = {"object": "list", "data": [model]}
        for path, body, expected in (
            ("/v1/models", listed, {**listed, "data": [{**model, "max_model_len": told}]}),
            ("/v1/models/tiny", model, {**model, "max_model_len": told}),
        ):
            said = self.answering(json.dumps(body).encode()).ask("GET", path)
            assert json.loads(said.body) == expected
            assert said.headers["content-length"] == str(len(said.body))
            assert said.headers["x-qlaunch-guard"] == "1"

    @pytest.mark.parametrize("body", [b"no JSON at all", b'{"data":7}', b"[]", b'{"data":[null]}'])
    def test_what_names_no_length_is_passed_on(self, body: bytes) -> None:
        said = self.answering(body).ask("GET", "/v1/models")
        assert (said.status, said.body) == (200, body)

    def test_texts_of_any_length_leave_it_as_it_is(self) -> None:
        body = b'{"data": [{"max_model_len": 11}]}'
        said = self.answering(body, text_tokens=None).ask("GET", "/v1/models")
        assert said.body == body


class TestErrorsOfTheEngine:
    """Its own sentences say where its files are."""

    def answering(self, status: int, body: bytes, **changes: Any) -> Service:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "http.response.start", "status": status, "headers": []})
            for part, more in ((body[:7], True), (body[7:], False)):
                await send({"type": "http.response.body", "body": part, "more_body": more})

        return Service(app=app, **changes)

    def test_too_many_tokens_in_a_text(self) -> None:
        said = "The input (12 tokens) is longer than the model's context length (11 tokens)."
        body = json.dumps({"object": "error", "message": said, "code": 400}).encode()
        error = self.answering(400, body).embed({"input": "a"}).error
        assert error["message"] == "an input has 12 tokens, and this service takes 10 at most"
        assert error["param"] == "input"

    def test_too_many_tokens_in_one_text_of_several(self) -> None:
        said = "input[70]: The input (12 tokens) is longer than the model's context length."
        error = self.answering(400, json.dumps({"message": said}).encode()).embed({"input": "a"})
        assert error.error["message"].startswith("input[70] has 12 tokens")
        assert error.error["code"] == "context_length_exceeded"

    def test_too_many_for_a_context_that_a_fallback_made_smaller(self) -> None:
        said = "The input (9 tokens) is longer than the model's context length (8 tokens)."
        error = self.answering(400, json.dumps({"message": said}).encode()).embed({"input": "a"})
        assert "takes 7 at most" in error.error["message"]

    def test_paths_are_left_out(self) -> None:
        said = "no: File \"/opt/engine/x.py\", line 3, in f; Model '/srv/models/m-1' ~/x.py is bad"
        for body in ({"message": said}, {"error": {"message": said}}, {"detail": said}):
            answer = self.answering(400, json.dumps(body).encode()).embed({"input": "a"})
            assert answer.status == 400
            assert "/" not in answer.error["message"].replace("…", "")
            assert answer.error["message"].endswith("is bad")

    @pytest.mark.parametrize("body", [b"", b"Internal Server Error", b"\xff[", b'{"message": 1}'])
    def test_what_is_no_message_becomes_one(self, body: bytes) -> None:
        for status in (400, 422, 500, 503):
            said = self.answering(status, body).embed({"input": "a"})
            assert said.status == status
            assert said.error["message"].startswith("the engine")

    def test_what_failed_inside_is_not_told(self) -> None:
        said = self.answering(500, b'{"message": "secret thing"}').embed({"input": "a"})
        assert said.error["message"] == "the engine failed on this request"
        assert said.error["type"] == "server_error"


class TestManyAtOnce:
    def held(self, **changes: Any) -> tuple[Service, asyncio.Event]:
        done = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await done.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"{}", "more_body": False})

        return Service(app=app, **changes), done

    @pytest.mark.parametrize(
        ("changes", "count", "body"),
        [
            ({}, 4, {"input": "a"}),
            ({}, 2, {"input": ["a"] * 6}),
            ({"open_bytes": 60, "open_calls": 99}, 2, {"input": "a" * 15}),
            ({"open_tokens": 20}, 2, {"input": [1] * 10}),
            ({"open_tokens": 20}, 1, {"input": "a" * 40}),
        ],
        ids=["calls", "inputs", "bytes", "tokens", "tokens of texts"],
    )
    def test_what_is_beyond_the_bound_is_told_to_come_again(
        self, changes: dict[str, Any], count: int, body: dict[str, Any]
    ) -> None:
        async def run() -> None:
            service, done = self.held(**changes)
            raw = json.dumps(body).encode()
            first = [
                asyncio.create_task(service.asked("POST", "/v1/embeddings", raw))
                for _ in range(count)
            ]
            await asyncio.sleep(0.05)
            refused = await service.asked("POST", "/v1/embeddings", raw)
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            own = asyncio.create_task(
                service.asked("POST", "/v1/embeddings", raw, {"x-qlaunch-run": RUN})
            )
            await asyncio.sleep(0.05)
            done.set()
            assert [said.status for said in await asyncio.gather(*first, own)] == [200] * (
                count + 1
            )
            guard = service.guard
            assert guard.calls == guard.bytes == guard.inputs == guard.tokens == 0
            assert (await service.asked("POST", "/v1/embeddings", raw)).status == 200

        asyncio.run(run())

    def test_a_flood_of_health_checks_ends_and_the_supervisors_own_passes(self) -> None:
        async def run() -> None:
            service, done = self.held()
            first = [asyncio.create_task(service.asked()) for _ in range(4)]
            await asyncio.sleep(0.05)
            assert (await service.asked()).status == 503
            own = asyncio.create_task(service.asked(headers={"x-qlaunch-run": RUN}))
            await asyncio.sleep(0.05)
            done.set()
            assert [said.status for said in await asyncio.gather(*first, own)] == [200] * 5
            assert service.guard.looks == 0

        asyncio.run(run())

    def test_one_call_alone_is_never_too_much(self) -> None:
        assert Service(open_inputs=1, open_tokens=1).embed({"input": ["a"] * 8}).status == 200


class TestClientsThatGo:
    def test_a_body_that_does_not_come_has_a_limit(self) -> None:
        async def run() -> None:
            service = Service(body_seconds=0.05)
            sent: list[dict[str, Any]] = []

            async def receive() -> dict[str, Any]:
                await asyncio.sleep(30)
                raise AssertionError

            async def send(message: dict[str, Any]) -> None:
                sent.append(message)

            headers = [(b"host", b"localhost"), (b"content-type", b"application/json")]
            scope = {
                "type": "http",
                "method": "POST",
                "path": "/v1/embeddings",
                "query_string": b"",
                "headers": headers,
            }
            await service.guard.serve(service.app, None, scope, receive, send)
            assert sent[0]["status"] == 408
            assert b'"code": "body_too_slow"' in sent[1]["body"]
            assert (b"connection", b"close") in sent[0]["headers"]

        asyncio.run(run())

    def test_the_engine_hears_that_a_client_has_gone(self) -> None:
        heard: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            heard.extend([(await receive())["type"], (await receive())["type"]])
            heard.append((await receive())["type"])

        Service(app=app).embed({"input": "a"})
        assert heard == ["http.request", "http.disconnect", "http.disconnect"]

    def test_a_client_that_goes_while_it_sends_costs_nothing(self) -> None:
        service = Service()

        async def receive() -> dict[str, Any]:
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            return

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/embeddings",
            "query_string": b"",
            "headers": [(b"content-type", b"application/json")],
        }
        asyncio.run(service.guard.serve(service.app, None, scope, receive, send))
        assert service.last.passed is None
        assert service.guard.calls == service.guard.bytes == 0


class TestNames:
    """The model under its own name and its aliases, and every other name refused."""

    def service(self, **changes: Any) -> Service:
        async def answer(scope: Any, receive: Any, send: Any) -> None:
            model = {"id": "tiny", "object": "model", "max_model_len": 12}
            listed = {"object": "list", "data": [model]}
            found = listed if scope["path"] == "/v1/models" else model
            status = 200 if scope["path"] in ("/v1/models", "/v1/models/tiny") else 404
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": json.dumps(found).encode()})

        return Service(app=answer, aliases=("ada", "org/ada-2"), **changes)

    def test_the_list_has_them_all(self) -> None:
        said = self.service().ask("GET", "/v1/models")
        listed = json.loads(said.body)["data"]
        assert [model["id"] for model in listed] == ["tiny", "ada", "org/ada-2"]
        assert {model["max_model_len"] for model in listed} == {10}

    @pytest.mark.parametrize("name", ["tiny", "ada", "org/ada-2"])
    def test_each_can_be_asked_about(self, name: str) -> None:
        said = self.service().ask("GET", f"/v1/models/{name}")
        assert said.status == 200
        assert json.loads(said.body)["id"] == name

    @pytest.mark.parametrize("name", ["nope", "ada2", "tiny/..", "TINY"])
    def test_another_is_not_found_by_its_name(self, name: str) -> None:
        said = self.service().ask("GET", f"/v1/models/{name}")
        assert said.status == 404
        assert said.error["code"] == "model_not_found"
        assert said.error["param"] == "model"
        assert "this service has 'tiny', 'ada', 'org/ada-2'" in said.error["message"]
        assert said.passed is None

    def test_who_has_no_key_is_not_told_the_names(self) -> None:
        said = Service("secret", aliases=("ada",)).ask("GET", "/v1/models/nope")
        assert said.status in (401, 404)
        assert b"ada" not in said.body
        assert b"tiny" not in said.body

    @pytest.mark.parametrize("name", ["tiny", "ada", None])
    def test_calls_may_use_each_and_the_engine_gets_its_own(self, name: str | None) -> None:
        service = Service(aliases=("ada",))
        body = json.dumps({"model": name, "input": "a"}).encode()
        said = service.ask("POST", "/v1/embeddings", body)
        assert said.status == 200
        assert json.loads(said.given)["model"] == "tiny"

    def test_a_call_with_another_is_refused_with_the_served_names(self) -> None:
        body = json.dumps({"model": "nope", "input": "a"}).encode()
        said = Service(aliases=("ada",)).ask("POST", "/v1/embeddings", body)
        assert (said.status, said.error["code"]) == (404, "model_not_found")
        assert said.error["message"] == (
            "the model 'nope' is not served here; this service has 'tiny', 'ada'"
        )
