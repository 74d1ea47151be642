"""A file of any size, in a bounded part of the memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.corpus.server import Server
from tests.corpus.test_resume import ROOT
from tests.patience import HANG_S

PROGRAM = r"""
import re, sys
from launcher.cli.main import main
code = main(sys.argv[1:])
# Not getrusage: its peak begins with that of the process that started us.
peak = re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1]
sys.stderr.write(f"\npeak {peak}")
sys.exit(code)
"""
SIZE = 200 << 20


@pytest.mark.parametrize("kind", ["jsonl", "csv", "txt"])
def test_two_hundred_megabytes_take_no_more_than_a_few_rows_do(
    kind: str, server: Callable[..., Server], tmp_path: Path
) -> None:
    """Long columns that are carried along, and lines that are longer than any text."""
    asked = server(decide=lambda texts: [[1.0] * 8 for _ in texts])
    source = tmp_path / f"i.{kind}"
    rows = write(source, kind)
    small = tmp_path / f"small.{kind}"
    with source.open("rb") as file:
        small.write_bytes(b"".join(file.readline(1 << 20) for _ in range(3)))
    little = peak_kb(tmp_path, str(small), "-o", str(tmp_path / "s.jsonl"), "--url", asked.url)
    out = tmp_path / "o.jsonl"
    large = peak_kb(tmp_path, str(source), "-o", str(out), "--url", asked.url, "--batch", "256")
    assert out.read_bytes().count(b"\n") == rows
    # 32 MB wait for answers, one record is read and one batch is written beside them.
    assert large - little < 128 << 10, f"{large} kB, and {little} kB for three rows"


def write(path: Path, kind: str) -> int:
    """Rows of 100 kB, and a line of 60 MB that is none; returns how many have a text."""
    filler = "carried along " * 7000
    rows = (SIZE - (60 << 20)) // len(filler)
    with path.open("w") as file:
        if kind == "csv":
            file.write("text,filler\n")
        for at in range(rows):
            if kind == "txt":
                # A text itself: a server takes 64 kB, and the one of this test takes anything.
                file.write(f"row {at} {filler}\n")
            elif kind == "csv":
                file.write(f'row {at},"{filler}"\n')
            else:
                file.write(json.dumps({"text": f"row {at}", "filler": filler}) + "\n")
        if kind != "csv":  # there it may be a quote that nobody closes, and ends the run
            for _ in range(60):
                file.write("x" * (1 << 20))
            file.write("\n")
    return rows


def peak_kb(home: Path, *words: str, limit_s: float = HANG_S * 2) -> int:
    """The most memory a run had resident."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "embed", "--quiet", *words],
        env={"QLAUNCH_HOME": str(home), "PATH": "/usr/bin:/bin"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=limit_s,
        check=False,
    )
    assert done.returncode in (0, 10), done.stderr
    return int(done.stderr.rpartition("peak ")[2])
