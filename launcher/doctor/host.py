"""What `qlaunch doctor` says of a machine's processor, memory, disks and limits."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from launcher.doctor.runner import Finding, ok, problem, unavailable, warning
from launcher.hardware.cpu import cpu_quota, read_cpu
from launcher.hardware.disk import read_disk
from launcher.hardware.inventory import BF16_FLAGS, Cpu, Disk
from launcher.hardware.memory import read_memory, read_swap
from launcher.hardware.numa import read_numa
from launcher.linux import limits
from launcher.units import GIB, counted, size

LEAST_RAM: Final = int(1.3e9)
"""What the smallest profile takes, forked (measured: MiniLM, PSS of the three processes)."""
ROOM_RAM: Final = int(2.3e9)
"""The same without forking."""
LEAST_DISK: Final = 100_000_000
"""For state files and run records, which are bounded in size."""
LEAST_FILES: Final = 1000
LEAST_SHM: Final = 64 * 1024 * 1024
"""Docker's default for /dev/shm; PyTorch and NCCL ask for more when processes share tensors."""
LEAST_OPEN_FILES: Final = 1024
"""A server holds one descriptor a connection; SGLang raises its own limit up to the hard one."""
EARLIEST: Final = datetime(2025, 8, 1, tzinfo=UTC)
"""Before the oldest engine release of the catalogue: certificates of any index look invalid."""


def cpu_findings(
    root: Path = Path("/"), *, affinity: int | None = None, environ: Mapping[str, str] = os.environ
) -> Iterator[Finding]:
    """Model and instruction sets, usable threads and what limits them, NUMA nodes."""
    cpu = read_cpu(root, affinity=affinity, environ=environ)
    yield _processor(cpu)
    quota = cpu_quota(root)
    threads = f"{cpu.usable} of {counted(cpu.logical, 'thread')} can be used, decided by the "
    threads += "machine itself" if cpu.usable_source == "machine" else cpu.usable_source
    if quota is not None and quota < 1:
        text = f"{threads}: the control group grants {quota:g} of a processor"
        yield warning("cpu threads", text, "raise the CPU limit of the container or service")
    else:
        yield ok("cpu threads", threads + (f" ({quota:g} processors)" if quota else ""))
    nodes = read_numa(root)
    if not nodes:
        yield unavailable("numa", "the kernel does not list NUMA nodes")
        return
    parts = (
        f"node {n.index} with {len(n.cpus)} CPUs, {_amount(n.memory_total_bytes)}" for n in nodes
    )
    yield ok("numa", f"{counted(len(nodes), 'node')}: {'; '.join(parts)}")


def _processor(cpu: Cpu) -> Finding:
    name = f"{cpu.model} ({cpu.machine})"
    if not cpu.vector_kernels:
        # PyTorch dispatches by DEFAULT, AVX2 or AVX512 (aten/src/ATen/native/cpu).
        text = f"{name} has no AVX2, and PyTorch has no vector kernels for less"
        fix = "use another machine for CPU profiles"
        return warning("cpu", text + cpu.masked("avx2"), _unmask(cpu) or fix)
    if cpu.computes_bf16:
        by = ", ".join(flag for flag in BF16_FLAGS if flag in cpu.flags)
        text = f"{name} computes bfloat16 ({by})"
    else:
        text = f"{name} has no bfloat16 arithmetic: CPU profiles run in float32"
    if cpu.masks:
        text += f"; instruction sets are masked by {' and '.join(cpu.masks)}"
        return warning("cpu", text, _unmask(cpu))
    return ok("cpu", text)


def _unmask(cpu: Cpu) -> str:
    names = " ".join(mask.partition("=")[0] for mask in cpu.masks)
    return f"unless that is meant: unset {names}" if names else ""


def memory_findings(root: Path = Path("/")) -> Iterator[Finding]:
    """RAM with the control group's limit, and swap."""
    memory = read_memory(root)
    free = memory.available_bytes
    text = f"{_amount(free)} of {_amount(memory.total_bytes)} are available"
    if memory.limit_bytes is not None:
        text += f", the control group's limit is {_amount(memory.limit_bytes)}"
    fix = "end other processes, or raise the memory limit"
    if free < LEAST_RAM:
        text += f"; the smallest profile takes {_amount(LEAST_RAM)}"
        yield problem("memory", text, _end(fix))
    elif free < ROOM_RAM:
        text += ": barely enough for the smallest profile"
        yield warning("memory", text, _end(fix))
    else:
        yield ok("memory", text)
    swap = read_swap(root)
    if swap is None:
        yield unavailable("swap", "the kernel does not report swap")
    elif not swap.total_bytes:
        yield ok("swap", "there is none")
    else:
        used = swap.total_bytes - swap.free_bytes
        text = f"{_amount(used)} of {_amount(swap.total_bytes)} in use"
        if used >= GIB and used * 2 > swap.total_bytes:
            text += ": weights that were swapped out make the first calls slow"
            yield warning("swap", text, _end("end what takes the memory"))
        else:
            yield ok("swap", text)


