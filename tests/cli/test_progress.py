"""What a terminal shows while something is under way."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import time
from launcher.cli.progress import Bar, Progress
progress = Progress()
with Bar(progress) as bar:
    bar.begin("first level", 10, 100.0)
    bar.at(4, 1.0)
    time.sleep(0.6)
    bar.clear()
    progress.line("first level: done")
    bar.begin("second level", 1000, 1.0)
    bar.at(7, 0.9)
    time.sleep(0.6)
"""


def shown(**env: str) -> str:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stderr=theirs,
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", **env},
    ) as process:
        os.close(theirs)
        found = b""
        try:
            while chunk := os.read(ours, 65536):
                found += chunk
        except OSError:
            pass  # EIO: the other end is closed
        os.close(ours)
    assert process.returncode == 0
    return found.decode()


def test_a_terminal_has_a_bar_with_lines_between() -> None:
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown())
    assert "4 done" in text
    assert "7 done" in text
    assert re.search(r"[\r\n]\[ +\d\.\d s\] first level: done\r?\n", text)
    assert text.index("first level: done") < text.index("second level")


def test_a_dumb_terminal_has_lines_alone() -> None:
    text = shown(TERM="dumb")
    assert "first level: done" in text
    assert "\x1b" not in text
    assert "second level" not in text
