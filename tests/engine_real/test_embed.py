"""`qlaunch embed` on the real engine: right vectors, in order, after a kill -9 too."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from launcher.linux import processes as procs
from tests.engine_real.conftest import Running
from tests.engine_real.qlaunch import UP_S, Home, eventually

ROWS = 300


def test_a_corpus_killed_half_way(home: Home, running: Running, tmp_path: Path) -> None:
    source, out = tmp_path / "corpus.jsonl", tmp_path / "vectors.npy"
    texts = [f"Sentence {at} is about the number {at * at}." for at in range(ROWS)]
    texts[7], texts[100] = "", "word " * 2000
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    words = ("embed", str(source), "-o", str(out), "cpu-minilm", "--batch", "4", "--json")
    first = home.start(*words)
    part = Path(f"{out}.part")
    eventually(lambda: part.exists() and part.stat().st_size > 20 * 384 * 4, UP_S)
    first.kill()
    first.communicate()
    again = home.run(*words)
    assert again.code == 10, again.stderr
    assert again.data["rows"] == ROWS - 2
    assert again.data["reasons"] == {"empty": 1, "too_long": 1}
    bad = [json.loads(line) for line in Path(f"{out}.bad.jsonl").read_text().splitlines()]
    assert [row["row"] for row in bad] == [8, 101]
    assert "tokens" in bad[1]["message"]
    # The service was started for this, and was stopped by the run that ended it.
    assert home.run("status", "cpu-minilm", "--json").data["state"] == "stopped"
    assert procs.marked(f"QLAUNCH_HOME={home.root}") == []

    whole = tmp_path / "whole.jsonl"
    once = running.home.run(
        "embed", str(source), "-o", str(whole), "cpu-minilm", "--truncate", "--json"
    )
    assert once.code == 10  # the empty one alone
    # What ran already goes on running.
    status = running.home.run("status", "cpu-minilm", "--json").ok().data
    assert (status["state"], status["pid"]) == ("ready", running.data["pid"])
    rows = [json.loads(line) for line in whole.read_bytes().splitlines()]
    assert [row["text"] for row in rows] == [text for text in texts if text]
    vectors = np.array([row.pop("embedding") for row in rows], np.float32)
    kept = np.delete(vectors, [99], axis=0)  # the long one, which was cut
    cosines = (kept * np.load(out)).sum(axis=1)
    assert cosines.min() > 0.9999
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
