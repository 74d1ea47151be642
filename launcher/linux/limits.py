"""What the operating system lets a process have (`ulimit`), and what to say where that is short.

A soft limit is a default, not a decision: it is raised to the hard one, which is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from pathlib import Path
from typing import Final

from launcher.errors import ExitCode, QlaunchError
from launcher.linux import cgroup
from launcher.linux.files import NOT_WRITABLE

OPEN_FILES: Final = 65536
"""As many as SGLang itself asks for; some container engines allow a billion, and programs that
close every descriptor they might have then take minutes."""
LEAST_OPEN_FILES: Final = 128
"""An idle scheduler of SGLang 0.5.23 holds 72 descriptors, its front one more a connection
(measured: MiniLM on two cores)."""
LEAST_ADDRESSES: Final = 2_500_000_000
"""Bytes that the scheduler maps, most of which it never touches (measured: 2.45 GB, MiniLM)."""
LEAST_CPU_S: Final = 600
"""Seconds of processor time; a start takes some 20 on two cores, and each life counts anew."""
LEAST_FILE_BYTES: Final = 64 << 10
"""A start writes its state, its log and its record in files of less (measured: under a limit of
64 KiB one comes through, under one of 10 KiB none does)."""
_RAISED: Final = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NPROC,
)
_STANDING: Final = (
    *("Umask:", "Uid:", "Gid:", "Groups:", "CapEff:", "CapBnd:", "NoNewPrivs:", "Seccomp:"),
    "Mems_allowed_list:",
)
"""Lines of /proc/PID/status that a process hands down."""


def raise_soft() -> None:
    """Take what the hard limits allow, for this process and for what it starts."""
    for kind in _RAISED:
        soft, hard = resource.getrlimit(kind)
        if soft != hard:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(kind, (hard, hard))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def same_as(pid: int) -> bool:
    """Whether what process `pid` starts would get what this one's children get.

    Limits, those of control groups too, processors, priority, umask, groups and namespaces; False
    where that cannot be read.
    """
    try:
        return _standing(pid) == _standing(os.getpid())
    except OSError:
        return False


def _standing(pid: int) -> tuple[object, ...]:
    process = Path(f"/proc/{pid}")
    kinds = [value for name, value in vars(resource).items() if name.startswith("RLIMIT_")]
    told = process.joinpath("status").read_text("utf-8", "replace").splitlines()
    return (
        os.sched_getaffinity(pid),
        os.getpriority(os.PRIO_PROCESS, pid),
        os.sched_getscheduler(pid),
        process.joinpath("oom_score_adj").read_text("utf-8"),
        [resource.prlimit(pid, kind) for kind in sorted({*kinds})],
        [line for line in told if line.startswith(_STANDING)],
        cgroup.bounds(Path("/"), str(pid)),
        [process.joinpath("ns", name).readlink() for name in ("mnt", "net", "pid", "user")],
    )


def too_low(ram_bytes: int | None) -> str | None:
    """Why no engine can run under this process's hard limits, in a sentence; None where one can.

    Args:
        ram_bytes: what the whole engine is predicted to take; None where nobody knows.
    """
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < LEAST_OPEN_FILES:
        return (
            f"a process may open {files} files (ulimit -n), and an engine needs {LEAST_OPEN_FILES}"
        )
    addresses = resource.getrlimit(resource.RLIMIT_AS)[1]
    needed = max(LEAST_ADDRESSES, ram_bytes or 0)
    if addresses != resource.RLIM_INFINITY and addresses < needed:
        return (
            f"a process may map {addresses / 1e9:.2f} GB (ulimit -v), and an engine maps "
            f"{needed / 1e9:.2f} GB, most of which it never touches"
        )
    cpu_s = resource.getrlimit(resource.RLIMIT_CPU)[1]
    if cpu_s != resource.RLIM_INFINITY and cpu_s < LEAST_CPU_S:
        return (
            f"a process is ended after {cpu_s} s of processor time (ulimit -t), which an engine "
            f"uses up while it serves: {LEAST_CPU_S} s are the least"
        )
    file_bytes = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    if file_bytes != resource.RLIM_INFINITY and file_bytes < LEAST_FILE_BYTES:
        return (
            f"a file may not be larger than {file_bytes} bytes (ulimit -f), and a service's own "
            f"need {LEAST_FILE_BYTES}, and more as its log grows"
        )
    return None


def explain(error: BaseException) -> QlaunchError | None:
    """`error` as a sentence, where a limit of this process or machine is why; else None."""
    found = _shortage(error)
    if found is None:
        return None
    what, fix = found
    where = getattr(error, "filename", None)
    place = f" at {os.fsdecode(where)}" if isinstance(where, str | bytes) else ""
    return QlaunchError(
        f"{what}{place}", code="resource_limit", exit_code=ExitCode.UNEXPECTED, fix=fix
    )


def file_too_large(what: str, exit_code: ExitCode) -> QlaunchError:
    """The error where another program met the bound of a file's size; `what` did not happen."""
    found = _shortage(OSError(errno.EFBIG, os.strerror(errno.EFBIG)))
    assert found is not None
    return QlaunchError(
        f"{what}: {found[0]}", code="resource_limit", exit_code=exit_code, fix=found[1]
    )


def _shortage(error: BaseException) -> tuple[str, str] | None:
    number, text = getattr(error, "errno", None), str(error)
    if isinstance(error, MemoryError) or number == errno.ENOMEM or "cannot allocate" in text:
        return _memory()
    if isinstance(error, ImportError) and "failed to map segment" in text:
        return _memory()
    if number in {errno.EMFILE, errno.ENFILE}:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        what = "no more files can be opened"
        what += "" if files == resource.RLIM_INFINITY else f": {files} are allowed (ulimit -n)"
        return what, "raise it: ulimit -n 65535, LimitNOFILE= in systemd, --ulimit in a container"
    if number == errno.EAGAIN or "can't start new thread" in text:
        what = "no more processes or threads can be started (ulimit -u, or the container's pids)"
        return what, "raise it: ulimit -u, TasksMax= in systemd, --pids-limit in a container"
    if number == errno.EFBIG:
        size = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        what = "a file became larger than its file system takes"
        if size != resource.RLIM_INFINITY:
            what = f"a file may not be larger than {size} bytes (ulimit -f)"
        return what, "raise it: ulimit -f unlimited, LimitFSIZE= in systemd"
    if number in NOT_WRITABLE:
        what = f"nothing can be written: {os.strerror(number)}"
        return what, "free space there, or set QLAUNCH_HOME to another folder"
    return None


def _memory() -> tuple[str, str]:
    addresses = resource.getrlimit(resource.RLIMIT_AS)[1]
    if addresses != resource.RLIM_INFINITY:
        what = f"this command may map {addresses / 1e9:.2f} GB (ulimit -v), and needs more"
        return what, "raise it: ulimit -v unlimited, LimitAS= in systemd"
    return "the system gives this command no more memory", "end other processes, and try again"
