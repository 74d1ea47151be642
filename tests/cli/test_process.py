"""qlaunch as a process of its own: pipes, interrupts, odd streams and encodings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commandline import Answer
from tests.cli.services import leave_run, leave_service
from tests.patience import PATIENCE_S, eventually, no_hang

QLAUNCH = (sys.executable, "-c", "from launcher.cli.main import entry; entry()")


def environment(home: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QLAUNCH_")}
    return {**kept, "QLAUNCH_HOME": str(home), **more}


def start(
    home: Path, *words: str, env: dict[str, str] | None = None, **more: Any
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*QLAUNCH, *words],
        env=environment(home, **(env or {})),
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **more},
    )


def finish(process: subprocess.Popen[bytes], limit_s: float = 20) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=limit_s)
    return process.returncode, (out or b"").decode(), (err or b"").decode()


@pytest.mark.parametrize(
    "words", [["profiles", "list"], ["profiles", "list", "--json"]], ids=" ".join
)
def test_a_reader_that_has_gone_is_no_error(words: list[str], home: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        process = start(home, *words, stdout=write)
    finally:
        os.close(write)
    code, _, err = finish(process)
    assert (code, err) == (0, "")


def test_head_takes_the_first_line(home: Path) -> None:
    process = start(home, "profiles", "list")
    head = subprocess.run(
        ["head", "-1"], stdin=process.stdout, capture_output=True, text=True, check=True
    )
    assert head.stdout.endswith("\n")
    assert head.stdout.strip()
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(PATIENCE_S) == 0


def test_following_ends_when_the_reader_goes(home: Path) -> None:
    leave_run("20260101T000000Z-svc-0001", "svc", "line\n" * 50_000)
    leave_service("svc", "20260101T000000Z-svc-0001")
    process = start(home, "logs", "svc", "-f", "-n", "50000")
    assert process.stdout is not None
    assert process.stdout.readline() == b"line\n"
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("words", [["ps"], ["ps", "--json"]], ids=" ".join)
def test_a_full_disk_is_one_sentence(words: list[str], home: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(home, *words, stdout=full)
    code, _, err = finish(process)
    assert code == 1
    assert err == "Error: cannot write the result: No space left on device\n"


def test_closed_streams_are_no_error(home: Path) -> None:
    program = f"exec {' '.join(map(repr, QLAUNCH))} ps >&- 2>&-"
    done = subprocess.run(["sh", "-c", program], env=environment(home), check=False)
    assert done.returncode == 0


def test_signals_that_a_parent_blocked_or_ignored_are_heard(home: Path) -> None:
    """`down` killed such a supervisor, and `doctor` and pip's exit codes found no child."""
    program = (
        "import signal\n"
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})\n"
        "from launcher.cli import main\n"
        "def look(words):\n"
        "    import subprocess, sys\n"
        "    print(signal.pthread_sigmask(signal.SIG_BLOCK, ()))\n"
        "    print(subprocess.run([sys.executable, '-c', 'raise SystemExit(3)']).returncode)\n"
        "    return 0\n"
        "main.main = look\n"
        "main.entry()\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, env=environment(home), capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("set()\n3\n", 0)


def test_a_terminal_without_unicode_gets_escapes(home: Path) -> None:
    leave_run("20260101T000000Z-svc-0001", "svc", "héllo ✓\n")
    leave_service("svc", "20260101T000000Z-svc-0001")
    process = start(home, "logs", "svc", env={"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"})
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, b"")
    assert out == "héllo \\u2713\n".encode("latin-1")


def test_a_traceback_is_shown_only_when_asked_for(home: Path) -> None:
    (home / "state").mkdir()
    program = (
        "import launcher.service.control as c, sys\n"
        "def broken(): raise ZeroDivisionError('x')\n"
        "c.services = broken\n"
        "from launcher.cli.main import main\n"
        "sys.exit(main(['ps']))\n"
    )
    texts = []
    for more in ({}, {"QLAUNCH_TRACEBACK": "1"}):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(home, **more),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        texts.append(done.stderr)
    assert "Traceback" not in texts[0]
    assert "Traceback" in texts[1]


@pytest.mark.parametrize(
    ("number", "as_json", "background"),
    [
        (signal.SIGINT, False, False),
        (signal.SIGINT, True, False),
        (signal.SIGTERM, True, False),  # as `timeout` and schedulers of jobs end a command
        (signal.SIGTERM, True, True),  # where a shell has SIGINT ignored
    ],
)
def test_ctrl_c_while_things_are_made_ready(
    number: signal.Signals, as_json: bool, background: bool, home: Path, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n: >'{tmp_path}/asked'\nexec sleep 100\n")
    python.chmod(0o755)
    words = ["up", "cpu-minilm", "--engine-python", str(python), *(["--json"] if as_json else [])]
    ignored = (lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if background else None
    process = start(home, *words, start_new_session=True, preexec_fn=ignored)
    eventually((tmp_path / "asked").exists)
    with no_hang():
        os.killpg(process.pid, number)  # as a terminal does
        code, out, err = finish(process)
    assert code == 130
    assert "Traceback" not in err
    if as_json:
        assert json.loads(out)["errors"][0]["code"] == "interrupted"
    else:
        assert "interrupted" in err
    assert not (home / "state").exists()


def test_an_interrupt_while_the_program_is_imported_is_no_traceback() -> None:
    script = (
        "import signal, sys, types\n"
        "class Interrupted(types.ModuleType):\n"
        "    def __getattr__(self, name):\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "sys.modules['launcher.cli.main'] = Interrupted('launcher.cli.main')\n"
        "from launcher.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")


@pytest.mark.parametrize("platform", ["darwin", "win32", "freebsd14"])
def test_elsewhere_than_on_linux_there_is_one_sentence(platform: str) -> None:
    """Before a module is imported that exists on Linux alone, or that no wheel brought."""
    script = (
        "import sys\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios', 'click', 'msgspec'):\n"
        "    sys.modules[name] = None\n"
        f"sys.platform = {platform!r}\n"
        "from launcher.cli.main import entry\n"
        "entry()\n"
    )
    words = [sys.executable, "-c", script, "ps"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    message = f"qlaunch runs on Linux only, and this is {platform}"
    fix = "a Linux machine, a container, or WSL 2 on Windows"
    assert done.stderr == f"Error: {message}\n  Try: {fix}\n"
    done = subprocess.run([*words, "--json"], capture_output=True, text=True, check=False)
    answer = Answer(done.returncode, done.stdout, done.stderr)
    assert answer.error == {"code": "not_linux", "message": message, "fix": fix}
    assert answer.err == ""
