"""Environments of peers under the data folder: found, or installed when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from launcher.bench.peers.catalogue import LOCKS, Peer
from launcher.engine.environments import tools

Progress = Callable[[str], None]


def folder(peer: Peer, data: Path) -> Path:
    """The peer's environment under the data folder; absolute, as scripts in it need it."""
    return data.absolute() / "peers" / peer.name


def find(peer: Peer, data: Path) -> Path | None:
    """The environment, where it is whole and of this very version."""
    return tools.find(_tool(peer), folder(peer, data))


def install(peer: Peer, data: Path, *, progress: Progress) -> Path:
    """The environment's folder; made first where it is not there.

    Raises:
        QlaunchError: as `tools.install`.
    """
    return tools.install(_tool(peer), folder(peer, data), progress=progress)


def _tool(peer: Peer) -> tools.Tool:
    return tools.Tool(
        name=peer.name,
        title=peer.title,
        package=peer.package,
        version=peer.version,
        python=peer.python,
        requirements=(peer.torch,),
        then=(),
        lock=LOCKS / peer.lock,
        hashed=True,
        disk_bytes=peer.disk_bytes,
    )
