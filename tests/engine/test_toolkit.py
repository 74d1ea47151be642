"""CUDA_HOME points at the toolkit that pip brought, where the machine has none."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from launcher.engine import releases
from launcher.engine.command import environment
from launcher.engine.environments import environment_probe, install
from tests.samples import engine, installed


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without a toolkit of its own."""
    monkeypatch.setattr(environment_probe, "SYSTEM_TOOLKIT", tmp_path / "absent")
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def _environment(root: Path, folder: str = "cu13") -> Path:
    """An environment with a toolkit from pip; returns its python."""
    nvcc = root / "lib" / "python3.11" / "site-packages" / "nvidia" / folder / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.touch(mode=0o755)
    return root / "bin" / "python"


def test_pips_toolkit_is_found_in_the_environment(tmp_path: Path) -> None:
    python = _environment(tmp_path / "env")
    found = environment_probe.pip_toolkit(python, {})
    assert found == tmp_path / "env/lib/python3.11/site-packages/nvidia/cu13"


@pytest.mark.parametrize("name", ["CUDA_HOME", "CUDA_PATH"])
def test_the_users_own_toolkit_goes_first(tmp_path: Path, name: str) -> None:
    python = _environment(tmp_path / "env")
    assert environment_probe.pip_toolkit(python, {name: "/opt/cuda"}) is None


def test_a_toolkit_of_the_machine_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = _environment(tmp_path / "env")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "nvcc").touch(mode=0o755)
    assert environment_probe.pip_toolkit(python, {"PATH": str(tmp_path / "bin")}) is None
    monkeypatch.setattr(environment_probe, "SYSTEM_TOOLKIT", tmp_path)
    assert environment_probe.pip_toolkit(python, {"PATH": ""}) is None


def test_an_environment_without_a_compiler_has_none(tmp_path: Path) -> None:
    (tmp_path / "lib/python3.11/site-packages/nvidia/cublas/lib").mkdir(parents=True)
    assert environment_probe.pip_toolkit(tmp_path / "bin" / "python", {}) is None


def test_an_installed_cuda_engine_is_started_with_it(tmp_path: Path) -> None:
    root = installed(tmp_path, "cuda13")
    _environment(root)
    found = install.find(releases.release("cuda13"), tmp_path)
    assert found is not None
    assert found.cuda_home is not None
    assert _env(found)["CUDA_HOME"] == str(found.cuda_home)


def test_cpu_engines_have_nothing_to_do_with_it(tmp_path: Path) -> None:
    root = installed(tmp_path, "cpu")
    _environment(root)
    found = install.find(releases.release("cpu"), tmp_path)
    assert found is not None
    assert "CUDA_HOME" not in _env(found)


def test_without_one_the_variable_is_left_to_the_user() -> None:
    assert "CUDA_HOME" not in _env(msgspec.structs.replace(engine("cuda13"), cuda_home=None))


def _env(found: object) -> dict[str, str]:
    return environment(
        found,  # type: ignore[arg-type]
        model_path="/m",
        architectures=(),
        threads=None,
        plugin=True,
        start_method="auto",
    )
