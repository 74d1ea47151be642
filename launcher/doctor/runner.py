"""Checks of `qlaunch doctor`: what one finds, and running many so that none can hang the others.

Every check runs in a forked child of its own, all at the same time. A driver that never answers, a
dead network disk or a library that crashes costs that child, and the caller only its time limit.
Threads would not do: a process does not end while one of its threads hangs in the kernel.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NoReturn

import msgspec

Status = Literal["ok", "warning", "problem", "unavailable"]

LIMIT_S: Final = 3.0
"""How long one check may take unless it says otherwise."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was looked at."""

    name: str
    status: Status
    """`unavailable`: it cannot be known or is not there, and nothing needs it."""
    message: str
    """One sentence with the facts."""
    fix: str | None = None
    seconds: float = 0.0
    """How long the check took that found it."""


def ok(name: str, message: str) -> Finding:
    """A finding with nothing to do about it."""
    return Finding(name=name, status="ok", message=message)


def warning(name: str, message: str, fix: str | None = None) -> Finding:
    """Works, or works for now."""
    return Finding(name=name, status="warning", message=message, fix=fix)


def problem(name: str, message: str, fix: str | None = None) -> Finding:
    """Does not work."""
    return Finding(name=name, status="problem", message=message, fix=fix)


def unavailable(name: str, message: str, fix: str | None = None) -> Finding:
    """Not there or not known, with the reason."""
    return Finding(name=name, status="unavailable", message=message, fix=fix)


@dataclass(frozen=True)
class DoctorCheck:
    """Something to look at."""

    name: str
    look: Callable[[], Iterable[Finding]]
    """Runs in a child process: what it changes in memory is lost."""
    limit_s: float = LIMIT_S
    if_cut: Status = "warning"
    """Status where it does not end within its limit."""
    fix_if_cut: str | None = None
    asks: str = ""
    """Who is asked, for the message where it is cut."""


@dataclass
class _Running:
    check: DoctorCheck
    pid: int
    output: int
    began: float
    data: bytes = b""


def run(checks: Sequence[DoctorCheck]) -> list[Finding]:
    """What all checks find, in their order; takes as long as the slowest, at most its limit.

    A check that is cut, crashes or raises is itself a finding. It forks: a process without other
    threads should call it.
    """
    running = [_start(check) for check in checks]
    found: dict[int, list[Finding]] = {}
    with selectors.DefaultSelector() as selector:
        for job in running:
            selector.register(job.output, selectors.EVENT_READ, job)
        while selector.get_map():
            now = time.monotonic()
            waiting = [key.data for key in selector.get_map().values()]
            nearest = min(job.began + job.check.limit_s for job in waiting)
            ready = [key.data for key, _ in selector.select(max(0.0, nearest - now))]
            late = [j for j in waiting if time.monotonic() >= j.began + j.check.limit_s]
            for job in [*ready, *(j for j in late if j not in ready)]:
                answer = _read(job) if job in ready else _cut(job)
                if answer is not None:
                    selector.unregister(job.output)
                    os.close(job.output)
                    found[job.pid] = answer
    return [finding for job in running for finding in found[job.pid]]


def _start(check: DoctorCheck) -> _Running:
    reading, writing = os.pipe2(os.O_CLOEXEC)
    began = time.monotonic()
    with warnings.catch_warnings():
        # Python 3.12 warns where another thread runs: a child that then hangs is cut all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        _child(check, writing)
    os.close(writing)
    return _Running(check, pid, reading, began)


def _child(check: DoctorCheck, writing: int) -> NoReturn:
    """Look, answer and end, whatever happens: the caller's code must not run on in here."""
    try:
        os.setsid()  # so that what it starts can be ended with it
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):  # a child that hangs must not hold the caller's output open
            os.dup2(null, descriptor)
        answer = msgspec.json.encode(_look(check))
        while answer:
            answer = answer[os.write(writing, answer) :]
    finally:
        os._exit(0)


def _look(check: DoctorCheck) -> list[Finding]:
    try:
        return list(check.look())
    except Exception as error:  # noqa: BLE001 - a fault in one check must not hide the others
        text = f"this could not be checked: {type(error).__name__}: {error}"
        return [warning(check.name, text)]


def _read(job: _Running) -> list[Finding] | None:
    """What the check found once its answer is complete; None as long as it is not."""
    data = os.read(job.output, 1 << 16)
    if data:
        job.data += data
        return None
    seconds = round(time.monotonic() - job.began, 3)
    status = os.waitpid(job.pid, 0)[1]
    try:
        found = msgspec.json.decode(job.data, type=list[Finding])
    except ValueError:
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "no answer"
        found = [problem(job.check.name, f"the check itself crashed ({how})", job.check.fix_if_cut)]
    return [msgspec.structs.replace(finding, seconds=seconds) for finding in found]


def _cut(job: _Running) -> list[Finding]:
    try:
        os.killpg(job.pid, signal.SIGKILL)
    except OSError:  # it has not got as far as its own group, or has just ended
        os.kill(job.pid, signal.SIGKILL)
    _reap(job.pid)
    return [
        Finding(
            name=job.check.name,
            status=job.check.if_cut,
            message=_no_answer(job.check),
            fix=job.check.fix_if_cut,
            seconds=round(time.monotonic() - job.began, 3),
        )
    ]


def _no_answer(check: DoctorCheck) -> str:
    who = f"{check.asks} gave" if check.asks else "there was"
    return f"{who} no answer within {check.limit_s:g} s"


def _reap(pid: int) -> None:
    """Take the exit status if it comes soon; a child that hangs in the kernel is left to init."""
    for _ in range(20):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.005)
