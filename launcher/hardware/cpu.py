"""The processor, and how many threads of it this process may really use."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from launcher.hardware import isa
from launcher.hardware.inventory import Cpu
from launcher.linux.cgroup import ControlGroup, groups
from launcher.linux.pseudofiles import read_int, read_text

_CPUINFO_START = 32768
"""Enough for the first processor's lines; on large machines the whole file takes long to make."""


def read_cpu(
    root: Path = Path("/"),
    *,
    affinity: int | None = None,
    environ: Mapping[str, str] = os.environ,
    machine: str | None = None,
) -> Cpu:
    """Model, instruction sets and usable threads: `max(1, floor(min(affinity, quota)))`.

    Args:
        root: where `/` is; fixture trees in tests.
        affinity: processors this process may run on; None asks the kernel.
        environ: where variables that hide instruction sets are looked up.
        machine: the architecture that `root` is of; None asks the kernel.

    Never raises: what cannot be read is `unknown` or empty.
    """
    entries = _first_processor(read_text(root / "proc/cpuinfo", _CPUINFO_START) or "")
    logical = _online(root) or os.cpu_count() or 1
    if affinity is None:
        affinity = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    usable, source = (affinity, "affinity") if affinity < logical else (logical, "machine")
    if quota is not None and quota < usable:
        usable, source = math.floor(quota), "cgroup quota"
    machine = machine or os.uname().machine
    flags = set((entries.get("flags") or entries.get("Features") or "").split())
    hidden, masks = isa.hidden(flags, machine, environ)
    return Cpu(
        model=_model(entries),
        machine=machine,
        flags=tuple(sorted(flags - hidden)),
        logical=logical,
        usable=max(1, usable),
        usable_source=source,
        hidden=tuple(sorted(hidden)),
        masks=masks,
    )


def under(cpu: Cpu, environ: Mapping[str, str]) -> Cpu:
    """The same processor for a program that is given these variables too."""
    hidden, masks = isa.hidden(cpu.flags, cpu.machine, environ)
    if not masks:
        return cpu
    return msgspec.structs.replace(
        cpu,
        flags=tuple(flag for flag in cpu.flags if flag not in hidden),
        hidden=tuple(sorted({*cpu.hidden, *hidden})),
        masks=(*masks, *cpu.masks),
    )


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Processors' worth of time that the tightest control group grants, None without a quota."""
    quotas = [quota for group in groups(root, "cpu") if (quota := _quota(group)) is not None]
    return min(quotas, default=None)


def _quota(group: ControlGroup) -> float | None:
    """`cpu.max` is `QUOTA PERIOD` or `max PERIOD`; v1 has two files, and -1 for no quota."""
    if group.version == 2:
        words = (read_text(group.path / "cpu.max", 64) or "").split()
        quota = int(words[0]) if words and words[0].isdecimal() else None
        period = int(words[1]) if len(words) > 1 and words[1].isdecimal() else 100_000
    else:
        quota = read_int(group.path / "cpu.cfs_quota_us")
        period = read_int(group.path / "cpu.cfs_period_us") or 0
    if quota is None or quota <= 0 or period <= 0:
        return None
    return quota / period


def _first_processor(text: str) -> dict[str, str]:
    """The lines of /proc/cpuinfo up to the first empty one, as key → value."""
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, separator, value = line.partition(":")
        if separator:
            entries.setdefault(key.strip(), value.strip())
        elif entries:
            break
    return entries


def _model(entries: dict[str, str]) -> str:
    """The model's name; Arm kernels print none, so there the implementer and part stand for it."""
    name = entries.get("model name")
    if name:
        return name
    if "CPU part" in entries:
        return f"Arm implementer {entries.get('CPU implementer', '?')} part {entries['CPU part']}"
    return "unknown"


def _online(root: Path) -> int | None:
    """Logical processors in `/sys/devices/system/cpu/online` (`0-3,8`), None if unreadable."""
    count = 0
    for part in (read_text(root / "sys/devices/system/cpu/online", 4096) or "").strip().split(","):
        first, _, last = part.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            return None
        count += max(0, int(last or first) - int(first) + 1)
    return count or None
