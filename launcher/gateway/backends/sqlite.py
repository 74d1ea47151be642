"""The store on this machine's disk: an SQLite file with a bound, for several processes at once.

Readers never wait for writers (write-ahead log). A process that is killed leaves the file as after
its last transaction; a machine that loses power may lose the last ones, and no more. A file that is
damaged all the same is removed and begun anew. docs/decisions.md says why not LMDB.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from launcher.errors import ExitCode, QlaunchError
from launcher.gateway.backends.backend import (
    LEAST_BYTES,
    BackendError,
    CacheSettings,
    Stats,
    bad_cache,
)
from launcher.gateway.backends.key_watch import KeyWatch
from launcher.gateway.backends.ownership import not_ours
from launcher.paths import at_home

PAGE: Final = 8192
_LOG_BYTES: Final = 8 << 20
"""Kept free beside the bound for the write-ahead log."""
_LOG_PAGES: Final = 256
"""Written back after so many."""
_FULL: Final = 0.9
"""Of the bound: beyond, entries go."""
_KEPT: Final = 0.8
"""Of the bound: as many stay."""
_BUSY_S: Final = 2.0
"""Longest wait of a writer for another process's; nobody waits for the writer."""
_TOUCHES: Final = 10_000
"""Most entries whose use is remembered until the next write."""
_VERSION: Final = 1
_INDEX_PART: Final = 32 << 10
"""Bytes in which SQLite makes and maps the index of its log (`-shm`)."""
_INDEX_HEAD: Final = 136
_MOST_KEYS: Final = 500
"""Of one SELECT."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS entries (
    id INTEGER PRIMARY KEY,
    key BLOB NOT NULL UNIQUE,
    value BLOB NOT NULL,
    used INTEGER NOT NULL,
    expires INTEGER
);
CREATE INDEX IF NOT EXISTS entries_used ON entries (used);
"""
_DAMAGED: Final = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_IOERR_SHORT_READ}
)
"""What says that the file itself is damaged, and not that the disk is full or fails for now."""


