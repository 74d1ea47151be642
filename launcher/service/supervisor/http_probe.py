"""Asking the engine how it is: one call at a time, driven by the supervisor's loop.

Not `http.client` in a thread: a socket timeout starts anew with every byte, so a server that
drips one byte a second would hold a "25 s" call for ever, and the supervisor has no threads (see
loop.py). Here one deadline covers the whole call. The request is HTTP/1.0, so that the answer
ends where the connection does and needs no chunk parser.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from launcher.service.supervisor.event_loop import Loop, Timer
from launcher.verify.beat import BEAT_TEXT

HEALTH_TIMEOUT_S = 25.0
"""SGLang answers /health after 1 s at best, and gives itself 20 s before it says 503."""
BODY_LIMIT = 4 * 1024 * 1024
"""Bytes; /model_info is below 2 kB, 32 vectors of 4,096 decimal numbers take 2.9 MB."""

GUARD_MARK = b"x-qlaunch-guard: 1"
"""Header of every answer of a guarded engine (launcher/plugin/guard)."""

Kind = Literal["refused", "timeout", "broken", "foreign", "http"]


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came of one call."""

    kind: Kind
    """refused: nothing listens. foreign: somebody else's socket, nothing was sent to it."""
    status: int | None = None
    body: bytes = b""
    detail: str = ""
    guarded: bool = False
    """Whether it bears the mark of the guard before the engine's handlers."""

    @property
    def ok(self) -> bool:
        """Whether it is a 200: not any 2xx, not a redirect, not a login page's 401."""
        return self.status == 200

    def __str__(self) -> str:
        """For people: `HTTP 503`, or why there is no status."""
        return f"HTTP {self.status}" if self.kind == "http" else self.detail or self.kind


class HttpProbe:
    """One GET (or POST of a JSON body), from connect to the last byte, within one deadline."""

    def __init__(
        self,
        loop: Loop,
        address: tuple[str, int],
        path: str,
        *,
        done: Callable[[HttpAnswer], object],
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        connected: Callable[[], bool] = lambda: True,
        timeout_s: float = HEALTH_TIMEOUT_S,
    ) -> None:
        """Begin. `done` gets the answer, from the loop, unless `cancel` comes first.

        `connected` is asked before anything is sent: False (it is not our engine that listens)
        ends the call as `foreign`, so that no key ever goes to a stranger.
        """
        self._loop = loop
        self._done = done
        self._connected = connected
        self._request = _request(address, path, headers or {}, body)
        self._data = bytearray()
        self._over = False
        self._timeout_s = timeout_s
        self._timer: Timer | None = loop.call_later(timeout_s, self._expired)
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket: socket.socket | None = None
        try:
            self._socket = socket.socket(family, socket.SOCK_STREAM)
            self._socket.setblocking(False)
            status = self._socket.connect_ex(address)
        except OSError as error:  # no descriptors left: not the engine's fault, and it may pass
            status = error.errno or errno.EMFILE
        if status in {0, errno.EINPROGRESS} and self._socket is not None:
            loop.watch(self._socket.fileno(), self._writable, write=True)
        else:
            loop.call_later(0, lambda: self._finish(_failed(status)))

    def cancel(self) -> None:
        """Give the call up; `done` will not be called."""
        self._over = True
        self._close()

    def _writable(self) -> None:
        assert self._socket is not None
        status = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status:
            self._finish(_failed(status))
            return
        try:
            ours = self._connected()
        except OSError as error:
            self._finish(_failed(error.errno or errno.EIO))
            return
        if ours:
            self._send()
        else:
            self._finish(HttpAnswer("foreign", detail="another process answers on the port"))

    def _send(self) -> None:
        assert self._socket is not None
        try:
            # A few hundred bytes into an empty socket buffer: never partial in practice.
            self._socket.sendall(self._request)
        except OSError as error:
            self._finish(HttpAnswer("broken", detail=error.strerror or str(error)))
            return
        self._loop.watch(self._socket.fileno(), self._readable)

    def _readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._finish(HttpAnswer("broken", detail=error.strerror or str(error)))
            return
        self._data += data
        if len(self._data) > BODY_LIMIT:
            self._finish(HttpAnswer("broken", detail="the answer is too long"))
        elif not data or _complete(self._data):
            self._finish(parse(bytes(self._data)))

    def _expired(self) -> None:
        self._timer = None
        self._finish(HttpAnswer("timeout", detail=f"no answer within {self._timeout_s:g} s"))

    def _finish(self, answer: HttpAnswer) -> None:
        if not self._over:
            self._over = True
            self._close()
            self._done(answer)

    def _close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None


