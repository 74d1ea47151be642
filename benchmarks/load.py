"""A light client: one connection, one request after the other, texts that nobody has cached."""

from __future__ import annotations

import http.client
import json
import random
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.errors import BenchError

REQUEST_LIMIT_S = 120.0


@dataclass(frozen=True)
class Bounds:
    """When a level ends: after both minima, or at the limit."""

    requests: int = 30
    seconds: float = 5.0
    limit_s: float = 60.0

    def more(self, requests: int, seconds: float) -> bool:
        """Whether to go on after so many requests and seconds."""
        if requests == 0:
            return True
        if seconds >= self.limit_s:
            return False
        return requests < self.requests or seconds < self.seconds


@dataclass(frozen=True)
class Level:
    """What one batch size gave."""

    batch: int
    tokens: int
    """All tokens that the server counted."""
    latencies_s: tuple[float, ...]
    """Each whole request: sent, computed, answer read."""

    @property
    def tokens_per_s(self) -> float:
        """Throughput of one client that waits for every answer."""
        return self.tokens / sum(self.latencies_s)


class Client:
    """One keep-alive connection to `/v1/embeddings`."""

    def __init__(self, port: int, model: str) -> None:
        self._model = model
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_LIMIT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    def embed(self, texts: list[str]) -> tuple[float, int]:
        """Seconds that the request took, and the tokens that the server counted.

        Raises:
            BenchError: no answer, or not a vector for each text.
        """
        body = json.dumps({"model": self._model, "input": texts}).encode()
        began = time.perf_counter()
        try:
            headers = {"Content-Type": "application/json"}
            self._connection.request("POST", "/v1/embeddings", body, headers)
            answer = self._connection.getresponse()
            data = answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise BenchError(f"an embedding request failed: {error}") from error
        seconds = time.perf_counter() - began
        return seconds, _tokens(answer.status, data, len(texts))


def _tokens(status: int, data: bytes, texts: int) -> int:
    if status != 200:
        said = data[:200].decode("utf-8", "replace")
        raise BenchError(f"an embedding request was answered with {status}: {said}")
    found: dict[str, Any] = json.loads(data)
    if len(found["data"]) != texts:
        raise BenchError(f"{len(found['data'])} vectors came back for {texts} texts")
    return int(found["usage"]["prompt_tokens"])


def whole_words(model: Path) -> list[str]:
    """Words of a WordPiece tokenizer that are one token each: 4 to 9 lower-case letters.

    Raises:
        BenchError: the checkpoint has no such tokenizer.
    """
    try:
        found = json.loads((model / "tokenizer.json").read_bytes())
        vocabulary = found["model"]["vocab"]
    except (OSError, ValueError, KeyError) as error:
        raise BenchError("the model's tokenizer.json cannot be read") from error
    words = [w for w in vocabulary if w.isascii() and w.isalpha() and w.islower()]
    chosen = sorted(word for word in words if 4 <= len(word) <= 9)
    if len(chosen) < 1000:
        raise BenchError("the model's tokenizer has too few whole words for random texts")
    return chosen


@dataclass(frozen=True)
class Texts:
    """Random texts of one length; a seed gives the same ones in every run."""

    words: list[str]
    tokens: int
    """Tokens of a text: its words, and one before and one after them."""
    random: random.Random

    def batch(self, count: int) -> list[str]:
        """`count` texts that were not sent before."""
        chosen = self.random.choices
        return [" ".join(chosen(self.words, k=self.tokens - 2)) for _ in range(count)]


def measure(client: Client, texts: Texts, batch: int, bounds: Bounds) -> Level:
    """Send batches one after the other, three to warm up first."""
    for _ in range(3):
        client.embed(texts.batch(batch))
    latencies: list[float] = []
    tokens = 0
    began = time.perf_counter()
    while bounds.more(len(latencies), time.perf_counter() - began):
        seconds, counted = client.embed(texts.batch(batch))
        latencies.append(seconds)
        tokens += counted
    return Level(batch, tokens, tuple(latencies))