class SqliteBackend:
    """Entries in a file; those not used for the longest time go first.

    `used` is no time but the number of the entry that was newest when it was last used, so that
    a clock that jumps changes nothing.
    """

    def __init__(self, path: Path, settings: CacheSettings) -> None:
        """Open or make the file.

        Raises:
            QlaunchError: `bad_cache` (exit 2); `cache_unusable` (exit 1).
        """
        if settings.max_bytes < LEAST_BYTES:
            raise bad_cache(f"{settings.max_bytes} bytes are too few: at least {LEAST_BYTES}")
        self._path = at_home(path).absolute()
        self._settings = settings
        self._pages = (settings.max_bytes - _LOG_BYTES) // PAGE
        self._own = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._era = 0
        self._file = 0
        """Its number, of the last connection."""
        self._index = self._path.with_name(self._path.name + "-shm")
        self._index_bytes = _INDEX_PART
        """The most that its index was seen to have."""
        self._touched: dict[bytes, None] = {}
        self._newest = 0
        self._lock = threading.Lock()
        self._closed = False
        self._watch = KeyWatch(self, settings.max_bytes)
        self.name = f"sqlite:{self._path}"
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            _require_ours(self._path)
            self._settled()
        except (BackendError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise QlaunchError(
                f"the cache {self._path} cannot be used: {why}",
                code="cache_unusable",
                exit_code=ExitCode.UNEXPECTED,
                fix="give --cache another file, or free space there",
            ) from error

    def candidates(self, keys: Sequence[bytes]) -> Sequence[bytes]:
        """Those that the file may hold; all of them until its keys have been read once."""
        return self._watch.candidates(keys)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Entries in the order of `keys`."""
        values: dict[bytes, bytes] = {}
        now = int(time.time())
        old = self._newest - max(1000, self._newest // 8)
        with self._errors():
            for begin in range(0, len(keys), _MOST_KEYS):
                part = keys[begin : begin + _MOST_KEYS]
                marks = ",".join("?" * len(part))
                rows = self._connection().execute(
                    f"SELECT key, value, used, expires FROM entries WHERE key IN ({marks})",  # noqa: S608 - marks alone
                    part,
                )
                for key, value, used, expires in rows:
                    if expires is not None and expires <= now:
                        continue
                    values[key] = value
                    if used < old and len(self._touched) < _TOUCHES:
                        self._touched[key] = None
        return [values.get(key) for key in keys]

    def set_many(self, entries: Mapping[bytes, bytes]) -> None:
        """Keep entries; the least recently used ones make room."""
        expires = None
        if self._settings.ttl_s is not None:
            expires = int(time.time()) + self._settings.ttl_s
        self.follow_path()
        with self._errors(), self._lock, self._writing() as connection:
            touched, self._touched = self._touched, {}
            newest = self._newest_id(connection)
            connection.executemany(
                "UPDATE entries SET used = ? WHERE key = ?", [(newest, key) for key in touched]
            )
            self._make_room(connection, sum(map(len, entries.values())) + 200 * len(entries))
            connection.executemany(
                "INSERT OR REPLACE INTO entries (key, value, used, expires) VALUES (?, ?, ?, ?)",
                [(key, value, newest + 1, expires) for key, value in entries.items()],
            )
            self._newest = newest + len(entries)
        self._watch.add(entries)

    def purge(self, space: bytes | None = None) -> int | None:
        """Remove the entries of one space, or all; on a full disk all by removing the file."""
        try:
            with self._errors(), self._lock:
                gone = self._deleted(space)
                self._connection().execute("VACUUM")
        except BackendError:
            if space is not None:
                raise
            discard(self._path)
            self.follow_path()
            return None
        return gone

    def _deleted(self, space: bytes | None) -> int:
        with self._writing() as connection:
            if space is None:
                return connection.execute("DELETE FROM entries").rowcount
            return connection.execute(
                "DELETE FROM entries WHERE key >= ? AND key < ?",
                (space, space + b"\xff" * 33),
            ).rowcount

    def keys_after(self, key: bytes, most: int) -> list[bytes]:
        """The next keys in their own order, from their index alone."""
        question = "SELECT key FROM entries WHERE key > ? ORDER BY key LIMIT ?"
        with self._errors():
            return [row[0] for row in self._connection().execute(question, (key, most))]

    def keys_since(self, number: int, most: int) -> list[tuple[int, bytes]]:
        """The next keys in the order in which they were written, each with its number."""
        question = "SELECT id, key FROM entries WHERE id > ? ORDER BY id LIMIT ?"
        with self._errors():
            return self._connection().execute(question, (number, most)).fetchall()

    def newest(self) -> int:
        """The number of the entry that was written last; 0: there is none."""
        with self._errors():
            return self._newest_id(self._connection())

    def stats(self) -> Stats:
        """Entries, and bytes of the file and its log."""
        with self._errors():
            (count,) = self._connection().execute("SELECT count(*) FROM entries").fetchone()
        return Stats(entries=count, bytes=self._size(), max_bytes=self._settings.max_bytes)

    def interrupt(self) -> None:
        """Nothing: a disk answers or fails by itself."""

    def close(self) -> None:
        """Close all connections; the last one of all processes puts the log away."""
        self._closed = True
        self._watch.close()
        with self._lock:
            self._close_all()

    def follow_path(self) -> None:
        """Leave a file that was removed or replaced: its room is given back, nothing kept in it."""
        try:
            now = self._path.stat().st_ino
        except OSError:
            now = 0
        if now == self._file or self._closed:
            return
        with self._lock:
            self._era += 1
            self._close_all()

    def _close_all(self) -> None:
        """A thread that is reading meanwhile fails this once."""
        self._keep_index_whole()
        while self._open:
            with contextlib.suppress(sqlite3.Error):
                self._open.pop().close()

    def _made(self) -> int:
        """The number of the file, made where it or its folder is missing, for nobody else to read.

        Its log and index take their mode from it. One that is there is not opened here: to close it
        again would end the locks that SQLite has on it in this process.

        Raises:
            OSError: it cannot be made.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        return self._path.stat().st_ino

    def _settled(self) -> None:
        """Make the tables; a damaged file is begun anew, and who makes it first is waited for."""
        for left in range(4, -1, -1):
            try:
                self.stats()
            except BackendError:
                if not left:
                    raise
                time.sleep(0.1)
            else:
                return

    def _size(self) -> int:
        total = 0
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                total += self._path.with_name(self._path.name + suffix).stat().st_size
        return total

    def _connection(self) -> sqlite3.Connection:
        """The connection of this thread; a new one where the file was begun anew."""
        if self._closed:
            raise BackendError("it is closed")
        self._keep_index_whole()
        connection: sqlite3.Connection | None = getattr(self._own, "connection", None)
        if connection is None or self._own.era != self._era:
            if connection is not None:
                with contextlib.suppress(ValueError):  # all of them may have been closed
                    self._open.remove(connection)
                connection.close()
                self._own.connection = None
            connection = self._connect()
            self._own.connection, self._own.era = connection, self._era
            self._open.append(connection)
        return connection

    def _keep_index_whole(self) -> None:
        """Mend an index that was cut: what is mapped of it and not there is a SIGBUS.

        A head of zeros has SQLite make it anew from the log. The file stays open for good: to close
        it would end the locks that SQLite has on it in this process.
        """
        with contextlib.suppress(OSError):  # not there yet, or nothing can be written
            size = self._index.stat().st_size
            if size < self._index_bytes and self._open:  # else it may just be made
                file = os.open(self._index, os.O_RDWR | os.O_NOFOLLOW)
                os.pwrite(file, bytes(_INDEX_HEAD), 0)
                os.truncate(file, self._index_bytes)
            self._index_bytes = max(self._index_bytes, size)

    def _connect(self) -> sqlite3.Connection:
        try:
            file = self._made()
        except OSError as error:
            raise BackendError(f"{error.strerror}: {self._path}") from error
        connection = sqlite3.connect(
            self._path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute(f"PRAGMA page_size = {PAGE}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
            connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES // 2}")
            connection.execute(f"PRAGMA max_page_count = {self._pages}")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                raise BackendError(f"{self._path} is of another version ({version})")
            if version == 0:
                connection.executescript(_SCHEMA)
                connection.execute(f"PRAGMA user_version = {_VERSION}")
            connection.execute("SELECT id, key, value, used, expires FROM entries LIMIT 1")
        except BaseException:
            connection.close()
            raise
        self._file = file
        return connection

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection()
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # a full disk has ended it already
                connection.execute("ROLLBACK")
            raise

    @staticmethod
    def _newest_id(connection: sqlite3.Connection) -> int:
        (newest,) = connection.execute("SELECT max(id) FROM entries").fetchone()
        return int(newest or 0)

    def _make_room(self, connection: sqlite3.Connection, needed: int) -> None:
        """Remove the least recently used where `needed` bytes more would be too many."""
        if self._used_pages(connection) + needed // PAGE + 1 <= self._pages * _FULL:
            return
        keep = self._pages * _KEPT - needed // PAGE
        (count,) = connection.execute("SELECT count(*) FROM entries").fetchone()
        while count and (pages := self._used_pages(connection)) > keep:
            surplus = max(1, int(count * (pages - keep) / pages) + 1)
            count -= connection.execute(
                "DELETE FROM entries WHERE id IN (SELECT id FROM entries ORDER BY used LIMIT ?)",
                (surplus,),
            ).rowcount

    @staticmethod
    def _used_pages(connection: sqlite3.Connection) -> int:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (free,) = connection.execute("PRAGMA freelist_count").fetchone()
        return int(pages) - int(free)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """One kind of error for all of SQLite's; a damaged file is begun anew."""
        try:
            yield
        except sqlite3.Error as error:
            text = str(error)
            if _is_damage(error):
                self._begin_anew()
                text = f"{text}; a new file was started"
            raise BackendError(text) from error

    def _begin_anew(self) -> None:
        """Remove the damaged file, unless another process has done so already."""
        discard(self._path, self._damaged)
        self._era += 1

    def _damaged(self) -> bool:
        try:
            with contextlib.closing(self._connect()) as connection:
                (answer,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.Error as error:
            return _is_damage(error)
        except BackendError:  # of another version, which another process has made
            return False
        return bool(answer != "ok")


def _is_damage(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)  # errors of Python's own have none
    return code in _DAMAGED or code & 0xFF in _DAMAGED


def discard(path: Path, really: Callable[[], bool] = lambda: True) -> None:
    """Remove a cache with its log and its index; who has it open begins a new one.

    Args:
        path: of its file.
        really: whether to, asked when no other process removes it.

    Raises:
        BackendError: it is something else, and left alone, or it cannot be removed.
    """
    try:
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if really():
                _require_ours(path)
                for suffix in ("-wal", "-shm", ""):
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
    except OSError as error:
        raise BackendError(f"{path} cannot be removed: {error}") from error


def _require_ours(path: Path) -> None:
    """Refuse what is not a cache, before anything is written to it or removed."""
    with contextlib.suppress(FileNotFoundError):
        why = not_ours(path)
        if why is not None:
            raise BackendError(f"{why}, and left alone")
