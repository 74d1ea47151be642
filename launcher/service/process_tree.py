"""The engine's processes: started so that they cannot be lost, stopped so that none is left.

Started as the leader of a session of its own, with nothing inherited but descriptors 0, 1 and 2,
and with `PR_SET_PDEATHSIG`, so that it dies with its supervisor. The supervisor is a subreaper:
what loses its parent below it becomes its child, and stays findable.

Stopped in three steps: SIGTERM to the leader alone (signalling its children too makes SGLang's
watchdog report a crash), then the session, then SIGKILL for whatever of the tree is left,
children that left the session included.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launcher.linux import processes as procs
from launcher.linux import procfs
from launcher.linux.pdeathsig import die_with
from launcher.linux.processes import ProcessId

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h."""
PR_GET_CHILD_SUBREAPER = 37
PIPE_BYTES = 1024 * 1024
"""The largest pipe an ordinary user may ask for (/proc/sys/fs/pipe-max-size): a burst of log
does not stop the engine while the supervisor is elsewhere."""
_POLL_S = 0.05
_LEFTOVERS_S = 3.0
"""For what was sent SIGKILL to be gone."""

_libc = ctypes.CDLL(None, use_errno=True)  # loaded here: a forked child must not load anything


def become_subreaper() -> bool:
    """Adopt every orphan below this process; False where the kernel does not offer it."""
    return bool(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)


def is_subreaper() -> bool:
    """Whether orphans below this process become its children."""
    found = ctypes.c_int(0)
    failed = _libc.prctl(PR_GET_CHILD_SUBREAPER, ctypes.byref(found), 0, 0, 0) != 0
    return not failed and found.value == 1


def can_be_subreaper() -> bool:
    """Whether the kernel offers it, tried and undone at once."""
    if not become_subreaper():
        return False
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    return True


@dataclass(slots=True)
class Child:
    """A process that the supervisor started itself."""

    process: ProcessId
    handle: subprocess.Popen[bytes] | None
    """None for one that was adopted."""
    output: int
    """Our end of its standard output, non-blocking."""
    returncode: int | None = None
    """As `subprocess` counts: minus the signal's number where a signal ended it."""

    @property
    def exited(self) -> bool:
        """Whether it has ended (and been reaped)."""
        return self.returncode is not None

    def note_exit(self, status: int) -> None:
        """Take the wait status that the reaper got."""
        self.returncode = os.waitstatus_to_exitcode(status)
        if self.handle is not None:
            self.handle.returncode = self.returncode  # else Popen would wait for a reaped child


def spawn(
    argv: Sequence[str],
    env: dict[str, str],
    *,
    cwd: Path,
    stdin: int = subprocess.DEVNULL,
    stderr: int = subprocess.STDOUT,
) -> Child:
    """Start a process that leads its own session and dies with this thread.

    Its output goes to a pipe of ours. Only descriptors 0, 1 and 2 are inherited. Call it from the
    main thread, with no other thread running.

    Raises:
        OSError: the program cannot be started, or no descriptors or processes are left.
    """
    parent = os.getpid()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        handle = subprocess.Popen(
            list(argv),
            stdin=stdin,
            stdout=writing,
            stderr=stderr,
            env=env,
            cwd=cwd,
            close_fds=True,
            start_new_session=True,
            preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - no threads at work, see loop.py
        )
    except (OSError, subprocess.SubprocessError) as error:
        os.close(reading)
        raise error if isinstance(error, OSError) else OSError(str(error)) from error
    finally:
        os.close(writing)
    stat = procs.read_stat(handle.pid)  # not reaped yet, so it is there, a zombie at least
    assert stat is not None
    return _child(procs.identity_of(stat), handle, reading)


def adopted(process: ProcessId, output: int) -> Child:
    """A child that was forked elsewhere below this subreaper, and writes to the pipe `output`.

    Raises:
        OSError: the pipe cannot be read.
    """
    return _child(process, None, output)


def _child(process: ProcessId, handle: subprocess.Popen[bytes] | None, output: int) -> Child:
    os.set_blocking(output, False)
    _enlarge(output)
    return Child(process, handle, output)


def _enlarge(pipe: int) -> None:
    import fcntl

    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        return  # the user's pipes are over their limit: the default size serves too


