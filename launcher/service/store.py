"""The folder of a service: plan, state, locks. Written by its supervisor, read by everyone.

`services/NAME/` (0700) holds `plan.json` (what to run), `state.json` (how it is), `tree.json` (the
engine's processes, so that leftovers can be told from strangers after a crash), `lock` (held by
the live supervisor for its whole life), `up.lock` (held while someone starts or stops it) and
`supervisor.log`. Locks end with their holder, however it ends.

Reading is quick and never raises for a damaged file: `ps` answers in a quarter of a second.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux import processes as procs
from launcher.linux.files import read_bounded, write_atomic
from launcher.linux.processes import ProcessId
from launcher.paths import NAME, dirs, private_dir

VERSION = 1
"""Version of `state.json`."""
STATE_LIMIT = 4 * 1024 * 1024
"""Bytes; a real state is a few kilobytes."""
NOTE_BYTES = 2048
"""Size of the note in a held lock file: below a page, so that it is written in one piece."""


class BadServiceNameError(QlaunchError):
    """A word that cannot name a service: `bad_service_name`, exit 2."""

    def __init__(self, word: str) -> None:
        super().__init__(
            f"{word[:80]!r} cannot name a service",
            code="bad_service_name",
            fix="use 1 to 64 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit",
        )
        self.word = word


def check_name(name: str) -> str:
    """`name`, if it can name a service.

    Raises:
        BadServiceNameError: `bad_service_name` (exit 2).
    """
    if not NAME.fullmatch(name):
        raise BadServiceNameError(name)
    return name


@dataclass(frozen=True)
class Folder:
    """Paths of one service."""

    name: str
    path: Path

    @property
    def plan(self) -> Path:
        """What to run."""
        return self.path / "plan.json"

    @property
    def state(self) -> Path:
        """How it is."""
        return self.path / "state.json"

    @property
    def tree(self) -> Path:
        """The engine's processes, as last seen."""
        return self.path / "tree.json"

    @property
    def lock(self) -> Path:
        """Held by the live supervisor."""
        return self.path / "lock"

    @property
    def up_lock(self) -> Path:
        """Held while someone starts or stops the service."""
        return self.path / "up.lock"

    @property
    def log(self) -> Path:
        """What the supervisor says of itself."""
        return self.path / "supervisor.log"

    @property
    def secrets_config(self) -> Path:
        """The engine's `--config` file with the API key, 0600, there while the engine runs."""
        return self.path / "engine-secrets.yaml"


def folder(name: str, *, create: bool = False) -> Folder:
    """The folder of service `name`; made, with mode 0700, if `create`.

    Raises:
        QlaunchError: `bad_service_name` (exit 2); `state_dir_unsafe` (exit 1).
    """
    path = dirs().services / check_name(name)
    if create:
        private_dir(dirs().state)
        private_dir(dirs().services)
        private_dir(path)
    return Folder(name, path)


class Lock:
    """A lock on a file: taken or refused, never a file whose mere existence means something."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self, *, wait_s: float = 0.0) -> bool:
        """Take the lock, trying for `wait_s` seconds; False if someone else holds it.

        Raises:
            OSError: the file cannot be opened (a symlink in its place included), or its file
                system has no locks.
        """
        fd = self._open()
        deadline = time.monotonic() + wait_s
        while True:
            try:
                taken = locks.take(fd)
            except OSError:
                os.close(fd)
                raise
            if taken:
                self._fd = fd
                return True
            if time.monotonic() >= deadline:
                os.close(fd)
                return False
            time.sleep(0.02)

    def _open(self) -> int:
        flags = os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            return os.open(self._path, flags | os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            if error.errno != errno.EROFS:
                raise
            # A disk that failed and was made read-only: what runs must be stoppable all the same.
            with contextlib.suppress(FileNotFoundError):
                return os.open(self._path, flags | os.O_RDONLY)
            raise

    def sign(self, holder: ProcessId) -> None:
        """Leave in the held file who holds it, so that it can be asked to stop.

        Raises:
            OSError: the disk is full or read-only.
        """
        self.write(msgspec.json.encode(holder).ljust(NOTE_BYTES))

    def write(self, note: bytes) -> None:
        """Write over the note in the held file; of `NOTE_BYTES`, it takes no space after `sign`.

        Raises:
            OSError: the disk is full, and the file system does not write in place.
        """
        assert self._fd is not None
        os.pwrite(self._fd, note, 0)
        if os.fstat(self._fd).st_size != len(note):
            os.ftruncate(self._fd, len(note))

    def displaced(self) -> bool:
        """Whether another file is in the held one's place: what lies beside it is another's now.

        A file that is gone is nobody's; the held one keeps its number while it is open.
        """
        assert self._fd is not None
        try:
            return not os.path.samestat(os.fstat(self._fd), self._path.lstat())
        except OSError:
            return False

    def release(self) -> None:
        """Give the lock back; nothing happens where it is not held."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def signed(lock: Path) -> ProcessId | None:
    """Who last signed this lock file, alive or not; None if nobody, or it cannot be read."""
    try:
        return msgspec.json.decode(read_bounded(lock, 4096), type=ProcessId)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def lock_holder(where: Folder) -> ProcessId | None:
    """The live supervisor that signed `lock`, whatever the state file says; else None."""
    found = signed(where.lock)
    return found if procs.is_alive(found) else None


def is_held(where: Folder) -> bool:
    """Whether somebody holds the file that is `lock` now: a supervisor's may have been replaced."""
    try:
        with Lock(where.lock) as lock:
            return not lock.acquire()
    except OSError:
        return False


