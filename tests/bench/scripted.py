"""Contenders and tools that do what a test says, without a process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from launcher.bench.load import Interrupted, Target, TextSource
from launcher.bench.target import unmeasured
from launcher.bench.trial import Ended, Running, Say
from launcher.documents.comparison import Level, Mode, ModeKind, Outcome, Quality, Row
from launcher.errors import ExitCode, QlaunchError
from tests.bench.server import words

ONE = Level(clients=1, batch=1, tokens=128)
MANY = Level(clients=16, batch=1, tokens=128)


def row(mode: str, level: Level, rate: float, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "mode": mode,
        "batch": level.batch,
        "clients": level.clients,
        "mean_ms": 1000 * level.clients / rate,
        "p50_ms": 1000 * level.clients / rate,
        "p95_ms": 1500 * level.clients / rate,
        "p99_ms": 2000 * level.clients / rate,
        "embeddings_per_s": rate,
        "tokens_per_s": rate * level.tokens,
        "ram_peak_bytes": 1_000_000_000,
        "gpu_peak_bytes": None,
        "requests": 100,
    }
    return Row(**{**values, **changes})


@dataclass
class Scripted:
    """A contender; `events` is shared by all of a test."""

    name: str
    events: list[str]
    rate: Callable[[int, Level], float] = lambda _life, _level: 10.0
    fails: Callable[[int], str | None] = lambda _life: None
    quality: Quality | None = None
    kind: ModeKind = "profile"
    outcome: Outcome = "not_reached"
    left: tuple[str, ...] = ()
    lives: int = 0

    @property
    def facts(self) -> Mode:
        why = "it needs a GPU" if self.outcome == "cannot_run" else None
        return Mode(name=self.name, kind=self.kind, outcome=self.outcome, reason=why, model="m")

    def start(self, _say: Say) -> Running:
        assert self.outcome != "cannot_run"
        self.events.append(f"start {self.name}")
        self.lives += 1
        why = self.fails(self.lives)
        if why is not None:
            raise QlaunchError(
                why, code="start_failed", exit_code=ExitCode.START_FAILED, fix="try less"
            )
        found = self.quality
        return Running(
            target=Target(mode=self.name, url="http://x/v1", model="m", dimensions=8),
            model_path="/m",
            ready_s=1.0,
            run=f"run-{self.name}-{self.lives}",
            quality=None if found is None else lambda _say: found,
        )

    def stop(self) -> Ended:
        self.events.append(f"stop {self.name}")
        return Ended(left=self.left, ram_peak_bytes=2_000_000_000)


@dataclass
class ScriptedTools:
    """Tools that measure what the contender of that name says."""

    contenders: list[Scripted]
    events: list[str]
    bend: Callable[[Row], Row] = lambda found: found
    interrupt_at: int | None = None
    """Number of the level, from 1, in which Ctrl-C comes."""
    levels: int = 0
    notes: list[str] = field(default_factory=list)

    def say(self, line: str) -> None: ...

    def now(self, line: str) -> None: ...

    def settle(self) -> str | None:
        return self.notes.pop() if self.notes else None

    def texts(self, model_path: str | None, target: Target) -> TextSource:
        return words(0)

    def measure(
        self,
        target: Target,
        level: Level,
        texts: TextSource,
        progress: Callable[[int, float], None],
    ) -> Row:
        self.levels += 1
        self.events.append(f"level {target.mode}")
        if self.levels == self.interrupt_at:
            raise Interrupted(unmeasured(target.mode, level, "interrupted"))
        found = next(each for each in self.contenders if each.name == target.mode)
        return self.bend(row(target.mode, level, found.rate(found.lives, level)))
