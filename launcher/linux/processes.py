"""Processes by identity: read from /proc, signalled only while they are still themselves.

A PID is reused; a PID with its start time, the machine's boot and the PID namespace is not.
Everything that outlives one function call holds a `ProcessId`, and every signal is sent through a
pidfd that was opened before the identity was checked, so that no reuse can slip in between. Where
the kernel, a seccomp filter or a full descriptor table gives no pidfd, the identity is checked
right before `kill`: the window is microseconds, and a PID comes back only after thousands.
"""

from __future__ import annotations

import os
import signal
import time
from functools import cache
from pathlib import Path

import msgspec

from launcher.linux import procfs
from launcher.linux.procfs import Stat


class ProcessId(msgspec.Struct, frozen=True, kw_only=True):
    """A process that stays itself.

    A PID alone is reused, and means another process in another container or on another machine;
    so its start time, boot and PID namespace come with it.
    """

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat: clock ticks since boot."""
    boot_id: str
    namespace: int = 0
    """Inode of the PID namespace in which `pid` counts; 0 where an earlier release wrote it."""


def identity_of(stat: Stat) -> ProcessId:
    """What stays itself when the PID is reused."""
    return ProcessId(
        pid=stat.pid, start_ticks=stat.start_ticks, boot_id=boot_id(), namespace=namespace()
    )


def age_s(process: ProcessId) -> float:
    """Seconds since it started, whatever is done to the clock meanwhile."""
    started = process.start_ticks / procfs.TICKS_PER_S
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started)


@cache
def boot_id() -> str:
    """The kernel's random id of this boot; empty where /proc does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@cache
def namespace() -> int:
    """Inode of this process's PID namespace; 0 where the kernel does not say."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return 0


def host() -> str:
    """Name of this machine, or of this container."""
    return os.uname().nodename


def proc_problem(proc: Path = Path("/proc")) -> str | None:
    """Why /proc says nothing of this process, in a sentence; None where it does.

    `unshare --pid` without `--mount-proc` keeps the outer one's: its numbers are other processes.
    """
    try:
        shown = (proc / "self").readlink().name
    except OSError as error:
        return f"{proc} cannot be read ({error.strerror or error}): no process can be watched"
    if shown != str(os.getpid()):
        return f"{proc} shows the processes of another PID namespace than this command runs in"
    return None


def read_stat(pid: int) -> Stat | None:
    """Facts about `pid`, or None if there is no such process."""
    return procfs.read_stat("/proc", pid)


def all_processes() -> dict[int, Stat]:
    """Every process that /proc shows, by PID."""
    return procfs.all_stats("/proc")


def process_id(pid: int) -> ProcessId | None:
    """Identity of the live process `pid`; None if there is none, or only a zombie of it."""
    if pid <= 0:
        return None
    stat = read_stat(pid)
    return None if stat is None or stat.dead else identity_of(stat)


def is_here(process: ProcessId) -> bool:
    """Whether its PID means the same process here: noted in this boot and PID namespace."""
    return process.boot_id == boot_id() and process.namespace in {0, namespace()}


def is_alive(process: ProcessId | None) -> bool:
    """Whether that very process still runs here; a zombie does not, nor one of another container.

    Of a process of another container or machine this says nothing: ask `is_here` first.
    """
    if process is None or not is_here(process):
        return False
    found = process_id(process.pid)
    return found is not None and found.start_ticks == process.start_ticks


def may_signal(process: ProcessId) -> bool:
    """Whether it can be one of ours: never PID 0, a group, a PID too large to be one, or us.

    PID 1 is a container's `up --foreground`, which notes its namespace; init notes nothing.
    """
    least = 0 if process.namespace and process.namespace == namespace() else 1
    return least < process.pid < 2**31 and process.pid != os.getpid()


def has_pidfds() -> bool:
    """Whether the kernel, and what filters its calls, gives pidfds."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


def send(process: ProcessId, signum: int) -> bool:
    """Signal that very process; False if it is gone, is not ours to signal, or may not be."""
    if not may_signal(process) or not is_here(process) or proc_problem() is not None:
        return False
    try:
        pidfd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):  # ENOSYS, EPERM of a seccomp filter, EMFILE; or a C library
        return _kill(process, signum)
    try:
        if not is_alive(process):
            return False
        signal.pidfd_send_signal(pidfd, signum)
    except ProcessLookupError:
        return False
    except (OSError, AttributeError):  # a filter may know one of the two calls alone
        return _kill(process, signum)
    finally:
        os.close(pidfd)
    return True


def _kill(process: ProcessId, signum: int) -> bool:
    try:
        if not is_alive(process):
            return False
        os.kill(process.pid, signum)
    except OSError:
        return False
    return True


def catches(process: ProcessId, signum: int) -> bool:
    """Whether it has a handler for a signal; False where that cannot be read."""
    for line in (procfs.read(f"/proc/{process.pid}/status") or b"").splitlines():
        name, _, value = line.partition(b":")
        if name == b"SigCgt":
            return bool(int(value, 16) >> (signum - 1) & 1)
    return False


def is_stopped(process: ProcessId) -> bool:
    """Whether that very process was halted by SIGSTOP or its kin, and has not gone on."""
    stat = read_stat(process.pid)
    return stat is not None and stat.state == b"T" and is_alive(process)


def describe(process: ProcessId) -> str:
    """`PID (command)` for messages."""
    stat = read_stat(process.pid)
    return f"{process.pid} ({stat.command})" if stat else str(process.pid)


def marked(marker: str) -> list[ProcessId]:
    """Live processes of this user whose environment holds `marker` (`NAME=value`).

    Finds what no tree can: a grandchild that left the session and lost its parent. A process that
    writes over its own environment (setproctitle does) is missed here.
    """
    found = []
    for name in os.listdir("/proc"):  # noqa: PTH208
        if not name.isdigit() or int(name) in {1, os.getpid()}:
            continue
        identity = process_id(int(name))
        if identity is not None and has_marker(identity.pid, marker):
            found.append(identity)
    return found


def has_marker(pid: int, marker: str) -> bool:
    """Whether the environment of `pid` holds `marker`; False where it cannot be read."""
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False
    return bool(marker) and marker.encode() in environment.split(b"\0")
