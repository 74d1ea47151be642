"""How much each client may ask for in a minute.

Both bounds are buckets that hold a minute's worth and fill up evenly. Texts are counted when a
request comes, all of its inputs, and it is refused where they are not there. Tokens are known only
when a server has read them: a request is let in while any are left, and what it took is owed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import msgspec

from launcher.gateway.problems import RequestError
from launcher.gateway.request import Priority

_MINUTE_S: Final = 60.0


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """Of one client, a minute; None: no bound."""

    texts: int | None = None
    tokens: int | None = None


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever sent a request, as far as an API key tells."""

    id: bytes = b""
    """Digest of the key; empty: without keys all clients are one."""
    allowance: Allowance | None = None
    """None: as the gateway is set."""
    priority: Priority | None = None
    """`bulk`: whatever its requests say."""


class Bucket:
    """What is left of a minute's worth; below 0 it is owed."""

    def __init__(self, most: int, clock: Callable[[], float]) -> None:
        self.most = most
        self._clock = clock
        self._left = float(most)
        self._at = clock()

    def wait_s(self, wanted: float) -> float:
        """Seconds until `wanted` are there; 0: they are."""
        now = self._clock()
        filled = self._left + (now - self._at) * self.most / _MINUTE_S
        self._left, self._at = min(self.most, filled), now
        return max(0.0, (wanted - self._left) * _MINUTE_S / self.most)

    def take(self, count: int) -> None:
        """Take so many, there or not."""
        self._left -= count


class Rates:
    """The buckets of all clients."""

    def __init__(
        self, default: Allowance | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`default`: for each client whose key has no bound of its own."""
        self._default = default or Allowance()
        self._clock = clock
        self._buckets: dict[tuple[bytes, str, int], Bucket] = {}

    def admit(self, client: Client, texts: int) -> None:
        """Count the inputs of a request.

        Raises:
            RequestError: 429 with the time after which to try again; 400 where the request alone
                is more than a minute's worth.
        """
        wait_s = 0.0
        inputs = self._bucket(client, "texts")
        tokens = self._bucket(client, "tokens")
        if inputs is not None:
            if texts > inputs.most:
                text = f"{texts} inputs in one request; this key may have {inputs.most} a minute"
                raise RequestError(400, "over_rate_limit", text, param="input")
            wait_s = inputs.wait_s(texts)
        if tokens is not None:
            wait_s = max(wait_s, tokens.wait_s(1))
        if wait_s > 0:
            raise _limited(inputs, tokens, wait_s)
        if inputs is not None:
            inputs.take(texts)

    def charge(self, client: Client, tokens: int) -> None:
        """Count the tokens that a server read for a request."""
        bucket = self._bucket(client, "tokens")
        if bucket is not None and tokens:
            bucket.wait_s(0)
            bucket.take(tokens)

    def _bucket(self, client: Client, kind: str) -> Bucket | None:
        own = client.allowance or Allowance()
        most: int | None = getattr(own, kind) or getattr(self._default, kind)
        if most is None:
            return None
        key = (client.id, kind, most)
        if key not in self._buckets:
            self._forget(client.id, kind)
            self._buckets[key] = Bucket(most, self._clock)
        return self._buckets[key]

    def _forget(self, client: bytes, kind: str) -> None:
        """The bucket of a bound that was changed."""
        for key in [one for one in self._buckets if one[:2] == (client, kind)]:
            del self._buckets[key]


def _limited(inputs: Bucket | None, tokens: Bucket | None, wait_s: float) -> RequestError:
    bounds = [
        f"{bucket.most} {what} a minute"
        for bucket, what in ((inputs, "inputs"), (tokens, "tokens"))
        if bucket is not None
    ]
    after = math.ceil(wait_s)
    text = f"more than {' or '.join(bounds)}; a request like this is let in after {after} s"
    return RequestError(429, "rate_limit_exceeded", text, retry_after=after)
