"""What only prints fetches nothing and writes nothing: every such command under an audit hook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checkpoints import make_bert
from tests.patience import PATIENCE_S

PROGRAM = """
import contextlib, io, json, os, sys

WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
          "os.chmod", "os.chown", "os.utime", "shutil.rmtree", "tempfile.mkstemp",
          "tempfile.mkdtemp", "sqlite3.connect"}
ASKS = {"socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"}
seen = []

def hook(event, args):
    if event == "open":
        path, _mode, flags = args
        harmless = isinstance(path, int) or str(path).startswith(("/dev/", "/proc/"))
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not harmless:
            seen.append(f"open {path!r}")
    elif event in WRITES:
        seen.append(f"{event} {args!r}")
    elif event in ASKS and not str(args[-1]).startswith("/"):
        seen.append(f"{event} {args!r}")

import launcher.cli.main
sys.addaudithook(hook)
done = {}
for line in json.loads(sys.argv[1]):
    seen.clear()
    words = io.StringIO()
    with contextlib.redirect_stdout(words), contextlib.redirect_stderr(words):
        code = launcher.cli.main.main(line.split())
    done[line] = {"code": code, "seen": list(seen), "text": words.getvalue()}
print(json.dumps(done))
"""
PRINTING = {
    0: (
        "plan cpu-minilm",
        "plan ./my-finetune",
        "plan cpu-gte-tiny",
        "plan cpu-qwen3-0.6b",
        "plan cpu-minilm --port 0",
        "plan t4-fp16 --gpu T4",
        "up cpu-minilm --dry-run",
        "up ./my-finetune --dry-run",
        "up cpu-qwen3-0.6b --dry-run",
        "recommend",
        "recommend --gpu T4",
        "profiles list",
        "profiles show cpu-minilm",
        "profiles show cpu-minilm --resolved",
        "profiles path",
        "profiles validate cpu-minilm",
        "engine list",
        "model list",
        "model inspect ./my-finetune",
        "ps",
        "ps -a",
        "top --once",
        "runs list",
        "prune",
        "upgrade --dry-run",
        "cache stats",
        "cache purge",
        "completion bash",
        "help up",
        "down --all",
    ),
    2: ("plan hf:acme/tiny", "model inspect hf:acme/tiny", "export systemd modelscope:acme/tiny"),
    3: ("status svc", "logs svc", "client svc", "forget svc"),
}


def audited(home: Path, here: Path, lines: list[str]) -> dict[str, dict[str, object]]:
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "MODELSCOPE_", "QLAUNCH_", "XDG_"))
    }
    own = {"HOME": str(home), "QLAUNCH_HOME": str(home / "qlaunch"), "PYTHONSAFEPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(lines)],
        cwd=here,
        env={**kept, **own, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("code", PRINTING)
def test_what_prints_neither_fetches_nor_writes(code: int, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    make_bert(tmp_path / "my-finetune", pooling="mean")
    before = sorted(tmp_path.rglob("*"))
    found = audited(home, tmp_path, list(PRINTING[code]))
    for line, one in found.items():
        assert (one["code"], one["seen"]) == (code, []), (line, one)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_hook_sees_what_a_command_writes_and_whom_it_asks(tmp_path: Path) -> None:
    line = "profiles new mine --from cpu-minilm"
    assert audited(tmp_path, tmp_path, [line])[line]["seen"]
    line = "model pull hf:acme/tiny"
    (only,) = audited(tmp_path, tmp_path, [line]).values()
    assert only["code"] != 0
    assert only["seen"] or "fetching" in str(only["text"])
