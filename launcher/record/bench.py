"""Measurements kept with the run they were taken of: `bench.ndjson`, a line a level.

The supervisor alone writes `run.json`; what others measure of its engine goes here. A line holds
`version`, `made` (ISO 8601, UTC), `measurement` (the same for all levels of one command), facts of
the service, and `rows`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from launcher.record.bounded_lines import LINE_LIMIT_BYTES, BoundedLines, read_lines

BENCH = "bench.ndjson"
VERSION = 1
LIMIT_BYTES = 2_000_000
"""About two thousand levels; then the older half is dropped."""


def append_bench(directory: Path, document: dict[str, Any]) -> None:
    """Add a measurement to a run's folder; `version` is added.

    Raises:
        OSError: the folder is gone or the disk is full.
        ValueError: the document is longer than a line may be.
    """
    line = msgspec.json.encode({"version": VERSION, **document})
    if len(line) > LINE_LIMIT_BYTES:
        raise ValueError(f"a measurement of {len(line)} bytes is longer than a line may be")
    BoundedLines(directory / BENCH, LIMIT_BYTES, _newer_half).append(line)


def read_bench(directory: Path) -> list[dict[str, Any]]:
    """The measurements of a run's folder, oldest first; damaged lines are left out."""
    found = []
    for line in read_lines(directory / BENCH):
        try:
            document = msgspec.json.decode(line)
        except (msgspec.DecodeError, RecursionError):
            continue
        if isinstance(document, dict) and document.get("version") == VERSION:
            rows = document.get("rows")
            if isinstance(rows, list) and all(isinstance(row, dict) for row in rows):
                found.append(document)
    return found


def bench_rows(directory: Path) -> list[dict[str, Any]]:
    """Every row measured of a run, oldest first, without the facts around it."""
    return [row for document in read_bench(directory) for row in document["rows"]]


def _newer_half(lines: Iterator[bytes]) -> list[bytes]:
    kept = list(lines)
    return kept[len(kept) // 2 :]
