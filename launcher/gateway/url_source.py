"""A server known only by its URL: nobody tells its weights, so its vectors must.

Texts of our own are embedded at the start, every half minute, and whenever a connection failed.
Vectors that are the same as before mean the same model; others begin an empty cache. Until the
first answer nothing of that server is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
from typing import TYPE_CHECKING, Final

import msgspec

from launcher.gateway.answer import Expected, cosine, read_answer
from launcher.gateway.calls import bounded
from launcher.gateway.identity import Identity, input_key, space_of
from launcher.gateway.inputs import Checkpoint
from launcher.gateway.problems import WrongAnswerError
from launcher.gateway.replica import Seen, upstream_body
from launcher.gateway.request import EmbeddingCall
from launcher.gateway.store import Store
from launcher.network import address

if TYPE_CHECKING:
    import aiohttp

EVERY_S: Final = 30.0
SAME: Final = 0.9999
"""Least cosine of the same text by the same model: batches and kernels round, other weights differ
by far more."""
TEXTS: Final = (
    "The same text gives the same vector, or the model is another one.",
    "Wer nach Prag fährt, sieht 103 Brücken: 7, 19 und 2026.",
    "def probe(x):\n    return x * 0.5  # 測試 🙂",
)
_PROBE_S: Final = 20.0
_READ_S: Final = 2.0
"""For the kept probe: no request waits for it."""
_LOG: Final = logging.getLogger("qlaunch.gateway")


class Listed(msgspec.Struct, frozen=True):
    """One model of those that a server lists."""

    id: str
    root: str | None = None
    """What several names of one model have in common, where the server says so."""


class _Models(msgspec.Struct):
    data: list[Listed]


class NoListError(Exception):
    """A server does not tell its models; the message is the rest of a sentence that it begins."""

    def __init__(self, why: str, *, absent: bool = False) -> None:
        """`absent`: it answers, and has no such list."""
        super().__init__(why)
        self.absent = absent


class Probes:
    """What the servers of one name made of our texts: those that are replicas agree."""

    def __init__(self, base: Identity) -> None:
        """`base`: what is known of them all without asking; their URLs among it."""
        self.base = base
        self.current: bytes | None = None
        """The probe that their identity is named after."""
        self.holders: set[UrlSource] = set()
        """Those whose last probe was that one."""


class UrlSource:
    """One server at a URL, and the one model of it that is asked for."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None,
        probes: Probes,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.name = url
        self.model = model
        self._url = url
        self._key = key
        self._probes = probes
        self._checkpoint = checkpoint
        self._identity: Identity | None = None
        self._packs = False
        """Whether its base64 was seen to hold the numbers that it writes."""
        self._told = False
        """Whether a warning said that it does not answer."""
        self._wake = asyncio.Event()

    def look(self) -> Seen:
        """What the last probe told."""
        return Seen(
            url=self._url,
            key=self._key,
            identity=self._identity,
            checkpoint=self._checkpoint,
            base64=self._packs,
        )

    def want(self) -> None:
        """Nobody here can start it."""

    def suspect(self) -> None:
        """Forget the model until it has been probed again."""
        self._forget()
        self._wake.set()

    def _forget(self) -> None:
        self._identity, self._packs = None, False
        self._probes.holders.discard(self)

    async def watch(
        self, session: aiohttp.ClientSession, secret: bytes, store: Store | None
    ) -> None:
        """Probe again and again; ends when cancelled."""
        while True:
            await self.probe(session, secret, store)
            wait = EVERY_S if self._identity is not None else 1.0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), wait)
            self._wake.clear()

    async def answers(self, session: aiohttp.ClientSession) -> bool:
        """Whether it embeds our texts now, under this name."""
        try:
            await self._vectors(session)
        except (OSError, WrongAnswerError):
            return False
        return True

    async def probe(
        self, session: aiohttp.ClientSession, secret: bytes, store: Store | None
    ) -> None:
        """Look at the server's vectors of our texts once, and know the model by them."""
        try:
            await self._probe(session, secret, store)
        except Exception as error:  # noqa: BLE001 - a watch that ends would keep an old identity
            if not self._told:
                why = error if isinstance(error, WrongAnswerError) else type(error).__name__
                _LOG.warning("%s does not answer the probe: %s", self.name, why)
            self._told = True
            self._forget()
        else:
            self._told = False

    async def _probe(
        self, session: aiohttp.ClientSession, secret: bytes, store: Store | None
    ) -> None:
        vectors = await self._vectors(session)
        proof = await self._as_before(vectors, secret, store)
        probe = hashlib.blake2b(proof, digest_size=16).hexdigest()
        if self._identity is None or self._identity.probe != probe:
            self._packs = await self._packs_alike(session, vectors)
        size = len(vectors[0]) // 4
        self._identity = msgspec.structs.replace(self._probes.base, dimensions=size, probe=probe)

    async def _as_before(self, vectors: list[bytes], secret: bytes, store: Store | None) -> bytes:
        """The probe of this model that is kept, where it is this model; else the new one, kept."""
        book = self._probes
        whole = b"".join(vectors)
        key = input_key(
            secret, space_of(secret, book.base), "\n".join(TEXTS), dimensions=None, options=b"probe"
        )
        if book.current is None and store is not None:
            book.current = (await store.read([key], budget_s=_READ_S)).get(key)
        if book.current is not None and same(book.current, vectors):
            book.holders.add(self)
            return book.current
        book.holders.discard(self)
        if book.holders:  # a replica that differs from the others is not asked
            return whole
        if book.current is not None:
            _LOG.warning("%s makes other vectors than before: its cache starts empty", self.name)
        book.current = whole
        book.holders.add(self)
        if store is not None:
            store.keep({key: whole}, exact=True)
        return whole

    async def _packs_alike(self, session: aiohttp.ClientSession, vectors: list[bytes]) -> bool:
        """Whether its base64 holds float32 with the lowest byte first: some write halves, doubles,
        or the highest byte first, which are numbers too."""
        try:
            packed = await self._vectors(session, "base64")
        except WrongAnswerError:
            packed = []
        if packed and same(b"".join(packed), vectors):
            return True
        _LOG.info("%s is asked for numbers: its base64 is refused, or not float32", self.name)
        return False

    async def _vectors(
        self, session: aiohttp.ClientSession, encoding: str = "float"
    ) -> list[bytes]:
        import aiohttp

        call = EmbeddingCall(model=self.model, inputs=TEXTS)
        try:
            async with session.post(
                f"{self._url}/embeddings",
                data=upstream_body(self.model, TEXTS, call, encoding),
                headers=_headers(self._key),
                timeout=aiohttp.ClientTimeout(total=_PROBE_S, connect=5.0),
                allow_redirects=False,
            ) as response:
                if response.status != 200:
                    raise WrongAnswerError(f"status {response.status}")
                body = await bounded(response)
        except aiohttp.ClientError as error:
            raise WrongAnswerError(type(error).__name__) from error
        vectors, _tokens = read_answer(body, Expected(count=len(TEXTS)))
        return vectors


