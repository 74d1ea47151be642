"""One life of the gateway before an engine: its process, its words, and how it is asked.

It is a child of the supervisor, leads a session of its own and dies with the supervisor. It is told
what to serve by the first line on its standard input, and by others whether the engine is stopped
(documents/gateway.py).
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from launcher import child_environment
from launcher.documents.gateway import EngineChange, GatewayEvent, GatewayRequest, Rotation
from launcher.documents.run import CacheUse
from launcher.linux import processes, procfs
from launcher.linux.processes import ProcessId
from launcher.service import ports, process_tree
from launcher.service.recover import MARKER
from launcher.service.supervisor.engine_log import Pump, hear, let_go
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.http_probe import HttpAnswer, HttpProbe

_INPUTS: Final = re.compile(
    rb'^qlaunch_gateway_inputs_total\{[^}]*source="(\w+)"[^}]*\} ([0-9.e+]+)$', re.MULTILINE
)
_BYPASSED: Final = re.compile(rb"^qlaunch_gateway_cache_bypassed 1(?:\.0)?$", re.MULTILINE)


class GatewayProcess:
    """A gateway that was started, until it has ended."""

    def __init__(
        self,
        loop: Loop,
        argv: Sequence[str],
        request: GatewayRequest,
        *,
        run: str,
        cwd: Path,
        clean: Callable[[str], str],
        log: Callable[[str], object],
        heard: Callable[[GatewayEvent], object],
    ) -> None:
        """Start it. `heard` gets its events, `log` its other lines, clean and with their ends.

        Raises:
            OSError: it cannot be started.
        """
        self._loop, self._heard = loop, heard
        self._host, self._port = request.plan.host, request.port
        self._headers = {} if request.key is None else {"Authorization": f"Bearer {request.key}"}
        self._probe: HttpProbe | None = None
        self.last_line = ""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            env = {**child_environment.utf8(os.environ), MARKER: run}
            self.child = process_tree.spawn(argv, env, cwd=cwd, stdin=reading)
            # A few kilobytes into an empty pipe: never partial, and nobody waits.
            os.write(writing, msgspec.json.encode(request) + b"\n")
            os.set_blocking(writing, False)
        except BaseException:
            os.close(writing)
            raise
        finally:
            os.close(reading)
        self._orders = writing
        """Where it hears of other servers."""
        margin = len(request.key or "")
        self._pump = Pump(lambda _: None, clean=clean, margin=margin, on_line=self._line)
        self._log = log
        loop.watch(self.child.output, self._readable)

    @property
    def process(self) -> ProcessId:
        """Which process it is."""
        return self.child.process

    def ask(
        self, path: str, body: bytes, timeout_s: float, done: Callable[[HttpAnswer], object]
    ) -> None:
        """One call, in place of one that is under way; nothing is sent to anybody else."""
        self._quiet()
        self._probe = HttpProbe(
            self._loop,
            (ports.reach(self._host), self._port),
            path,
            done=done,
            headers=self._headers,
            body=body,
            connected=self._is_ours,
            timeout_s=timeout_s,
        )

    def rotate(self, rotation: Rotation) -> bool:
        """Tell it its servers; False where it does not read: to be told again later."""
        line = msgspec.json.encode(rotation) + b"\n"
        try:
            # At most PIPE_BUF, for 32 replicas: written as a whole or not at all.
            return self._orders >= 0 and os.write(self._orders, line) == len(line)
        except (BlockingIOError, BrokenPipeError):
            return False

    def _is_ours(self) -> bool:
        return ports.ownership([self.process.pid], self._host, self._port) != "foreign"

    def tell(self, engine: str | None) -> None:
        """Where the engine is from now on; None: it is stopped, until a request needs it."""
        try:
            os.write(self._orders, msgspec.json.encode(EngineChange(engine=engine)) + b"\n")
        except OSError:
            return  # it is at its end, which is told by itself

    def kill(self) -> None:
        """End it at once, with whatever it started."""
        table = processes.all_processes()
        for pid in procfs.descendants([self.process.pid], table):
            processes.send(processes.identity_of(table[pid]), signal.SIGKILL)

    def stop(
        self, grace_s: float, kill_s: float, forced: Callable[[], bool]
    ) -> Generator[float, None, str | None]:
        """End it, yielding the seconds to wait; by SIGTERM, on which it finishes what it has begun.

        Returns what could not be ended, named.
        """
        self._quiet()
        if not self.child.exited and not forced():
            processes.send(self.process, signal.SIGTERM)
            processes.send(self.process, signal.SIGCONT)
            yield from process_tree.until(lambda: self.child.exited or forced(), grace_s)
        if not self.child.exited:
            self.kill()
            yield from process_tree.until(lambda: self.child.exited, kill_s)
        self.close()
        if self.child.exited:
            return None
        return f"gateway: process {processes.describe(self.process)}"

    def close(self) -> None:
        """Take the last of its output, and let go of the pipes."""
        self._quiet()
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1
        let_go(self.child, self._pump, self._loop)

    def _quiet(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = None

    def _readable(self) -> None:
        hear(self.child, self._pump, self._loop)

    def _line(self, line: str) -> None:
        event = _event(line)
        if event is not None:
            self._heard(event)
            return
        self.last_line = line.strip() or self.last_line
        self._log(line.rstrip("\n") + "\n")


def _event(line: str) -> GatewayEvent | None:
    if not line.startswith('{"event"'):
        return None
    try:
        event: GatewayEvent = msgspec.json.decode(line, type=GatewayEvent)
    except ValueError:
        return None
    return event


def counts(page: bytes) -> CacheUse:
    """What a gateway's `/metrics` says of its inputs."""
    by = {"cache": 0, "shared": 0, "server": 0}
    for source, value in _INPUTS.findall(page):
        name = source.decode()
        by[name] = by.get(name, 0) + int(float(value))
    return CacheUse(inputs=sum(by.values()), hits=by["cache"], shared=by["shared"])


def is_bypassed(page: bytes) -> bool:
    """Whether a gateway's `/metrics` says that it goes past its cache."""
    return _BYPASSED.search(page) is not None