def reap(children: Iterable[Child], before: Callable[[int], object]) -> list[int]:
    """Reap every child that has ended, adopted ones included; their PIDs.

    `before` is called with each PID while it is still a zombie: as long as it is one, its PID and
    its session's number cannot be reused.
    """
    mine = {child.process.pid: child for child in children}
    ended: list[int] = []
    while True:
        try:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return ended
        if info is None:
            return ended
        before(info.si_pid)
        pid, status = os.waitpid(info.si_pid, os.WNOHANG)
        if pid in mine:
            mine[pid].note_exit(status)
        ended.append(info.si_pid)


class Tree:
    """Everything that the engine started, wherever it went.

    Found by descent from the leader, by the leader's session, by having become children of this
    process (the subreaper), and by memory: what was seen once is followed by identity.

    PID 1 adopts the orphans of its whole container, a `docker exec`'s too: there a child counts
    only in the leader's session, or with `marker` (`NAME=value`) in its environment. The marker
    also finds what got lost where the kernel has no subreapers.
    """

    def __init__(
        self,
        leader: ProcessId,
        others: Callable[[], Iterable[int]] = tuple,
        *,
        marker: str = "",
    ) -> None:
        self.leader = leader
        self._others, self._marker = others, marker
        self._is_init = os.getpid() == 1
        self._searches = bool(marker) and not is_subreaper()
        self._seen: dict[ProcessId, None] = {leader: None}
        self._strangers = {
            procs.identity_of(stat)
            for stat in procs.all_processes().values()
            if stat.parent == os.getpid() and stat.pid != leader.pid
        }

    def scan(self) -> list[ProcessId]:
        """The live processes of the tree, in the order in which they were first seen."""
        table = procs.all_processes()
        others = procfs.descendants(self._others(), table)
        for pid in sorted(self._members(table, others)):
            self._seen.setdefault(procs.identity_of(table[pid]))
        # One that was seen before it was known to be another's is no member any more.
        alive = {procs.identity_of(s) for s in table.values() if not s.dead and s.pid not in others}
        self._seen = {process: None for process in self._seen if process in alive}
        return list(self._seen)

    def _members(self, table: dict[int, procfs.Stat], others: set[int]) -> set[int]:
        known = {stat.pid for stat in table.values() if procs.identity_of(stat) in self._seen}
        roots = set(known)
        if any(table[pid].session == self.leader.pid for pid in known):
            # Somebody of the session is still there, so the kernel has not reused its number.
            roots |= {s.pid for s in table.values() if s.session == self.leader.pid}
        roots |= {
            stat.pid for stat in table.values() if stat.parent == os.getpid() and self._is_own(stat)
        }
        if self._searches:
            roots |= {process.pid for process in procs.marked(self._marker)} & set(table)
        return procfs.descendants(roots - others, table) - others - {os.getpid()}

    def _is_own(self, child: procfs.Stat) -> bool:
        """Whether a child of this process came from the engine."""
        identity = procs.identity_of(child)
        if identity in self._strangers:
            return False
        if not self._is_init or identity in self._seen:
            return True
        return child.session == self.leader.pid or procs.has_marker(child.pid, self._marker)

    def in_session(self) -> list[ProcessId]:
        """The live ones that are still in the leader's session."""
        found = []
        for process in self.scan():
            stat = procs.read_stat(process.pid)
            if stat is not None and stat.session == self.leader.pid:
                found.append(process)
        return found


@dataclass(frozen=True, slots=True)
class Patience:
    """How long each step of a stop may take. Seconds; together below the 30 of `down`."""

    grace_s: float = 20.0
    """For the leader after SIGTERM: it drains requests and looks every 5 s."""
    children_s: float = 1.0
    """For its children to follow it by themselves: SGLang's do, by `PR_SET_PDEATHSIG`."""
    group_s: float = 1.5
    """For the session after SIGTERM."""
    kill_s: float = 3.0
    """For the kernel to end what got SIGKILL."""

    def hurried(self) -> Patience:
        """For an engine that is lost: 2 s to end if it can; no request of it is worth draining."""
        return replace(self, grace_s=min(self.grace_s, 2.0))


