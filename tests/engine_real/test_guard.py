"""Requests that harmed the service, tried as an attacker or a careless client would: on one engine.

After each the same text has the same vector, bit for bit, and the engine was never started again.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import openai
import psutil
import pytest

from tests.checkpoints import make_roberta
from tests.checkpoints.edit import added_token
from tests.engine import route_page
from tests.engine_real.conftest import Running
from tests.engine_real.qlaunch import UP_S, Home

MODEL = "all-minilm-l6-v2"
CONTROL = {"model": MODEL, "input": ["a text whose vector must stay", "and another"]}


class Target:
    """A running service, asked without a client's help."""

    def __init__(self, home: Home, data: dict[str, Any]) -> None:
        self.home, self.name = home, str(data["service"])
        self.endpoint = str(data["endpoint"])
        self.port = int(urlsplit(self.endpoint).port or 0)
        self.pid = data["pid"]

    def ask(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes, dict[str, str]]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=UP_S)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            if body is not None:
                names.setdefault("Content-Type", "application/json")
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, answer.read(), found
        finally:
            connection.close()

    def embed(self, document: object, **headers: str) -> tuple[int, Any]:
        raw = document if isinstance(document, bytes) else json.dumps(document).encode()
        status, body, _ = self.ask("POST", "/v1/embeddings", raw, **headers)
        return status, json.loads(body)

    def vectors(self) -> list[list[float]]:
        status, found = self.embed(CONTROL)
        assert status == 200, found
        return [each["embedding"] for each in found["data"]]


@pytest.fixture(scope="module")
def target(running: Running) -> Target:
    return Target(running.home, running.data)


@pytest.fixture(scope="module")
def before(target: Target) -> list[list[float]]:
    """The control texts' vectors before anything was tried."""
    return target.vectors()


@pytest.fixture
def unharmed(target: Target, before: list[list[float]]) -> Iterator[None]:
    """After every test: the same vectors, the same process, no restart."""
    yield
    assert target.vectors() == before
    state = target.home.state(target.name)
    assert state.engine is not None
    assert (state.state, state.restarts, state.engine.pid) == ("ready", 0, target.pid)


always_unharmed = pytest.mark.usefixtures("unharmed")
HARMFUL: dict[str, tuple[dict[str, Any], int]] = {
    "an id beyond the vocabulary": ({"input": [101, 999999, 102]}, 400),
    "a negative id": ({"input": [[101, 7592, 102], [101, -5, 102]]}, 400),
    "no ids": ({"input": [[]]}, 400),
    "no ids beside some": ({"input": [[101, 7592, 102], []]}, 400),
    "embeddings overridden": (
        {"input": "a", "embed_overrides": [[[0.1] * 384]], "embed_override_token_id": 5},
        400,
    ),
    "booleans": ({"input": [True, False]}, 400),
    "an image": ({"input": [{"image": "https://example.org/x.png"}]}, 400),
    "a short rid": ({"input": ["a", "b"], "rid": ["x"]}, 400),
    "a model nobody serves": ({"input": "a", "model": "nobody"}, 404),
    "a text of 50 MB": ({"input": "word " * 10_000_000}, 413),
    "100,000 inputs": ({"input": ["x"] * 100_000}, 400),
    "vectors cut": ({"input": "a", "dimensions": 100}, 400),
}


@always_unharmed
@pytest.mark.parametrize("case", HARMFUL)
def test_what_ended_or_blocked_the_engine_is_refused(target: Target, case: str) -> None:
    document, wanted = HARMFUL[case]
    status, found = target.embed({"model": MODEL, **document})
    assert status == wanted, found
    message = found["error"]["message"]
    assert message
    assert "/" not in message, "a path"
    if wanted == 404:
        assert MODEL in message


