"""What fetching from a package index and from hubs have in common: errors, locks, disk space."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux.files import FULL
from launcher.network import causes
from launcher.yaml_reader import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from launcher.model.checkpoint import Source
    from launcher.network.causes import Cause, Client


def unreachable(source: Source, why: str, *, fix: str | None = None) -> QlaunchError:
    """`model_unreachable`, exit 1: the place may well have the model, and it is not known why not.

    What is known of a network is told by `network_error`.
    """
    return QlaunchError(
        f"cannot fetch {source}: {why}",
        code="model_unreachable",
        exit_code=ExitCode.UNEXPECTED,
        fix=fix or "check the network and the proxy settings, then try again",
    )


def network_error(source: Source, cause: Cause, client: Client) -> QlaunchError:
    """The error for what lies between us and the place; the exit code says whose fault it is."""
    if cause.kind == "download_corrupt":
        return corrupt(source, causes.sentence(cause, client))
    usage = cause.kind in {"unauthorized", "forbidden", "not_found", "address_invalid"}
    exit_code = ExitCode.USAGE if usage else ExitCode.UNEXPECTED
    return causes.error(f"cannot fetch {source}", cause, client, exit_code)


def offline(source: Source) -> QlaunchError:
    """`model_unreachable`, exit 1: not here, and fetching is switched off."""
    return unreachable(
        source,
        "it is not on this machine, and qlaunch is offline",
        fix="pull the model once while online, or give a folder that holds it",
    )


def not_found(source: Source, why: str, *, fix: str | None = None) -> QlaunchError:
    """`model_not_found`, exit 2: the place answered, and has no such model."""
    return QlaunchError(
        f"{source}: {why}",
        code="model_not_found",
        fix=fix or "check the spelling of the model and of its revision",
    )


def corrupt(source: Source, why: str, *, fix: str | None = None) -> QlaunchError:
    """`model_corrupt`, exit 2: what came is not what was promised."""
    return QlaunchError(
        f"{source}: {why}",
        code="model_corrupt",
        fix=fix
        or "pull it again; if that does not help, the place it comes from serves another file",
    )


def disk_full(source: Source, where: Path, need: int | None = None) -> QlaunchError:
    """`disk_full`, exit 1; `need` in bytes where known."""
    free = shutil.disk_usage(where).free
    told = f"{need / 1e9:.1f} GB needed, " if need is not None else ""
    return QlaunchError(
        f"no space for {source} in {shown(str(where), 400)}: {told}{free / 1e9:.1f} GB free",
        code="disk_full",
        exit_code=ExitCode.UNEXPECTED,
        fix="free some space, or put models elsewhere with QLAUNCH_HOME",
    )


def disk_error(source: Source, where: Path, error: OSError) -> QlaunchError:
    """The error for an operating system's refusal below `where`: full, or not writable."""
    if error.errno in FULL:
        return disk_full(source, where)
    place = shown(str(error.filename or where), 400)
    return QlaunchError(
        f"cannot store {source}: {place}: {error.strerror or error}",
        code="models_dir_unusable",
        exit_code=ExitCode.UNEXPECTED,
        fix="check the folder's owner and mode, or put models elsewhere with QLAUNCH_HOME",
    )


@contextlib.contextmanager
def one_at_a_time(path: Path, what: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock file `path`; waits for another process that holds it, and says so.

    The kernel drops the lock with its process, so a killed one leaves nothing to clean up.
    """
    with locks.held(path, lambda: progress(f"another process is fetching {what}: waiting for it")):
        yield
