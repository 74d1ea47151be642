"""Entries in Redis or Valkey: one server, a master that sentinels name, or a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from launcher import extras
from launcher.gateway.backends.backend import (
    BackendError,
    CacheSettings,
    Stats,
    bad_cache,
    server_errors,
)
from launcher.gateway.backends.redis_clients import Password, clients_of
from launcher.linux.files import why_unreadable
from launcher.network.redis_address import parse

PREFIX: Final = b"qlaunch:v1:"
_SCAN: Final = 1000


class RedisBackend:
    """Entries under `qlaunch:v1:`; Redis itself bounds and evicts (`maxmemory`, `allkeys-lru`)."""

    def __init__(self, settings: CacheSettings) -> None:
        """Nothing is sent yet.

        Raises:
            QlaunchError: `bad_cache` (exit 2), `extra_missing` (exit 2).
        """
        extras.require("redis")
        import redis

        try:
            address = parse(settings.url)
        except ValueError as error:
            raise bad_cache(f"the cache's URL {error}") from None
        self.name = address.name
        self._errors_of: tuple[type[Exception], ...] = (
            redis.RedisError,
            redis.exceptions.RedisClusterException,  # no kind of the first
            OSError,
            ValueError,
        )
        self._ttl_ms = None if settings.ttl_s is None else settings.ttl_s * 1000
        try:
            self._clients = clients_of(
                settings.url, address, password_of(settings), sentinel_password_of(settings)
            )
        except ValueError as error:
            raise bad_cache(f"{self.name}: {error}") from None

    def candidates(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """All: nothing is known here of what the server holds."""
        return keys

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Entries in the order of `keys`, by one MGET (of a cluster, one a slot)."""
        with server_errors(self._errors_of):
            answer = self._clients.mget([PREFIX + key for key in keys])
        if not isinstance(answer, list) or len(answer) != len(keys):
            raise BackendError("MGET answered something else")
        if not all(one is None or isinstance(one, bytes) for one in answer):
            raise BackendError("MGET answered something else")
        return answer

    def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep entries, by one pipeline."""
        with server_errors(self._errors_of):
            pipeline: Any = self._clients.get().pipeline(transaction=False)
            for key, entry in entries.items():
                pipeline.set(PREFIX + key, entry, px=self._ttl_ms)
            # Raised by redis itself, a refusal would quote the entry.
            for answer in pipeline.execute(raise_on_error=False):
                if isinstance(answer, Exception):
                    raise answer

    def purge(self, space: bytes | None = None) -> int | None:
        """Remove ours alone: other keys of that Redis stay."""
        gone = 0
        with server_errors(self._errors_of):
            keys = []
            for key in self._clients.get().scan_iter(match=_pattern(space), count=_SCAN):
                keys.append(key)
                if len(keys) == _SCAN:
                    gone += self._removed(keys)
                    keys = []
            if keys:
                gone += self._removed(keys)
        return gone

    def stats(self) -> Stats:
        """Our entries; bytes and the bound are the whole Redis's."""
        with server_errors(self._errors_of):
            count = sum(1 for _ in self._clients.get().scan_iter(match=_pattern(None), count=_SCAN))
            memories = self._clients.memories()
            bounds: list[int] = [memory.get("maxmemory") or 0 for memory in memories]
            return Stats(
                entries=count,
                bytes=sum(memory["used_memory"] for memory in memories),
                max_bytes=sum(bounds) if all(bounds) else None,
            )

    def interrupt(self) -> None:
        """End the connections, those that a thread still waits on too."""
        with suppress(*self._errors_of):
            self._clients.interrupt()

    def close(self) -> None:
        """Close the connections, those that a thread still waits on too."""
        with suppress(*self._errors_of):
            self._clients.close()

    def _removed(self, keys: list[Any]) -> int:
        removed: Any = self._clients.get().unlink(*keys)
        return int(removed)


def password_of(settings: CacheSettings) -> Password | None:
    """What reads the password of the server; None where it has none.

    Raises:
        QlaunchError: `bad_cache` (exit 2): its file cannot be read.
    """
    if settings.password_file is not None:
        return _reader(settings.password_file)
    given = urlsplit(settings.url).password  # as `parse` has it, but for a URL that is none
    return None if given is None else partial(unquote, given)


def sentinel_password_of(settings: CacheSettings) -> Password | None:
    """What reads the password that the sentinels themselves want; None where they want none.

    Raises:
        QlaunchError: `bad_cache` (exit 2): its file cannot be read, or no sentinels are asked.
    """
    if settings.sentinel_password_file is None:
        return None
    if "+sentinel" not in settings.url.partition("://")[0]:
        raise bad_cache("the sentinels' password is for redis+sentinel://…, which names sentinels")
    return _reader(settings.sentinel_password_file)


def _reader(file: Path) -> Password:
    _read_password(file)
    return partial(_read_password, file)


def _read_password(file: Path) -> str:
    try:
        password = file.read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = why_unreadable(error)
        raise bad_cache(f"cannot read the password in {file}: {reason}") from None
    if not password:
        raise bad_cache(f"the password file {file} is empty")
    return password


def _pattern(space: bytes | None) -> bytes:
    """A glob that matches these very bytes: every special one is escaped."""
    literal = PREFIX + (space or b"")
    return (
        b"".join(b"\\" + bytes((one,)) if one in b"*?[]^-\\" else bytes((one,)) for one in literal)
        + b"*"
    )
