"""What a store of entries does.

Backends block, are called from threads, and raise `BackendError` for whatever goes wrong with the
store behind them; they neither read nor check the entries they hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

import msgspec

from launcher.errors import QlaunchError

DEFAULT_BYTES: Final = 1 << 30
LEAST_BYTES: Final = 32 << 20
ANSWER_S: Final = 0.25
"""Longest that a thread waits for the next bytes of a cache server; requests wait for less."""


class BackendError(Exception):
    """The store behind is down, slow, full or makes no sense; the message names no entry."""


class UnsupportedError(BackendError):
    """No store of this kind does that."""


@contextmanager
def server_errors(kinds: tuple[type[Exception], ...]) -> Iterator[None]:
    """One kind of error for all that a server, or what stands in its place, may do.

    Args:
        kinds: what the server's client raises by itself.

    Raises:
        BackendError: instead of those, and of what a client trips over where the answer is none
            of its server.
    """
    try:
        yield
    except kinds as error:
        text = "".join(c if c.isprintable() else "?" for c in str(error)[:300])
        raise BackendError(f"{type(error).__name__}: {text}") from error
    except (AttributeError, IndexError, TypeError, KeyError) as error:
        raise BackendError(f"its answer makes no sense ({type(error).__name__})") from error


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """How full a store is; None where it does not tell."""

    entries: int | None
    bytes: int | None
    max_bytes: int | None


class Backend(Protocol):
    """A store of entries: from keys of 48 bytes to bytes."""

    name: str
    """For people, without secrets: `sqlite:/path`, `redis://host:port/0`."""

    def candidates(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Those of `keys` that are worth a read: the others are not there. From memory, at once.

        Called from the event loop; all of them where nothing is known.
        """
        ...

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

    def interrupt(self) -> None:
        """End the calls that threads are in, where a server may keep them for ever.

        They fail; later ones go by new connections. Never waits; raises nothing.
        """
        ...

    def close(self) -> None:
        """Give connections and files back; raises nothing."""
        ...


class CacheSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Which store, and what it may hold."""

    url: str
    """A path, `sqlite:PATH`, an address of Redis (network/redis_address.py), or
    `memcached://host:port`."""
    ttl_s: int | None = None
    """Seconds an entry is kept; None: until its place is needed."""
    max_bytes: int = DEFAULT_BYTES
    """Of the file; servers have their own bound."""
    password_file: Path | None = None
    """For Redis: a file with the password."""
    sentinel_password_file: Path | None = None
    """For sentinels that want one themselves."""


def bad_cache(message: str) -> QlaunchError:
    """The refusal of a cache's URL or bound."""
    return QlaunchError(
        message,
        code="bad_cache",
        fix="give a file, redis://host:port/0, rediss://…, redis+sentinel://host:port/master, "
        "redis+cluster://host:port or memcached://host:port",
    )
