"""Embedding calls through the real `openai` client, bounded in time and size, never trusting.

The client sends and authenticates; its answers are read here, because it hands on whatever a server
says (a null, a missing index, HTML) and malformed answers are what the smoke is for.
"""

from __future__ import annotations

import binascii
import json
import math
import queue
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from launcher.verify.reference import decode_vector

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from openai import OpenAI

Vector = list[float]
Inputs: TypeAlias = "Sequence[str] | Sequence[Sequence[int]]"
"""Texts, or their token ids."""
ErrorKind = Literal["timeout", "refused", "status", "unreadable", "not_finite"]

BODY_LIMIT = 64 << 20
"""Bytes of one answer: 4,096 vectors of 1,024 numbers take about 45 MB as text."""
_QUOTE_LIMIT = 240
_GRACE_S = 0.5


class CallError(Exception):
    """A call that brought no usable answer; the message is one line, without key or input texts.

    Args:
        kind: `timeout` (no whole answer in time), `refused` (no connection), `status` (an HTTP
            error), `unreadable` (an answer that is no embedding response), `not_finite` (the
            server says that a vector holds NaN or infinity, as ours do).
        message: what happened.
        status: HTTP status where there was one.
    """

    def __init__(self, kind: ErrorKind, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.status = status


@dataclass(frozen=True)
class Item:
    """One element of `data`; a number that is none (null, text) is NaN in `vector`."""

    index: int | None
    vector: Vector


@dataclass(frozen=True)
class EmbeddingAnswer:
    """What one call brought back, in the order the server sent it."""

    items: tuple[Item, ...]
    seconds: float
    tokens: int | None = None
    """Prompt tokens of the whole call as the server counts them (`usage`)."""


_Outcome = tuple[tuple[Item, ...], int | None]
"""Items of an answer, and the prompt tokens the server counted."""


class EmbeddingClient:
    """Asks one endpoint for vectors.

    Args:
        endpoint: base URL, `http://host:port/v1`.
        model: name to send; SGLang does not check it.
        key: API key, or None where the service has none.
    """

    def __init__(self, endpoint: str, model: str, key: str | None) -> None:
        import openai

        self._endpoint = endpoint
        self._model = model
        self._key = key
        # Reading the list of authorities takes 0.3 s, for a service that speaks plain HTTP; an
        # empty context trusts nobody, so that nothing gets weaker by it.
        bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        verify: ssl.SSLContext | bool = True if endpoint.startswith("https:") else bare
        # No proxy between us and our own service, and no redirect that would carry the key away.
        http = openai.DefaultHttpxClient(trust_env=False, follow_redirects=False, verify=verify)
        self._openai: OpenAI = openai.OpenAI(
            base_url=endpoint, api_key=key or "none", max_retries=0, http_client=http
        )
        # Imports 0.1 s of the client's own modules now, while the engine still loads.
        self._streaming = self._openai.embeddings.with_streaming_response

    def close(self) -> None:
        """Close the connections."""
        self._openai.close()

    def embed(
        self,
        texts: Inputs,
        timeout_s: float,
        *,
        dimensions: int | None = None,
        encoding: Literal["float", "base64"] = "float",
    ) -> EmbeddingAnswer:
        """Vectors of `texts`, in one call of at most `timeout_s` seconds.

        Args:
            texts: texts, or lists of token ids.
            dimensions: width to cut the vectors to, where the model may be cut; None asks for all.
            encoding: decimal numbers, or base64 where the server can.

        Raises:
            CallError: no connection, no whole answer in time, an HTTP error, not a response.
        """
        extra = {} if dimensions is None else {"dimensions": dimensions}

        def call() -> _Outcome:
            return self._raw(texts, timeout_s, encoding_format=encoding, **extra)

        return self._bounded(call, texts, timeout_s)

    def embed_default(self, text: str, timeout_s: float) -> EmbeddingAnswer:
        """Vector of `text` the way users get it: the client's default format, parsed by the client.

        The client asks for base64; servers before SGLang 0.5.18 answer numbers, which it takes too.

        Raises:
            CallError: as `embed`, and if the client cannot read the answer.
        """
        return self._bounded(lambda: self._parsed(text, timeout_s), [text], timeout_s)

    def _raw(self, texts: Inputs, timeout_s: float, **options: Any) -> _Outcome:
        deadline = time.monotonic() + timeout_s
        body = bytearray()
        with self._streaming.create(
            model=self._model, input=_listed(texts), timeout=timeout_s, **options
        ) as response:
            for chunk in response.iter_bytes():
                body += chunk
                # A read timeout counts from the last byte: a server that drips needs a deadline.
                if time.monotonic() > deadline:
                    raise TimeoutError
                if len(body) > BODY_LIMIT:
                    raise CallError("unreadable", f"the answer is larger than {BODY_LIMIT} bytes")
        return read_response(bytes(body))

    def _parsed(self, text: str, timeout_s: float) -> _Outcome:
        answer = self._openai.embeddings.create(model=self._model, input=[text], timeout=timeout_s)
        return tuple(Item(each.index, read_vector(each.embedding)) for each in answer.data), None

    def _bounded(
        self, call: Callable[[], _Outcome], texts: Inputs, timeout_s: float
    ) -> EmbeddingAnswer:
        """Run `call` in a thread that is left behind if even its own timeouts do not end it."""
        if timeout_s <= 0:
            raise CallError("timeout", "no time was left for this call")
        outcome: queue.SimpleQueue[_Outcome | BaseException] = queue.SimpleQueue()

        def work() -> None:
            try:
                outcome.put(call())
            except BaseException as error:  # noqa: BLE001 - carried to the caller, who classifies it
                outcome.put(error)

        began = time.monotonic()
        threading.Thread(target=work, daemon=True, name="embedding call").start()
        try:
            result = outcome.get(timeout=timeout_s + _GRACE_S)
        except queue.Empty:
            raise self._classify(TimeoutError(), texts, timeout_s) from None
        if isinstance(result, BaseException):
            raise self._classify(result, texts, timeout_s) from None
        items, tokens = result
        return EmbeddingAnswer(items, time.monotonic() - began, tokens)

    def _classify(self, error: BaseException, texts: Inputs, timeout_s: float) -> CallError:
        """`error` as a CallError; httpx's own classes are told by name, for there are two httpx."""
        import openai

        if isinstance(error, CallError):
            return CallError(error.kind, self._clean(str(error), texts), error.status)
        if "Timeout" in type(error).__name__:
            return CallError("timeout", f"no whole answer within {timeout_s:.3g} s")
        if isinstance(error, openai.APIStatusError):
            body = self._clean(_message(error.response.text), texts)
            kind: ErrorKind = "not_finite" if error.code == "not_finite" else "status"
            return CallError(kind, f"HTTP {error.status_code}: {body}", error.status_code)
        if isinstance(error, openai.APIConnectionError):
            cause = self._clean(str(error.__cause__ or error), texts)
            return CallError("refused", f"cannot reach {self._endpoint}: {cause}")
        # What is left: a connection that broke off, or the client failing on a strange answer.
        why = self._clean(f"{type(error).__name__}: {error}", texts)
        return CallError("unreadable", f"the answer could not be read ({why})")

    def _clean(self, text: str, texts: Inputs) -> str:
        """`text` on one short line, without the key and the inputs."""
        if self._key:
            text = text.replace(self._key, "***")
        for each in texts:
            if isinstance(each, str) and len(each) >= 4:
                text = text.replace(each, "<input>")
        line = "".join(char if char.isprintable() else " " for char in " ".join(text.split()))
        return line if len(line) <= _QUOTE_LIMIT else line[:_QUOTE_LIMIT] + "…"


def _message(body: str) -> str:
    """The message of an error document, as OpenAI and SGLang word it; any other body whole."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return body
    for found in (document, document.get("error") if isinstance(document, dict) else None):
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            return str(found["message"])
    return body


def _listed(texts: Inputs) -> list[Any]:
    return [each if isinstance(each, str) else list(each) for each in texts]


def read_response(body: bytes) -> _Outcome:
    """Items of an embedding response, as they came, and the prompt tokens it counts.

    Raises:
        CallError: `unreadable`: not JSON, or JSON without a `data` list.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        start = body[:400].decode("utf-8", "replace")
        raise CallError("unreadable", f"the answer is not JSON: {start!r}") from None
    data = document.get("data") if isinstance(document, dict) else None
    if not isinstance(data, list):
        raise CallError("unreadable", "the answer is JSON without a list named 'data'")
    usage = document.get("usage")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    counted = isinstance(tokens, int) and not isinstance(tokens, bool) and tokens >= 0
    return tuple(_read_item(each) for each in data), tokens if counted else None


def _read_item(entry: Any) -> Item:
    if not isinstance(entry, dict):
        return Item(None, [])
    index = entry.get("index")
    usable = isinstance(index, int) and not isinstance(index, bool)
    return Item(index if usable else None, read_vector(entry.get("embedding")))


def read_vector(value: Any) -> Vector:
    """Numbers of one `embedding`: a list, or base64 text; anything else is an empty vector."""
    if isinstance(value, str):
        try:
            return decode_vector(value)
        except (binascii.Error, ValueError):
            return []
    return [_number(each) for each in value] if isinstance(value, list) else []


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.inf
