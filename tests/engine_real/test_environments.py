"""Surroundings that broke starts in the field, several at once, on the real engine.

Each start has an empty reference cache: what is computed there is computed in these surroundings.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.engine_real import qlaunch
from tests.engine_real.qlaunch import (
    Finished,
    Home,
    alive,
    assert_port_is_free,
    eventually,
    tree,
)
from tests.environments import locales

ROOT = Path(__file__).parents[2]
NOBODY = "12345"
PROXIES = {
    "http_proxy": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "ALL_PROXY": "socks5://127.0.0.1:9",
    "NO_PROXY": "intern.example",
}


@pytest.fixture
def fresh(new_home: Callable[[str], Home]) -> Iterator[Home]:
    """A home without cached references."""
    home = new_home("fresh")
    (home.root / "cache").unlink()
    (home.root / "cache").mkdir()
    yield home
    home.sweep()


def warming_profile(home: Home) -> str:
    """MiniLM's profile with the engine's own warm-up, which asks the engine over HTTP."""
    text = (ROOT / "profiles" / "cpu-minilm.yaml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines(keepends=True) if "skip-server-warmup" not in line]
    assert len(lines) == len(text.splitlines()) - 1
    path = home.root / "config" / "profiles" / "warming.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("".join(lines), encoding="utf-8")
    return "warming"


def without_account(env: dict[str, str], *arguments: str) -> Finished:
    """`qlaunch` under a UID that the user database does not know, where this machine allows it."""
    unshare = shutil.which("unshare")
    before = [unshare or "true", "--user", f"--map-user={NOBODY}", f"--map-group={NOBODY}"]
    tried = subprocess.run([*before, "id", "-u"], capture_output=True, check=False)
    if tried.stdout.strip() == NOBODY.encode():
        env = {k: v for k, v in env.items() if k not in ("HOME", "USER", "LOGNAME", "USERNAME")}
    else:
        before = []  # the rest of the surroundings is worth the start all the same
    child = subprocess.Popen(
        [*before, sys.executable, "-P", "-m", "launcher", *arguments],
        cwd=ROOT,
        env=env | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    return qlaunch.finish(child)


def test_gb18030_a_long_tmpdir_proxies_pips_settings_and_a_uid_without_an_account(
    fresh: Home, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Cases 6, 7, 9 and 16 at once."""
    long = tmp_path / ("t" * 105)
    long.mkdir()
    profile = warming_profile(fresh)
    env = fresh.env | locales.environment("zh_CN.GB18030", tmp_path_factory) | PROXIES
    env |= {"TMPDIR": str(long), "PIP_TARGET": str(tmp_path), "PIP_REQUIRE_HASHES": "1"}
    done = without_account(env, "smoke", "--up", profile, "--port", "0", "--json").ok()
    assert done.checks["parity"]
    assert all(done.checks.values())
    assert list(long.iterdir()) == []
    references = list((fresh.root / "cache" / "references").iterdir())
    assert len(references) == 1


def test_latin_1_spawned_in_float32_until_the_supervisor_is_killed(
    fresh: Home, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Case 9: under Latin-1 the reference was wrong, and cached; and nothing is left in TMPDIR.

    Beside it the other way to start the engine's children, in the other dtype.
    """
    base = Path("/tmp") / f"r{os.getpid()}"
    base.mkdir()
    try:
        fresh.env |= locales.environment("de_DE.ISO-8859-1", tmp_path_factory)
        fresh.env |= {"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0", "TMPDIR": str(base)}
        arguments = ("--start-method", "spawn", "--dtype", "float32", "--port", "0", "--json")
        up = fresh.run("up", "cpu-minilm", *arguments).ok()
        assert up.checks["parity"]
        assert up.data["smoke"]["worst_cosine"] >= 0.9999
        log = fresh.log("cpu-minilm")
        assert "qlaunch: children are spawned, not forked: as asked" in log
        assert "children are forked" not in log
        processes = tree(up.data["supervisor_pid"])
        assert up.data["pid"] in {process.pid for process in processes}
        assert [path.stat().st_mode & 0o777 for path in base.iterdir()] == [0o700]
        os.kill(up.data["supervisor_pid"], signal.SIGKILL)
        eventually(lambda: not alive(processes))
        assert_port_is_free(up.data["endpoint"])
        status = fresh.run("status", "cpu-minilm", "--json")
        assert (status.code, status.data["state"]) == (3, "failed")
        assert "supervisor" in status.data["failure"]["message"]
        assert list(base.iterdir()) == []
    finally:
        fresh.sweep()
        shutil.rmtree(base)
