from __future__ import annotations

from pathlib import Path

import pytest

from launcher.cli import export


def test_options_come_back_as_they_were_typed(tmp_path: Path) -> None:
    given = {
        "model": str(tmp_path),
        "dtype": "bfloat16",
        "start_timeout_s": "90",
        "plugin": False,
        "allow_unauthenticated": True,
        "name": "x",
        "port": "1",
        "engine": None,
    }
    assert export._options(given) == (
        *("--model", str(tmp_path), "--dtype", "bfloat16", "--start-timeout", "90"),
        *("--no-plugin", "--allow-unauthenticated"),
    )


def test_a_relative_folder_becomes_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    assert export._options({"model": "model"}) == ("--model", str(tmp_path / "model"))
    assert export._options({"model": "hf:a/b"}) == ("--model", "hf:a/b")