@always_unharmed
def test_the_largest_input_is_answered_and_one_more_token_refused(target: Target) -> None:
    guard = target.home.run("plan", "cpu-minilm", "--json").ok().data["guard"]
    most = guard["text_tokens"]
    sizes: dict[str, tuple[list[Any], list[Any]]] = {
        "ids": ([[7592] * most], [[7592], [7592] * (most + 1)]),
        "texts": (["hello " * (most - 2)], [*["hello"] * 70, "hello " * (most - 1)]),
    }
    for kind, (largest, beyond) in sizes.items():
        status, found = target.embed({"model": MODEL, "input": largest})
        assert status == 200, (kind, found)
        assert found["usage"]["prompt_tokens"] == most
        assert found["model"] == MODEL, "where the checkpoint lies on this machine"
        status, found = target.embed({"model": MODEL, "input": beyond})
        assert status == 400, kind
        assert found["error"]["message"] == (
            f"input[{len(beyond) - 1}] has {most + 1} tokens, and this service takes {most} at most"
        )


@always_unharmed
@pytest.mark.parametrize("key", [None, "guess"])
def test_every_route_of_this_release_but_ours_is_refused(target: Target, key: str | None) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    tried = 0
    for route in route_page.table("0.5.23"):
        path = route["path"].replace("{model:path}", "x").replace("{", "").replace("}", "")
        for method in route["methods"]:
            if (path, method) in {
                ("/v1/embeddings", "POST"),
                ("/v1/models", "GET"),
                ("/health", "GET"),
                ("/health_generate", "GET"),
                ("/model_info", "GET"),
                ("/get_model_info", "GET"),
            }:
                continue
            verb = "GET" if method == "WEBSOCKET" else method
            status, _, found = target.ask(verb, path, b"{}", **headers)
            assert status in (404, 405), (method, path)
            assert found["x-qlaunch-guard"] == "1"
            tried += 1
    assert tried > 90


@always_unharmed
@pytest.mark.parametrize("path", ["/docs", "/openapi.json", "/redoc", "/metrics", "//health", "/"])
def test_nor_is_what_no_table_names(target: Target, path: str) -> None:
    assert target.ask("GET", path)[0] == 404


