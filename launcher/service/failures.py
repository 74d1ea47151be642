"""How a start or a life can end badly, in words: the failures a service reports."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Protocol

import msgspec

from launcher import log_lines
from launcher.documents.failure import Failure
from launcher.documents.gateway import Refused
from launcher.documents.service_state import FINAL, ServiceState, State
from launcher.documents.smoke import SmokeReport
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import limits
from launcher.units import counted

WEDGED_FIX = "start it again; see the engine's log"
SMOKE_FIX = "each check's detail: qlaunch runs show NAME; the engine's own words: qlaunch logs NAME"
UNCHANGED = "unchanged"
"""The check that the beat makes for as long as a service is ready."""
DRIFTED = "the weights or the engine's state changed while it ran"


class Match(Protocol):
    """What a classifier recognised in a log."""

    @property
    def failure_class(self) -> str:
        """Stable name of the class."""

    @property
    def message(self) -> str:
        """One sentence: what happened."""

    @property
    def fix(self) -> str | None:
        """What to try."""

    @property
    def lines(self) -> Sequence[str]:
        """The log lines that prove it."""

    @property
    def error(self) -> str | None:
        """What the engine itself said of it, where a traceback holds that."""


class Classify(Protocol):
    """Tells why an engine ended (`engine.failures.classify`, given by the caller)."""

    def __call__(
        self, text: str, *, phase: str, returncode: int | None, oom_killed: bool = False
    ) -> Match | None:
        """The class of the failure that `text` shows, or None."""


def how(returncode: int) -> str:
    """`exit code 1`, `signal 9 (SIGKILL)`."""
    if returncode >= 0:
        return f"exit code {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"


_DOING: dict[State, str] = {
    "starting": "while starting",
    "loading": "while loading the model",
    "warming": "while warming up",
    "verifying": "while being verified",
}


def died(returncode: int, phase: State, match: Match | None, log: str) -> Failure:
    """The engine ended by itself; `log` is where its last words are."""
    return _ended(f"the engine ended with {how(returncode)}", phase, match, log, None)


def lost(reason: str, phase: State, match: Match | None, log: str) -> Failure:
    """A part of the engine died, or it said that it cannot go on; its leader still runs."""
    return _ended(reason, phase, match, log, "child_failed")


def _ended(
    reason: str, phase: State, match: Match | None, log: str, unrecognised: str | None
) -> Failure:
    message = f"{reason} {_DOING.get(phase, 'while serving')}"
    return Failure(
        code="start_failed" if phase in _DOING else "engine_died",
        exit_code=ExitCode.START_FAILED,
        failure_class=match.failure_class if match else unrecognised,
        message=f"{message}: {match.message}" if match else message,
        fix=match.fix if match and match.fix else f"read the engine's log: {log}",
        evidence=tuple(match.lines) if match else (),
    )


def gave_up(last: Failure, starts: int) -> Failure:
    """The restart budget is spent."""
    return Failure(
        code="crash_loop",
        exit_code=ExitCode.START_FAILED,
        failure_class=last.failure_class,
        message=f"gave up after {counted(starts, 'restart')}; the last time {last.message}",
        fix=last.fix,
        evidence=last.evidence,
    )


def ailing(line: str, match: Match | None) -> str:
    """Why an engine was given up that said `line` and ran on: for `lost`.

    The line that begins a traceback says nothing: its exception does, unless `match` quotes it.
    """
    reason = "the engine did not end by itself after"
    said, begins, _ = log_lines.without_stamp(line.strip()).partition(log_lines.TRACEBACK)
    if begins and match is not None and match.error is not None:
        if match.error in match.message:
            return f"{reason} an exception"
        said = match.error
    return f"{reason} saying: {said.strip().removesuffix(':')[:300]}"


def hung(detail: str, log: str) -> Failure:
    """A verified engine whose embeddings do not come any more."""
    return Failure(
        code="engine_hung",
        exit_code=ExitCode.START_FAILED,
        failure_class="wedged",
        message=f"the engine stopped answering embedding requests ({detail}), and is idle",
        fix=f"read the engine's log: {log}",
    )


def timed_out(limit: str, phase: State, last: str, match: Match | None, log: str) -> Failure:
    """The engine was not healthy in time; `last` is what its last health check said."""
    where = _DOING.get(phase, "").removeprefix("while ")
    return Failure(
        code="timed_out",
        exit_code=ExitCode.TIMEOUT,
        failure_class=match.failure_class if match else None,
        message=f"the engine was not healthy within {limit}; it was still {where} ({last})",
        fix=match.fix if match and match.fix else f"raise start_timeout_s, or read the log: {log}",
        evidence=tuple(match.lines) if match else (),
    )


def smoke_failed(message: str, fix: str | None, evidence: Sequence[str] = ()) -> Failure:
    """The engine serves, but not what it should."""
    return Failure(
        code="smoke_failed",
        exit_code=ExitCode.VERIFY_FAILED,
        failure_class=None,
        message=message,
        fix=fix,
        evidence=tuple(evidence),
    )


def smoke_verdict(report: SmokeReport | str) -> Failure:
    """The smoke ran, and these checks of it failed; or, in a sentence, why it did not run."""
    if isinstance(report, str):
        return smoke_failed(report, None)
    bad = [check for check in report.checks if not check.ok]
    message = f"the smoke failed: {', '.join(check.name for check in bad)}"
    if report.explanation:
        message = f"{message}: {report.explanation}"
    evidence = [f"{check.name}: {check.detail}" for check in bad]
    if report.suspect == "wedged":
        # The class of an engine that hangs, whoever sees it first: the smoke, or its time limit.
        failure = smoke_failed(message, WEDGED_FIX, evidence)
        return msgspec.structs.replace(failure, failure_class="wedged")
    return smoke_failed(message, SMOKE_FIX, evidence)


def wedged(limit_s: float) -> Failure:
    """`/health` is 200, and embeddings hang."""
    message = f"the engine is healthy, but the smoke had no answer within {limit_s:g} s"
    failure = smoke_failed(message, WEDGED_FIX)
    return msgspec.structs.replace(failure, failure_class="wedged")


def drifted(detail: str, service: str) -> Failure:
    """A verified engine whose vectors are others now."""
    return Failure(
        code="vectors_changed",
        exit_code=ExitCode.VERIFY_FAILED,
        failure_class="drift",
        message=f"the vectors are no longer the ones that were verified ({detail}): {DRIFTED}",
        fix=f"find what changed it, then qlaunch restart {service}; embed again what was embedded"
        " since the last good check",
    )


def wrong_model(problem: str) -> Failure:
    """`/model_info` speaks of something else than what was started."""
    return Failure(
        code="wrong_model",
        exit_code=ExitCode.VERIFY_FAILED,
        failure_class=None,
        message=problem,
        fix="check the engine's flags: qlaunch up … --dry-run prints them",
    )


def unguarded() -> Failure:
    """The engine came up, but what must stand before its handlers does not."""
    return Failure(
        code="start_failed",
        exit_code=ExitCode.START_FAILED,
        failure_class="unguarded",
        message="the engine answers without qlaunch's guard before it, and was stopped",
        fix="see whether PYTHONPATH or a sitecustomize of this engine's environment hides the"
        " guard's: qlaunch up … --dry-run prints both, and qlaunch engine install makes it again",
    )


def gateway_died(returncode: int, last_line: str, log: str) -> Failure:
    """The gateway before the engine ended by itself."""
    tail = f": {last_line}" if last_line else ""
    return _gateway(f"the gateway ended with {how(returncode)}{tail}", log, code="gateway_died")


def gateway_slow(limit_s: float, last_line: str, log: str) -> Failure:
    """The gateway did not answer with the proved vector in time."""
    tail = f" ({last_line})" if last_line else ""
    said = f"the gateway was not ready within {limit_s:g} s{tail}"
    failure = _gateway(said, log, code="timed_out")
    return msgspec.structs.replace(failure, exit_code=ExitCode.TIMEOUT)


def gateway_hung(answer: str, log: str) -> Failure:
    """The gateway lives and does not answer."""
    return _gateway(f"the gateway stopped answering ({answer})", log, code="gateway_died")


def gateway_error(event: Refused) -> Failure:
    """The gateway refused to start, in its own words."""
    return Failure(
        code=event.code,
        exit_code=event.exit_code,
        failure_class=None,
        message=f"the gateway does not start: {event.message}",
        fix=event.fix or None,
    )


def gateway_wrong(detail: str, service: str) -> Failure:
    """The vector that came through the gateway is not the one that was proved."""
    return Failure(
        code="smoke_failed",
        exit_code=ExitCode.VERIFY_FAILED,
        failure_class=None,
        message=f"the vector through the gateway is not the one that was proved: {detail}",
        fix=f"qlaunch cache purge --service {service}, then start it again",
    )


def _gateway(message: str, log: str, *, code: str) -> Failure:
    return Failure(
        code=code,
        exit_code=ExitCode.START_FAILED,
        failure_class=None,
        message=message,
        fix=f"read the gateway's lines in the log: {log}",
    )


def not_started(error: OSError, program: str, *, engine: bool = False) -> Failure:
    """The operating system would not start `program`: the engine's, or one of our own.

    What is missing need not be the program: its folder, a lock or a log may be.
    """
    if not isinstance(error, FileNotFoundError) and (short := limits.explain(error)) is not None:
        why = f"cannot start {program}: {short.message}"
        return msgspec.structs.replace(
            from_error(short), exit_code=ExitCode.START_FAILED, message=why
        )
    file = program if error.filename is None else os.fsdecode(error.filename)
    engine = engine and file == program
    if engine:
        fix = "install the engine again: qlaunch engine install"
    elif file == sys.executable:
        fix = "install qlaunch again: the Python that it runs in cannot be started"
    else:
        fix = f"look at {file}, then start the service again"
    return Failure(
        code="start_failed",
        exit_code=ExitCode.START_FAILED,
        failure_class="engine_missing" if engine and isinstance(error, FileNotFoundError) else None,
        message=f"cannot start {program}: {'' if file == program else f'{file}: '}"
        f"{error.strerror or error}",
        fix=fix,
    )


def supervisor_gone(log: str) -> Failure:
    """The supervisor ended without saying so (killed, or the machine went down)."""
    return Failure(
        code="supervisor_killed",
        exit_code=ExitCode.START_FAILED,
        failure_class=None,
        message="the supervisor was killed or the machine went down; its engine was ended with it",
        fix=f"start the service again with qlaunch up; the supervisor's log is {log}",
    )


def left_over(left: Sequence[str], failure: Failure | None = None) -> Failure:
    """The stop, after `failure` or because it was asked for, did not end everything."""
    found = Failure(
        code="stop_incomplete",
        exit_code=ExitCode.PARTIAL,
        failure_class=None,
        message="the service was stopped, but this is left: " + "; ".join(left),
        fix="end what is named, as the user who owns it",
    )
    if failure is None:
        return found
    return msgspec.structs.replace(failure, message=f"{failure.message}; {found.message}")


def internal(error: BaseException, log: str) -> Failure:
    """A fault of our own, or a limit that was met where nobody expected it."""
    if isinstance(error, Exception) and (short := limits.explain(error)) is not None:
        return from_error(short)
    return Failure(
        code="internal_error",
        exit_code=ExitCode.UNEXPECTED,
        failure_class=None,
        message=f"the supervisor failed: {type(error).__name__}: {error}",
        fix=f"this is a fault in qlaunch; its log is {log}",
    )


def already_running(service: str) -> QlaunchError:
    """Another supervisor has the service."""
    return QlaunchError(
        f"service {service!r} has a supervisor already",
        code="already_running",
        exit_code=ExitCode.CONFLICT,
        fix=f"qlaunch status {service}, or qlaunch down {service}",
    )


def not_running(state: ServiceState) -> QlaunchError:
    """What was asked needs a service that runs: `not_running`, exit 3."""
    if state.state not in FINAL:  # a restart would end what is under way
        return QlaunchError(
            f"service {state.service!r} is not ready: {state.state}",
            code="not_running",
            exit_code=ExitCode.NOT_RUNNING,
            fix=f"wait for it: qlaunch status {state.service}",
        )
    return QlaunchError(
        f"service {state.service!r} is not running: {state.state}",
        code="not_running",
        exit_code=ExitCode.NOT_RUNNING,
        fix=f"start it: qlaunch restart {state.service}",
    )


def end_not_written(error: QlaunchError) -> Failure:
    """A service that ended, by `down` or by itself, where its supervisor could not say how."""
    message = f"it has ended, and how it ended could not be written down: {error.message}"
    return msgspec.structs.replace(from_error(error), message=message)


def from_error(error: QlaunchError) -> Failure:
    """A refusal that has its sentence already."""
    return Failure(
        code=error.code,
        exit_code=error.exit_code,
        failure_class=None,
        message=error.message,
        fix=error.fix,
    )
