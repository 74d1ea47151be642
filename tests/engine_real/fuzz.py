"""What clients can send: OpenAI's request and everything beside it, as hypothesis strategies.

A `Case` is what goes over one connection, and how. Strategies and senders only; the judgement is in
test_fuzz.py. The requests that were found to harm the engine are among them, by name.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

MODEL = "all-minilm-l6-v2"
PATH = "/v1/embeddings"
ANSWER_S = 300.0
"""For one answer: what the largest calls allowed take on a loaded machine."""
STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")


@dataclass(frozen=True)
class Case:
    """The bytes of one connection, and how the client behaves."""

    sent: bytes = field(repr=False)
    name: str = ""
    cut: int | None = None
    """Bytes after which it hangs up; None: it waits for the answer."""
    pause_s: float = 0.0
    """Between the halves of what it sends."""
    answers: int = 1
    """How many answers there must be at least; 0: it may also be left without one."""

    def __repr__(self) -> str:
        """For a falsifying example: its begin is enough."""
        return f"Case({self.name or self.sent[:300]!r}, cut={self.cut}, answers={self.answers})"


@dataclass(frozen=True)
class Heard:
    """What came back."""

    data: bytes

    @property
    def statuses(self) -> list[int]:
        """Of each answer."""
        return [int(found) for found in STATUS.findall(self.data)]

    @property
    def document(self) -> Any:
        """The body of the first answer, as JSON."""
        head, _, body = self.data.partition(b"\r\n\r\n")
        if b"transfer-encoding: chunked" in head.lower():
            body = b"".join(_chunks(body))
        return json.loads(body)


def _chunks(body: bytes) -> list[bytes]:
    found = []
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        found.append(rest[:length])
        body = rest[length + 2 :]
        if length == 0:
            break
    return found


def send(port: int, case: Case) -> Heard:
    """Play one case; what was heard until the server closed the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as link:
        heard = bytearray()
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            sent = case.sent if case.cut is None else case.sent[: case.cut]
            half = len(sent) // 2 if case.pause_s else 0
            link.sendall(sent[:half])
            time.sleep(case.pause_s)
            link.sendall(sent[half:])
        if case.cut is not None:
            return Heard(b"")
        with contextlib.suppress(ConnectionResetError):
            while data := link.recv(65536):
                heard += data
        return Heard(bytes(heard))


def http(
    body: bytes = b"",
    *,
    method: str = "POST",
    path: str = PATH,
    close: bool = True,
    length: int | None = None,
    **headers: str,
) -> bytes:
    """One request."""
    lines = {
        "Host": "127.0.0.1",
        "Content-Type": "application/json",
        "Content-Length": str(len(body) if length is None else length),
        "Connection": "close" if close else "keep-alive",
    } | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body


def body(document: object) -> bytes:
    """JSON as clients write it, surrogates escaped, NaN spelled out."""
    return json.dumps(document).encode()


# The named ones ----------------------------------------------------------------------------------

_INPUTS: dict[str, object] = {
    "an id beyond the vocabulary": [101, 999999, 102],
    "a negative id in a nested list": [[101, 7592, 102], [101, -5, 102]],
    "a list of an empty list": [[]],
    "an empty list among ids": [[101, 7592, 102], []],
    "booleans": [True, False],
    "an image": [{"image": "https://example.org/a.png"}],
    "513 ids": [[5] * 513],
    "512 ids": [[5] * 512],
    "100,000 inputs": ["a"] * 100_000,
    "one text of 50 MB": "a " * 25_000_000,
    "an empty text": "",
    "nothing": None,
    "a number": 7,
    "a huge id": [10**30],
    "a fraction": [1.5],
    "a lone surrogate": "\ud800",
    "NUL": "a\0b",
    "blanks": " " * 60_000,
    "one word of 60,000 letters": "a" * 60_000,
}
_FIELDS: dict[str, object] = {
    "rid": ["a"],
    "embed_overrides": [[[0.1] * 384]],
    "embed_override_token_id": 5,
    "dimensions": 0,
    "encoding_format": "int8",
    "model": "another",
    "priority": -1,
    "routed_dp_rank": 7,
    "lora_path": "/etc",
    "return_hidden_states": True,
    "user": {"a": 1},
}
_ROUTES = (
    "/generate",
    "/encode",
    "/update_weights_from_disk",
    "/configure_logging",
    "/start_profile",
    "/pause_generation",
    "/flush_cache",
    "/v1/rerank",
    "/v1/score",
    "/v1/tokenize",
    "/v1/chat/completions",
    "/abort_request",
    "/release_memory_occupation",
    "/freeze_gc",
    "/server_info",
    "/docs",
    "/v1/embeddings/",
    "/%761/embeddings",
    "//v1/embeddings",
)
_ODD = {
    "deep JSON": http(b"[" * 100_000),
    "deep JSON in the input": http(b'{"input":' + b"[" * 200_000 + b"]" * 200_000 + b"}"),
    "a million empty lists": http(b'{"input":[' + b"[]," * 1_000_000 + b"[]]}"),
    "twice the same name": http(b'{"input":"a","input":[999999]}'),
    "a byte order mark": http(b"\xef\xbb\xbf" + body({"input": "a"})),
    "UTF-16": http(json.dumps({"input": "a"}).encode("utf-16")),
    "not UTF-8": http(b'{"input":"\xff\xfe"}'),
    "a number without an end": http(b'{"input":' + b"9" * 100_000 + b"}"),
    "a form": http(b"input=a", Content_Type="application/x-www-form-urlencoded"),
    "another origin": http(body({"input": "a"}), Origin="http://evil.example"),
    "another host": http(body({"input": "a"}), Host="evil.example"),
    "a long header": http(body({"input": "a"}), X_Long="a" * 200_000),
    "packed": http(body({"input": "a"}), Content_Encoding="gzip"),
}

