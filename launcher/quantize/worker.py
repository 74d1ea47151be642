"""Running the quantising program in its environment, with its steps as progress."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from launcher.errors import ExitCode, QlaunchError
from launcher.verify import reference

WORKER = Path(__file__).with_name("quantize_worker.py")
STEP = "step: "
_LAST_LINES = 40


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What the program reads; see its own words."""

    source: str
    target: str
    to: str
    group_size: int
    calibration: Sequence[str]
    texts: Sequence[str]
    max_tokens: int
    fallback_pooling: str
    threads: int


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What the program answers; vectors are base64 float32, in the order of the texts."""

    reference: list[str]
    vectors: list[str]
    matrices: int
    seconds: dict[str, float]
    versions: dict[str, str]


class _Refusal(msgspec.Struct):
    error: str


def run(python: Path, question: Question, progress: Callable[[str], None]) -> Answer:
    """Have `question` done.

    Raises:
        QlaunchError: `quantize_failed` (exit 1), with the program's own words.
    """
    argv = [str(python), "-P", str(WORKER), str(os.getpid()), str(reference.WORKER)]
    env = reference.worker_environment({"HF_DATASETS_OFFLINE": "1"})
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said:
        asked.write(msgspec.json.encode(question))
        asked.seek(0)
        try:
            child = subprocess.Popen(
                argv, stdin=asked, stdout=said, stderr=subprocess.PIPE, env=env
            )
        except OSError as error:
            raise _failed(f"{python} does not start: {error.strerror}") from error
        last = _follow(child, progress)
        said.seek(0)
        return _read(child.returncode, said.read(), last)


def _follow(child: subprocess.Popen[bytes], progress: Callable[[str], None]) -> str:
    """Wait for the program's end; returns its last line on stderr."""
    lines: deque[str] = deque(maxlen=_LAST_LINES)
    assert child.stderr is not None  # Popen was asked for it
    try:
        for raw in child.stderr:
            line = raw.decode("utf-8", "replace").strip()
            if line.startswith(STEP):
                progress(line.removeprefix(STEP))
            elif line:
                lines.append(line.rpartition("\r")[2])
        child.wait()
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()
        child.stderr.close()
    return lines[-1] if lines else ""


def _read(status: int, answer: bytes, last: str) -> Answer:
    if status == 0:
        try:
            return msgspec.json.decode(answer, type=Answer)
        except (ValueError, msgspec.MsgspecError) as error:
            raise _failed("the program's answer is unreadable") from error
    if status == -9:
        raise _failed("its process was killed, most likely for want of memory")
    try:
        why = msgspec.json.decode(answer, type=_Refusal).error
    except (ValueError, msgspec.MsgspecError):
        why = f"its process ended with status {status}: {last[:300]}"
    raise _failed(why)


def _failed(why: str) -> QlaunchError:
    return QlaunchError(
        f"the checkpoint was not quantised: {why}",
        code="quantize_failed",
        exit_code=ExitCode.UNEXPECTED,
        fix="`qlaunch model inspect MODEL` says what the checkpoint is; nothing was kept",
    )
