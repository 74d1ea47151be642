"""What a store of entries does, and the choice of one by its URL.

Backends block, are called from threads, and raise `BackendError` for whatever goes wrong with the
store behind them; they neither read nor check the entries they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import msgspec

from launcher.errors import ExitCode, QlaunchError

DEFAULT_BYTES: Final = 1 << 30
LEAST_BYTES: Final = 32 << 20
ANSWER_S: Final = 0.25
"""Longest wait for a cache server in a thread; requests themselves wait for less."""


class BackendError(Exception):
    """The store behind is down, slow, full or makes no sense; the message names no entry."""


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """How full a store is; None where it does not tell."""

    entries: int | None
    bytes: int | None
    max_bytes: int | None


class Backend(Protocol):
    """A store of entries: from keys of 48 bytes to bytes."""

    name: str
    """For people, without secrets: `sqlite:/path`, `redis://host:port/0`."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Entries in the order of `keys`; None where there is none.

        Raises:
            BackendError: the store cannot be asked.
        """
        ...

    def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep entries, in place of those with the same keys; older ones may go for them.

        Raises:
            BackendError: not all of them were kept.
        """
        ...

    def purge(self, space: bytes | None = None) -> int | None:
        """Remove the entries of one space, or all of ours; how many, None where nobody knows.

        Raises:
            BackendError: the store cannot do that, or cannot be asked.
        """
        ...

    def stats(self) -> Stats:
        """How full it is.

        Raises:
            BackendError: the store cannot be asked.
        """
        ...

    def close(self) -> None:
        """Give connections and files back; raises nothing."""
        ...


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which store, and what it may hold."""

    url: str
    """A path, `sqlite:PATH`, `redis://…`, `rediss://…`, `valkey://…` or `memcached://host:port`."""
    ttl_s: int | None = None
    """Seconds an entry is kept; None: until its place is needed."""
    max_bytes: int = DEFAULT_BYTES
    """Of the file; servers have their own bound."""
    password_file: Path | None = None
    """For Redis: a file with the password."""


def open_backend(settings: CacheSettings) -> Backend:
    """The store of a URL. A server that cannot be reached is no error here: it may come.

    Raises:
        QlaunchError: `bad_cache` (exit 2): the URL names no store we know, or the bound is too
            small; `gateway_extra` (exit 2): the client library is not installed;
            `cache_unusable` (exit 1): the file cannot be made or read.
    """
    scheme = _scheme(settings.url)
    if scheme == "sqlite":
        from launcher.gateway.backends.sqlite import SqliteBackend

        path = settings.url.removeprefix("sqlite:").removeprefix("//")
        return SqliteBackend(Path(path), settings)
    if scheme == "redis":
        from launcher.gateway.backends.redis_server import RedisBackend

        return RedisBackend(settings)
    from launcher.gateway.backends.memcached import MemcachedBackend

    return MemcachedBackend(settings)


def _scheme(url: str) -> str:
    if "://" not in url:
        return "sqlite"
    scheme = urlsplit(url).scheme
    if scheme == "sqlite":
        return scheme
    if scheme in {"redis", "rediss", "valkey", "valkeys"}:
        return "redis"
    if scheme == "memcached":
        return "memcached"
    raise bad_cache(f"{scheme!r} is no cache we know")


def bad_cache(message: str) -> QlaunchError:
    """The refusal of a cache's URL or bound."""
    return QlaunchError(
        message,
        code="bad_cache",
        exit_code=ExitCode.USAGE,
        fix="give a file, redis://host:port/0, rediss://… or memcached://host:port",
    )


def no_client(package: str) -> QlaunchError:
    """The refusal where a client library is missing."""
    return QlaunchError(
        f"the package {package} is not installed, and this cache needs it",
        code="gateway_extra",
        exit_code=ExitCode.USAGE,
        fix="pip install 'qlaunch[gateway]'",
    )
