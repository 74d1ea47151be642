"""What a peer serves instead of the checkpoint itself: a graph, a quantised file; made once.

An export is a folder beside the peer's packages, so that it goes with them, under a name of
everything that it was made from: the checkpoint's fingerprint, the number format, and the programs
that make it. It is made in a folder of another name and moved when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from launcher.bench.peers.catalogue import WORKERS, Peer, Serving, export_command
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux.files import sync_folder
from launcher.linux.pdeathsig import die_with

Progress = Callable[[str], None]

FOLDER: Final = "exports"
LOG: Final = "export.log"
_PARTIAL: Final = ".partial-"


def place(peer: Peer, root: Path, serving: Serving) -> Path:
    """The folder of an export, whether or not it is there."""
    digest = hashlib.sha256()
    for file in programs(peer):
        digest.update(file.read_bytes())
    facts = (serving.fingerprint, peer.version, serving.seven_bits, serving.native)
    digest.update(repr((*facts, peer.export)).encode())
    return root / FOLDER / f"{serving.variant}-{digest.hexdigest()[:16]}"


def programs(peer: Peer) -> list[Path]:
    """The files of ours that make a peer's exports."""
    names = [word for word in peer.export if word.startswith("qlaunch_peers.")]
    modules = [*names, "qlaunch_peers.encoding"]
    return [WORKERS / f"{name.replace('.', '/')}.py" for name in modules]


def export(
    peer: Peer, root: Path, serving: Serving, env: Mapping[str, str], progress: Progress
) -> Path:
    """The folder of an export; made first where it is not there.

    Args:
        env: the whole environment of the program that makes it.

    Raises:
        QlaunchError: `export_failed` (exit 5) with its last words; nothing half made is left.
    """
    folder = place(peer, root, serving)
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(exist_ok=True)
        lock = folder.parent / f".{folder.name}.lock"
        with locks.held(lock, lambda: progress(f"another export for {peer.name} is running")):
            if not folder.is_dir():
                _make(peer, root, serving, env, folder, progress)
    except OSError as error:
        raise _failed(peer, str(error.strerror or error), root) from error
    return folder


def _make(
    peer: Peer,
    root: Path,
    serving: Serving,
    env: Mapping[str, str],
    folder: Path,
    progress: Progress,
) -> None:
    partial = folder.with_name(f"{_PARTIAL}{folder.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    first = "; its program is built first, which takes minutes" if serving.native else ""
    progress(f"{peer.name}: making {serving.variant} of {serving.model} once, in {folder}{first}")
    argv = export_command(peer, root, serving, partial)
    parent = os.getpid()
    log = folder.parent / LOG
    try:
        with log.open("wb") as output:
            done = subprocess.run(
                argv,
                check=False,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: die_with(parent),
            )
        if done.returncode != 0:
            raise _failed(peer, _last_words(log), log)
        partial.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _last_words(log: Path) -> str:
    lines = log.read_text("utf-8", errors="replace")[-4000:].strip().splitlines()
    return lines[-1][-300:] if lines else "it said nothing"


def _failed(peer: Peer, why: str, log: Path) -> QlaunchError:
    return QlaunchError(
        f"{peer.name} could not convert the checkpoint: {why}",
        code="export_failed",
        exit_code=ExitCode.ENGINE,
        fix=f"see {log}",
    )
