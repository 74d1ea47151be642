"""NUMA nodes: which processors are near to which memory."""

from __future__ import annotations

from pathlib import Path

from launcher.hardware.inventory import NumaNode
from launcher.linux.pseudofiles import read_text

_MOST = 4096
"""More processors than this in one list are a damaged file."""


def read_numa(root: Path = Path("/")) -> tuple[NumaNode, ...]:
    """The nodes of the machine by index; empty where the kernel does not say.

    Args:
        root: where `/` is; fixture trees in tests.
    """
    folder = root / "sys/devices/system/node"
    online = processors(read_text(folder / "online", 4096) or "")
    return tuple(
        NumaNode(
            index=index,
            cpus=processors(read_text(folder / f"node{index}/cpulist", 65536) or ""),
            memory_total_bytes=_memory(read_text(folder / f"node{index}/meminfo") or ""),
        )
        for index in online
    )


def processors(text: str) -> tuple[int, ...]:
    """The numbers in a list of the kernel's (`0-3,8`), sorted; empty for anything else."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            return ()
        start, end = int(first), int(last or first)
        if end - start >= _MOST:
            return ()
        found.update(range(start, end + 1))
    return tuple(sorted(found))


def _memory(text: str) -> int | None:
    """Bytes of `Node 0 MemTotal: 16384 kB`."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 4 and words[2] == "MemTotal:" and words[3].isdecimal():
            return int(words[3]) * 1024
    return None
