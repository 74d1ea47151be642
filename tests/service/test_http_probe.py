"""One GET in the loop: every way in which a server can fail to answer."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.service.supervisor import http_probe
from launcher.service.supervisor.event_loop import Loop, Timers
from launcher.service.supervisor.http_probe import HttpAnswer, HttpProbe
from tests.patience import PATIENCE_S, no_hang

Serve = Callable[[socket.socket], None]


def ask(
    serve: Serve | None,
    *,
    timeout_s: float = 0.4,
    connected: Callable[[], bool] = lambda: True,
    headers: dict[str, str] | None = None,
) -> HttpAnswer:
    """The answer of one GET to a server of one connection."""
    answers: list[HttpAnswer] = []
    loop = Loop()
    server = socket.create_server(("127.0.0.1", 0))
    address = ("127.0.0.1", server.getsockname()[1])
    thread = None
    if serve is None:
        server.close()
    else:

        def run() -> None:
            link, _ = server.accept()
            with link:
                try:
                    serve(link)
                except OSError:
                    return

        thread = threading.Thread(target=run)
        thread.start()
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    HttpProbe(
        loop,
        address,
        "/health",
        done=answers.append,
        connected=connected,
        headers=headers,
        timeout_s=timeout_s,
    )
    while not answers:
        loop.turn()
    if thread is not None:
        thread.join(PATIENCE_S)
        server.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # noqa: PTH208
    loop.close()
    return answers[0]


def says(data: bytes) -> Serve:
    def serve(link: socket.socket) -> None:
        link.recv(4096)
        link.sendall(data)

    return serve


def test_nothing_listening_is_refused() -> None:
    assert ask(None).kind == "refused"


@pytest.mark.parametrize("status", [200, 204, 302, 401, 503])
def test_a_status_is_read_and_only_200_is_ok(status: int) -> None:
    answer = ask(says(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n".encode()))
    assert (answer.kind, answer.status, answer.ok) == ("http", status, status == 200)
    assert str(answer) == f"HTTP {status}"


def test_a_body_ends_with_its_length_or_with_the_connection() -> None:
    assert ask(says(b"HTTP/1.0 200 OK\r\n\r\nbody")).body == b"body"

    def keeps_open(link: socket.socket) -> None:
        link.recv(4096)
        link.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody")
        link.recv(1)

    assert ask(keeps_open).body == b"body"


def test_the_request_is_http_with_the_key() -> None:
    heard: list[bytes] = []

    def serve(link: socket.socket) -> None:
        heard.append(link.recv(4096))
        link.sendall(b"HTTP/1.0 200 OK\r\n\r\n")

    ask(serve, headers={"Authorization": "Bearer k"})
    assert heard[0].startswith(b"GET /health HTTP/1.0\r\nHost: 127.0.0.1:")
    assert b"\r\nAuthorization: Bearer k\r\n" in heard[0]


def test_a_stranger_gets_no_request() -> None:
    heard: list[bytes] = []
    answer = ask(lambda link: heard.append(link.recv(4096)), connected=lambda: False)
    assert answer.kind == "foreign"
    assert heard == [b""]


def test_silence_and_dripping_end_at_the_deadline() -> None:
    def silent(link: socket.socket) -> None:
        while link.recv(4096):
            pass

    def drips(link: socket.socket) -> None:
        link.recv(4096)
        for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody":
            link.sendall(bytes([byte]))
            time.sleep(0.05)

    for serve in (silent, drips):
        with no_hang():
            assert ask(serve).kind == "timeout"


def test_a_closed_reset_or_endless_answer_is_broken() -> None:
    assert ask(lambda link: link.close()).kind == "broken"

    def resets(link: socket.socket) -> None:
        link.recv(1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert ask(resets).kind == "broken"

    def endless(link: socket.socket) -> None:
        link.recv(4096)
        while True:
            link.sendall(b"x" * 65536)

    assert ask(endless, timeout_s=PATIENCE_S).detail == "the answer is too long"


def test_a_cancelled_probe_says_nothing() -> None:
    loop = Loop()
    answers: list[HttpAnswer] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = ("127.0.0.1", server.getsockname()[1])
        HttpProbe(loop, address, "/", done=answers.append, timeout_s=0.05).cancel()
        over: list[bool] = []
        loop.call_later(0.1, lambda: over.append(True))
        while not over:
            loop.turn()
    assert answers == []
    loop.close()


@given(st.binary(max_size=200))
def test_any_bytes_are_some_answer(data: bytes) -> None:
    answer = http_probe.parse(data)
    assert answer.kind in {"http", "broken"}
    assert str(answer)


@given(st.binary(max_size=50), st.booleans())
def test_any_model_information_is_judged(body: bytes, framed: bool) -> None:
    if framed:
        body = json.dumps({"model_path": body.decode("latin-1")}).encode()
    assert http_probe.model_problem(HttpAnswer("http", 200, body), "/models/ours")


def test_the_model_is_ours_by_name_or_by_folder(tmp_path: object) -> None:
    def problem(**info: object) -> str | None:
        return http_probe.model_problem(
            HttpAnswer("http", 200, json.dumps(info).encode()), "/usr/../usr"
        )

    assert problem(model_path="/usr/../usr", is_generation=False) is None
    assert problem(model_path="/usr", is_generation=False) is None
    assert "'/other'" in str(problem(model_path="/other", is_generation=False))
    assert "generator" in str(problem(model_path="/usr", is_generation=True))
    assert "generator" in str(problem(model_path="/usr"))


def test_timers_come_in_order_and_can_be_called_off() -> None:
    loop = Loop()
    timers = Timers(loop)
    seen: list[str] = []
    timers.after("b", 0.02, lambda: seen.append("b"))
    timers.after("a", 0.01, lambda: seen.append("a"))
    timers.after("b", 0.03, lambda: seen.append("b again"))
    timers.after("c", 0.0, lambda: seen.append("c"))
    timers.cancel("c")
    timers.cancel("never there")
    while len(seen) < 2:
        loop.turn()
    assert seen == ["a", "b again"]
    timers.after("d", 0.0, lambda: seen.append("d"))
    timers.cancel_all()
    loop.call_later(0.01, lambda: seen.append("end"))
    while seen[-1] != "end":
        loop.turn()
    assert "d" not in seen
    loop.close()
