"""The template: an imported, idle copy of the engine's first process, from which lives are forked.

The first life starts through `qlaunch_sglang.template` (in the engine's own Python), which imports,
leaves a copy of itself behind and goes on as the engine. The copy and all that it forks are
children of this process, which adopts them as a subreaper: they are reaped, watched and ended like
what was started here. A template that has died, is stopped, or does not answer is done without: the
next life imports, and leaves a new one behind.

A set of replicas has one that is imported before any life (`stand`). It forks the supervisors of
the replicas (`branch`), and each of these inherits a copy of it: one import for all.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Protocol

from launcher.documents.plan import Plan
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.service import process_tree
from launcher.service.process_tree import Child
from launcher.service.recover import MARKER
from launcher.service.supervisor.event_loop import Loop

MODULE = "qlaunch_sglang.template"
FORK_S = 3.0
"""For a template to fork a life: tens of milliseconds. An import takes 5 to 20 s."""
END_S = 3.0
"""For a template to end after its socket was closed, and then after SIGKILL: milliseconds."""
INHERITED = "QLAUNCH_TEMPLATE"
"""Variable by which a supervisor that was forked hears of its template: `FD PID IMPORTED`."""
_OWN = frozenset({"TMPDIR", "PATH", MARKER, "SGLANG_CPU_OMP_THREADS_BIND"})
"""Variables that each life has of its own; all others may be read while importing."""
_MESSAGE_BYTES = 4096


class StartCommand(Protocol):
    """What one life runs: the part of `Command` that a start needs."""

    @property
    def argv(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def env(self) -> dict[str, str]: ...  # noqa: D102
    @property
    def cwd(self) -> Path: ...  # noqa: D102


class Template:
    """Starts lives of one engine: from the template where there is one, else by an import."""

    def __init__(
        self,
        loop: Loop,
        note: Callable[[str], object],
        changed: Callable[[ProcessId | None], object],
    ) -> None:
        """`note` takes lines for the journal; `changed` hears which process the template is."""
        self._loop, self._note, self._changed = loop, note, changed
        self._channel: socket.socket | None = None
        self._imported = ""
        self.process: ProcessId | None = None
        """The template; None where there is none (yet)."""

    def pids(self) -> list[int]:
        """Its process, which is no part of any life."""
        return [] if self.process is None else [self.process.pid]

    def start(self, command: StartCommand, plan: Plan) -> Child:
        """Start one life of the engine.

        Raises:
            OSError: it cannot be started.
        """
        if not plan.template or not process_tree.is_subreaper():
            return process_tree.spawn(command.argv, command.env, cwd=command.cwd)
        if self.process is not None:
            child = self._fork(command, plan.engine.python)
            if isinstance(child, Child):
                return child
            self._lost(child)
        return self._import(command, plan.engine.python)

    # By an import -----------------------------------------------------------------------------

    def _import(self, command: StartCommand, python: str) -> Child:
        return self._begin(python, command.argv, command.env, command.cwd)

    def stand(self, python: str, env: dict[str, str], cwd: Path) -> Child:
        """Import a template that is no life of the engine: `process` once it is there.

        Raises:
            OSError: it cannot be started.
        """
        return self._begin(python, (), env, cwd)

    def _begin(self, python: str, argv: tuple[str, ...], env: dict[str, str], cwd: Path) -> Child:
        self.forget()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            child = process_tree.spawn(
                (python, "-m", MODULE, *argv), env, cwd=cwd, stdin=theirs.fileno()
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._take(ours, imported(python, env))
        return child

    def _take(self, channel: socket.socket, what: str) -> None:
        self._channel, self._imported = channel, what
        channel.setblocking(False)
        self._loop.watch(channel.fileno(), self._readable)

    def inherit(self, environ: MutableMapping[str, str]) -> None:
        """Take over the template that this supervisor was started with, where there is one."""
        words = environ.pop(INHERITED, "").split()
        if len(words) != 3 or not (words[0].isdecimal() and words[1].isdecimal()):
            return
        stat = processes.read_stat(int(words[1]))
        if stat is None or stat.parent != os.getpid():
            return
        try:
            channel = socket.socket(fileno=int(words[0]))
        except OSError:
            return
        channel.set_inheritable(False)
        self._take(channel, words[2])
        self._there(processes.identity_of(stat))

    def bequeath(self) -> dict[str, str]:
        """Variables by which what this process executes next inherits it; none without it."""
        if self._channel is None or self.process is None:
            return {}
        self._channel.set_inheritable(True)
        return {INHERITED: f"{self._channel.fileno()} {self.process.pid} {self._imported}"}

    @property
    def expected(self) -> bool:
        """Whether it is still being imported."""
        return self._channel is not None and self.process is None

    def _readable(self) -> None:
        """It is there, or has ended (or there will be none: forking was not safe)."""
        message = self._receive()
        if message is None:
            return
        process = processes.process_id(_number(message, "template"))
        if process is not None:
            self._there(process)
        else:
            self._lost("has ended")

    def _there(self, process: ProcessId) -> None:
        self.process = process
        self._note(f"template: process {process.pid} is imported; the next start is a fork of it")
        self._changed(process)

    def _receive(self) -> bytes | None:
        """One message; empty where the other end is gone, None where nothing has come."""
        assert self._channel is not None
        try:
            return self._channel.recv(_MESSAGE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _lost(self, how: str) -> None:
        if self.process is not None:
            self._note(f"template: process {self.process.pid} {how}; the next start imports again")
        self.forget()

    def forget(self) -> None:
        """End it without waiting: what waits is `stop`."""
        if self._channel is not None:
            self._loop.unwatch(self._channel.fileno())
            self._channel.close()
            self._channel = None
        if self.process is not None:
            processes.send(self.process, signal.SIGKILL)
            self.process = None
            self._changed(None)

    # By a fork --------------------------------------------------------------------------------

    def _fork(self, command: StartCommand, python: str) -> Child | str:
        """A new life, or why there is none."""
        if self._imported != imported(python, command.env):
            return "was imported from other files or with other variables"
        order = {
            "argv": command.argv,
            "cwd": os.fspath(command.cwd),
            "env": {name: command.env.get(name) for name in _OWN},
        }
        return self._forked(order, "the engine")

    def branch(
        self, what: str, argv: tuple[str, ...], env: Mapping[str, str], cwd: Path
    ) -> Child | None:
        """A supervisor that inherits a copy of the template; None where there is none to fork.

        `what` it needs imported; a template that holds something else is of no use any more.
        """
        if self.process is None:
            return None
        if what != self._imported:
            self._lost("was imported from other files or with other variables")
            return None
        order = {
            "argv": argv,
            "cwd": os.fspath(cwd),
            "env": dict(env),
            "imported": self._imported,
        }
        child = self._forked(order, "a supervisor")
        if isinstance(child, Child):
            return child
        self._lost(child)
        return None

    def _forked(self, order: Mapping[str, object], what: str) -> Child | str:
        """What was forked for an order, or why nothing was."""
        assert self.process is not None
        if processes.is_stopped(self.process):
            return "is stopped (SIGSTOP)"
        began = time.monotonic()
        try:
            child = self._ordered(order)
        except OSError as error:
            return f"could not be asked ({error.strerror or error})"
        if child is None:
            return f"forked nothing within {FORK_S:g} s"
        taken = (time.monotonic() - began) * 1000
        pid = child.process.pid
        self._note(f"template: {what}, process {pid}, was forked in {taken:.0f} ms")
        return child

    def _ordered(self, order: Mapping[str, object]) -> Child | None:
        output, writing = os.pipe2(os.O_CLOEXEC)
        waiting, go = os.pipe2(os.O_CLOEXEC)
        child: Child | None = None
        try:
            process = self._ask(order, [writing, waiting])
            if process is not None:
                child = process_tree.adopted(process, output)
                os.write(go, b"!")  # before this it does nothing, and ends with our end of the pipe
        finally:
            for descriptor in (writing, waiting, go, *(() if child is not None else (output,))):
                os.close(descriptor)
        return child

    def _ask(self, order: Mapping[str, object], descriptors: list[int]) -> ProcessId | None:
        """The process that was forked, which waits for our word; None where none came in time."""
        assert self._channel is not None
        socket.send_fds(self._channel, [json.dumps(order).encode()], descriptors)
        ready, _, _ = select.select([self._channel], [], [], FORK_S)
        answer = self._receive() if ready else None
        return processes.process_id(_number(answer or b"", "pid"))

    # Its end ----------------------------------------------------------------------------------

    def stop(self) -> Generator[float, None, list[str]]:
        """End it, yielding the seconds to wait; what could not be ended, named."""
        process = self.process
        self.forget()
        deadline = time.monotonic() + END_S
        while processes.is_alive(process) and time.monotonic() < deadline:
            yield 0.02
        if process is not None and processes.is_alive(process):
            return [f"template: process {processes.describe(process)}"]
        return []


def imported(python: str, env: Mapping[str, str]) -> str:
    """What an import depends on, as a hash: a life is forked only where it is the same.

    The interpreter's packages, those on PYTHONPATH (our plugin), and the variables: an engine or a
    plugin that was upgraded in its place is imported anew by the next start.
    """
    shared = sorted((name, value) for name, value in env.items() if name not in _OWN)
    packages = [*_packages(python), *_modules(env.get("PYTHONPATH", ""))]
    return hashlib.sha256(json.dumps([python, shared, packages]).encode()).hexdigest()


def _packages(python: str) -> Iterator[tuple[str, int, int]]:
    """The folders of an interpreter's packages, which every installation changes."""
    for pattern in ("site-packages", "dist-packages"):
        for folder in sorted(Path(python).parent.parent.glob(f"lib/python3*/{pattern}")):
            yield from _stamp(folder)


def _modules(path: str) -> Iterator[tuple[str, int, int]]:
    """The modules in the packages of PYTHONPATH's folders, which are few."""
    for folder in filter(None, path.split(os.pathsep)):
        for depth in ("*/*.py", "*/*/*.py"):
            for module in sorted(Path(folder).glob(depth)):
                yield from _stamp(module)


def _stamp(path: Path) -> Iterator[tuple[str, int, int]]:
    with contextlib.suppress(OSError):
        found = path.stat()
        yield (str(path), found.st_ino, found.st_mtime_ns)


def _number(message: bytes, name: str) -> int:
    """The process of that name in a message; 0 where it speaks of none."""
    try:
        value = json.loads(message).get(name, 0) if message else 0
    except (ValueError, AttributeError):
        return 0
    return value if isinstance(value, int) else 0
