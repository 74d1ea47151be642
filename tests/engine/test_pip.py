"""pip as the installer runs it: what its failures mean, and that it never outlives us."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launcher.engine import releases
from launcher.engine.environments import pip
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import processes
from tests.patience import eventually, no_hang

CPU = releases.release("cpu")

UNREACHABLE = """\
WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after \
connection broken by 'NewConnectionError('<pip._vendor.urllib3.connection.HTTPSConnection object \
at 0x7f1c2ab0>: Failed to establish a new connection: [Errno -3] Temporary failure in name \
resolution')': /simple/torch/
ERROR: Could not find a version that satisfies the requirement torch==2.13.0 (from versions: none)
ERROR: No matching distribution found for torch==2.13.0
"""
DISK_FULL = """\
Installing collected packages: torch
ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device
"""
NOT_FOUND = """\
ERROR: Could not find a version that satisfies the requirement triton==9.9 (from versions: 3.1.0)
ERROR: No matching distribution found for triton==9.9
"""
OF_A_CONSTRAINT = """\
ERROR: Cannot install torch==2.13.0 because these package versions have conflicting dependencies.
    torch 2.13.0 depends on filelock
    The user requested (constraint) filelock==4.2.11
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics
"""
SETTING = "An error occurred during configuration: option timeout: invalid value: 'abc'"
TRUTH = "Usage:\n  pip <command> [options]\n\n--no-cache-dir error: invalid truth value 'maybe'"
PROXY = "ERROR: Could not install packages due to an OSError: Failed to parse: ::::"
HASHES = """\
ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.

"""
FILE_LIMIT = "ERROR: Could not install packages due to an OSError: [Errno 27] File too large"
REFUSED = """\
ERROR: Could not install packages due to an OSError: [Errno 13] Permission denied: '/srv/x'
Check the permissions.
"""
OTHER = "ERROR: the moon is too near"


def child(tmp_path: Path, program: str, each: object = None) -> None:
    argv = [sys.executable, "-c", program]
    pip._run(CPU.name, tmp_path, argv, each or (lambda _line: None))  # type: ignore[arg-type]


def failure(tmp_path: Path, text: str) -> QlaunchError:
    with pytest.raises(QlaunchError) as caught:
        child(tmp_path, f"import sys; print({text!r}); sys.exit(1)")
    assert caught.value.exit_code == ExitCode.ENGINE
    assert caught.value.message.startswith("engine cpu could not be installed: ")
    return caught.value


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (UNREACHABLE, "dns_failed", "(Temporary failure in name resolution)"),
        (DISK_FULL, "disk_full", "the disk is full"),
        (FILE_LIMIT, "resource_limit", "a file became larger than"),
        (REFUSED, "engines_dir_unusable", "this user may not write /srv/x"),
        (NOT_FOUND, "package_missing", "no build of triton==9.9 fits this machine"),
        (OF_A_CONSTRAINT, "package_missing", "no build of filelock==4.2.11 fits this machine"),
        (SETTING, "pip_setting_invalid", "option timeout: invalid value: 'abc'"),
        (TRUTH, "pip_setting_invalid", "--no-cache-dir error: invalid truth value 'maybe'"),
        (PROXY, "pip_setting_invalid", "Failed to parse: ::::"),
        (HASHES, "download_corrupt", "is not the file that was promised (hash)"),
        (OTHER, "engine_install_failed", "the moon is too near"),
        ("", "engine_install_failed", "no output"),
    ],
)
def test_pips_last_words_become_one_sentence(
    text: str, code: str, says: str, tmp_path: Path
) -> None:
    error = failure(tmp_path, text)
    assert error.code == code
    assert says in error.message
    assert error.fix
    assert "\n" not in error.message


def test_all_of_it_is_in_the_log(tmp_path: Path) -> None:
    error = failure(tmp_path, OTHER)
    assert error.fix == f"see {tmp_path / pip.LOG_NAME}"
    assert OTHER in (tmp_path / pip.LOG_NAME).read_text()


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ({"PIP_INDEX_URL": "http://127.0.0.1:9/simple"}, "connection_failed"),
        ({"PIP_NO_INDEX": "1"}, "package_missing"),
    ],
    ids=["nobody answers", "nothing there"],
)
def test_the_real_pip_is_understood(
    setting: dict[str, str], code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    for name, value in {"PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1", **setting}.items():
        monkeypatch.setenv(name, value)
    argv = [sys.executable, "-m", "pip", "download", *pip._OPTIONS[:2], "-d", str(tmp_path)]
    with pytest.raises(QlaunchError) as caught:
        pip._run(CPU.name, tmp_path, [*argv, "qlaunch-no-such-package==1"], lambda _line: None)
    assert caught.value.code == code


def test_an_interrupt_ends_the_child_and_all_it_started(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(100)\n"
    )
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with no_hang(), pytest.raises(KeyboardInterrupt):
        child(tmp_path, program, interrupt)
    eventually(lambda: processes.process_id(pids[0]) is None)


def test_the_users_python_settings_do_not_leak_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    lines: list[str] = []
    program = "import os; print(os.environ.get('PYTHONPATH'), os.environ.get('PIP_USER'))"
    child(tmp_path, program, lines.append)
    assert lines == ["None None"]


def test_output_that_is_no_text_is_no_error(tmp_path: Path) -> None:
    child(tmp_path, "import sys; sys.stdout.buffer.write(b'\\xff\\xfe\\n')")
    assert (tmp_path / pip.LOG_NAME).read_text()


def test_progress_is_short() -> None:
    said: list[str] = []
    steps = pip._Steps(said.append, 40)
    for number in range(40):
        steps(f"Collecting package{number}==1")
    steps("  Downloading torch-2.13.0-cp311-manylinux_2_28_x86_64.whl (187.4 MB)")
    steps("  Downloading small-1.0-py3-none-any.whl (1.2 MB)")
    steps("  Downloading tiny-1.0-py3-none-any.whl (12 kB)")
    steps("Installing collected packages: a, b, c")
    assert said == [
        "20 of 40 packages found",
        "40 of 40 packages found",
        "downloading torch-2.13.0-cp311-manylinux_2_28_x86_64.whl (187.4 MB)",
        "unpacking",
    ]


def test_the_commands_of_an_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(pip, "_run", lambda _r, _root, argv, _each, **_o: ran.append(argv))
    lock = tmp_path / "lock.txt"
    lock.write_text("# comment\na==1\nb==2\n")
    python = tmp_path / "bin" / "python"
    said: list[str] = []
    pip.install(CPU.name, python, ["torch==2.13.0"], constraint=lock, progress=said.append)
    pip.install_lock(CPU.name, python, lock, progress=said.append)
    assert said == ["fetching torch==2.13.0", "fetching 2 pinned packages"]
    first, second = ran
    assert first[:5] == second[:5] == [str(python), "-P", "-m", "pip", "install"]
    assert first[-4:] == ["-c", str(lock), "--", "torch==2.13.0"]
    assert second[-3:] == ["--no-deps", "-r", str(lock)]
    assert "--only-binary=:all:" in first
    assert "--no-input" in second
