"""A temporary folder for each engine: short enough for sockets, private, and gone with its owner.

SGLang's processes talk through sockets in TMPDIR, whose paths the kernel limits to 107 bytes, and
leave their files there. So an engine gets a folder of its own (0700), in the user's TMPDIR where
that serves and elsewhere where it does not. Whoever made it holds a lock on it, which ends with the
process, however it ends: what is not locked is left over, and removed by the next one who looks.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks

PREFIX: Final = "ql-engine-"
SOCKET_BYTES: Final = 107
"""Longest path of a socket: `sun_path` without its ending zero."""
INSIDE: Final = "pymp-xxxxxxxx/listener-xxxxxxxx-xxx"
"""Longest name a library makes below a temporary folder for a socket (multiprocessing's)."""
PLAIN: Final = re.compile(r"/[\w./+@=,-]*", re.ASCII)
"""Compilers that are started from a temporary folder do not all quote blanks."""
WRITTEN_BYTES: Final = 64 * 1024


class Scratch:
    """A folder that is ours for as long as this process lives, or until `close`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    def close(self) -> None:
        """Remove it, with what is in it; nothing happens the second time."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1


def make(environ: Mapping[str, str], *, spare: Path) -> Scratch:
    """A new folder in the first place that can hold sockets; left-overs there are removed.

    Args:
        environ: for TMPDIR and XDG_RUNTIME_DIR.
        spare: a folder of ours, the last resort.

    Raises:
        QlaunchError: `no_temporary_folder` (exit 6): no place serves; it says why each does not.
    """
    refused: list[str] = []
    for base in places(environ, spare):
        _sweep(base)
        if (why := _unfit(base)) is None:
            try:
                made = _make_in(base)
                _prove(made.path)
            except OSError as error:
                why = error.strerror or str(error)
            else:
                return made
        refused.append(f"{base} ({why})")
    raise QlaunchError(
        f"no folder can hold the engine's sockets: {'; '.join(refused)}",
        code="no_temporary_folder",
        exit_code=ExitCode.START_FAILED,
        fix="set TMPDIR to a folder with a short path in which this user may write",
    )


@contextlib.contextmanager
def scratch(environ: Mapping[str, str], *, spare: Path) -> Iterator[Path]:
    """`make` for the length of a block."""
    made = make(environ, spare=spare)
    try:
        yield made.path
    finally:
        made.close()


def places(environ: Mapping[str, str], spare: Path) -> list[Path]:
    """Where a temporary folder may be made, best first."""
    named = [environ.get("TMPDIR", ""), "/tmp", "/var/tmp", environ.get("XDG_RUNTIME_DIR", "")]  # noqa: S108 - the folder made there is private
    found = [Path(name) for name in [*named, "/dev/shm", str(spare)] if name]  # noqa: S108
    return list(dict.fromkeys(found))


def unfit(environ: Mapping[str, str]) -> str | None:
    """Why the user's own TMPDIR is not used; None where it is, or none is set."""
    given = environ.get("TMPDIR")
    if not given:
        return None
    base = Path(given)
    if (why := _unfit(base)) is not None:
        return why
    return None if os.access(base, os.W_OK | os.X_OK) else "this user may not write in it"


def sweep(environ: Mapping[str, str], *, spare: Path) -> None:
    """Remove what processes that are gone have left in any of the places."""
    for base in places(environ, spare):
        _sweep(base)


def _unfit(base: Path) -> str | None:
    if not base.is_absolute():
        return "not an absolute path"
    if not PLAIN.fullmatch(str(base)):
        return "blanks or unusual letters in its path"
    length = len(os.fsencode(base)) + len(f"/{PREFIX}xxxxxxxx/{INSIDE}")
    if length > SOCKET_BYTES:
        return f"its path is {length - SOCKET_BYTES} bytes too long for sockets"
    if not base.is_dir():
        return "no folder"
    return None


def _make_in(base: Path) -> Scratch:
    """Raises OSError."""
    for _ in range(10):
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=base))
        fd = _locked(path)
        if fd is not None:
            return Scratch(path, fd)
        # Somebody sweeps at this very moment, and has removed it or will.
    raise OSError(0, "another process keeps removing files in it")


def _locked(path: Path) -> int | None:
    """A descriptor that locks the folder `path`; None where another holds it or it has gone."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError:
        return None
    try:
        if locks.take(fd) and os.path.samestat(os.fstat(fd), path.lstat()):
            return fd
    except FileNotFoundError:
        pass
    except OSError:
        return fd  # no locks in this file system: nobody can sweep here either
    os.close(fd)
    return None


def _prove(path: Path) -> None:
    """Write and bind as an engine will; raises OSError, and leaves nothing."""
    trial = path / ("s" * len(INSIDE))
    try:
        with (path / "trial").open("wb") as file:
            file.write(bytes(WRITTEN_BYTES))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(trial))
        trial.unlink()
        (path / "trial").unlink()
    except OSError:
        shutil.rmtree(path, ignore_errors=True)
        raise


def _sweep(base: Path) -> None:
    """Remove folders of this user's that nobody holds."""
    try:
        names = [name for name in os.listdir(base) if name.startswith(PREFIX)]  # noqa: PTH208
    except OSError:
        return
    for name in names:
        path = base / name
        try:
            found = path.lstat()
        except OSError:
            continue
        if found.st_uid == os.geteuid() and found.st_mode & 0o077 == 0:
            _remove_abandoned(path)


def _remove_abandoned(path: Path) -> None:
    fd = -1
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        if locks.take(fd):
            shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # it has gone, or cannot be locked: it stays
    finally:
        if fd >= 0:
            os.close(fd)
