"""The example notebook against the real engine: it runs, and shows what it says it shows.

Its service is the winner of two `up`s at once, which other modules ask too.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.engine_real.conftest import Running
from tests.engine_real.notebook import code_cells
from tests.engine_real.qlaunch import LONG_S, ROOT, UP_S, Home
from tests.patience import HANG_S

NOTEBOOK = ROOT / "docs" / "examples" / "embeddings.ipynb"
NUMBER = re.compile(r"-?\d+\.\d+")


@pytest.fixture
def service(running: Running) -> Home:
    """A home where cpu-minilm runs."""
    return running.home


def test_of_two_ups_at_once_one_wins(running: Running) -> None:
    assert running.loser.code == 9, running.loser.stdout
    assert running.loser.document["errors"][0]["code"] in ("already_running", "busy")
    with urllib.request.urlopen(f"{running.endpoint}/models", timeout=HANG_S) as answer:
        assert answer.status == 200


def test_the_notebook_runs_and_prints_what_is_saved_in_it(service: Home) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.engine_real.notebook", str(NOTEBOOK)],
        cwd=ROOT,
        env=service.env,
        capture_output=True,
        text=True,
        timeout=UP_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    saved = ["".join(cell["outputs"][0]["text"]) for cell in code_cells(NOTEBOOK)]
    assert [NUMBER.sub("#", text) for text in printed] == [NUMBER.sub("#", text) for text in saved]
    # bfloat16 and float32 machines differ in the third digit.
    for found, known in zip(printed, saved, strict=True):
        numbers = [float(number) for number in NUMBER.findall(found)]
        assert numbers == pytest.approx([float(n) for n in NUMBER.findall(known)], abs=0.011)
    assert "Embedding dimension: 384" in printed[1]


def test_the_printed_program_runs(service: Home, tmp_path: Path) -> None:
    snippet = service.run("client", "cpu-minilm", "--json").ok().data["snippet"]
    file = tmp_path / "client.py"
    file.write_text(snippet)
    done = subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=UP_S, check=True
    )
    ferry, bread = json.loads(done.stdout)
    assert ferry > 0.4 > bread


def test_the_long_suite_and_retrieval(service: Home) -> None:
    """Served and sentence-transformers' way find the same documents."""
    first = service.run("verify", "cpu-minilm", "--quality", "--json", limit_s=LONG_S).ok().data
    suite, quality = first["verify"], first["quality"]
    assert {suite["reference"], quality["reference"]} <= {"computed", "cached"}
    assert suite["worst_cosine"] >= 0.999
    assert suite["longest_tokens"] == 512
    assert suite["left_out"] == [] or suite["tokens_per_s"] < 1500
    assert quality["cosine_min"] >= 0.999
    assert abs(quality["recall_difference"]) <= 0.01
    languages = next(group for group in suite["groups"] if group["group"] == "languages")
    assert languages["texts"] >= 20