NAMED: tuple[Case, ...] = (
    *(Case(http(body({"model": MODEL, "input": v})), k) for k, v in _INPUTS.items()),
    *(Case(http(body({"input": "a text", k: v})), f"field {k}") for k, v in _FIELDS.items()),
    *(Case(http(b"{}", path=path), f"POST {path}") for path in _ROUTES),
    *(Case(raw, name) for name, raw in _ODD.items()),
    Case(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, "TLS"),
    Case(b"GET / HTTP/9.9\r\n\r\n", "an HTTP that is none"),
    Case(http(b"{}", length=10**9), "less than was promised", cut=10**6),
)

# Everything else ---------------------------------------------------------------------------------

# Surrogates are characters here: clients write them escaped.
anything_text = st.text(st.characters(exclude_categories=()), max_size=60)
numbers = (
    st.integers()
    | st.integers(-5, 40_000)
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.sampled_from([2**31, 2**63, 10**40, -1, 30521, 30522])
)
scalars = st.none() | st.booleans() | numbers | anything_text
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(anything_text, inner, max_size=4),
    max_leaves=12,
)
token_ids = st.lists(st.integers(0, 30_521), min_size=1, max_size=12)
words = st.text(min_size=1, max_size=8)
# Mostly short: thousands of them are computed by whatever machine there is.
texts = (
    st.text(min_size=1, max_size=40)
    | st.builds(lambda word, times: f"{word} " * times, words, st.integers(1, 12))
    | st.text(min_size=1, max_size=12)
)
long_texts = st.builds(
    lambda word, times: f"{word} " * times, st.sampled_from(["a", "字"]), st.integers(480, 530)
)
inputs = (
    texts
    | texts
    | st.lists(texts, max_size=4)
    | token_ids
    | st.lists(token_ids, max_size=4)
    | long_texts
    | st.integers(505, 520).map(lambda size: [[5] * size])
    | st.lists(st.one_of(texts, numbers, values, token_ids), max_size=4)
    | values
)
fields = st.dictionaries(
    st.sampled_from([*_FIELDS, "instruction", "truncate", "image", "\0", "__proto__"])
    | anything_text,
    values,
    max_size=3,
)


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """A body's document, mostly near what is right."""
    found: dict[str, Any] = {"model": MODEL, "input": draw(inputs)}
    if draw(st.booleans()):
        found |= draw(fields)
    if draw(st.integers(0, 3)) == 0:
        found["encoding_format"] = draw(st.sampled_from(["float", "base64"]) | values)
    if draw(st.integers(0, 5)) == 0:
        found["dimensions"] = draw(numbers)
    return found


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """The bytes of a right body with a few of them changed, lost or added."""
    data = bytearray(body({"model": MODEL, "input": draw(texts | st.lists(texts, max_size=2))}))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


bodies = documents().map(body) | values.map(body) | spoiled() | st.binary(max_size=60)
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content_Type": st.sampled_from(["text/plain", "multipart/form-data", "application/json"]),
        "Origin": st.sampled_from(["http://evil.example", "null", "http://127.0.0.1"]),
        "Host": st.sampled_from(["evil.example", "localhost", "127.0.0.1:80", "[::1]"]),
        "Accept": st.sampled_from(["text/event-stream", "*/*"]),
        "X_Data_Parallel_Rank": st.sampled_from(["0", "7", "x"]),
        "Authorization": st.sampled_from(["Bearer x", "Basic eDp5"]),
    },
)
plain = st.builds(lambda given, more: Case(http(given, **more)), bodies, headers)
elsewhere = st.builds(
    lambda method, path, given: Case(http(given, method=method, path=path), answers=0),
    st.sampled_from(["GET", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "POST", "HEAD"]),
    st.sampled_from([PATH, "/", "/v1/models", "/model_info", "/metrics", "/v1", *_ROUTES]),
    st.binary(max_size=40),
)
cut_off = st.builds(
    lambda given, share: Case(http(given), cut=int(len(http(given)) * share)),
    documents().map(body),
    st.floats(0.0, 1.0),
)
slow = st.builds(lambda given: Case(http(given), pause_s=0.02), bodies)
pipelined = st.builds(
    lambda first, second: Case(
        http(first, close=False) + http(second, close=False) + http(body({"input": "last"}))
    ),
    bodies,
    bodies,
)
raw = st.binary(min_size=1, max_size=200).map(lambda data: Case(data + b"\r\n\r\n", answers=0))
small = st.sampled_from([case for case in NAMED if len(case.sent) < 100_000])
large = st.sampled_from([case for case in NAMED if len(case.sent) >= 100_000])

usual = st.one_of(plain, plain, plain, plain, elsewhere, cut_off, slow, pipelined, raw, small)