@dataclass(slots=True)
class StopReport:
    """What a stop took, and what it left."""

    steps: list[str] = field(default_factory=list)
    """What was needed, in order: `the engine ignored SIGTERM for 20 s`, …"""
    left: list[str] = field(default_factory=list)
    """What could not be ended or is still held, named. Empty is the proof of a clean stop."""
    seconds: float = 0.0


def stop(
    leader: Child,
    tree: Tree,
    *,
    patience: Patience,
    forced: Callable[[], bool] = lambda: False,
    proofs: Sequence[Callable[[], str | None]] = (),
) -> Generator[float, None, StopReport]:
    """Stop the whole tree, yielding the seconds to wait before the next step.

    Meanwhile the caller keeps reaping and reading the log: an engine that blocks on a full pipe
    does not shut down. `forced` turning true skips to SIGKILL. `proofs` name what is still held
    (a port, GPU memory) or return None; each is asked again until it is content or `kill_s` ends.
    """
    report = StopReport()
    began = time.monotonic()
    if not leader.exited:
        yield from _stop_leader(leader, patience, forced, report)
    if not forced():
        yield from until(lambda: not tree.scan() or forced(), patience.children_s, step=0.02)
        yield from _stop_session(tree, patience, forced, report)
    yield from _kill_rest(tree, patience, report)
    deadline = time.monotonic() + patience.kill_s
    for proof in proofs:
        while (held := proof()) is not None and time.monotonic() < deadline:
            yield _POLL_S
        if held is not None:
            report.left.append(held)
    report.seconds = time.monotonic() - began
    return report


def _stop_leader(
    leader: Child, patience: Patience, forced: Callable[[], bool], report: StopReport
) -> Generator[float, None, None]:
    if not forced():
        procs.send(leader.process, signal.SIGTERM)
        procs.send(leader.process, signal.SIGCONT)  # a stopped one takes it when it goes on
        yield from until(lambda: leader.exited or forced(), patience.grace_s)
    if leader.exited:
        report.steps.append("the engine stopped on SIGTERM")
    elif forced():
        report.steps.append("the engine was killed on request")
    else:
        report.steps.append(f"the engine ignored SIGTERM for {patience.grace_s:g} s")


def _stop_session(
    tree: Tree, patience: Patience, forced: Callable[[], bool], report: StopReport
) -> Generator[float, None, None]:
    members = tree.in_session()
    if not members:
        return
    for process in members:
        procs.send(process, signal.SIGTERM)
        procs.send(process, signal.SIGCONT)
    yield from until(lambda: not tree.in_session() or forced(), patience.group_s)
    names = ", ".join(procs.describe(process) for process in members)
    report.steps.append(f"SIGTERM was sent to what was left of its session: {names}")


def _kill_rest(tree: Tree, patience: Patience, report: StopReport) -> Generator[float, None, None]:
    left = tree.scan()
    if left:
        names = ", ".join(procs.describe(process) for process in left)
        report.steps.append(f"SIGKILL was sent to {names}")
    deadline = time.monotonic() + patience.kill_s
    while left and time.monotonic() < deadline:
        for process in left:  # again each turn: a process may fork between two looks
            procs.send(process, signal.SIGKILL)
        yield _POLL_S
        left = tree.scan()
    report.left += [f"process {procs.describe(process)}" for process in left]


def until(
    done: Callable[[], bool], limit_s: float, *, step: float = _POLL_S
) -> Generator[float, None, None]:
    """Wait until `done` or the limit, yielding the seconds to wait before looking again."""
    deadline = time.monotonic() + limit_s
    while not done() and time.monotonic() < deadline:
        yield step


def run_steps(
    steps: Generator[float, None, StopReport], between: Callable[[], object]
) -> StopReport:
    """Drive a stop to its end without a loop, calling `between` (reap, read the log) each turn."""
    while True:
        try:
            delay = next(steps)
        except StopIteration as finished:
            report: StopReport = finished.value
            return report
        time.sleep(delay)
        between()


def kill_leftovers(processes: Iterable[ProcessId]) -> list[ProcessId]:
    """SIGKILL these very processes, wait until they are gone, and return those that are not."""
    left = [process for process in processes if procs.is_alive(process)]
    deadline = time.monotonic() + _LEFTOVERS_S
    while left and time.monotonic() < deadline:
        for process in left:
            procs.send(process, signal.SIGKILL)
        time.sleep(0.02)
        left = [process for process in left if procs.is_alive(process)]
    return left
