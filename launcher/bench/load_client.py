"""The client that measures: many requests at once on kept connections, every answer looked at.

It shares its machine with the engine it measures, so it is built to cost little: answers are asked
for as base64, decoded into plain arrays and checked by their sum. `benchmarks/client.py` measures
it against a server that answers at once.
"""

from __future__ import annotations

import array
import binascii
import math
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import msgspec

from launcher.bench.target import Target
from launcher.units import counted

if TYPE_CHECKING:
    import aiohttp

BODY_LIMIT = 256 << 20
"""Bytes of one answer: 4,096 vectors of 4,096 numbers take 90 MB as base64."""
KEEP_S = 4.0
"""An idle connection is not used any more after this: uvicorn closes it after 5 s."""
_QUOTE_LIMIT = 200


class AskError(Exception):
    """A request without a usable answer; the message is one line without the key."""

    def __init__(self, message: str, *, refused: bool = False, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        """HTTP status where there was one that is not 200."""
        self.refused = refused
        """There was no connection: the next attempt would fail as quickly."""


class _Item(msgspec.Struct):
    index: int
    embedding: str | list[float]


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None


class _Answer(msgspec.Struct):
    data: list[_Item]
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Answer)
_encoder = msgspec.json.Encoder()


class Client:
    """Asks one server; an asynchronous context, for one event loop.

    Args:
        target: the server.
        connections: kept open at most.
        timeout_s: for one answer.
    """

    def __init__(self, target: Target, connections: int, timeout_s: float) -> None:
        self._target = target
        self._connections = connections
        self._timeout_s = timeout_s
        self._dimensions = target.dimensions
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        import aiohttp

        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._target.key is not None:
            headers["Authorization"] = f"Bearer {self._target.key}"
        self._session = aiohttp.ClientSession(
            connector=self._connector(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._timeout_s),
        )
        return self

    def _connector(self) -> aiohttp.TCPConnector:
        import aiohttp

        if self._target.keep_alive:
            return aiohttp.TCPConnector(limit=self._connections, keepalive_timeout=KEEP_S)
        return aiohttp.TCPConnector(limit=self._connections, force_close=True)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._session is not None
        await self._session.close()

    def body(self, texts: Sequence[str]) -> bytes:
        """The bytes to send for `texts`: made before the clock runs."""
        return _encoder.encode(
            {
                "model": self._target.model,
                "input": texts,
                "encoding_format": self._target.encoding,
            }
        )

    async def send(self, body: bytes) -> tuple[bytes, float]:
        """The answer's bytes, and when the last of them was read (`time.perf_counter`).

        Raises:
            AskError: no connection, no whole answer in time, a status other than 200.
        """
        import aiohttp

        assert self._session is not None
        url = f"{self._target.url}/embeddings"
        try:
            async with self._session.post(url, data=body, allow_redirects=False) as response:
                if (response.content_length or 0) > BODY_LIMIT:
                    raise AskError(f"the answer is larger than {BODY_LIMIT} bytes")
                data = await response.read()
                at = time.perf_counter()
        except TimeoutError:
            raise AskError(f"no whole answer within {self._timeout_s:.3g} s") from None
        except aiohttp.ClientConnectorError as error:
            why = error.os_error.strerror or error.os_error
            raise AskError(f"cannot connect to {self._target.url}: {why}", refused=True) from None
        except (aiohttp.ClientError, OSError) as error:
            why = self._clean(str(error) or type(error).__name__)
            raise AskError(f"the connection broke off: {why}") from None
        if response.status != 200:
            said = self._clean(_message(data))
            raise AskError(f"HTTP {response.status}: {said}", status=response.status)
        return data, at

    def check(self, data: bytes, texts: int) -> int | None:
        """Hold an answer to its request; the tokens that the server counted, None if it did not.

        Raises:
            AskError: not an embedding response, or not one whole finite vector for each text in
                the order of the request.
        """
        return self.vectors(data, texts)[1]

    def vectors(
        self, data: bytes, texts: int
    ) -> tuple[list[array.array[float] | list[float]], int | None]:
        """The vectors of an answer in the order of its texts, and the tokens counted; as `check`.

        A vector is an array of float32 where it came as base64, and a list where as numbers.
        """
        try:
            answer = _decoder.decode(data)
        except (ValueError, RecursionError) as error:
            raise AskError(f"the answer is not an embedding response: {error}") from None
        if len(answer.data) != texts:
            raise AskError(
                f"{counted(len(answer.data), 'vector')} came back for {counted(texts, 'text')}"
            )
        vectors = []
        for place, item in enumerate(answer.data):
            if item.index != place:
                raise AskError(f"the vectors are out of order: index {item.index} at place {place}")
            vectors.append(self._vector(item.embedding, place))
        return vectors, None if answer.usage is None else answer.usage.prompt_tokens

    def _vector(self, given: str | list[float], place: int) -> array.array[float] | list[float]:
        numbers = _decoded(given, place) if isinstance(given, str) else given
        if self._dimensions is None:
            self._dimensions = len(numbers)
        if len(numbers) != self._dimensions or not numbers:
            raise AskError(
                f"vector {place} has {len(numbers)} numbers instead of {self._dimensions}"
            )
        # One number that is not finite makes the sum so, and sums of float32 cannot overflow here.
        if not math.isfinite(sum(numbers)) and not all(map(math.isfinite, numbers)):
            raise AskError(f"vector {place} holds a number that is not finite")
        return numbers

    def _clean(self, text: str) -> str:
        if self._target.key:
            text = text.replace(self._target.key, "***")
        line = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
        return line if len(line) <= _QUOTE_LIMIT else line[:_QUOTE_LIMIT] + "…"


def _decoded(text: str, place: int) -> array.array[float]:
    numbers = array.array("f")
    try:
        numbers.frombytes(binascii.a2b_base64(text, strict_mode=True))
    except ValueError:
        raise AskError(f"vector {place} is not base64 of whole numbers") from None
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _message(data: bytes) -> str:
    """The message of an error document, as OpenAI and SGLang word it; any other body whole."""
    try:
        document = msgspec.json.decode(data)
    except (ValueError, RecursionError):
        return data[:4096].decode("utf-8", "replace")
    for found in (document, document.get("error") if isinstance(document, dict) else None):
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            return str(found["message"])
    return data[:4096].decode("utf-8", "replace")


async def count_tokens(client: Client, texts: Sequence[str]) -> int | None:
    """Tokens that the server counts in `texts` together; None where it does not count.

    Raises:
        AskError: no usable answer.
    """
    data, _ = await client.send(client.body(texts))
    return client.check(data, len(texts))
