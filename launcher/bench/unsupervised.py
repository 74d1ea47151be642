"""A server started by hand: without supervisor, plugin and checks, for comparison.

It dies with the process that started it, and is stopped as a supervisor stops its engine.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from launcher import child_environment
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.memory import read_memory
from launcher.linux import processes
from launcher.linux.pdeathsig import die_with
from launcher.paths import dirs
from launcher.service import scratch
from launcher.service.process_tree import (
    Child,
    Patience,
    Tree,
    kill_leftovers,
    reap,
    run_steps,
    stop,
)
from launcher.service.supervisor.engine_environment import engine_environment
from launcher.service.supervisor.engine_log import phase_of

POLL_S = 0.1
HEALTH_S = 5.0
MARK = "QLAUNCH_BENCH"
"""Variable that every process of a server started here has; its value is our process id."""
FLOOR_BYTES = 2 * 1024**3
"""An engine that leaves the machine less memory than this is stopped: others work here too."""


def whole_environment(env: Mapping[str, str]) -> dict[str, str]:
    """Every variable of a process started here: what qlaunch's own engines get, `env` on top."""
    own = child_environment.for_engines(os.environ, dirs().cache, ["127.0.0.1"])
    return engine_environment(os.environ, env, (MARK, str(os.getpid())), own)


class BareEngine:
    """A running engine. Use `bare_engine`, which stops it whatever happens."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        port: int,
        log: Path,
    ) -> None:
        """Start `argv` with the variables that qlaunch's own engines get, and `env` on top."""
        self.port = port
        self.phases: dict[str, float] = {}
        """Seconds from the start to each phase that the log spoke of, to within POLL_S."""
        self._log = log
        self._read = 0
        self._scratch = scratch.make(os.environ, spare=log.parent)
        whole = whole_environment({**env, "TMPDIR": str(self._scratch.path)})
        parent = os.getpid()
        self._began = time.monotonic()
        with log.open("wb") as output:
            handle = subprocess.Popen(
                list(argv),
                env=whole,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - no threads at work here
            )
        stat = processes.read_stat(handle.pid)
        assert stat is not None  # not reaped yet, so it is there, a zombie at least
        identity = processes.identity_of(stat)
        self._child = Child(identity, handle, -1)
        self._tree = Tree(identity)
        self.pid = handle.pid

    def wait_healthy(self, limit_s: float, each: Callable[[], object] = lambda: None) -> float:
        """Seconds from the start to the first `/health` 200, asked every POLL_S.

        Args:
            limit_s: what it may take.
            each: called between two questions.

        Raises:
            QlaunchError: `start_failed` (exit 6): it ended, took longer than
                `limit_s`, or took nearly all memory.
        """
        due = self._began
        while not self._healthy():
            self._read_log()
            elapsed = time.monotonic() - self._began
            if self.ended():
                raise _failed(f"the bare engine ended in its start: {self._why()}")
            if read_memory().available_bytes < FLOOR_BYTES:
                kill_leftovers(self._tree.scan())
                raise _failed("the bare engine took nearly all the memory there is: stopped")
            if elapsed > limit_s:
                raise _failed(f"the bare engine was not healthy within {limit_s:g} s")
            each()
            due = max(due + POLL_S, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
        seconds = time.monotonic() - self._began
        self._read_log()
        return seconds

    def _healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HEALTH_S)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _read_log(self) -> None:
        with self._log.open("rb") as file:
            file.seek(self._read)
            whole, found, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(found)
        at = round(time.monotonic() - self._began, 3)
        for line in whole.decode("utf-8", "replace").splitlines():
            if (phase := phase_of(line)) is not None:
                self.phases.setdefault(phase, at)

    def log_text(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def last_words(self) -> str:
        """The last line that it printed."""
        lines = self.log_text()[-4000:].splitlines()
        return lines[-1][-300:] if lines else "it said nothing"

    def _why(self) -> str:
        """What its log tells of its end: after the error come the lines of those it took along."""
        from launcher.engine.failures.classify import classify

        match = classify(self.log_text(), phase="start")
        return self.last_words() if match is None else match.error or match.message

    def ended(self) -> bool:
        """Whether its leader has ended."""
        self._reap()
        return self._child.exited

    def _reap(self) -> None:
        # While the front is a zombie, what it started can still be found by its session.
        reap([self._child], lambda _pid: self._tree.scan())

    def close(self) -> None:
        """Stop it as qlaunch stops an engine: orderly first, then by force, nothing left."""
        steps = stop(self._child, self._tree, patience=Patience())
        left = run_steps(steps, self._reap).left
        self._scratch.close()
        if left:
            raise QlaunchError(
                f"the bare engine left {', '.join(left)}",
                code="stop_incomplete",
                exit_code=ExitCode.UNEXPECTED,
            )


def _failed(why: str) -> QlaunchError:
    return QlaunchError(why, code="start_failed", exit_code=ExitCode.START_FAILED)


@contextlib.contextmanager
def bare_engine(
    argv: Sequence[str], env: Mapping[str, str], port: int, log: Path
) -> Iterator[BareEngine]:
    """Start an engine, and stop it at the end of the block, also on Ctrl-C."""
    engine = BareEngine(argv, env, port, log)
    try:
        yield engine
    finally:
        engine.close()
