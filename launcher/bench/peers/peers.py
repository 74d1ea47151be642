"""Other servers of embeddings, for comparisons: a small catalogue, each in its own environment."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from launcher.engine.environments import tools

Progress = Callable[[str], None]

_HERE: Final = Path(__file__).resolve().parent
MARKER: Final = tools.MARKER
LOCKS: Final = _HERE / "locks"
WORKER: Final = _HERE / "peer_worker.py"
PeerDtype = Literal["float32", "bfloat16", "float16"]


class Peer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of `launcher/bench/peers/peers.yaml`."""

    name: str = ""
    """The entry's key."""
    title: str
    package: str
    version: str
    python: str
    """Python versions it installs on, as a specifier."""
    requirements: tuple[str, ...]
    """Installed first, with their dependencies."""
    then: tuple[str, ...]
    """Installed after them, within the lock."""
    lock: str
    """File under `launcher/bench/peers/locks/`: constraints for pip."""
    disk_bytes: int
    start: tuple[str, ...]
    """Command, with `{bin}`, `{python}`, `{worker}`, `{model_path}`, `{model}`, `{dtype}` and
    `{port}` to be filled in."""
    env: dict[str, str] = {}
    counts_tokens: bool = True
    """Whether the `usage` of its answers counts tokens."""
    dtypes: tuple[PeerDtype, ...]


@functools.cache
def peers() -> Mapping[str, Peer]:
    """Every peer of the catalogue, by name."""
    from launcher.yaml_reader import load_typed

    loaded = load_typed(_HERE / "peers.yaml", dict[str, Peer], what="catalogue of peers")
    return {name: msgspec.structs.replace(peer, name=name) for name, peer in loaded.value.items()}


def command(
    peer: Peer, root: Path, *, model_path: str, model: str, dtype: str, port: int
) -> list[str]:
    """What is executed to serve a checkpoint. Pure."""
    words = {
        "bin": str(root / "bin"),
        "python": str(python(root)),
        "worker": str(WORKER),
        "model_path": model_path,
        "model": model,
        "dtype": dtype,
        "port": str(port),
    }
    return [word.format_map(words) for word in peer.start]


def environment(peer: Peer, threads: int) -> dict[str, str]:
    """Variables beside the allow-list: as many threads as the engine has, nothing fetched."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        **peer.env,
    }


def folder(peer: Peer, data: Path) -> Path:
    """The peer's environment under the data folder; absolute, as scripts in it need it."""
    return data.absolute() / "peers" / peer.name


def python(root: Path) -> Path:
    """The environment's Python."""
    return tools.python(root)


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
        requirements=peer.requirements,
        then=peer.then,
        lock=LOCKS / peer.lock,
        disk_bytes=peer.disk_bytes,
    )