def _request(
    address: tuple[str, int], path: str, headers: dict[str, str], body: bytes = b""
) -> bytes:
    host = f"[{address[0]}]" if ":" in address[0] else address[0]
    verb = "POST" if body else "GET"
    lines = [f"{verb} {path} HTTP/1.0", f"Host: {host}:{address[1]}", "Connection: close"]
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body


def embedding_request(model: str, texts: int) -> bytes:
    """The body of a beat's call: the same text, `texts` times."""
    asked = {"model": model, "input": [BEAT_TEXT] * texts, "encoding_format": "float"}
    return json.dumps(asked).encode()


def embeddings(answer: HttpAnswer) -> list[object] | str:
    """What an embedding call was answered with, unjudged; or why it was not answered."""
    if not answer.ok:
        return str(answer)
    try:
        return [each["embedding"] for each in json.loads(answer.body)["data"]]
    except (ValueError, RecursionError, LookupError, TypeError):
        return "the response is not an embedding"


def _failed(status: int) -> HttpAnswer:
    kind: Kind = "refused" if status == errno.ECONNREFUSED else "broken"
    return HttpAnswer(kind, detail=os.strerror(status))


def _complete(data: bytearray) -> bool:
    """Whether the length that the header promises is there (some servers keep connections)."""
    head, found, body = bytes(data).partition(b"\r\n\r\n")
    if not found:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length" and value.strip().isdigit():
            return len(body) >= int(value)
    return False


def parse(data: bytes) -> HttpAnswer:
    """Read a whole HTTP/1 answer; `broken` where it is not one."""
    head, found, body = data.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(None, 2)
    if not found or len(words) < 2 or not words[0].startswith(b"HTTP/1.") or len(words[1]) != 3:
        detail = "not an HTTP answer" if data else "the connection closed without an answer"
        return HttpAnswer("broken", detail=detail)
    if not words[1].isdigit():
        return HttpAnswer("broken", detail="not an HTTP answer")
    guarded = GUARD_MARK in head.lower().split(b"\r\n")
    return HttpAnswer("http", status=int(words[1]), body=body, guarded=guarded)


def model_problem(answer: HttpAnswer, model_path: str) -> str | None:
    """Why /model_info's answer is not the model we started, as an embedder; None if it is.

    The server must say `is_generation: false`, and name our path (as given, or the same folder).
    """
    try:
        info = json.loads(answer.body)
    except (ValueError, RecursionError):
        return "the engine's model information is not JSON"
    if not isinstance(info, dict):
        return "the engine's model information is not an object"
    served = info.get("model_path")
    if not isinstance(served, str) or not _same(served, model_path):
        return f"the engine serves {served!r}, not the model that was asked for"
    if info.get("is_generation") is not False:
        return "the engine serves the model as a generator, not as an embedder"
    return None


def _same(served: str, wanted: str) -> bool:
    if served == wanted:
        return True
    try:
        return os.path.realpath(served) == os.path.realpath(wanted)
    except ValueError:  # a NUL in it: no path at all
        return False


def seconds_since(began: float) -> float:
    """Seconds since a reading of the monotonic clock, to the millisecond."""
    return round(time.monotonic() - began, 3)
