"""The base works without the extras, and names the one that a command needs. Nothing is installed:
the child's imports of what the extras bring are refused.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher import extras
from tests.report import report_samples

ROOT = Path(__file__).parents[1]
WITHOUT = """
import sys
for name in {blocked!r}:
    sys.modules[name] = None
from launcher.cli.main import entry
entry()
"""
BROUGHT = {
    "report": {"matplotlib", "numpy", "PIL"},
    "modelscope": {"modelscope", "modelscope_hub"},
    "redis": {"redis"},
    "memcached": {"pymemcache"},
    "gateway": {"tokenizers", "uvloop"},
    "otel": {"opentelemetry"},
}
BASE = sorted(set().union(*BROUGHT.values()))


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "home"))


def without(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a Python that has nothing of what the extras bring."""
    program = WITHOUT.format(blocked=BASE)
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_bytes(msgspec.json.encode(report_samples.comparison()))
    return path


def errors(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(done.stdout)["errors"]
    return found


def test_a_page_without_matplotlib_has_the_figures_in_words_and_says_so(comparison: Path) -> None:
    page = comparison.with_suffix(".html")
    done = without("runs", "report", str(comparison), "--html", str(page), "--json")
    assert done.returncode == 10, done.stderr
    (error,) = errors(done)
    assert error["code"] == "extra_missing"
    assert "charts are drawn with matplotlib, which is not installed" in error["message"]
    assert error["fix"] == extras.install_command("report")
    text = page.read_text("utf-8")
    assert "<svg" not in text
    assert "Latency against throughput by mode and level: " in text
    assert "qlaunch[report]" in text


def test_the_other_reports_need_no_matplotlib(comparison: Path, tmp_path: Path) -> None:
    files = tmp_path / "a.md", tmp_path / "a.csv"
    words = ["--markdown", str(files[0]), "--csv", str(files[1])]
    done = without("runs", "report", str(comparison), *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert all(path.stat().st_size > 100 for path in files)


def test_a_model_of_modelscope_names_the_extra_and_how_to_install_it() -> None:
    done = without("model", "pull", "modelscope:acme/tiny", "--json")
    assert done.returncode == 2
    (error,) = errors(done)
    assert error["code"] == "extra_missing"
    assert "modelscope, which is not installed" in error["message"]
    assert error["fix"] == extras.install_command("modelscope")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--help"], ["profiles", "list"], ["model", "list"], ["engine", "list"], ["ps"],
        ["runs", "list"], ["runs", "report", "--help"], ["recommend"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_base_works_without_the_extras(words: list[str]) -> None:
    done = without(*words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_the_base_requires_none_of_what_the_extras_bring() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    base = {word.split(">")[0].lower() for word in project["dependencies"]}
    assert not base & {name.lower() for name in BASE}
    for extra in extras.MODULES:
        requirements = project["optional-dependencies"][extra]
        assert any(one.startswith(f"{extras.package(extra)}>=") for one in requirements)
    together = project["optional-dependencies"]["all"][0]
    # Ray has 600 MB, and is for clusters that have it already.
    assert {extra for extra in extras.MODULES if extra not in together} == {"ray"}


@pytest.mark.parametrize(
    ("marker", "command"),
    [
        ("pipx_metadata.json", "pipx inject qlaunch matplotlib"),
        ("uv-receipt.toml", "uv tool install --with matplotlib qlaunch"),
        (None, "-m pip install 'qlaunch[report]'"),
    ],
)
def test_the_command_fits_how_the_program_was_installed(
    marker: str | None, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if marker:
        (tmp_path / marker).touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert extras.install_command("report").endswith(command)


def test_a_library_that_is_there_and_broken_is_not_called_absent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "matplotlib").mkdir()
    (tmp_path / "matplotlib" / "__init__.py").write_text("import no_such_library\n")
    program = "from launcher import extras; print(extras.lacking('report'))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "cannot be imported (No module named 'no_such_library')" in done.stdout


def test_a_client_that_cannot_be_imported_without_a_home_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was an unexpected RuntimeError, also of `doctor`."""

    def homeless(_name: str) -> None:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(importlib, "import_module", homeless)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    lacking = extras.lacking("modelscope")
    assert lacking is not None
    assert (lacking.code, lacking.fix) == ("extra_missing", extras.NEEDS_HOME)
    assert "cannot be imported (Could not determine home directory.)" in str(lacking)
