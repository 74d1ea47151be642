"""Going through an agenda: one chapter after the other, written down after each, within a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from launcher.documents import proof
from launcher.documents.proof import Proof, StepRecord
from launcher.linux.files import write_atomic
from launcher.prove import calls, claims, drills
from launcher.prove.agenda import Chapter, Step
from launcher.units import now

DOCUMENT: Final = "proof.json"
_LEAST_S: Final = 5.0
"""Less time left than this, and nothing more is begun."""
_DOWN_S: Final = 60.0
_FINAL: Final = ("ok", "failed", "skipped")
"""Outcomes that a resumed proof keeps; what was cut short is done anew."""

Progress = Callable[[str], None]


def run(
    begun: Proof, agenda: Iterable[Chapter], folder: Path, deadline: float, progress: Progress
) -> Proof:
    """Do what is left of `agenda` until `deadline` (monotonic seconds); returns the whole proof.

    Raises:
        KeyboardInterrupt: Ctrl-C; what was done is written, and what ran has been taken down.
    """
    kept = {each.name: each for each in begun.chapters if each.outcome in _FINAL}
    cut_short = {each.name for each in begun.chapters} - set(kept)
    done: list[proof.Chapter] = []

    def write(chapter: proof.Chapter) -> None:
        done.append(chapter)
        _write(begun, done, folder)

    for chapter in agenda:
        if chapter.name in kept:
            write(kept[chapter.name])
            continue
        if chapter.name in cut_short:
            _clear(chapter)
        _do(chapter, deadline, progress, write)
        last = done[-1]
        progress(f"{last.title}: {last.outcome}{f' ({last.why})' if last.why else ''}")
    return _write(begun, done, folder, ended=now())


def _do(
    chapter: Chapter,
    deadline: float,
    progress: Progress,
    write: Callable[[proof.Chapter], None],
) -> None:
    """Do a chapter and write it down, also where Ctrl-C ends it."""
    records: list[StepRecord] = []
    began = time.monotonic()
    try:
        write(_chapter(chapter, deadline, progress, records))
    except KeyboardInterrupt:
        _clear(chapter)
        seconds = round(time.monotonic() - began, 2)
        write(_record(chapter, "interrupted", "Ctrl-C or a signal", records, seconds))
        raise


def _chapter(
    chapter: Chapter, deadline: float, progress: Progress, records: list[StepRecord]
) -> proof.Chapter:
    if chapter.absent is not None:
        return _record(chapter, "skipped", chapter.absent, [], 0.0)
    if deadline - time.monotonic() < _LEAST_S:
        return _record(chapter, "timed_out", "the time for the proof was over", [], 0.0)
    began = time.monotonic()
    broken: StepRecord | None = None
    for step in chapter.steps:
        if broken is not None and not step.always:
            continue
        progress(f"{chapter.title}: {step.name}")
        record = _step(step, deadline)
        records.append(record)
        if record.outcome != "ok" and broken is None:
            broken = record
    seconds = round(time.monotonic() - began, 2)
    if broken is None:
        return _record(chapter, "ok", None, records, seconds)
    why = f"{broken.name}: {broken.why}"
    return _record(chapter, broken.outcome, why, records, seconds)


def _step(step: Step, deadline: float) -> StepRecord:
    left = deadline - time.monotonic()
    if left < _LEAST_S and not step.always:
        return StepRecord(
            name=step.name,
            command=calls.scrub(f"qlaunch {' '.join(step.words)}"),
            outcome="timed_out",
            why="the time for the proof was over",
        )
    limit_s = step.limit_s if step.always else min(step.limit_s, left)
    if step.kind != "command":
        return drills.run(step, limit_s)
    record = calls.call(step.name, step.words, limit_s)
    if record.outcome == "timed_out" and limit_s == step.limit_s:
        # Its own limit, not the proof's time: another try would end the same way.
        return msgspec.structs.replace(record, outcome="failed")
    if record.outcome == "failed" and record.exit_code in step.accepts:
        return msgspec.structs.replace(record, outcome="ok")
    return record


def _clear(chapter: Chapter) -> None:
    """Take down what a chapter that was cut short may have left."""
    for service in chapter.services:
        calls.call("down", ("down", service), _DOWN_S)


def _record(
    chapter: Chapter,
    outcome: proof.Outcome,
    why: str | None,
    steps: Iterable[StepRecord],
    seconds: float,
) -> proof.Chapter:
    return proof.Chapter(
        name=chapter.name,
        title=chapter.title,
        outcome=outcome,
        why=why,
        seconds=seconds,
        began=now(),
        steps=tuple(steps),
    )


def _write(
    begun: Proof, chapters: Iterable[proof.Chapter], folder: Path, *, ended: str | None = None
) -> Proof:
    chapters = tuple(chapters)
    found = msgspec.structs.replace(
        begun, chapters=chapters, claims=claims.claims(chapters), ended=ended
    )
    text = msgspec.json.format(msgspec.json.encode(found), indent=1)
    write_atomic(folder / DOCUMENT, text, mode=0o600)
    return found
