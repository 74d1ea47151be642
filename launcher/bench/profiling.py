"""Where the time of a text goes: stacks of the engine's processes, sampled from outside by py-spy.

Nothing is put into the engine: a service that runs is measured as it is. Threads that wait are not
counted, so a stage's time is that of threads at work. What PyTorch's own threads do beside the one
that called them is in that one's time.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from launcher.documents.comparison import Frame, Profile, Row, Stage, StageName
from launcher.errors import QlaunchError
from launcher.linux.pdeathsig import die_with

RATE: Final = 100
"""Samples a second."""
SECONDS: Final = 10.0
"""Of load under the sampler, at most."""
WRITE_S: Final = 30.0
"""What the sampler may take to write its stacks when it is told to end."""
SMALLEST: Final = (0.005, 0.01, 0.02, 0.05)
"""A frame of a smaller share is not kept: the first with which the frames stay within `LARGEST`."""
LARGEST: Final = 40_000
"""Bytes of the frames as JSON: a line of a run's record may have 64 KiB."""
STAGES: Final[tuple[StageName, ...]] = ("front", "scheduler", "model", "back")
_MODEL: Final = ("model_runner.py:", "tp_worker.py:", "qlaunch_sglang/portions.py:")
"""Files through which a scheduler computes a batch: the plugin's portions have own threads."""
_PROCESS: Final = "process "
"""A frame that begins so names a process; py-spy puts those of its parents before it."""
_FORKED: Final = "BaseProcess.run (multiprocessing/process.py"
"""A forked process has the stack of its start below its own."""
_WAITING: Final = (
    *("Condition.wait (", "Event.wait (", "_worker (concurrent/futures", "wait (threading"),
    *("select (selectors", "EpollSelector.select (", "WatchdogRaw._watchdog_once ("),
    *("IdleSleeper.maybe_sleep (", "poll (zmq", "Poller.poll ("),
)
"""Innermost frames of threads that wait: where much is to do py-spy takes some for busy."""
_BACK: Final = ("handle_loop", "_handle_batch_output", "_build_embedding_response", "render")
"""Functions of the front that work on answers."""

_BEHIND: Final = "behind in sampling"
"""What py-spy says where it cannot keep to its rate."""

Stack = tuple[tuple[str, ...], int]
"""Frames from the outermost on, and how often they were seen."""


def program() -> str:
    """Where py-spy is.

    Raises:
        QlaunchError: `extra_missing` (exit 2): it is not installed.
    """
    beside = Path(sys.executable).with_name("py-spy")
    found = str(beside) if beside.exists() else shutil.which("py-spy")
    if found is None:
        raise QlaunchError(
            "stacks are sampled with py-spy, which is not installed",
            code="extra_missing",
            fix=f"{sys.executable} -m pip install 'qlaunch[profile]'",
        )
    return found


def profiled(leader: int | None, load: Callable[[], Row]) -> Profile:
    """Run a load while the engine's stacks are sampled.

    Args:
        leader: the engine's leader; its whole tree is sampled.
        load: runs a level and returns its row.

    Raises:
        QlaunchError: see `program`.
        Interrupted: as `load`.
    """
    if leader is None:
        return Profile(reason="the engine's processes are not known")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "stacks")
        sampler = _start(program(), leader, file)
        try:
            row = load()
        finally:
            words = _end(sampler)
        try:
            text = file.read_text("utf-8", errors="replace")
        except OSError:
            return Profile(reason=f"py-spy kept nothing: {words[-1][:300]}")
    found = profile(read_stacks(text), row)
    return msgspec.structs.replace(found, behind=any(_BEHIND in word for word in words))


