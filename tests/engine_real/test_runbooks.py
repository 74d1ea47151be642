"""docs/runbooks/first-deploy.md, typed on the real engine; tests/runbooks types the other pages."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from launcher.service import ports
from tests.engine_real.qlaunch import ROOT, UP_S, Home
from tests.pages import commands
from tests.runbooks.home import OnCall, program


def test_the_first_deploy(new_home: Callable[[str], Home], tmp_path: Path) -> None:
    home, programs = new_home("first-deploy"), tmp_path / "bin"
    programs.mkdir()
    program(programs / "qlaunch", f'#!/bin/sh\nexec {sys.executable} -m launcher "$@"\n')
    port = str(ports.pick_free("127.0.0.1"))
    path = f"{programs}:{os.environ['PATH']}"
    env = {**home.env, "PATH": path, "QLAUNCH_PORT": port, "PYTHONPATH": str(ROOT)}
    newcomer = OnCall(home.root, tmp_path, env, limit_s=2 * UP_S)
    for typed in commands("runbooks/first-deploy.md"):
        newcomer.follows(typed)
    (row,) = json.loads((tmp_path / "answer.json").read_text())["data"]
    assert len(row["embedding"]) == 384
    assert newcomer.data("ps -a")["services"] == []
