"""Entries in Memcached."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from launcher import extras
from launcher.gateway.backends.backend import (
    ANSWER_S,
    BackendError,
    CacheSettings,
    Stats,
    UnsupportedError,
    bad_cache,
    server_errors,
)

PREFIX: Final = "qlaunch:v1:"
_MOST_KEYS: Final = 200
"""Of one command: Memcached reads lines of a bounded length."""
_TOO_LARGE: Final = "object too large for cache"
_LONGEST_TTL_S: Final = 30 * 24 * 3600
"""Memcached takes larger numbers for dates."""


class MemcachedBackend:
    """Entries under `qlaunch:v1:`; Memcached itself bounds and evicts (`-m`)."""

    def __init__(self, settings: CacheSettings) -> None:
        """Nothing is sent yet.

        Raises:
            QlaunchError: `bad_cache` (exit 2), `extra_missing` (exit 2).
        """
        extras.require("memcached")
        from pymemcache.client.base import PooledClient
        from pymemcache.exceptions import MemcacheError

        try:
            parts = urlsplit(settings.url)
            host, port = parts.hostname or "127.0.0.1", parts.port or 11211
        except ValueError:
            raise bad_cache("the cache's URL has no such port") from None
        self.name = f"memcached://{host}:{port}"
        self._ttl_s = min(settings.ttl_s or 0, _LONGEST_TTL_S)
        self._errors_of: tuple[type[Exception], ...] = (MemcacheError, OSError, ValueError)
        self._client = PooledClient(
            (host, port), connect_timeout=ANSWER_S, timeout=ANSWER_S, no_delay=True
        )

    def candidates(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """All: nothing is known here of what the server holds."""
        return keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Entries in the order of `keys`."""
        names = [_name(key) for key in keys]
        values: dict[Any, Any] = {}
        with server_errors(self._errors_of):
            for begin in range(0, len(names), _MOST_KEYS):
                values.update(self._client.get_many(names[begin : begin + _MOST_KEYS]))
        answer = [values.get(name) for name in names]
        if not all(one is None or isinstance(one, bytes) for one in answer):
            raise BackendError("get answered something else")
        return answer

    def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep entries; it says where the server would not."""
        named = {_name(key): entry for key, entry in entries.items()}
        try:
            with server_errors(self._errors_of):
                refused = self._client.set_many(named, expire=self._ttl_s, noreply=False)
        except BackendError as error:
            if _TOO_LARGE not in str(error):
                raise
            size = max(map(len, entries.values()))
            raise BackendError(
                f"an entry of {size} bytes is too large for it: start Memcached with a larger -I"
            ) from error
        if refused:
            raise BackendError(f"{len(refused)} of {len(named)} entries were refused")

    def purge(self, space: bytes | None = None) -> int | None:  # noqa: ARG002 - of the protocol
        """Memcached has no list of keys: it cannot remove ours and leave the others'.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("Memcached cannot list its keys")

    def stats(self) -> Stats:
        """Of the whole server."""
        with server_errors(self._errors_of):
            found = {_text(name): value for name, value in self._client.stats().items()}
            return Stats(
                entries=_number(found.get("curr_items")),
                bytes=_number(found.get("bytes")),
                max_bytes=_number(found.get("limit_maxbytes")),
            )

    def interrupt(self) -> None:
        """Close all connections: whoever reads from one fails with its next bytes, or without."""
        self._client.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _name(key: bytes) -> str:
    """The key in the letters that Memcached's text protocol allows."""
    return PREFIX + base64.urlsafe_b64encode(key).decode("ascii")


def _text(name: bytes | str) -> str:
    return name.decode("ascii", "replace") if isinstance(name, bytes) else name


def _number(value: object) -> int | None:
    return int(value) if isinstance(value, int | str | bytes) else None
