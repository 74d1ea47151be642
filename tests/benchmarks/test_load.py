from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.errors import BenchError
from benchmarks.load import Bounds, Client, Texts, measure, whole_words


class Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    status = 200
    missing = 0
    connections: ClassVar[set[tuple[str, int]]]
    seen: ClassVar[list[str]]

    def do_POST(self) -> None:
        texts = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["input"]
        type(self).seen += texts
        type(self).connections.add(self.client_address)
        tokens = sum(len(text.split()) + 2 for text in texts)
        data = [{"embedding": [1.0]}] * (len(texts) - type(self).missing)
        body = json.dumps({"data": data, "usage": {"prompt_tokens": tokens}}).encode()
        self.send_response(type(self).status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[tuple[type[Answer], int]]:
    class Own(Answer):
        connections: ClassVar[set[tuple[str, int]]] = set()
        seen: ClassVar[list[str]] = []

    made = ThreadingHTTPServer(("127.0.0.1", 0), Own)
    made.daemon_threads = True
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Own, made.server_address[1]
    made.shutdown()
    thread.join()
    made.server_close()


def texts() -> Texts:
    return Texts([f"word{n}" for n in range(1000)], 128, random.Random(0))


@pytest.mark.parametrize(
    ("requests", "seconds", "more"),
    [
        (0, 100.0, True),  # one at least, however slow
        (29, 6.0, True),
        (30, 4.9, True),
        (30, 5.0, False),
        (2, 60.0, False),
    ],
)
def test_a_level_ends_after_both_minima_or_at_its_limit(
    requests: int, seconds: float, more: bool
) -> None:
    assert Bounds(requests=30, seconds=5.0, limit_s=60.0).more(requests, seconds) is more


def test_every_text_is_new_and_has_the_length_asked_for() -> None:
    found = [text for _ in range(10) for text in texts().batch(1)]
    assert len(set(found)) == 1  # the same seed gives the same texts
    made = texts()
    many = [text for _ in range(50) for text in made.batch(16)]
    assert len(set(many)) == len(many)
    assert {len(text.split()) for text in many} == {126}


def test_a_level_counts_the_servers_tokens_on_one_connection(
    server: tuple[type[Answer], int],
) -> None:
    own, port = server
    with Client(port, "m") as client:
        level = measure(client, texts(), 4, Bounds(requests=5, seconds=0.0, limit_s=10.0))
    assert len(level.latencies_s) == 5
    assert level.tokens == 5 * 4 * 128
    assert level.tokens_per_s == level.tokens / sum(level.latencies_s)
    assert len(own.seen) == (5 + 3) * 4  # three to warm up, which do not count
    assert len(own.connections) == 1


def test_a_refusal_ends_the_benchmark(server: tuple[type[Answer], int]) -> None:
    own, port = server
    own.status = 503
    with Client(port, "m") as client, pytest.raises(BenchError, match="answered with 503"):
        client.embed(["one"])


def test_a_missing_vector_ends_the_benchmark(server: tuple[type[Answer], int]) -> None:
    own, port = server
    own.missing = 1
    with Client(port, "m") as client, pytest.raises(BenchError, match=r"1 vectors .* for 2 texts"):
        client.embed(["one", "two"])


def test_no_server_is_one_sentence() -> None:
    with Client(1, "m") as client, pytest.raises(BenchError, match="an embedding request failed"):
        client.embed(["one"])


def test_only_whole_words_are_taken(tmp_path: Path) -> None:
    letters = "abcdefghij"
    words = [a + b + c + d for a in letters for b in letters for c in letters for d in "xy"]
    rest = ["##ing", "[CLS]", "abc", "Upper", "naïve", "toolongaword", "n0pe"]
    vocabulary = {word: at for at, word in enumerate([*words, *rest])}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    assert whole_words(tmp_path) == sorted(words)


@pytest.mark.parametrize("text", [None, "{", "{}", '{"model": {"vocab": {"word": 1}}}'])
def test_a_tokenizer_without_words_is_one_sentence(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(BenchError, match="the model's tokenizer"):
        whole_words(tmp_path)
