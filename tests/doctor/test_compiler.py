"""What doctor says of the C compiler that Triton needs."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from pathlib import Path

import pytest

from launcher.doctor import compiler

HERE = pytest.mark.skipif(
    shutil.which("gcc") is None or not (compiler._include() / "Python.h").exists(),
    reason="no C compiler with Python's headers here",
)


def program(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\nimport sys\n{body}\n")
    path.chmod(0o700)
    return path


@HERE
def test_a_compiler_with_python_s_headers_makes_a_module() -> None:
    environ = {name: value for name, value in os.environ.items() if name != "CC"}
    found = compiler.compiler_finding(environ)
    assert found.status == "ok", found
    assert "gcc" in found.message


@HERE
def test_without_python_s_headers_the_compiler_s_own_words_are_told(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if name != "CC"}
    found = compiler.compiler_finding(environ, include=tmp_path)
    assert found.status == "problem"
    assert "Python.h" in found.message
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"python{version}" in (found.fix or "")


def test_without_a_compiler_it_is_a_problem_with_the_command_that_installs_it(
    tmp_path: Path,
) -> None:
    found = compiler.compiler_finding({"PATH": str(tmp_path)})
    assert found.status == "problem"
    assert found.message.startswith("neither gcc nor clang is on PATH")
    assert "gcc" in (found.fix or "")


def test_cc_is_taken_before_what_is_on_path(tmp_path: Path) -> None:
    mine = program(tmp_path / "mine", "sys.exit(0)")
    program(tmp_path / "gcc", "sys.exit(0)")
    environ = {"PATH": str(tmp_path)}
    assert str(tmp_path / "gcc") in compiler.compiler_finding(environ).message
    assert str(mine) in compiler.compiler_finding({**environ, "CC": "mine"}).message
    gone = compiler.compiler_finding({**environ, "CC": "/nowhere/cc"})
    assert (gone.status, gone.fix) == ("problem", "set CC to a C compiler's path, or unset it")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("print('ld: cannot find crti.o', file=sys.stderr); sys.exit(1)", "cannot find crti.o"),
        ("sys.exit(3)", "exit code 3"),
    ],
)
def test_a_compiler_that_fails_is_quoted(body: str, expected: str, tmp_path: Path) -> None:
    program(tmp_path / "clang", body)
    found = compiler.compiler_finding({"PATH": str(tmp_path)})
    assert found.status == "problem"
    assert f"clang does not compile a module for Python ({expected}" in found.message.replace(
        "ld: ", ""
    )


@pytest.mark.parametrize(
    ("release", "expected", "others"),
    [
        ({"ID": "ubuntu", "ID_LIKE": "debian"}, "apt-get install gcc", "dnf"),
        ({"ID": "rocky", "ID_LIKE": "rhel centos fedora"}, "dnf install gcc", "apt-get"),
        ({"ID": "opensuse-leap", "ID_LIKE": "suse opensuse"}, "zypper install gcc", "apt-get"),
    ],
)
def test_the_command_is_that_of_the_distribution(
    release: dict[str, str], expected: str, others: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: release)
    assert expected in compiler.fix()
    assert others not in compiler.fix()


def test_where_the_distribution_is_not_known_all_commands_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr(platform, "freedesktop_os_release", unknown)
    assert all(word in compiler.fix() for word in ("apt-get", "dnf", "zypper"))
