"""What `bench` measured of a running service: a line of `bench.ndjson` in the run's folder."""

from __future__ import annotations

from typing import Final

import msgspec

from launcher.documents.comparison import Row

VERSION: Final = 1


class MeasuredService(msgspec.Struct, frozen=True, kw_only=True):
    """The service as it was measured, so that a measurement can be cited without its run."""

    service: str
    profile: str
    model: str
    fingerprint: str | None
    """Of the model's files."""
    device: str
    dtype: str
    release: str
    engine: str
    """The engine's version."""


class BenchResult(MeasuredService, frozen=True, kw_only=True):
    """The JSON of `bench`."""

    endpoint: str
    run: str
    """Whose record holds the rows."""
    started: bool
    """The service was started for this, and is stopped afterwards."""
    encoding: str
    keep_alive: bool
    idle_before: float | None
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


class Measurement(MeasuredService, frozen=True, kw_only=True):
    """Levels of one command of `bench`."""

    made: str
    """ISO 8601, UTC."""
    measurement: str
    """The same for all levels of one command: when it began."""
    encoding: str
    """How vectors were asked for: `base64`, `float`."""
    keep_alive: bool
    idle_before: float | None
    """Share of the processors that was idle before; None where that cannot be known."""
    rows: tuple[Row, ...]
    version: int = VERSION
