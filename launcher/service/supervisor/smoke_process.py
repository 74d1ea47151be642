"""The smoke, run by a process of its own beside the supervisor.

It is started together with the engine, so that its imports (the OpenAI client, the reference)
overlap with the engine's; it waits for `go`. Its memory is given back when it has answered.

Protocol of `python -m launcher.verify`: one line of VerifyRequest JSON on stdin; it prints
`{"event":"prepared",…}`; a line `go` on stdin starts the checks; it prints
`{"event":"report","report":SmokeReport,"beat":base64 float32}`, or
`{"event":"error","message":…}`. Other lines of its output are for the log. The API key comes by the
environment, as QLAUNCH_VERIFY_KEY.
"""

from __future__ import annotations

import array
import base64
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from launcher import child_environment
from launcher.documents.plan import Plan
from launcher.documents.smoke import (
    KEY_VARIABLE,
    Broken,
    Prepared,
    Reported,
    SmokeEvent,
    SmokeReport,
    VerifyRequest,
)
from launcher.linux import processes, procfs
from launcher.record.scrub import terminal_safe
from launcher.service import failures, process_tree
from launcher.service.supervisor.drift import Numbers
from launcher.service.supervisor.engine_log import Pump, read_available
from launcher.service.supervisor.event_loop import Loop

REPORT_BYTES = 1024 * 1024
"""A report is one line: checks with their details, the worst text."""


class Verifier:
    """One verify process: started early, told to go, heard, and gone."""

    def __init__(
        self,
        loop: Loop,
        argv: Sequence[str],
        request: VerifyRequest,
        *,
        key: str | None,
        cwd: Path,
        clean: Callable[[str], str],
        log: Callable[[str], object],
        done: Callable[[SmokeReport | str], object],
    ) -> None:
        """Start it. `done` gets its report, or in one sentence why there is none.

        Raises:
            OSError: it cannot be started.
        """
        self._loop, self._done, self._log = loop, done, log
        env = child_environment.utf8(os.environ)
        env.pop(KEY_VARIABLE, None)
        if key is not None:
            env[KEY_VARIABLE] = key
        reading, self._stdin = os.pipe2(os.O_CLOEXEC)
        try:
            self.child = process_tree.spawn(argv, env, cwd=cwd, stdin=reading)
        except OSError:
            os.close(self._stdin)
            raise
        finally:
            os.close(reading)
        self._last = ""
        self._pump = Pump(lambda _: None, clean=clean, on_line=self._line, line_bytes=REPORT_BYTES)
        self._result: SmokeReport | str | None = None
        self.proved: Numbers | None = None
        """The beat's text as the engine embeds it, proved with the rest; with the report."""
        self._open = True
        loop.watch(self.child.output, self._readable)
        self._write(msgspec.json.encode(request) + b"\n")

    def go(self) -> None:
        """The engine is healthy: begin."""
        self._write(b"go\n")

    def pids(self) -> list[int]:
        """Its process, for as long as it is there."""
        return [] if self.child.exited else [self.child.process.pid]

    def halted(self) -> str:
        """A sentence if somebody has stopped its process; else empty."""
        pid = self.child.process.pid
        stopped = processes.is_stopped(self.child.process)
        return f"the smoke process {pid} is stopped (SIGSTOP)" if stopped else ""

    def ended(self) -> None:
        """It has been reaped: read what it left in the pipe, and say so if that was no report."""
        if not self._open:
            return
        read_available(self.child.output, self._pump.feed)
        self._pump.finish()
        if self._result is None:
            assert self.child.returncode is not None
            tail = f": {self._last}" if self._last else ""
            self._result = (
                f"the smoke process ended with {failures.how(self.child.returncode)}{tail}"
            )
        self._hand_over()

    def close(self) -> None:
        """End it, with everything it started; nothing more will be heard of it."""
        self._shut()
        if not self.child.exited:
            table = processes.all_processes()
            for pid in procfs.descendants([self.child.process.pid], table):
                processes.send(processes.identity_of(table[pid]), signal.SIGKILL)

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._stdin, data)  # far below the pipe's size: never partial
        except OSError as error:
            self._log(f"the smoke process does not listen: {error.strerror}")

    def _readable(self) -> None:
        more = read_available(self.child.output, self._pump.feed)
        if self._result is not None:
            self._hand_over()
        elif not more:
            self._loop.unwatch(self.child.output)  # `ended` follows when it is reaped

    def _line(self, line: str) -> None:
        try:
            event = (
                msgspec.json.decode(line, type=SmokeEvent) if line.startswith('{"event"') else None
            )
        except msgspec.ValidationError as error:
            self._result = f"the smoke process sent an answer that cannot be read: {error}"
            return
        except ValueError:
            event = None
        match event:
            case Reported():
                self._result, self.proved = event.report, _vector(event.beat)
            case Broken():
                self._result = f"the smoke process failed: {event.message}"
            case Prepared():
                self._log("smoke: prepared")
            case None:
                self._last = terminal_safe(line, limit=400)
                self._log(f"smoke: {line}")

    def _hand_over(self) -> None:
        self._shut()
        assert self._result is not None
        self._done(self._result)

    def _shut(self) -> None:
        if self._open:
            self._open = False
            self._loop.unwatch(self.child.output)
            os.close(self.child.output)
            os.close(self._stdin)


def _vector(encoded: str | None) -> Numbers | None:
    """Numbers of base64 text holding float32 in this machine's order; None where it is none."""
    if encoded is None:
        return None
    numbers = array.array("f")
    try:
        numbers.frombytes(base64.b64decode(encoded, validate=True))
    except ValueError:
        return None
    return numbers


def verify_request(plan: Plan, endpoint: str) -> VerifyRequest:
    """What the smoke of `plan` at `endpoint` (`http://host:port/v1`) has to know."""
    expected = plan.expectation
    prompts = expected.prompts
    before_query, before_document = ("", "") if prompts is None else prompts.pair
    return VerifyRequest(
        endpoint=endpoint,
        model=plan.model_name,
        model_path=plan.model_path,
        fingerprint=plan.fingerprint,
        dimensions=expected.dimensions,
        normalize=expected.normalize,
        pooling=expected.pooling,
        encoder=expected.encoder,
        max_running_requests=expected.max_running_requests,
        context_length=expected.context_length,
        longest_tokens=plan.longest_text,
        cuts_texts="--allow-auto-truncate" in plan.engine.argv,
        parity_min=expected.parity_min,
        dtype=expected.dtype,
        pooling_source=expected.pooling_source,
        normalize_source=expected.normalize_source,
        card=expected.card,
        query_prompt=before_query,
        document_prompt=before_document,
        engine_python=plan.engine.python,
        engine_env=dict(plan.engine.env),
        reference_cache=plan.reference_cache,
    )
