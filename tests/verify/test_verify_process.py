"""`python -m launcher.verify`: its protocol, its end, and what it never says."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest

from launcher.documents.smoke import SmokeReport, VerifyRequest
from tests.patience import PATIENCE_S
from tests.verify.fakes import Call, FakeEngine, request, serving

KEY = "sk-canary-Zq81"
ROOT = Path(__file__).parents[2]


@contextmanager
def verifying() -> Iterator[subprocess.Popen[bytes]]:
    env = {**os.environ, "QLAUNCH_VERIFY_KEY": KEY, "OPENAI_LOG": "debug"}
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher.verify"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        cwd=ROOT,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def send(process: subprocess.Popen[bytes], line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line + b"\n")
    process.stdin.flush()


def event(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert process.stdout is not None
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


def ask(url: str, **changes: Any) -> bytes:
    return msgspec.json.encode(request(url, parity_min=0.0, **changes))


def test_prepared_go_report() -> None:
    engine = FakeEngine()
    with serving(engine), verifying() as process:
        send(process, ask(engine.url))
        prepared = event(process)
        assert prepared["event"] == "prepared"
        assert prepared["reference"] == "unavailable: not asked for"
        assert prepared["seconds"] >= 0
        assert engine.calls == []
        send(process, b"go")
        reported = event(process)
        assert reported["event"] == "report"
        report = msgspec.convert(reported["report"], SmokeReport)
        assert report.ok
        rest, errors = process.communicate(timeout=PATIENCE_S)
        assert (process.returncode, rest, errors) == (0, b"", b"")


def test_everything_at_once_and_then_the_end_of_stdin() -> None:
    engine = FakeEngine()
    with serving(engine), verifying() as process:
        out, _ = process.communicate(ask(engine.url) + b"\ngo\n", timeout=PATIENCE_S)
        assert [json.loads(line)["event"] for line in out.splitlines()] == ["prepared", "report"]
        assert process.returncode == 0


def test_a_failed_smoke_is_a_report_and_exit_0() -> None:
    with verifying() as process:
        out, _ = process.communicate(ask("http://127.0.0.1:9/v1") + b"\ngo\n", timeout=PATIENCE_S)
        report = json.loads(out.splitlines()[-1])["report"]
        assert (report["ok"], report["suspect"]) == (False, "not_listening")
        assert process.returncode == 0


@pytest.mark.parametrize("sent", [b"", None])
def test_the_end_of_stdin_ends_it_quietly(sent: bytes | None) -> None:
    line = b"" if sent is not None else ask("http://127.0.0.1:9/v1") + b"\n"
    with verifying() as process:
        out, errors = process.communicate(line, timeout=PATIENCE_S)
        assert process.returncode == 0
        assert errors == b""
        assert b"report" not in out


@pytest.mark.parametrize("line", [b"nonsense", b"{}", b'{"endpoint": 7}', b"\xff", b"[" * 9999])
def test_a_broken_request_is_an_error_event(line: bytes) -> None:
    with verifying() as process:
        out, errors = process.communicate(line + b"\n", timeout=PATIENCE_S)
        said = json.loads(out)
        assert said["event"] == "error"
        assert said["message"]
        assert process.returncode == 1
        assert b"Traceback" not in errors


def test_the_key_and_the_texts_are_in_nothing_it_says() -> None:
    def echo(call: Call) -> tuple[int, str, bytes]:
        return 500, "text/plain", f"{call.key} {call.inputs}".encode()

    engine = FakeEngine(raw=echo)
    with serving(engine), verifying() as process:
        send(process, ask(engine.url))
        event(process)
        assert KEY not in " ".join(psutil.Process(process.pid).cmdline())
        out, errors = process.communicate(b"go\n", timeout=PATIENCE_S)
        assert engine.calls[0].key == f"Bearer {KEY}"
        assert KEY.encode() not in out + errors
        assert b"windowsill" not in out + errors
        assert json.loads(out)["report"]["suspect"] == "engine_error"


def slow_reference(tmp_path: Path) -> VerifyRequest:
    """A request whose reference takes for ever: `torch` notes its process and sleeps."""
    pid = tmp_path / "pid"
    body = f"import os, time, pathlib\npathlib.Path({str(pid)!r}).write_text(str(os.getpid()))\n"
    (tmp_path / "torch.py").write_text(f"{body}time.sleep(200)\n")
    return request(
        engine_python=sys.executable,
        engine_env={"PYTHONPATH": str(tmp_path)},
        model_path=str(tmp_path),
        reference_cache=str(tmp_path / "cache"),
    )


def started(tmp_path: Path) -> psutil.Process:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        text = (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else ""
        if text:
            return psutil.Process(int(text))
        time.sleep(0.02)
    raise AssertionError("the worker did not start")


def gone(process: psutil.Process) -> bool:
    """Whether `process` ends long before it would; a zombie that init has yet to reap has ended."""
    deadline = time.monotonic() + PATIENCE_S
    try:
        while time.monotonic() < deadline:
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            time.sleep(0.01)
    except psutil.NoSuchProcess:
        return True
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_signal_ends_it_and_its_reference_child_at_once(
    tmp_path: Path, number: signal.Signals
) -> None:
    with verifying() as process:
        send(process, msgspec.json.encode(slow_reference(tmp_path)))
        child = started(tmp_path)
        process.send_signal(number)
        assert process.wait(PATIENCE_S) == -number
        assert gone(child)
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_the_end_of_stdin_ends_the_reference_child_too(tmp_path: Path) -> None:
    with verifying() as process:
        send(process, msgspec.json.encode(slow_reference(tmp_path)))
        child = started(tmp_path)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0
        assert gone(child)


def test_a_reader_that_went_away_leaves_no_traceback() -> None:
    engine = FakeEngine()
    with serving(engine), verifying() as process:
        assert process.stdout is not None
        process.stdout.close()
        send(process, ask(engine.url))
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""
