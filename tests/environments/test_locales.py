"""Text is UTF-8 between our processes and in files, whatever the user's locale says (case 9)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher import child_environment
from launcher.service.supervisor.engine_environment import engine_environment
from tests.environments import locales

ROOT = Path(__file__).parents[2]
ODD = {
    "latin-1 streams": {"PYTHONIOENCODING": "latin-1"},
    "C, and nothing coerced": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "POSIX": {"LC_ALL": "POSIX"},
    "no such locale": {"LC_ALL": "xx_XX.UTF-7"},
    "UTF-8 mode forbidden": {"LC_ALL": "C.UTF-8", "PYTHONUTF8": "0"},
}
ASK = """
import sys, os, locale
print(sys.getfilesystemencoding(), sys.stdin.encoding, sys.stdout.encoding, open(0).encoding)
"""
REPORT = (
    "from launcher.cli import streams; streams.prepare(); import sys;"
    "print(sys.getfilesystemencoding(), open('/dev/null').encoding.lower(), file=sys.stderr);"
    "print('\\xd7 \\u2192 \\u6a21\\u578b \\U0001f600 \\xe9')"
)


def clean() -> dict[str, str]:
    words = ("LANG", "LANGUAGE", "LC_", "PYTHON")
    return {k: v for k, v in os.environ.items() if not k.startswith(words)}


def program(
    code: str, env: dict[str, str], *arguments: bytes
) -> subprocess.CompletedProcess[bytes]:
    words: list[str | bytes] = [sys.executable, "-c", code, *arguments]
    return subprocess.run(words, env=clean() | env, cwd=ROOT, capture_output=True, check=False)


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_our_children_speak_utf8_in_any_locale(odd: dict[str, str]) -> None:
    for env in (
        child_environment.utf8(clean() | odd),
        child_environment.foreign_python(clean() | odd),
    ):
        done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, check=True)
        assert done.stdout.split() == [b"utf-8"] * 4
    engine = engine_environment(clean() | odd, {}, ("M", "r"))
    assert {name: engine[name] for name in child_environment.TEXT} == dict(child_environment.TEXT)


@pytest.mark.parametrize("name", locales.KINDS)
def test_our_children_speak_utf8_in_a_locale_of_another_encoding(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    env = child_environment.utf8(clean() | locales.environment(name, tmp_path_factory))
    done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, check=True)
    assert done.stdout.split() == [b"utf-8"] * 4


@pytest.mark.parametrize("name", locales.KINDS)
def test_the_command_line_is_in_utf8_mode_and_prints_for_the_terminal(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    done = program(REPORT, locales.environment(name, tmp_path_factory))
    assert (done.returncode, done.stderr) == (0, b"utf-8 utf-8\n")
    charset = name.partition(".")[2]
    assert done.stdout.decode(charset).startswith("× ")
    if charset == "ISO-8859-1":
        assert done.stdout == "× \\u2192 \\u6a21\\u578b \\U0001f600 é\n".encode("latin-1")
    else:
        assert done.stdout.decode(charset) == "× → 模型 \U0001f600 é\n"


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_the_command_line_prints_in_odd_settings(odd: dict[str, str]) -> None:
    done = program(REPORT, odd)
    assert (done.returncode, b"Traceback" in done.stderr) == (0, False)
    assert done.stderr == b"utf-8 utf-8\n"


def test_arguments_reach_the_second_start_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    env = locales.environment("zh_CN.GB18030", tmp_path_factory)
    code = (
        "from launcher.cli import streams; streams.prepare(); import sys, os;"
        "sys.stdout.buffer.write(os.fsencode(sys.argv[1]))"
    )
    for word in ("模型/é".encode(), b"\x81", b"\xff\xfe", b"\xa2\xe3"):
        assert program(code, env, word).stdout == word


@pytest.mark.parametrize("name", locales.KINDS)
def test_json_is_json_in_every_locale(
    name: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    env = clean() | locales.environment(name, tmp_path_factory)
    env["QLAUNCH_HOME"] = str(tmp_path / "模型 é")
    words = [sys.executable, "-m", "launcher", "up", "profil é → 模型", "--json"]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 2
    document = json.loads(done.stdout.decode("utf-8"))
    assert "é → 模型" in document["errors"][0]["message"]


def test_no_file_or_pipe_of_ours_is_read_in_the_locales_encoding(tmp_path: Path) -> None:
    """Python warns of each one; ruff's PLW1514 holds the same for files at rest."""
    env = clean() | {
        "PYTHONWARNDEFAULTENCODING": "1",
        "PYTHONWARNINGS": "always::EncodingWarning",
        "QLAUNCH_HOME": str(tmp_path),
    }
    for words in (
        "doctor --offline",
        "profiles list",
        "recommend",
        "engine list",
        "plan cpu-minilm",
    ):
        program = [sys.executable, "-P", "-m", "launcher", *words.split()]
        done = subprocess.run(
            program, env=env | {"PYTHONPATH": str(ROOT)}, capture_output=True, check=False
        )
        told = done.stderr.decode("utf-8").splitlines()
        ours = [one for one in told if "EncodingWarning" in one and f"{ROOT}/launcher/" in one]
        assert ours == [], words