def _start(py_spy: str, leader: int, file: Path) -> subprocess.Popen[str]:
    parent = os.getpid()
    return subprocess.Popen(
        [
            *(py_spy, "record", "--pid", str(leader), "--subprocesses"),
            *("--format", "raw", "--rate", str(RATE), "--duration", "unlimited"),
            *("--output", str(file)),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for us: the sampler is told to end by `_end`
        preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - no threads at work here
    )


def _end(sampler: subprocess.Popen[str]) -> list[str]:
    """Ask it for its stacks; what it said, a line at least."""
    sampler.send_signal(signal.SIGINT)
    try:
        _, said = sampler.communicate(timeout=WRITE_S)
    except subprocess.TimeoutExpired:
        sampler.kill()
        _, said = sampler.communicate()
    lines = [line.strip() for line in (said or "").splitlines() if line.strip()]
    return lines or [f"it ended with {sampler.returncode}"]


def read_stacks(text: str) -> list[Stack]:
    """The stacks of py-spy's raw format: frames parted by semicolons, and a count."""
    found = []
    for line in text.splitlines():
        joined, _, count = line.rpartition(" ")
        frames = joined.split(";")
        if not count.isdigit() or not frames[0].startswith(_PROCESS):
            continue
        if len(frames) > 1 and not frames[-1].startswith(_WAITING):
            found.append((_own(frames), int(count)))
    return found


def _own(frames: list[str]) -> tuple[str, ...]:
    """A stack from the role of its process on, without its parents and its start."""
    at = max(place for place, frame in enumerate(frames) if frame.startswith(_PROCESS))
    begun = [place for place, frame in enumerate(frames) if frame.startswith(_FORKED)]
    inner = max([at, *begun])
    return (_role(frames[at]), *frames[inner + 1 :])


def _role(process: str) -> str:
    title = process.partition('"')[2]
    if title.startswith("sglang::"):
        return "detokenizer" if "detokenizer" in title else "scheduler"
    return "front"


def profile(stacks: Sequence[Stack], row: Row) -> Profile:
    """What stacks say of the texts of a row. Pure."""
    total = sum(count for _, count in stacks)
    texts = row.requests * row.batch
    if not total or not texts:
        return Profile(reason="no busy thread was seen" if texts else "no request was answered")
    counts = dict.fromkeys(STAGES, 0)
    for frames, count in stacks:
        counts[stage(frames)] += count
    return Profile(
        embeddings_per_s=row.embeddings_per_s,
        seconds=row.seconds,
        samples=total,
        rate=RATE,
        stages=tuple(
            Stage(
                name=name,
                ms=round(1000 * count / RATE / texts, 4),
                share=round(count / total, 4),
            )
            for name, count in counts.items()
        ),
        frames=tree(stacks, total),
    )


def stage(frames: Sequence[str]) -> StageName:
    """To which part of a text's way a stack belongs; the first frame is the process's role."""
    if frames[0] == "detokenizer":
        return "back"
    if frames[0] == "scheduler":
        return "model" if any(part in frame for frame in frames for part in _MODEL) else "scheduler"
    back = any(frame.partition(" (")[0].rpartition(".")[2] in _BACK for frame in frames)
    return "back" if back else "front"


@dataclass
class _Node:
    count: int = 0
    inner: dict[str, _Node] = field(default_factory=dict)


def tree(stacks: Iterable[Stack], total: int) -> tuple[Frame, ...]:
    """The stacks laid together, frames of a small share left out. Pure."""
    root = _laid_together(stacks)
    frames: tuple[Frame, ...] = ()
    for smallest in SMALLEST:
        frames = _frames(root, total, smallest * total)
        if len(msgspec.json.encode(frames)) <= LARGEST:
            break
    return frames


def _laid_together(stacks: Iterable[Stack]) -> _Node:
    root = _Node()
    for frames, count in stacks:
        node = root
        for frame in frames:
            node = node.inner.setdefault(_name(frame), _Node())
            node.count += count
    return root


def _frames(node: _Node, total: int, least: float) -> tuple[Frame, ...]:
    kept = [(name, each) for name, each in node.inner.items() if each.count >= least]
    kept.sort(key=lambda pair: -pair[1].count)
    return tuple(
        Frame(name=name, share=round(each.count / total, 4), frames=_frames(each, total, least))
        for name, each in kept
    )


def _name(frame: str) -> str:
    """A frame without the line that was at work, which would tear a function apart."""
    function, bracket, place = frame.partition(" (")
    if not bracket:
        return frame
    file = place.rstrip(")").rpartition(":")[0] or place.rstrip(")")
    return f"{function} ({'/'.join(file.split('/')[-2:])})"
