"""One service, measured under load at levels of clients that ask for one text at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks import machine
from benchmarks.client import engine_target, sound
from benchmarks.home import home
from benchmarks.start import PROFILE
from launcher.bench.load import Bounds, measure_level
from launcher.documents.comparison import Level

TOKENS = 128


@dataclass
class Measured:
    """One level, by repeat."""

    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)
    p95_ms: list[float] = field(default_factory=list)


Levels = dict[int, Measured]
"""By clients."""


def measure(
    levels: Levels,
    clients: Iterable[int],
    service: str,
    words: tuple[str, ...],
    *,
    seconds: float,
    warmup: int,
    facts: dict[str, Any],
) -> str:
    """Start a service with `words`, add its figures to `levels`, stop it; the engine's version.

    Args:
        seconds: of load, a level.
        warmup: requests before each level that do not count.
        facts: the machine's, looked at again before each level.
    """
    with home() as place:
        up = place.up(service, PROFILE, *words)
        target, texts = engine_target(place, up.data)
        for number in clients:
            machine.look_again(facts)
            bounds = Bounds(requests=100_000, limit_s=seconds, warmup=warmup)
            row = sound(measure_level(target, Level(clients=number, tokens=TOKENS), texts, bounds))
            level = levels.setdefault(number, Measured())
            level.per_s.append(row.embeddings_per_s or 0.0)
            level.p50_ms.append(row.p50_ms or 0.0)
            level.p95_ms.append(row.p95_ms or 0.0)
        return str(up.data["engine"]["version"])