def require_startable(where: Folder, plan: Plan) -> None:
    """Refuse to stop a service that could not be started again in its folder.

    Raises:
        QlaunchError: `state_dir_unsafe` (exit 1), its lock is a folder or a link;
            `state_not_written` (exit 1), there is no room for a plan.
    """
    try:
        os.close(os.open(where.lock, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC))
    except FileNotFoundError:
        pass  # made by the next supervisor
    except OSError as error:
        raise not_lockable(where.lock, error) from error
    trial = where.path / "next-plan.json"
    try:
        write_atomic(trial, msgspec.json.encode(plan))
        trial.unlink()
    except OSError as error:
        raise not_written(where.path, error) from error


def not_lockable(path: Path, error: OSError) -> QlaunchError:
    """The `state_dir_unsafe` error (exit 1): a lock file that cannot be opened, or locked."""
    why = error.strerror or str(error)
    fix = "see who owns that file" if error.errno != errno.EROFS else "make its disk writable"
    if path.is_symlink() or path.is_dir():
        kind = "a link" if path.is_symlink() else "a folder"
        why, fix = f"it is {kind}, not a file", f"move it away: mv {path} {path}.old"
    return QlaunchError(
        f"cannot lock {path}: {why}",
        code="state_dir_unsafe",
        exit_code=ExitCode.UNEXPECTED,
        fix=f"{fix}, or set QLAUNCH_HOME to a folder of yours on a local disk",
    )


def not_written(path: Path, error: OSError) -> QlaunchError:
    """The `state_not_written` error (exit 1): a full or read-only disk, with the path."""
    fix = None
    if error.errno == errno.EROFS:
        fix = "make its disk writable, or set QLAUNCH_HOME to another folder"
    return QlaunchError(
        f"cannot keep state in {path}: {error.strerror or error}",
        code="state_not_written",
        exit_code=ExitCode.UNEXPECTED,
        fix=fix or "free space there, or set QLAUNCH_HOME to another folder",
    )


def write_plan(where: Folder, plan: Plan) -> None:
    """Replace `plan.json`.

    Raises:
        QlaunchError: `state_not_written` (exit 1).
    """
    try:
        write_atomic(where.plan, msgspec.json.encode(plan))
    except OSError as error:
        raise not_written(where.path, error) from error


def read_plan(where: Folder) -> Plan:
    """The plan of a service.

    Raises:
        QlaunchError: `bad_plan` (exit 1) if the file is missing or damaged.
    """
    try:
        return msgspec.json.decode(read_bounded(where.plan, STATE_LIMIT), type=Plan)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise QlaunchError(
            f"cannot read {where.plan}: {_reason(error)}",
            code="bad_plan",
            exit_code=ExitCode.UNEXPECTED,
            fix=f"start the service again: qlaunch up {where.name}",
        ) from error


def state_stamp(where: Folder) -> tuple[int, int] | None:
    """What is another one with every new state; None where there is no state."""
    try:
        found = where.state.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def write_state(where: Folder, state: ServiceState) -> None:
    """Replace `state.json`. For the holder of `lock` alone.

    Raises:
        OSError: the disk is full or the folder is not writable; the old state is then intact.
    """
    write_atomic(where.state, msgspec.json.encode(state))


def read_state(name: str) -> ServiceState | None:
    """What `state.json` says, or None if there is none; a damaged one reads as `unknown`.

    Raises:
        QlaunchError: `bad_service_name` (exit 2).
    """
    where = folder(name)
    try:
        data = read_bounded(where.state, STATE_LIMIT)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        return unreadable(name, f"{where.state} cannot be read: {_reason(error)}")
    return decode_state(name, data)


def decode_state(name: str, data: bytes) -> ServiceState:
    """Decode the bytes of a `state.json`; whatever they are, the answer is a state."""
    try:
        version = msgspec.json.decode(data, type=_Versioned).version
        if version != VERSION:
            return unreadable(name, f"its state file has version {version}, this is {VERSION}")
        state = msgspec.json.decode(data, type=ServiceState)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return unreadable(name, f"its state file is damaged: {_reason(error)}")
    if state.service != name:
        return unreadable(name, f"its state file is about another service, {state.service!r}")
    return state


class _Versioned(msgspec.Struct):
    version: int


def unreadable(name: str, problem: str) -> ServiceState:
    """The state of a service whose state file cannot be read."""
    return ServiceState(
        version=VERSION,
        service=name,
        profile="",
        state="unknown",
        since="",
        run="",
        endpoint=None,
        supervisor=None,
        engine=None,
        detail=problem,
        problem=problem,
    )


def list_services() -> list[str]:
    """Names of the services that have a folder, sorted; what cannot be a name is passed over."""
    try:
        found = os.listdir(dirs().services)  # noqa: PTH208 - names only
    except OSError:
        return []
    return sorted(name for name in found if NAME.fullmatch(name))


def write_tree(where: Folder, processes: Iterable[ProcessId]) -> None:
    """Replace `tree.json`."""
    write_atomic(where.tree, msgspec.json.encode(list(processes)))


def read_tree(where: Folder) -> list[ProcessId]:
    """The engine's processes as last seen; empty if the file is missing or damaged."""
    try:
        return msgspec.json.decode(read_bounded(where.tree, STATE_LIMIT), type=list[ProcessId])
    except (OSError, ValueError, msgspec.MsgspecError):
        return []


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).splitlines()[0] if str(error) else type(error).__name__