@always_unharmed
def test_a_page_of_another_origin_can_do_nothing(target: Target) -> None:
    body = json.dumps(CONTROL).encode()
    for content_type in ("application/json", "text/plain"):
        status, _, found = target.ask(
            "POST", "/v1/embeddings", body, Origin="http://evil.example", Content_Type=content_type
        )
        assert status == 403
        assert not [name for name in found if name.startswith("access-control")]
    asks = {"Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
    for method, path in (("OPTIONS", "/v1/embeddings"), ("GET", "/health"), ("GET", "/v1/models")):
        _, _, found = target.ask(method, path, None, **asks)
        assert not [name for name in found if name.startswith("access-control")]


@always_unharmed
def test_a_name_that_points_here_reaches_nothing(target: Target) -> None:
    for method, path, body in (("GET", "/v1/models", None), ("POST", "/v1/embeddings", b"{}")):
        assert target.ask(method, path, body, Host="evil.example")[0] == 403


@always_unharmed
def test_nothing_of_the_engine_listens_beyond_loopback(target: Target) -> None:
    """PyTorch's rendezvous listened on every address, and kept what anybody sent."""
    front = psutil.Process(target.pid)
    listening = [
        found.laddr
        for process in (front, *front.children(recursive=True))
        for found in process.net_connections("tcp")
        if found.status == psutil.CONN_LISTEN
    ]
    assert target.port in {address.port for address in listening}
    assert len(listening) > 1, "the scheduler's own"
    assert {address.ip for address in listening} == {"127.0.0.1"}


@always_unharmed
def test_pipelined_and_cut_off_clients_leave_the_others_alone(target: Target) -> None:
    body = json.dumps(CONTROL).encode()
    head = (
        f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    chunked = head.replace(f"Content-Length: {len(body)}".encode(), b"Transfer-Encoding: chunked")
    for data in (
        (head + body) * 3,
        head + body[:10],
        head[:40],
        b"\x00\xff" * 50,
        chunked + b"zz\r\n",
        chunked + b"a\r\n" + body[:10] + b"\r\n",
        b"GET http://evil.example/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", target.port), timeout=30) as connection:
            connection.sendall(data)
            time.sleep(0.05)
        assert target.ask("GET", "/v1/models")[0] == 200


@always_unharmed
def test_what_is_no_http_is_refused_in_json_and_not_quoted(target: Target) -> None:
    """uvicorn's own answer was a line of plain text."""
    secret = b"a-key-that-nobody-may-read"
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\n"
    for data in (
        secret + b"\r\n\r\n",
        head + b"Content-Length: " + secret + b"\r\n\r\n",
        head + secret + b"\x00: x\r\n\r\n",
    ):
        with socket.create_connection(("127.0.0.1", target.port), timeout=UP_S) as connection:
            connection.sendall(data)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            body = answer.read()
        assert (answer.status, answer.getheader("connection")) == (400, "close")
        assert json.loads(body)["error"]["code"] == "bad_http"
        assert secret not in body


@always_unharmed
def test_clients_that_send_nothing_more_do_not_keep_others_out(target: Target) -> None:
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    silent = []
    try:
        for at in range(300):
            connection = socket.create_connection(("127.0.0.1", target.port), timeout=30)
            connection.sendall(head + (b"Content-Length: 4000000\r\n\r\n{" if at % 2 else b""))
            silent.append(connection)
        began = time.monotonic()
        assert target.embed(CONTROL)[0] == 200
        assert time.monotonic() - began < UP_S
        # Both kinds are ended by the guard: by a 408, and by closing.
        for connection in silent[:2]:
            connection.settimeout(UP_S)
            answer = connection.recv(1000)
            assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
    finally:
        for connection in silent:
            connection.close()


@always_unharmed
def test_more_than_is_planned_for_is_told_to_come_again_and_the_rest_answered(
    target: Target,
) -> None:
    guard = target.home.run("plan", "cpu-minilm", "--json").ok().data["guard"]
    body = json.dumps({"model": MODEL, "input": ["x"] * 512}).encode()
    count = guard["open_inputs"] // 512 + 4
    found: list[tuple[int, dict[str, str]]] = []

    def ask() -> None:
        status, _, headers = target.ask("POST", "/v1/embeddings", body)
        found.append((status, headers))

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(UP_S * 2)
    assert len(found) == count
    assert {status for status, _ in found} <= {200, 503}
    assert all(headers["retry-after"] for status, headers in found if status == 503)
    assert sum(status == 200 for status, _ in found) >= guard["open_inputs"] // 512


@always_unharmed
def test_ordinary_clients_see_nothing_of_all_this(target: Target) -> None:
    with openai.OpenAI(base_url=target.endpoint, api_key="none", timeout=UP_S) as client:
        assert client.models.list().data[0].id == MODEL
        assert client.models.retrieve(MODEL).id == MODEL
        answer = client.embeddings.create(model=MODEL, input=["one", "two"])
        assert [len(each.embedding) for each in answer.data] == [384, 384]
        with pytest.raises(openai.NotFoundError, match=MODEL):
            client.embeddings.create(model="text-embedding-3-small", input="a")
        with pytest.raises(openai.BadRequestError, match="outside this model's vocabulary"):
            client.embeddings.create(model=MODEL, input=[[101, 99999, 102]])


def test_a_roberta_of_514_positions_holds_512_tokens_and_outlives_513(
    home: Home, tmp_path: Path
) -> None:
    """Beside it transformers#1730: a text with a token that was added without a row."""
    model = make_roberta(tmp_path / "model", hidden=384, heads=12, intermediate=768)
    added_token("<extra>", 90_000)(model)
    profile = home.profile("roberta", model)
    roberta = Target(home, home.run("up", profile, "--json").ok().data)
    for tokens, wanted in ((511, 200), (512, 200), (513, 400), (512, 200)):
        status, found = roberta.embed({"input": [[5] * tokens]})
        assert status == wanted, (tokens, found)
    status, found = roberta.embed({"input": "before <extra> behind"})
    assert (status, "holds a token of id" in str(found)) == (400, True), found
    data = home.run("status", profile, "--json").ok().data
    assert (data["state"], data["restarts"], data["pid"]) == ("ready", 0, roberta.pid)
