"""Other servers of embeddings, for comparisons: a small catalogue, and what is executed. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from launcher.documents.plan import ModelKind
from launcher.engine.environments import tools

_HERE: Final = Path(__file__).resolve().parent
LOCKS: Final = _HERE / "locks"
WORKERS: Final = _HERE / "workers"
"""On the PYTHONPATH of a peer: the package `qlaunch_peers`, which runs in the peer's Python."""

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
    asks: tuple[str, ...]
    """What the lock is made from, torch apart (`tools/peer_locks.py`)."""
    torch: str
    """Installed after the lock, from whichever index gives a build of it: `torch==2.13.0`."""
    lock: str
    """File under `locks/`: every package beside torch, with hashes."""
    disk_bytes: int
    start: tuple[str, ...]
    """Command, with the words of `command` to be filled in."""
    export: tuple[str, ...] = ()
    """Command that makes of a checkpoint what it serves; empty: it reads the checkpoint itself."""
    env: dict[str, str] = {}
    counts_tokens: bool = True
    """Whether the `usage` of its answers counts tokens."""
    dtypes: tuple[PeerDtype, ...] = ()
    """Number formats it computes in, where it takes the profile's."""
    variants: tuple[str, ...] = ()
    """Number formats of its own, or other ways to lie and to be read; the first is the default."""
    notes: dict[str, str] = {}
    """What a reader of figures must know, by variant; `native` and `prebuilt` where `builds`."""
    builds: bool = False
    """Whether its program is built here, where there are cmake and a compiler."""
    needs_build: tuple[str, ...] = ()
    """Variants that only a build can make."""
    models: tuple[ModelKind, ...] = ("encoder", "decoder")
    model_types: tuple[str, ...] = ()
    """Of config.json, those it is set up for; empty: all."""
    poolings: tuple[str, ...] = ("mean", "cls", "last")
    needs: tuple[str, ...] = ()
    """Instruction sets without which it does not run."""
    machines: tuple[str, ...] = ("x86_64", "aarch64")


@dataclass(frozen=True)
class Chosen:
    """A peer with one of its number formats."""

    peer: Peer
    variant: str | None
    """None: it has none."""

    @property
    def format(self) -> str | None:
        """Its own number format; None: the profile's."""
        return None if self.peer.dtypes else self.variant

    @property
    def spec(self) -> str:
        """As `--peer` names it."""
        plain = self.variant is None or self.variant == self.peer.variants[0]
        return self.peer.name if plain else f"{self.peer.name}:{self.variant}"


@functools.cache
def peers() -> Mapping[str, Peer]:
    """Every peer of the catalogue, by name."""
    from launcher.yaml_reader import load_typed

    loaded = load_typed(_HERE / "peers.yaml", dict[str, Peer], what="catalogue of peers")
    return {name: msgspec.structs.replace(peer, name=name) for name, peer in loaded.value.items()}


def choose(spec: str) -> Chosen:
    """The peer and number format of a word of `--peer`.

    Raises:
        KeyError: the catalogue has no such peer, or the peer no such format.
    """
    name, _, variant = spec.partition(":")
    peer = peers()[name]
    if not variant:
        return Chosen(peer, peer.variants[0] if peer.variants else None)
    if variant not in peer.variants:
        raise KeyError(spec)
    return Chosen(peer, variant)


@dataclass(frozen=True)
class Serving:
    """What a peer is to serve, and how."""

    model_path: str
    model: str
    """The served name."""
    variant: str
    """Of the peer; the number format where it has none."""
    dtype: str
    """Number format."""
    threads: int
    pooling: str
    normalize: bool
    longest: int
    """Tokens of the longest text."""
    lower_case: bool = False
    seven_bits: bool = False
    """Whether products of 8-bit integers can overflow on this processor."""
    native: bool = False
    """Whether the peer's program is built here."""
    texts: str = ""
    """Python file with the texts that activations are measured with."""
    fingerprint: str = ""
    """Of the checkpoint."""


def words(root: Path, serving: Serving) -> dict[str, str]:
    """What a command of the catalogue may name, but for `{port}` and `{export}`. Pure."""
    return {
        "bin": str(root / "bin"),
        "python": str(tools.python(root)),
        "model_path": serving.model_path,
        "model": serving.model,
        "dtype": serving.dtype,
        "variant": serving.variant,
        "threads": str(serving.threads),
        "pooling": serving.pooling,
        "normalize": "yes" if serving.normalize else "no",
        "longest": str(serving.longest),
        "lower_case": "yes" if serving.lower_case else "no",
        "seven_bits": "yes" if serving.seven_bits else "no",
        "native": "yes" if serving.native else "no",
        "texts": serving.texts,
    }


def command(peer: Peer, root: Path, serving: Serving, *, export: str = "", port: int) -> list[str]:
    """What is executed to serve a checkpoint. Pure."""
    filled = {**words(root, serving), "export": export, "port": str(port)}
    return [word.format_map(filled) for word in peer.start]


def export_command(peer: Peer, root: Path, serving: Serving, folder: Path) -> list[str]:
    """What is executed to make an export in `folder`. Pure."""
    filled = {**words(root, serving), "export": str(folder)}
    return [word.format_map(filled) for word in peer.export]


def environment(peer: Peer, threads: int) -> dict[str, str]:
    """Variables beside the allow-list: as many threads as the engine has, nothing fetched."""
    return {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "true",
        "PYTHONPATH": str(WORKERS),
        **peer.env,
    }