def same(kept: bytes, vectors: list[bytes]) -> bool:
    """Whether vectors are those of a kept probe, each for itself."""
    size = len(vectors[0])
    if len(kept) != size * len(vectors):
        return False
    parts = [kept[n * size : (n + 1) * size] for n in range(len(vectors))]
    return all(cosine(a, b) >= SAME for a, b in zip(parts, vectors, strict=True))


async def served_models(
    session: aiohttp.ClientSession, url: str, key: str | None
) -> tuple[Listed, ...]:
    """What a server lists under `/models`: one at least.

    Raises:
        NoListError: it does not answer, or with something else.
    """
    import aiohttp

    try:
        async with session.get(
            f"{url}/models",
            headers=_headers(key),
            timeout=aiohttp.ClientTimeout(total=5.0),
            allow_redirects=False,
        ) as response:
            if response.status != 200:
                raise _no_list(response.status, response.headers.get("Location", ""))
            listed = tuple(msgspec.json.decode(await bounded(response), type=_Models).data)
    except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is an OSError
        raise NoListError(f"cannot be reached yet ({type(error).__name__})") from error
    except (ValueError, RecursionError, WrongAnswerError) as error:
        raise NoListError("answers, and not with a list of models") from error
    if not listed:
        raise NoListError("lists no models yet")
    return listed


def _no_list(status: int, location: str) -> NoListError:
    if status in (401, 403):
        return NoListError(f"refuses the key of --upstream-key-file, or wants one ({status})")
    if 300 <= status < 400:
        told = address.told(location)
        return NoListError(f"sends clients to another address{told} ({status}): give that one")
    if status in (404, 405, 501):
        return NoListError(f"has no list of models ({status})", absent=True)
    return NoListError(f"does not tell its models yet ({status})")


def _headers(key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    return headers