def _end(fix: str) -> str:
    """The advice, with who takes the most memory; libraries and tensors that they share count."""
    import psutil

    taken = [
        (process.info["memory_info"].rss, f"{process.info['name']} (PID {process.pid})")
        for process in psutil.process_iter(["name", "memory_info"])
        if process.info["memory_info"] is not None
    ]
    largest = sorted(taken, reverse=True)[:_SHOWN]
    if not largest:
        return fix
    names = ", ".join(f"{name} with {_amount(bytes_)}" for bytes_, name in largest)
    return f"{fix}; the largest are {names}"


_SHOWN: Final = 3
"""Processes that an advice names."""


def disk_findings(role: str, path: Path, *, needs: int, why: str) -> Iterator[Finding]:
    """Space, inodes and mount options of the disk that holds one of our folders.

    Args:
        role: `data`, `state`, `cache`.
        path: the folder, whether or not it exists.
        needs: bytes that will be wanted there.
        why: for what, as a clause (`to install the engine cpu`).
    """
    name = f"disk {role}"
    try:
        disk = read_disk(path)
    except OSError as error:
        yield problem(name, f"the disk of {path} cannot be read: {error.strerror}", _ELSEWHERE)
        return
    yield judge_disk(name, disk, needs=needs, why=why, runs=role == "data")


_ELSEWHERE: Final = "free space there, or set QLAUNCH_HOME to a folder on another disk"


def judge_disk(name: str, disk: Disk, *, needs: int, why: str, runs: bool) -> Finding:
    """What to say of a disk; `runs`: programs are started from it."""
    text = f"{_amount(disk.free_bytes)} of {_amount(disk.total_bytes)} are free on {disk.mount}"
    if disk.read_only:
        return problem(name, f"{disk.mount} is mounted read-only", _ELSEWHERE)
    if runs and disk.no_exec:
        text = f"{disk.mount} is mounted noexec, and engines are run from it"
        return problem(name, text, _ELSEWHERE)
    if disk.free_files is not None and disk.free_files < LEAST_FILES:
        return problem(name, f"only {disk.free_files} inodes are left on {disk.mount}", _ELSEWHERE)
    if disk.free_bytes < LEAST_DISK:
        return problem(name, text, _ELSEWHERE)
    if disk.free_bytes < needs:
        return warning(name, f"{text}; {_amount(needs)} are needed {why}", _ELSEWHERE)
    return ok(name, text)


def limit_findings(shm: Path = Path("/dev/shm")) -> Iterator[Finding]:  # noqa: S108 - no temp file
    """Shared memory, open files, and the clock."""
    yield _shared_memory(shm)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield judge_open_files(soft, hard)
    yield judge_addresses(resource.getrlimit(resource.RLIMIT_AS)[1])
    yield judge_clock(time.time())


def _shared_memory(path: Path) -> Finding:
    name = "shared memory"
    fix = "in a container: --shm-size=1g or --ipc=host"
    try:
        facts = os.statvfs(path)
    except OSError as error:
        text = f"{path} cannot be used ({error.strerror}), and the engine's processes share through"
        return problem(name, f"{text} it", fix)
    total, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
    text = f"{size(free)} of {size(total)} are free on {path}"
    if total <= LEAST_SHM or free < LEAST_SHM // 4:
        return warning(name, f"{text}: too little for engines of several processes or GPUs", fix)
    return ok(name, text)


def judge_open_files(soft: int, hard: int) -> Finding:
    """What to say of RLIMIT_NOFILE."""
    unlimited = resource.RLIM_INFINITY
    shown = ["unlimited" if n == unlimited else str(n) for n in (soft, hard)]
    text = f"a process may open {shown[0]} files, and raise that to {shown[1]}"
    fix = "raise it: ulimit -n 65535, LimitNOFILE= in systemd, --ulimit nofile= in a container"
    if hard != unlimited and hard < limits.LEAST_OPEN_FILES:
        return problem("open files", f"{text}: an engine needs {limits.LEAST_OPEN_FILES}", fix)
    if hard != unlimited and hard < LEAST_OPEN_FILES:
        return warning("open files", f"{text}: each client connection takes one", fix)
    return ok("open files", text)


def judge_addresses(hard: int) -> Finding:
    """What to say of RLIMIT_AS, in bytes."""
    name = "address space"
    if hard == resource.RLIM_INFINITY:
        return ok(name, "not limited")
    text = f"a process may map {_amount(hard)} (ulimit -v)"
    if hard < limits.LEAST_ADDRESSES:
        text += f": an engine maps at least {_amount(limits.LEAST_ADDRESSES)}"
        return problem(name, text, "raise it: ulimit -v unlimited, LimitAS= in systemd")
    return ok(name, text)


def judge_clock(now: float) -> Finding:
    """What to say of the time of day, in seconds since 1970."""
    try:
        shown = datetime.fromtimestamp(now, UTC)
    except (OverflowError, ValueError, OSError):
        return problem("clock", "the clock shows no date", "set it: timedatectl set-ntp true")
    text = f"the clock shows {shown:%Y-%m-%d %H:%M} UTC"
    if shown < EARLIEST or shown.year > EARLIEST.year + 50:
        text += ": downloads fail on certificates, and run records sort wrongly"
        return problem("clock", text, "set it: timedatectl set-ntp true")
    return ok("clock", text)


def _amount(count: int | None) -> str:
    return "an unknown size" if count is None else size(count)
