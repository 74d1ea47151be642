"""The sampler: RAM, CPU and GPU memory of the engine's process tree, at a price that is bounded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from launcher.documents.run import ProcessSample, RamMethod, Sample
from launcher.linux.procfs import TICKS_PER_S, Stat, pss_bytes, read_stat, rss_bytes, title, tree
from launcher.record.gpu import GpuAccount, GpuReader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from launcher.hardware.nvml import Unavailable

STARTING_INTERVAL_S = 0.5
"""While the engine starts its memory changes by the second, and peaks are short."""

STEADY_INTERVAL_S = 10.0
"""When it serves, memory is level. A sample of 1.3 GB takes 20 ms (benchmarks/sampler.py):
0.2 %, and room for what the supervisor does with it."""

BUDGET = 0.01
"""The share of one core that sampling may take while the engine starts."""

STEADY_BUDGET = 0.005
"""The share of one core that sampling may take while it serves."""

MAX_PROCESSES = 64
"""Processes named in one sample; the totals count all of them."""

TEMPLATE = "template"
"""Not at work: an imported copy of the front, from which its next lives are forked."""
_ROLES = (
    (b"sglang::scheduler", "scheduler"),
    (b"sglang::detokenizer", "detokenizer"),
    (b"sglang::schedul", "scheduler"),
    (b"sglang::detoken", "detokenizer"),
    (b"qlaunch::templa", TEMPLATE),
    (b"qlaunch::gatewa", "gateway"),
)
"""Titles that SGLang sets, in full (command line) and as the kernel cuts them (comm, 15 bytes)."""


def pause_s(cost_s: float, *, ready: bool) -> float:
    """Seconds until the next sample, so that sampling stays within its budget.

    The pause is `max(interval, cost / budget)`: a tree of many GB, whose PSS takes the kernel long,
    is sampled less often (at 0.5 %: 5 GB about every 15 s, 50 GB every 150 s).

    Args:
        cost_s: seconds of CPU that the last sample took (`Sampler.cost_s`).
        ready: the engine is verified: samples are further apart.
    """
    if ready:
        return max(STEADY_INTERVAL_S, cost_s / STEADY_BUDGET)
    return max(STARTING_INTERVAL_S, cost_s / BUDGET)


class Sampler:
    """Samples the tree of one engine. One caller at a time; no method raises.

    Build it as soon as the leader is started and before it uses a GPU: the memory in use on the
    devices then is the baseline of the method `device_delta`.

    Args:
        leader_pid: the engine's front process, leader of its session.
        nvml: an open `Nvml`, or why there is none.
        clock: monotonic seconds.
        began: the clock's value when the run began; now if None.
        extra_pids: more roots of the tree, asked at every sample: children of a subreaper.
        proc: where /proc is; fixture trees in tests.
    """

    def __init__(
        self,
        leader_pid: int,
        *,
        nvml: GpuReader | Unavailable,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
        extra_pids: Callable[[], Iterable[int]] | None = None,
        proc: Path | str = "/proc",
    ) -> None:
        self._leader = leader_pid
        self._clock = clock
        self._began = clock() if began is None else began
        self._extra = extra_pids or (lambda: ())
        self._proc = str(proc)
        self._nvml = nvml
        self._born = read_stat(self._proc, leader_pid)
        self._gpu = GpuAccount(nvml, self._proc)
        self._ticks: dict[tuple[int, int], int] = {}
        self._ticks_at: float | None = None
        self._roles: dict[tuple[int, int], str] = {}
        self.cost_s = 0.0
        """CPU seconds that the last sample took, kernel and NVML included."""

    def sample(self) -> Sample:
        """Read the tree now. A tree that is gone gives a sample without figures."""
        before, before_nvml = time.thread_time(), self._spent()
        stats = tree(self._proc, self._root(), self._extra())
        now = self._clock()
        cpu = self._cpu_percents(stats, now)
        ram = [(stat, *self._ram(stat.pid)) for stat in stats]
        ram = [row for row in ram if row[2] != "gone"]
        gpu = self._gpu.read({stat.pid for stat in stats})
        ram_bytes, method, reason = _total_ram([(used, how) for _, used, how in ram])
        rows = [
            ProcessSample(
                pid=stat.pid,
                role=self._role(stat),
                ram_bytes=used,
                cpu_percent=cpu.get(stat.pid),
                gpu_bytes=gpu.by_pid.get(stat.pid),
            )
            for stat, used, _ in ram
        ]
        sample = Sample(
            t_s=round(now - self._began, 3),
            ram_bytes=ram_bytes,
            ram_method=method,
            ram_reason=reason,
            cpu_percent=round(sum(cpu.values()), 1) if cpu else None,
            gpu_bytes=gpu.total_bytes,
            gpu_method=gpu.method,
            gpu_reason=gpu.reason,
            processes=tuple(_largest(rows)),
        )
        self.cost_s = time.thread_time() - before + self._spent() - before_nvml
        return sample

    def _root(self) -> int:
        """The leader, or no process once its id belongs to another one."""
        stat = read_stat(self._proc, self._leader)
        same = stat is None or self._born is None or stat.start_ticks == self._born.start_ticks
        return self._leader if same else -1

    def _spent(self) -> float:
        return getattr(self._nvml, "spent_s", 0.0)

    def _ram(self, pid: int) -> tuple[int | None, str]:
        """Bytes and method of one process; the method `gone` for one that has ended meanwhile."""
        pss = pss_bytes(self._proc, pid)
        if pss is not None:
            return pss, "pss"
        rss = rss_bytes(self._proc, pid)
        if rss:
            return rss, "rss"
        # Resident 0 is a process whose memory was just let go; no file at all is one that ended.
        stat = read_stat(self._proc, pid) if rss is None else None
        return None, "gone" if stat is None or stat.dead else "unavailable"

    def _cpu_percents(self, stats: list[Stat], now: float) -> dict[int, float]:
        """CPU since the last sample by pid, 100 is one core; new processes have no figure yet."""
        elapsed = None if self._ticks_at is None else now - self._ticks_at
        percents: dict[int, float] = {}
        for stat in stats:
            before = self._ticks.get((stat.pid, stat.start_ticks))
            if before is not None and elapsed is not None and elapsed > 0:
                seconds = (stat.cpu_ticks - before) / TICKS_PER_S
                percents[stat.pid] = round(max(0.0, 100 * seconds / elapsed), 1)
        self._ticks = {(stat.pid, stat.start_ticks): stat.cpu_ticks for stat in stats}
        self._ticks_at = now
        self._roles = {key: role for key, role in self._roles.items() if key in self._ticks}
        return percents

    def _role(self, stat: Stat) -> str:
        """What the process is; a title once seen stays, an absent one is looked for again."""
        if stat.pid == self._leader:
            return "front"
        key = (stat.pid, stat.start_ticks)
        known = self._roles.get(key)
        if known is None:
            known = role_of(title(self._proc, stat.pid)) or role_of(stat.comm)
            if known is not None:
                self._roles[key] = known
        return known or "other"


def role_of(name: bytes) -> str | None:
    """The role that a process's title (or the kernel's 15 bytes of it) speaks of, if it does."""
    return next((role for start, role in _ROLES if name.startswith(start)), None)


def _total_ram(rows: list[tuple[int | None, str]]) -> tuple[int | None, RamMethod, str | None]:
    """Sum, method and reason of a tree: the weakest method of any process names the whole."""
    if not rows:
        return None, "unavailable", "no process of the engine is left"
    known = [used for used, _ in rows if used is not None]
    if len(known) < len(rows):
        return None, "unavailable", "the memory of a process of the engine cannot be read"
    if any(how == "rss" for _, how in rows):
        return sum(known), "rss", "smaps_rollup of a process cannot be read"
    return sum(known), "pss", None


def _largest(rows: list[ProcessSample]) -> list[ProcessSample]:
    """All rows, or the largest MAX_PROCESSES of them, in the order of their ids."""
    if len(rows) <= MAX_PROCESSES:
        return rows
    rows = sorted(rows, key=lambda row: row.ram_bytes or 0, reverse=True)[:MAX_PROCESSES]
    return sorted(rows, key=lambda row: row.pid)
