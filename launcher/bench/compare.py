"""Modes of serving, measured in turn and held against each other.

Each mode lives once a repeat, all of them before any lives again, and the order turns round every
time: what the machine does meanwhile falls on all alike. The winner is measured once more in a
fresh life, since the best of several noisy figures flatters itself. The document is handed out
after every level, so that whatever ends a comparison early, nothing measured is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from launcher.bench import verdict
from launcher.bench.stats import spread
from launcher.bench.trial import Contender, Ended, Life, Tools, live
from launcher.documents.comparison import (
    Cell,
    Comparison,
    Level,
    MachineFacts,
    Mode,
    Objective,
    Outcome,
    Quality,
    Remeasured,
    Row,
)


@dataclass(frozen=True)
class Course:
    """What to measure."""

    levels: tuple[Level, ...]
    repeats: int = 3
    objective: Objective = "throughput"
    quality: bool = True
    """Whether to compare the vectors of each mode with the reference, once."""
    again: bool = True
    """Whether to measure the winner once more."""


@dataclass(frozen=True)
class Header:
    """What the document says of the circumstances."""

    id: str
    made: str
    machine: MachineFacts = field(default_factory=MachineFacts)
    versions: dict[str, str | None] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass
class _Column:
    """One mode, with everything that its lives gave."""

    contender: Contender
    levels: tuple[Level, ...]
    lives: list[Life] = field(default_factory=list)

    @property
    def facts(self) -> Mode:
        return self.contender.facts

    @property
    def can_go_on(self) -> bool:
        """A mode that failed is not tried again: it would fail in each repeat."""
        return self.facts.outcome != "cannot_run" and all(x.failure is None for x in self.lives)

    def mode(self, repeats: int, interrupted: str | None) -> Mode:
        """The mode as the document has it now."""
        facts = self.facts
        if facts.outcome == "cannot_run":
            return facts
        started = [life.running for life in self.lives if life.running is not None]
        last = started[-1] if started else None
        outcome, reason = self._outcome(repeats, interrupted)
        quality = next((x.quality for x in self.lives if x.quality is not None), None)
        rows = [row for life in self.lives for row in life.rows]
        ended = [life.ended for life in self.lives]
        return msgspec.structs.replace(
            facts,
            outcome=outcome,
            reason=reason,
            argv=last.argv if last and last.argv else facts.argv,
            runs=tuple(found.run for found in started if found.run),
            ready_s=spread(found.ready_s for found in started),
            verified_s=spread(found.verified_s for found in started),
            ram_peak_bytes=_most(
                [*(e.ram_peak_bytes for e in ended), *(row.ram_peak_bytes for row in rows)]
            ),
            gpu_peak_bytes=_most(
                [*(e.gpu_peak_bytes for e in ended), *(row.gpu_peak_bytes for row in rows)]
            ),
            verified_ram_bytes=_most([e.verified_ram_bytes for e in ended]),
            memory_method=_method(ended, rows),
            quality=quality,
            cells=tuple(self._cell(place, level) for place, level in enumerate(self.levels)),
            rows=tuple(rows),
        )

    def _outcome(self, repeats: int, interrupted: str | None) -> tuple[Outcome, str | None]:
        failure = next((life.failure for life in self.lives if life.failure), None)
        usable = any(row.embeddings_per_s is not None for life in self.lives for row in life.rows)
        if failure is not None:
            return ("partial" if usable else "failed"), failure
        whole = len(self.lives) == repeats and not any(life.interrupted for life in self.lives)
        if whole:
            return "measured", None
        if usable:
            return "partial", interrupted
        return "not_reached", interrupted

    def _cell(self, place: int, level: Level) -> Cell:
        """A level over the repeats. Levels that failed or were cut short give no figure."""
        seen = [life.rows[place] for life in self.lives if place < len(life.rows)]
        rows = [row for row in seen if counts(row)]
        return Cell(
            level=level,
            mean_ms=spread(row.mean_ms for row in rows),
            p50_ms=spread(row.p50_ms for row in rows),
            p95_ms=spread(row.p95_ms for row in rows),
            p99_ms=spread(row.p99_ms for row in rows),
            embeddings_per_s=spread(row.embeddings_per_s for row in rows),
            tokens_per_s=spread(row.tokens_per_s for row in rows),
            ram_peak_bytes=_most([row.ram_peak_bytes for row in rows]),
            gpu_peak_bytes=_most([row.gpu_peak_bytes for row in rows]),
            errors=sum(row.errors for row in seen),
            saturated=any(row.saturated for row in rows),
        )


def counts(row: Row) -> bool:
    """Whether a row's figures stand: measured to its end, every request answered."""
    return row.embeddings_per_s is not None and row.reason is None and not row.errors


