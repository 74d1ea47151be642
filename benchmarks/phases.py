"""Where the time of a start goes: the phases of a run record, or of a bare engine's log."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from benchmarks.figures import Row, single
from launcher.bench.unsupervised import BareEngine

_STEPS = (
    ("loading", "until it loads the model: imports, arguments, starting its processes"),
    ("warming", "loading the weights"),
    ("healthy", "KV cache, server, warm-up, until `/health` 200"),
    ("ready", "proving the vectors right"),
)
Begins = dict[str, float]
"""Seconds at which each phase began; `healthy` is the first `/health` 200."""


@dataclass
class Starts:
    """The starts of one side: whole seconds, and the phases of each."""

    seconds: list[float] = field(default_factory=list)
    phases: list[Begins] = field(default_factory=list)

    def add(self, seconds: float, phases: Begins) -> None:
        """One start."""
        self.seconds.append(seconds)
        self.phases.append(phases)

    @property
    def around(self) -> list[float]:
        """Seconds outside the phases: before the engine is started and after it is ready."""
        return [
            seconds - at["ready"] + at["starting"]
            for seconds, at in zip(self.seconds, self.phases, strict=True)
            if "ready" in at
        ]

    @property
    def healthy(self) -> list[float]:
        """Seconds without the checks: to the first `/health` 200."""
        return [
            seconds - (at["ready"] - at["healthy"] if "ready" in at else 0.0)
            for seconds, at in zip(self.seconds, self.phases, strict=True)
        ]

    def between(self, first: str, second: str) -> list[float]:
        """Seconds from one phase to another, of the starts that saw both."""
        return [at[second] - at[first] for at in self.phases if first in at and second in at]


def of_run(record: dict[str, Any]) -> Begins:
    """Phases of a run record (`runs show`); the clock begins inside `qlaunch up`."""
    at = {phase["name"]: float(phase["t_s"]) for phase in record["phases"]}
    return {**at, "healthy": float(record["timings"]["ready_s"])}


def of_engine(engine: BareEngine, healthy: float) -> Begins:
    """Phases of a bare engine, to within the interval at which its log was read."""
    return {"starting": 0.0, **engine.phases, "healthy": healthy}


def rows(ours: Starts, other: Starts) -> list[Row]:
    """One row a step, none of them judged; a step that was not seen is left out."""
    words = "– the command: planning, the supervisor's start, printing"
    found = [single(words, "s", ours.around)]
    before = "starting"
    for name, words in _STEPS:
        if seen := ours.between(before, name):
            found.append(single(f"– {words}", "s", seen, other=other.between(before, name)))
        before = name
    return found
