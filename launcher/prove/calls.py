"""Calling the program itself, bounded in time, and reading what it answered."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from launcher.documents.proof import StepRecord
from launcher.record.scrub import Scrubber

_ENDINGS: Final = ((signal.SIGINT, 60.0), (signal.SIGTERM, 15.0))
"""What a call is asked to end by, and how long it then may take: a start takes down what it began.
Whatever does not listen to Ctrl-C may still listen to the other."""
_SECRET: Final = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)
_LIMIT: Final = 8 << 20


class _Problem(msgspec.Struct):
    message: str


class _Document(msgspec.Struct):
    exit_code: int
    data: dict[str, Any] = {}
    errors: list[_Problem] = []


def call(name: str, words: Sequence[str], limit_s: float) -> StepRecord:
    """Run `qlaunch WORDS --json` for at most `limit_s` seconds. Never raises for what it does.

    Raises:
        KeyboardInterrupt: Ctrl-C; the call has then ended.
    """
    argv = [sys.executable, "-P", "-m", "launcher", *words, "--json"]
    began = time.monotonic()
    with tempfile.TemporaryFile() as out:
        # A session of its own: Ctrl-C is ours to pass on, once.
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        in_time = _wait(child, limit_s)
        out.seek(0)
        answer = out.read(_LIMIT)
    seconds = round(time.monotonic() - began, 2)
    record = StepRecord(
        name=name,
        command=scrub(f"qlaunch {shlex.join(words)}"),
        outcome="ok",
        seconds=seconds,
        exit_code=child.returncode,
    )
    return _read(record, answer, None if in_time else limit_s)


def _wait(child: subprocess.Popen[bytes], limit_s: float) -> bool:
    """Wait for the child's end; False where it had to be ended."""
    try:
        child.wait(limit_s)
    except subprocess.TimeoutExpired:
        _end(child)
        return False
    except BaseException:
        _end(child)
        raise
    return True


def _end(child: subprocess.Popen[bytes]) -> None:
    """Ask it to end, then kill it with what it started in its session; it has ended then."""
    try:
        for number, grace_s in _ENDINGS:
            child.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(grace_s)
                return
    finally:  # also where a second Ctrl-C does not want to wait
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def _read(record: StepRecord, answer: bytes, limit_s: float | None) -> StepRecord:
    try:
        found = msgspec.json.decode(scrub(answer.decode("utf-8", "replace")), type=_Document)
    except (ValueError, msgspec.MsgspecError):
        found = _Document(record.exit_code or 0, errors=[_Problem("it answered no document")])
    outcome = "ok" if record.exit_code == 0 else "failed"
    why = found.errors[0].message if found.errors else None
    if limit_s is not None:
        outcome, why = "timed_out", f"it did not end within {limit_s:.0f} s"
    elif outcome == "failed" and why is None:
        why = f"exit {record.exit_code}"
    return msgspec.structs.replace(record, outcome=outcome, why=why, data=found.data)


def scrub(text: str) -> str:
    """`text` without secrets of the environment, and without this user's folders and host name."""
    secrets = (value for name, value in os.environ.items() if _SECRET.search(name))
    text = Scrubber(value for value in secrets if len(value) >= 6)(text)
    for place, word in _places():
        text = text.replace(place, word)
    return text


def _places() -> list[tuple[str, str]]:
    """Folders that name a user or a machine's layout, longest first, with what stands for them."""
    found = [
        (os.environ.get("QLAUNCH_HOME", ""), "$QLAUNCH_HOME"),
        (str(Path(__file__).resolve().parents[2]), "$QLAUNCH"),
        (os.environ.get("HOME", ""), "~"),
        (_environment_of(os.environ.get("QLAUNCH_ENGINE_PYTHON", "")), "$ENGINE"),
    ]
    found = [(place.rstrip("/"), word) for place, word in found]
    return sorted(((p, w) for p, w in found if len(p) > 1), key=lambda pair: -len(pair[0]))


def _environment_of(python: str) -> str:
    """Folder of the user's own engine environment; empty where none is named by its path."""
    folder = Path(python).parent.parent
    return str(folder) if (folder / "pyvenv.cfg").is_file() else ""
