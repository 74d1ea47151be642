"""Bytecode of an environment: every package, on all threads, and no worker left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.engine.environments.bytecode import compile_bytecode, shares
from tests.patience import PATIENCE_S


def environment(root: Path, packages: int = 6) -> Path:
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").symlink_to(sys.executable)
    site = root / "lib" / "python3.11" / "site-packages"
    for number in range(packages):
        package = site / f"package{number}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(f"x = {number}\n")
    (site / "alone.py").write_text("y = 1\n")
    (site / "broken.py").write_text("def (\n")
    return site


def test_every_module_is_compiled_and_a_broken_one_is_left(tmp_path: Path) -> None:
    site = environment(tmp_path)
    compile_bytecode(tmp_path)
    compiled = {path.name.partition(".")[0] for path in site.rglob("*.pyc")}
    assert compiled == {"__init__", "alone"}
    assert len(list(site.rglob("__init__.*.pyc"))) == 6


def test_files_beside_the_user_are_no_modules_of_the_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`engine install` in a folder with a compileall.py or a json.py compiled nothing."""
    site = environment(tmp_path / "env")
    here = tmp_path / "here"
    here.mkdir()
    for name in ("compileall", "struct", "importlib"):
        (here / f"{name}.py").write_text("raise SystemExit('mine')\n")
    monkeypatch.chdir(here)
    compile_bytecode(tmp_path / "env")
    assert len(list(site.rglob("*.pyc"))) == 7


@given(st.lists(st.integers(1, 500)), st.integers(1, 16))
def test_shares_hold_every_package_once_and_are_even(sizes: list[int], count: int) -> None:
    packages = [(Path(f"p{number}"), size) for number, size in enumerate(sizes)]
    made = shares(packages, count)
    assert sorted(path for share in made for path in share) == sorted(p for p, _ in packages)
    assert len(made) <= count
    assert all(made)
    weights = dict(packages)
    totals = [sum(weights[path] for path in share) for share in made]
    if len(made) == count:
        assert max(totals) - min(totals) <= max(sizes)


def test_killing_the_install_kills_its_compilers(tmp_path: Path) -> None:
    site = environment(tmp_path)
    (site / "long.py").write_text("x = [" + "1," * 3_000_000 + "]\n")
    imports = "from launcher.engine.environments.bytecode import *"
    program = f"{imports}; compile_bytecode(Path({str(tmp_path)!r}))"
    install = subprocess.Popen([sys.executable, "-c", program])
    try:
        compilers = wait_for_children(install.pid)
        install.send_signal(signal.SIGKILL)
        install.wait()
        _gone, alive = psutil.wait_procs(compilers, timeout=PATIENCE_S)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
    finally:
        install.kill()


def wait_for_children(pid: int) -> list[psutil.Process]:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = psutil.Process(pid).children()
        if len(found) >= min(2, len(os.sched_getaffinity(0))):
            return found
        time.sleep(0.02)
    raise AssertionError("no compiler was started")
