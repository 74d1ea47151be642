"""Compile an environment's modules, on all threads at once.

One compileall a thread, each over its share of the packages, instead of compileall's own pool: a
pool's workers do not notice when what started them is killed, and wait for ever.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from pathlib import Path

from launcher import child_environment
from launcher.linux.pdeathsig import die_with


def compile_bytecode(root: Path) -> None:
    """Compile every package under `root`; one that does not compile is left as it is.

    Raises:
        OSError: the environment's Python cannot be started.
    """
    parent = os.getpid()
    children: list[subprocess.Popen[bytes]] = []
    try:
        for share in shares(_packages(root), len(os.sched_getaffinity(0))):
            child = subprocess.Popen(
                [root / "bin" / "python", "-P", "-m", "compileall", "-q", *share],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=child_environment.foreign_python(os.environ),
                preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - no threads at work here
            )
            children.append(child)
        for child in children:
            child.wait()
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.wait()


def shares(packages: Iterable[tuple[Path, int]], count: int) -> list[list[Path]]:
    """Split packages into at most `count` shares of about the same number of files."""
    made: list[tuple[int, list[Path]]] = [(0, []) for _ in range(count)]
    for path, files in sorted(packages, key=lambda package: (-package[1], package[0])):
        smallest = min(range(count), key=lambda index: made[index][0])
        total, paths = made[smallest]
        made[smallest] = (total + files, [*paths, path])
    return [paths for _total, paths in made if paths]


def _packages(root: Path) -> list[tuple[Path, int]]:
    """Top-level modules and packages with their number of Python files."""
    found: list[tuple[Path, int]] = []
    for folder in root.glob("lib/python*/site-packages"):
        for path in folder.iterdir():
            if path.is_dir() and path.suffix != ".dist-info":
                found.append((path, sum(1 for _ in path.rglob("*.py"))))
            elif path.suffix == ".py":
                found.append((path, 1))
    return [(path, files) for path, files in found if files]
