"""Proxies and users: what our children find in their environment."""

from __future__ import annotations

import getpass
import os
import pwd
import sys
from pathlib import Path

import pytest

from launcher import child_environment

NOBODY = 41234


@pytest.fixture
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", missing)


def test_without_a_proxy_nothing_is_said_of_addresses() -> None:
    assert child_environment.own_addresses_directly({"NO_PROXY": "intern"}) == {}


@pytest.mark.parametrize(
    "name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "https_proxy"]
)
def test_own_addresses_are_asked_directly_in_both_spellings(name: str) -> None:
    env = {name: "http://127.0.0.1:9", "NO_PROXY": "intern.example, 127.0.0.1"}
    found = child_environment.own_addresses_directly(env, ["0.0.0.0", "127.0.0.1", "[fd00::7]"])
    assert set(found) == {"no_proxy", "NO_PROXY"}
    assert len(set(found.values())) == 1
    entries = found["no_proxy"].split(",")
    assert entries == ["intern.example", "127.0.0.1", "localhost", "::1", "0.0.0.0", "fd00::7"]


def test_requests_and_the_standard_library_then_leave_the_proxy_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import urllib.request

    from requests.utils import get_environ_proxies

    for name in [*child_environment.PROXIES, "no_proxy"]:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    hosts = ("127.0.0.1", "localhost", "[::1]", "192.0.2.7")
    assert all(get_environ_proxies(f"http://{host}:3/health") for host in hosts)
    for name, value in child_environment.own_addresses_directly(os.environ, ["192.0.2.7"]).items():
        monkeypatch.setenv(name, value)
    assert not any(get_environ_proxies(f"http://{host}:3/health") for host in hosts)
    assert urllib.request.proxy_bypass("127.0.0.1:3")
    assert get_environ_proxies("http://example.org/")


def test_a_user_without_an_account_has_a_name_and_a_home(no_account: None, tmp_path: Path) -> None:
    for home in ({}, {"HOME": "/"}, {"HOME": "/nonexistent"}, {"HOME": "relative"}, {"HOME": ""}):
        found = child_environment.user(home, tmp_path / "home")
        if os.geteuid() == 0 and home == {"HOME": "/"}:
            continue  # to root it is writable and root's own
        assert found["HOME"] == str(tmp_path / "home")
        assert found["USER"] == found["LOGNAME"] == f"uid{os.geteuid()}"


def test_getpass_answers_for_a_user_without_an_account(
    no_account: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises((KeyError, OSError)):
        getpass.getuser()
    for name, value in child_environment.user(os.environ, tmp_path).items():
        monkeypatch.setenv(name, value)
    assert getpass.getuser() == f"uid{os.geteuid()}"


def test_a_usable_home_and_a_known_user_are_left_alone(tmp_path: Path) -> None:
    assert child_environment.user({"HOME": str(tmp_path), "USER": "me"}, tmp_path / "spare") == {}


def test_another_users_home_is_not_written_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sudo` without -H: what root's engine caches there its owner could not remove."""
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)
    assert child_environment.user({"HOME": str(tmp_path), "USER": "me"}, tmp_path / "spare") == {
        "HOME": str(tmp_path / "spare")
    }


def test_caches_that_would_lie_in_the_temporary_folder_lie_in_ours(tmp_path: Path) -> None:
    found = child_environment.for_engines({"HOME": str(tmp_path), "USER": "me"}, tmp_path, [])
    assert found["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path / "torchinductor")
    given = {"HOME": str(tmp_path), "USER": "me", "TORCHINDUCTOR_CACHE_DIR": "/x"}
    assert "TORCHINDUCTOR_CACHE_DIR" not in child_environment.for_engines(given, tmp_path, [])


def test_another_environments_python_gets_nothing_that_changes_its_modules() -> None:
    env = {
        "PATH": "/bin",
        "PYTHONPATH": "/mine",
        "PYTHONHOME": "/usr",
        "PYTHONSTARTUP": "x.py",
        "PYTHONUSERBASE": "/u",
        "PYTHONINSPECT": "1",
        "VIRTUAL_ENV": "/venv",
        "LD_LIBRARY_PATH": "/cuda",
    }
    assert child_environment.foreign_python(env) == {
        "PATH": "/bin",
        "LD_LIBRARY_PATH": "/cuda",
        **child_environment.TEXT,
    }


def test_our_own_children_run_without_a_prompt_or_warnings_that_are_errors() -> None:
    env = {"PYTHONPATH": "/ours", "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error", "LANG": "C"}
    env |= {"PYTHONOPTIMIZE": "2", "PYTHONSTARTUP": "/x.py"}
    assert child_environment.utf8(env) == {"PYTHONPATH": "/ours", **child_environment.TEXT}


def test_a_full_temporary_folder_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 kB of tmpfs: a start would end in the middle, when a socket or a file is made."""
    import shutil
    import subprocess

    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare")
    full = Path("/tmp") / f"f{os.getpid()}"
    full.mkdir()
    program = (
        "import os; from pathlib import Path; from launcher.service import scratch\n"
        f"with scratch.scratch(os.environ, spare=Path('{tmp_path}')) as path: print(path.parent)\n"
    )
    script = 'mount -t tmpfs -o size=16k tmpfs "$0" && exec "$@"'
    try:
        done = subprocess.run(
            [unshare, "-m", "sh", "-c", script, str(full), sys.executable, "-c", program],
            env=os.environ | {"TMPDIR": str(full)},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            check=False,
        )
    finally:
        full.rmdir()
    if b"mount" in done.stderr:
        pytest.skip("this machine lets nobody mount")
    assert done.stdout == b"/tmp\n"
