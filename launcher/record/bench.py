"""Measurements kept with the run they were taken of: `bench.ndjson`, a line a level.

The supervisor alone writes `run.json`; what others measure of its engine goes here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from launcher.documents.comparison import Row
from launcher.documents.measurement import VERSION, Measurement
from launcher.record.bounded_lines import LINE_LIMIT_BYTES, BoundedLines, read_lines

BENCH = "bench.ndjson"
LIMIT_BYTES = 2_000_000
"""About two thousand levels; then the older half is dropped."""


def append_bench(directory: Path, measurement: Measurement) -> None:
    """Add a measurement to a run's folder.

    Raises:
        OSError: the folder is gone or the disk is full.
        ValueError: the measurement is longer than a line may be.
    """
    line = msgspec.json.encode(measurement)
    if len(line) > LINE_LIMIT_BYTES:
        raise ValueError(f"a measurement of {len(line)} bytes is longer than a line may be")
    BoundedLines(directory / BENCH, LIMIT_BYTES, _newer_half).append(line)


def read_bench(directory: Path) -> list[Measurement]:
    """The measurements of a run's folder, oldest first; damaged lines are left out."""
    decoder = msgspec.json.Decoder(Measurement)
    found = []
    for line in read_lines(directory / BENCH):
        try:
            measurement = decoder.decode(line)
        except (ValueError, RecursionError):
            continue
        if measurement.version == VERSION:
            found.append(measurement)
    return found


def bench_rows(directory: Path) -> list[Row]:
    """Every row measured of a run, oldest first, without the facts around it."""
    return [row for measurement in read_bench(directory) for row in measurement.rows]


def _newer_half(lines: Iterator[bytes]) -> list[bytes]:
    kept = list(lines)
    return kept[len(kept) // 2 :]
