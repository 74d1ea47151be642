"""What `doctor` names of the surroundings, where it matters."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from launcher.doctor import surroundings
from launcher.engine import releases
from launcher.engine.environments import install
from launcher.errors import QlaunchError
from launcher.linux import locks
from launcher.model import hub
from launcher.model.source import parse_source
from launcher.paths import Dirs
from tests.environments import locales


@pytest.fixture
def where(tmp_path: Path) -> Dirs:
    return Dirs(*(tmp_path / name for name in ("config", "data", "state", "cache")))


def test_everything_is_named_once_and_nothing_is_made(where: Dirs, tmp_path: Path) -> None:
    found = list(surroundings.findings({"PATH": "/bin", "HOME": str(tmp_path)}, where))
    assert [finding.name for finding in found] == [
        "locale",
        "user",
        "temporary folder",
        "pip settings",
        "file locks",
        "programs",
    ]
    assert {finding.status for finding in found} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_locale_of_another_encoding(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import locale
    import subprocess
    import sys

    env = locales.environment("de_DE.ISO-8859-1", tmp_path_factory)
    program = (
        "import os; from launcher.doctor import surroundings as s;"
        "print(s.locale_finding(os.environ).message)"
    )
    root = Path(__file__).parents[2]
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=os.environ | env, cwd=root, capture_output=True, check=True)
    assert done.stdout.decode() == (
        "de_DE.ISO-8859-1 (ISO-8859-1): for the terminal alone, the rest is UTF-8\n"
    )
    before = locale.setlocale(locale.LC_CTYPE)
    monkeypatch.setenv("LC_ALL", "xx_XX")
    assert "'xx_XX' is not installed here" in surroundings.locale_finding(os.environ).message
    locale.setlocale(locale.LC_CTYPE, before)


def test_a_user_without_an_account(monkeypatch: pytest.MonkeyPatch, where: Dirs) -> None:
    def missing(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", missing)
    found = surroundings.user_finding({"HOME": "/nonexistent"}, where.cache)
    assert found.message == (
        f"not in the user database (UID {os.geteuid()}); /nonexistent is not theirs to write in: "
        f"engines use {where.cache}/home"
    )


def test_a_tmpdir_that_does_not_serve(where: Dirs, tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    found = surroundings.temporary_finding({"TMPDIR": str(long)}, where)
    assert found.status == "ok"
    assert "TMPDIR cannot be used: its path is" in found.message


def test_pip_settings_without_their_values() -> None:
    env = {"PIP_CONFIG_FILE": os.devnull, "PIP_TARGET": "/secret"}
    found = surroundings.pip_finding(env)
    assert "PIP_TARGET" in found.message
    assert "/secret" not in found.message


def test_a_file_system_without_locks(monkeypatch: pytest.MonkeyPatch, where: Dirs) -> None:
    monkeypatch.setattr(locks, "unsupported", lambda _folder: locks.WITHOUT)
    found = surroundings.locks_finding(where)
    assert (found.status, locks.WITHOUT in found.message) == ("problem", True)
    assert "QLAUNCH_HOME" in (found.fix or "")


def test_a_folder_from_which_nothing_may_run(
    monkeypatch: pytest.MonkeyPatch, where: Dirs, tmp_path: Path
) -> None:
    class Facts:
        f_flag = os.ST_NOEXEC

    monkeypatch.setattr(os, "statvfs", lambda _path: Facts)
    found = surroundings.exec_finding(where.engines)
    assert (found.status, "noexec" in found.message) == ("problem", True)
    with pytest.raises(QlaunchError, match="mounted noexec") as caught:
        install.install(releases.release("cpu"), where.engines, progress=lambda _: None)
    assert caught.value.exit_code == 5
    assert "QLAUNCH_HOME" in (caught.value.fix or "")


def test_a_socks_proxy_that_the_hubs_client_cannot_use() -> None:
    error = ImportError("Using SOCKS proxy, but the 'socksio' package is not installed.")
    found = hub._explain(parse_source("hf:a/b"), error, False)
    assert "SOCKS" in found.message
    assert "socksio" in (found.fix or "")


def test_a_variable_that_nothing_reads_is_named_with_the_one_that_was_meant() -> None:
    known = ("QLAUNCH_PORT", "QLAUNCH_HOME", "QLAUNCH_THREADS")
    found = surroundings.variables_finding({"QLAUNCH_PROT": "1", "QLAUNCH_HOME": "/x"}, known)
    assert (found.status, found.fix) == ("warning", "did you mean QLAUNCH_PORT?")
    assert found.message == "QLAUNCH_PROT is set, and nothing reads it"
    right = {"QLAUNCH_PORT": "1", "QLAUNCH_TEST_NVML": "somebody else's", "PORT": "2"}
    found = surroundings.variables_finding(right, known)
    assert (found.status, found.message) == ("ok", "set: QLAUNCH_PORT")
