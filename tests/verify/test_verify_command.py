"""`qlaunch verify`: its document, its exit code, its words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import main
from launcher.errors import ExitCode
from tests.verify.fakes import FakeEngine, serving, vector_of
from tests.verify.running import pretend
from tests.verify.test_suite import polite, tokens_of


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    return tmp_path


def engine(**changes: Any) -> FakeEngine:
    return FakeEngine(**{"raw": polite, "tokens": tokens_of, "longest": 399, **changes})


def test_a_right_service_passes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(engine()) as served:
        pretend(monkeypatch, served.url)
        assert main(["verify", "s", "--json"]) == 0
        document = json.loads(capsys.readouterr().out)
        assert main(["verify", "s"]) == 0
    told = capsys.readouterr()
    assert document["command"] == "verify"
    found = document["data"]["verify"]
    assert found["ok"] is True
    assert found["tokens"] > 1000
    assert found["longest_tokens"] == 399
    assert found["worst_cosine"] is None  # parity is not asked for here
    assert all(set(check) == {"name", "ok", "detail"} for check in found["checks"])
    assert "quality" not in document["data"]
    assert "every check is ok" in told.out
    assert "measuring the rate" in told.err


def test_a_wrong_service_exits_7_with_the_suspect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = engine(vector=lambda _c, text: [2 * x for x in vector_of(text)])
    with serving(wrong) as served:
        pretend(monkeypatch, served.url)
        assert main(["verify", "s", "--json"]) == ExitCode.VERIFY_FAILED
        document = json.loads(capsys.readouterr().out)
        assert main(["verify", "s", "-q"]) == ExitCode.VERIFY_FAILED
    told = capsys.readouterr()
    assert document["status"] == "error"
    assert document["data"]["verify"]["suspect"] == "normalization"
    (error,) = document["errors"]
    assert error["code"] == "verify_failed"
    assert "unit_norm" in error["message"]
    assert "FAIL  unit_norm" in told.out
    assert "suspect: normalization" in told.out
    assert "Try:" in told.err
    assert "measuring" not in told.err


def test_quality_stands_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(engine()) as served:
        pretend(monkeypatch, served.url)
        assert main(["verify", "s", "--quality", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["data"]["quality"]
        assert main(["verify", "s", "--quality"]) == 0
    assert 0 <= found["recall_at_10"] <= 1
    assert found["reference_recall_at_10"] is None
    assert found["cosine_min"] is None
    assert found["reason"]
    assert "quality   recall@10" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["verify", "absent"], ExitCode.NOT_RUNNING),
        (["verify"], ExitCode.USAGE),
        (["verify", "s", "--seconds", "0"], ExitCode.USAGE),
        (["verify", "s", "--seconds", "soon"], ExitCode.USAGE),
        (["verify", "../x"], ExitCode.USAGE),
    ],
)
def test_refusals(words: list[str], code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == code
    assert "Traceback" not in capsys.readouterr().err
