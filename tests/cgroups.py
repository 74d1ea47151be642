"""Control groups with a memory limit, made for one test where this machine lets us."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.linux.cgroup import groups
from tests.patience import PATIENCE_S

_NUMBERS = itertools.count()
ENTER = """\
import os, pathlib, sys
pathlib.Path(sys.argv[1]).write_text("0")
os.execv(sys.argv[2], sys.argv[2:])
"""


class MemoryGroup:
    """A control group below this process's own: what limits us goes on limiting it."""

    def __init__(self, version: int, path: Path) -> None:
        self.version, self.path = version, path

    def limit(self, mib: int) -> None:
        """Let its processes have `mib` MiB together, and no swap."""
        size = str(mib << 20)
        if self.version == 2:
            (self.path / "memory.swap.max").write_text("0")
            (self.path / "memory.max").write_text(size)
            return
        both = self.path / "memory.memsw.limit_in_bytes"  # RAM and swap, never below that of RAM
        if both.exists():
            both.write_text("-1")
        (self.path / "memory.limit_in_bytes").write_text(size)
        if both.exists():
            both.write_text(size)

    def enter(self, *argv: str) -> tuple[str, ...]:
        """`argv`, run inside it from the start."""
        return (sys.executable, "-S", "-c", ENTER, str(self.path / "cgroup.procs"), *argv)

    def processes(self) -> list[int]:
        """PIDs in it."""
        return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]

    def remove(self) -> None:
        """Remove it once it is empty: the kernel takes a moment for what has just died."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)


@contextlib.contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A new group without a limit; skips the test, with the reason, where none can be made."""
    own = groups(Path("/"), "memory")
    if not own:
        pytest.skip("no control group for memory is mounted here")
    version, above = own[0]
    path = above / f"qlaunch-test-{os.getpid()}-{next(_NUMBERS)}"
    try:
        if version == 2:
            (above / "cgroup.subtree_control").write_text("+memory")
        path.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made below {above}: {error.strerror}")
    made = MemoryGroup(version, path)
    try:
        made.limit(1 << 20)  # as good as none: only whether it can be set
    except OSError as error:
        path.rmdir()
        pytest.skip(f"no memory limit can be set in {path}: {error.strerror}")
    try:
        yield made
    finally:
        made.remove()