class Comparing:
    """A comparison under way.

    Args:
        contenders: the modes, in the order of the document.
        write: gets the document after every step.
        idle: share of the processors that is idle, looked at before every life.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        course: Course,
        header: Header,
        tools: Tools,
        *,
        write: Callable[[Comparison], object] = lambda _: None,
        idle: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._columns = [_Column(contender, course.levels) for contender in contenders]
        self._course, self._header, self._tools = course, header, tools
        self._write, self._idle = write, idle
        self._notes: list[str] = []
        self._idle_before: float | None = None
        self._remeasured: Remeasured | None = None
        self._again: tuple[_Column, Life] | None = None
        self._interrupted: str | None = None
        self._done = False

    def run(self) -> Comparison:
        """Measure everything; an interrupt ends it early, and the document says so."""
        try:
            self._rounds()
            if self._interrupted is None and self._course.again:
                self._winner_again()
        except KeyboardInterrupt:  # between two lives
            self._interrupted = self._interrupted or "interrupted"
        self._done = self._interrupted is None
        found = self.document()
        self._write(found)
        return found

    def document(self) -> Comparison:
        """The comparison as it stands."""
        waiting = self._interrupted or "not reached yet"
        modes = [column.mode(self._course.repeats, waiting) for column in self._columns]
        if self._again is not None:
            column, life = self._again
            place = self._columns.index(column)
            modes[place] = _with_run(modes[place], life)
        found = Comparison(
            id=self._header.id,
            made=self._header.made,
            complete=self._done,
            interrupted=self._interrupted,
            repeats=self._course.repeats,
            objective=self._course.objective,
            levels=self._course.levels,
            modes=tuple(modes),
            remeasured=self._remeasured,
            machine=msgspec.structs.replace(self._header.machine, idle_before=self._idle_before),
            versions=self._header.versions,
            notes=(*self._header.notes, *self._notes),
        )
        return verdict.judged(found)

    def _rounds(self) -> None:
        for number in range(self._course.repeats):
            columns = [column for column in self._columns if column.can_go_on]
            # Turned round every second time: nobody always comes after the same one.
            for column in columns if number % 2 == 0 else reversed(columns):
                if column.can_go_on and not self._live(column, number):
                    return

    def _live(self, column: _Column, number: int) -> bool:
        """One life of one mode; False when everything is to end."""
        if self._course.repeats > 1:
            self._tools.say(f"repeat {number + 1} of {self._course.repeats}: {column.facts.name}")
        self._look()
        life = Life()
        column.lives.append(life)

        def on_row(found: Life) -> None:
            column.lives[-1] = found
            self._write(self.document())

        wants = self._course.quality and not any(each.quality for each in column.lives)
        found = live(
            column.contender, self._course.levels, self._tools, quality=wants, on_row=on_row
        )
        column.lives[-1] = found
        self._notes += found.notes
        if found.failure is not None:
            self._tools.say(f"{column.facts.name}: failed: {found.failure}")
        if found.interrupted:
            self._interrupted = f"interrupted during {column.facts.name}"
        self._write(self.document())
        return not found.interrupted

    def _look(self) -> None:
        seen = self._idle()
        if seen is not None:
            self._idle_before = seen if self._idle_before is None else min(seen, self._idle_before)

    def _winner_again(self) -> None:
        best = verdict.winner(self.document())
        if best is None:
            return
        name, level, first = best
        column = next(each for each in self._columns if each.facts.name == name)
        if not column.can_go_on:
            return
        self._tools.say(f"{name} is ahead: measured once more in a fresh life")
        self._look()
        life = live(column.contender, [level], self._tools)
        self._again = column, life
        self._notes += life.notes
        if life.interrupted:
            self._interrupted = f"interrupted while {name} was measured again"
            return
        figure = verdict.figure(self._course.objective)
        again = getattr(life.rows[0], figure) if life.rows and counts(life.rows[0]) else None
        if again is None:
            why = life.failure or (life.rows[0].reason if life.rows else None)
            self._notes.append(f"{name} could not be measured again: {why}")
            return
        self._remeasured = Remeasured(
            mode=name, level=level, first=first, again=again, figure=figure
        )


def _with_run(mode: Mode, life: Life) -> Mode:
    run = life.running.run if life.running is not None else None
    return msgspec.structs.replace(mode, runs=(*mode.runs, run)) if run else mode


def _most(values: Sequence[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)


def _method(ended: Sequence[Ended], rows: Sequence[Row]) -> dict[str, str]:
    """How memory was measured: of the last life that says so."""
    found = [e.memory_method for e in ended] + [row.memory_method for row in rows]
    return next((dict(method) for method in reversed(found) if method), {})


def failed(found: Comparison) -> tuple[Mode, ...]:
    """Modes that were tried and not wholly measured."""
    return tuple(mode for mode in found.modes if mode.outcome in ("failed", "partial"))


def quality_of(report: Any) -> Quality:
    """What a comparison keeps of `launcher.verify.quality.measure_quality`."""
    return Quality(
        cosine_mean=report.cosine_mean,
        cosine_min=report.cosine_min,
        recall_at_10=report.recall_at_10,
        reference_recall_at_10=report.reference_recall_at_10,
        reason=report.reason,
    )
