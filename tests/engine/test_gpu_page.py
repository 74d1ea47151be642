"""docs/gpu.md is what `make engines` saw, and every shipped profile is among what it tried."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from launcher.engine import releases
from tests.engines_cuda import page, trial
from tests.engines_cuda.__main__ import RAW, ROOT

SEEN = {path.stem: json.loads(path.read_text("utf-8")) for path in RAW.glob("*.json")}


def test_the_page_is_made_of_the_raw_results() -> None:
    text = (ROOT / "docs" / "gpu.md").read_text("utf-8")
    assert text == page.text(RAW), "python -m tests.engines_cuda --report-only"


@pytest.mark.parametrize("name", SEEN)
def test_what_was_seen_is_of_the_release_as_it_is(name: str) -> None:
    seen = SEEN[name]
    assert seen["sglang"] == releases.release(name).version, f"make engines ARGS={name}"
    assert seen["install"]["bytes"] <= releases.release(name).disk_bytes


@pytest.mark.parametrize("name", SEEN)
def test_no_folder_of_a_machine_is_in_the_raw_results(name: str) -> None:
    text = (RAW / f"{name}.json").read_text("utf-8")
    assert "/root/" not in text
    assert "/home/" not in text


def test_the_profiles_of_a_release_and_their_fallbacks_are_tried() -> None:
    tried = trial.profile_arguments(releases.release("turing"))
    assert {"t4-fp16", "t4-fp16 max-total-tokens=16384", "gpu-minilm"} <= set(tried)
    assert not [name for name in tried if name.startswith("cpu-")]
    words = tried["gpu-minilm"]
    assert "--disable-cuda-graph" in words, "what the profile says for this release alone"


def test_a_cosine_is_of_each_text_with_its_own_reference() -> None:
    served = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert trial.cosines(served, np.array([[3.0, 0.0], [1.0, 1.0]])) == [1.0, 0.7071068]


def test_a_release_that_does_not_install_has_a_column_all_the_same(tmp_path: Path) -> None:
    failed = {
        "release": "turing",
        "sglang": "1",
        "date": "2026-01-01",
        "install": {"exit_code": 5, "seconds": 7, "bytes": None},
    }
    (tmp_path / "turing.json").write_text(json.dumps(failed))
    text = page.text(tmp_path)
    assert "| exit 5 in 7 s |" in text
    assert "| start with MiniLM | not reached |" in text


def test_compiled_kernels_stand_beside_what_a_card_has(tmp_path: Path) -> None:
    row = {"what": "attention of encoders", "head": 32, "card": "7.5"}
    figures = {"mma": 0, "registers": 168, "spill_bytes": 8, "shared_bytes": 24576}
    rows = [row | figures, row | {"head": 64, "error": "OutOfResources: too much\nmore"}]
    (tmp_path / "kernels").mkdir()
    path = tmp_path / "kernels" / "turing.json"
    path.write_text(json.dumps({"triton": "3.4.0", "rows": rows}))
    text = page.kernels(tmp_path)
    assert "| attention of encoders, head of 32 | none; 168; 8; 24,576 |" in text
    assert "does not compile (OutOfResources: too much)" in text
    assert "| shared memory, at most | 65,536 |" in text
    assert page.kernels(tmp_path / "absent") == ""


def kernel_rows() -> list[tuple[str, dict[str, object]]]:
    """Every compiled kernel of a release on the cards that the release is for."""
    rows = []
    for path in (RAW / "kernels").glob("*.json"):
        release = releases.release(path.stem)
        for row in json.loads(path.read_text("utf-8"))["rows"]:
            low, high = release.min_compute_capability, release.max_compute_capability
            card = tuple(map(int, row["card"].split(".")))
            fits = _pair(low) <= card and (high is None or card <= _pair(high))
            rows += [(path.stem, row)] * fits
    return rows


def _pair(capability: str | None) -> tuple[int, ...]:
    return tuple(map(int, (capability or "0.0").split(".")))


def test_no_kernel_of_a_release_takes_more_shared_memory_than_its_cards_have() -> None:
    for name, row in kernel_rows():
        assert "error" not in row, (name, row)
        assert int(str(row["shared_bytes"])) <= page.SHARED[str(row["card"])], (name, row)


def test_every_kernel_that_is_compiled_gives_the_numbers_of_torch() -> None:
    """In Triton's interpreter: a float32's rounding apart, and a float16's of numbers below 4."""
    names = {path.stem for path in (RAW / "numbers").glob("*.json")}
    assert names == {path.stem for path in (RAW / "kernels").glob("*.json")}
    for name in names:
        rows = json.loads((RAW / "numbers" / f"{name}.json").read_text("utf-8"))["rows"]
        compiled = json.loads((RAW / "kernels" / f"{name}.json").read_text("utf-8"))["rows"]
        keys = ("what", "head", "card", "BLOCK_M", "BLOCK_N")
        of_both = [
            {tuple(row.get(key) for key in keys) for row in each} for each in (rows, compiled)
        ]
        assert of_both[0] == of_both[1]
        assert max(row["off_float32"] for row in rows) < 3e-6, name
        assert max(row["off_float16"] for row in rows) < 2**-9 + 2**-10, name


def test_a_kernel_that_is_not_interpreted_says_why(tmp_path: Path) -> None:
    row = {
        "what": "attention of encoders",
        "head": 32,
        "card": "7.5",
        "error": "InterpreterError: no",
    }
    (tmp_path / "numbers").mkdir()
    (tmp_path / "numbers" / "turing.json").write_text(
        json.dumps({"triton": "3.4.0", "rows": [row]})
    )
    assert "not interpreted (InterpreterError: no)" in page.numbers(tmp_path)
    assert page.numbers(tmp_path / "absent") == ""
