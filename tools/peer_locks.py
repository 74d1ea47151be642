"""Make the lock of a peer of `compare`: every package beside torch, with the files' hashes.

    python -m tools.peer_locks onnxruntime     # resolves anew, writes launcher/bench/peers/locks/

torch itself is left out: which build of it there is depends on the index, so it has no hash of its
own; what it asks for is in the lock all the same.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable
from typing import Final

from packaging.specifiers import SpecifierSet

from launcher.bench.peers.catalogue import LOCKS, Peer, peers
from tools.engine_locks import PYTHONS, Package, merged, resolve

TORCH_ASKS: Final = (
    "filelock", "typing-extensions>=4.10", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec",
    "setuptools",
)  # fmt: skip
"""What any build of torch 2.13 asks for; a CUDA build asks for its own libraries besides."""
WITHOUT: Final = ("torch", "triton")


def pythons(peer: Peer) -> list[str]:
    """The Pythons that a lock is made for."""
    return [each for each in PYTHONS if f"{each}.9" in SpecifierSet(peer.python)]


def text(peer: Peer) -> str:
    """The lock file of a peer.

    Raises:
        subprocess.CalledProcessError: nothing fits, or the index does not answer.
    """
    asked = [*peer.asks, *TORCH_ASKS]
    by_python = {python: resolve(asked, python, WITHOUT) for python in pythons(peer)}
    lines = [
        f"# Peer `{peer.name}`: {peer.package} {peer.version}, everything beside torch.",
        f"# Made by `python -m tools.peer_locks {peer.name}`; Linux, x86-64, Python:",
        f"# {', '.join(by_python)}.",
        *_pins(merged(by_python), len(by_python)),
    ]
    return "\n".join(lines) + "\n"


def _pins(rows: Iterable[tuple[Package, list[str]]], count: int) -> Iterable[str]:
    rows = list(rows)
    yield from (f"--no-binary {one.name}" for one, _pythons in rows if one.source)
    for one, held in rows:
        marks = " or ".join(f'python_version == "{python}"' for python in held)
        marker = "" if len(held) == count else f" ; {marks}"
        hashes = (f"    --hash=sha256:{value}" for value in sorted(one.hashes))
        yield " \\\n".join([f"{one.pin}{marker}", *hashes])


def main() -> int:
    """Write the locks that are asked for; 1 where one cannot be made."""
    parser = argparse.ArgumentParser(prog="tools.peer_locks")
    parser.add_argument("peer", nargs="+", choices=sorted(peers()))
    for name in parser.parse_args().peer:
        try:
            (LOCKS / peers()[name].lock).write_text(text(peers()[name]), "utf-8")
        except subprocess.CalledProcessError as error:
            print(error.stderr, file=sys.stderr)
            return 1
        print(f"wrote {LOCKS / peers()[name].lock}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
