"""Corpora of a size that people have: `make soak`, not part of `make test`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus.server import Server
from tests.corpus.test_command import read
from tests.corpus.test_memory import peak_kb
from tests.corpus.test_resume import killed, texts

pytestmark = [pytest.mark.soak, pytest.mark.timeout(3600)]

ROWS = 200_000
GIGABYTE = 1_000_000_000
MOST_KB = 300_000
"""Of the launcher, resident, for an input of a gigabyte."""
WAIT_S = 1800.0


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_two_hundred_thousand_rows_and_ten_deaths(suffix: str, engine: str, tmp_path: Path) -> None:
    """Every row once, in its place, and the file is that of an uninterrupted run."""
    kills = killed(suffix, ROWS, 256, engine, tmp_path)
    rows, _ = read(tmp_path / f"killed.{suffix}")
    assert [row["id"] for row in rows] == [at for at, text in enumerate(texts(ROWS)) if text]
    bad = (tmp_path / f"killed.{suffix}.bad.jsonl").read_bytes().splitlines()
    missing = [at + 1 for at, text in enumerate(texts(ROWS)) if not text]
    assert [json.loads(line)["row"] for line in bad] == missing
    print(json.dumps({"rows": len(rows), "bad": len(bad), "killed": kills, "format": suffix}))
    assert kills >= 5


@pytest.mark.parametrize(("kind", "made"), [("jsonl", "jsonl"), ("csv", "parquet")])
def test_a_gigabyte_takes_three_hundred_megabytes_at_most(
    kind: str, made: str, server: Callable[..., Server], tmp_path: Path
) -> None:
    asked = server(decide=lambda batch: [[1.0] * 8 for _ in batch], keep=False)
    source, out = tmp_path / f"i.{kind}", tmp_path / f"o.{made}"
    rows = write_gigabyte(source)
    words = (str(source), "-o", str(out), "--url", asked.url, "--batch", "256")
    peak = peak_kb(tmp_path, *words, limit_s=WAIT_S)
    print(json.dumps({"rows": rows, "bytes": source.stat().st_size, "peak_kb": peak, "to": made}))
    source.unlink()
    assert count(out) == rows
    out.unlink()
    assert peak <= MOST_KB


def write_gigabyte(path: Path) -> int:
    """Rows of two kilobytes, of which a quarter is text; returns their number."""
    text, more = "a sentence of a page " * 24, "carried along " * 107
    with path.open("w") as file:
        if path.suffix == ".csv":
            file.write("id,text,more\n")
        at = 0
        while file.tell() < GIGABYTE:
            for _ in range(1000):
                row = {"id": at, "text": f"{at} {text}", "more": more}
                line = (
                    json.dumps(row) if path.suffix == ".jsonl" else ",".join(map(str, row.values()))
                )
                file.write(f"{line}\n")
                at += 1
    return at


def count(path: Path) -> int:
    """Rows of an output."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return int(pq.read_metadata(path).num_rows)
    with path.open("rb") as file:
        return sum(1 for _ in file)
