"""RAM: what the machine has, and what the control groups leave of it."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.hardware.inventory import Memory, Swap
from launcher.linux.cgroup import ControlGroup, groups
from launcher.linux.pseudofiles import read_int, read_text

_FILES = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}
"""By version: files of limit and usage, and memory.stat's key of page cache that can go."""


def read_memory(root: Path = Path("/")) -> Memory:
    """Total, available and limit in bytes; the tightest level of the control groups decides.

    Usage counts the page cache, which the kernel drops before it refuses memory, so inactive file
    pages count as available, as kubelet's working set does.
    """
    machine = _meminfo(root)
    total = machine.get("MemTotal") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    available = min(total, _available(machine, total))
    limit: int | None = None
    for group in groups(root, "memory"):
        own = _limit(group, total)
        if own is None:
            continue
        limit = own if limit is None else min(limit, own)
        available = min(available, max(0, own - _working_set(group)))
    return Memory(total_bytes=total, available_bytes=available, limit_bytes=limit)


def read_swap(root: Path = Path("/")) -> Swap | None:
    """Swap of the machine; None where the kernel does not say."""
    machine = _meminfo(root)
    if "SwapTotal" not in machine or "SwapFree" not in machine:
        return None
    return Swap(total_bytes=machine["SwapTotal"], free_bytes=machine["SwapFree"])


def _limit(group: ControlGroup, total: int) -> int | None:
    """The group's limit, None where there is none: `max`, or v1's huge number."""
    limit = read_int(group.path / _FILES[group.version][0])
    return limit if limit is not None and 0 <= limit < total else None


def _working_set(group: ControlGroup) -> int:
    """Bytes in use that cannot simply be dropped; 0 only where the kernel tells no usage."""
    _, usage_file, cache_key = _FILES[group.version]
    usage = read_int(group.path / usage_file) or 0
    for line in (read_text(group.path / "memory.stat") or "").splitlines():
        key, _, value = line.partition(" ")
        if key == cache_key and value.strip().isdecimal():
            return max(0, usage - int(value))
    return usage


def _meminfo(root: Path) -> dict[str, int]:
    """`/proc/meminfo` in bytes."""
    figures: dict[str, int] = {}
    for line in (read_text(root / "proc/meminfo") or "").splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if words and words[0].isdecimal():
            figures[key] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return figures


def _available(machine: dict[str, int], total: int) -> int:
    """MemAvailable; kernels before 3.14 lack it, and free plus cache comes near."""
    if "MemAvailable" in machine:
        return machine["MemAvailable"]
    if "MemFree" in machine:
        return machine["MemFree"] + machine.get("Buffers", 0) + machine.get("Cached", 0)
    return total
