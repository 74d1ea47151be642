"""The stand-in for libcuda.so.1: it loads, answers every call with an error, and stays out of the
way of a real driver.
"""

from __future__ import annotations

import ctypes
import shutil
import sys
from pathlib import Path

import pytest

from launcher.engine import releases
from launcher.engine.environments import stub_driver

CUDA = releases.release("cuda12")
CPU = releases.release("cpu")
STUB_LIBRARY = 34
"""CUDA_ERROR_STUB_LIBRARY."""

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, stub_driver._COMPILERS)), reason="there is no C compiler here"
)


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stub_driver, "has_real", lambda: False)


def python_of(root: Path) -> Path:
    return root / "bin" / "python"


@needs_compiler
@pytest.mark.usefixtures("no_driver")
def test_every_call_answers_with_the_error_of_a_stub(tmp_path: Path) -> None:
    assert stub_driver.available(CUDA, tmp_path) == "stub"
    library = ctypes.CDLL(str(tmp_path / stub_driver.FOLDER / stub_driver.LIBRARY))
    assert library.cuInit(0) == STUB_LIBRARY
    count = ctypes.c_int(7)
    assert library.cuDeviceGetCount(ctypes.byref(count)) == STUB_LIBRARY
    assert count.value == 7
    text = ctypes.c_char_p()
    assert library.cuGetErrorString(STUB_LIBRARY, ctypes.byref(text)) == 0
    assert b"stub" in (text.value or b"")


@needs_compiler
@pytest.mark.usefixtures("no_driver")
def test_it_is_made_once_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    stub_driver.available(CUDA, tmp_path)
    made = tmp_path / stub_driver.FOLDER / stub_driver.LIBRARY
    before = made.stat().st_mtime_ns
    assert stub_driver.available(CUDA, tmp_path) == "stub"
    assert made.stat().st_mtime_ns == before
    assert [path.name for path in made.parent.iterdir()] == [stub_driver.LIBRARY]


@needs_compiler
@pytest.mark.usefixtures("no_driver")
def test_it_goes_before_the_users_own_library_path(tmp_path: Path) -> None:
    python = python_of(tmp_path)
    assert stub_driver.environment(CUDA, python, {}) == {}
    stub_driver.available(CUDA, tmp_path)
    folder = str(tmp_path / stub_driver.FOLDER)
    assert stub_driver.environment(CUDA, python, {}) == {"LD_LIBRARY_PATH": folder}
    env = stub_driver.environment(CUDA, python, {"LD_LIBRARY_PATH": "/opt/lib"})
    assert env == {"LD_LIBRARY_PATH": f"{folder}:/opt/lib"}
    assert stub_driver.environment(CPU, python, {}) == {}


@needs_compiler
def test_a_real_driver_is_never_stood_in_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stub_driver, "has_real", lambda: False)
    stub_driver.available(CUDA, tmp_path)
    monkeypatch.setattr(stub_driver, "has_real", lambda: True)
    assert stub_driver.available(CUDA, tmp_path) == "real"
    assert stub_driver.environment(CUDA, python_of(tmp_path), {}) == {}


def test_a_cpu_release_needs_none(tmp_path: Path) -> None:
    assert stub_driver.available(CPU, tmp_path) == "real"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("no_driver")
@pytest.mark.parametrize("compiler", [None, "false", sys.executable])
def test_without_a_compiler_that_works_there_is_none(
    compiler: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = compiler and (shutil.which(compiler) or compiler)
    monkeypatch.setattr(shutil, "which", lambda _name: path)
    assert stub_driver.available(CUDA, tmp_path) == "none"
    assert not list(tmp_path.glob(f"{stub_driver.FOLDER}/*"))
