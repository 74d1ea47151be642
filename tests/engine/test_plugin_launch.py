"""The way into an SGLang without extension points: classes registered where models are looked up.

A folder stands in for SGLang: a registry, and a server that spawns its scheduler as SGLang does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.engine import command, releases
from launcher.engine.release import Engine
from tests.patience import PATIENCE_S

REGISTRY = """
class Registry:
    models = {"BertModel": "stock", "Other": "stock"}
ModelRegistry = Registry()
"""
SCHEDULER = """
import json
def run():
    from sglang.srt.models.registry import ModelRegistry
    print(json.dumps({n: getattr(m, "__module__", m) for n, m in ModelRegistry.models.items()}))
"""
SERVER = """
import json, multiprocessing, sys
from sglang.scheduler import run

if __name__ == "__main__":
    multiprocessing.set_start_method("spawn", force=True)
    process = multiprocessing.Process(target=run)
    process.start()
    process.join()
    print(json.dumps(sys.argv[1:]))
    sys.exit(process.exitcode)
"""
MODELS = {
    "one.py": "class BertModel: pass\nclass New: pass\nEntryClass = [BertModel, New]\n",
    "two.py": "class Single: pass\nEntryClass = Single\n",
    "three.py": "helper = 1\n",
}


def run(folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    paths = f"{folder}:{command.PLUGIN}"
    return subprocess.run(
        [sys.executable, "-m", "qlaunch_sglang.launch", "--port", "1"],
        env={**os.environ, "PYTHONPATH": paths, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.fixture
def sglang(tmp_path: Path) -> Path:
    files = {
        "sglang/__init__.py": "",
        "sglang/scheduler.py": SCHEDULER,
        "sglang/launch_server.py": SERVER,
        "sglang/srt/__init__.py": "",
        "sglang/srt/models/__init__.py": "",
        "sglang/srt/models/registry.py": REGISTRY,
        "ours/__init__.py": "",
        **{f"ours/{name}": text for name, text in MODELS.items()},
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_the_spawned_scheduler_finds_our_classes(sglang: Path) -> None:
    done = run(sglang, SGLANG_EXTERNAL_MODEL_PACKAGE="ours")
    assert done.returncode == 0, done.stderr
    registry, arguments = (json.loads(line) for line in done.stdout.splitlines())
    assert registry == {
        "BertModel": "ours.one",
        "New": "ours.one",
        "Single": "ours.two",
        "Other": "stock",
    }
    assert arguments == ["--port", "1"]


def test_without_a_package_nothing_is_registered(sglang: Path) -> None:
    done = run(sglang, SGLANG_EXTERNAL_MODEL_PACKAGE="")
    assert json.loads(done.stdout.splitlines()[0]) == {"BertModel": "stock", "Other": "stock"}


def test_a_broken_package_leaves_the_engine_its_own_classes(sglang: Path) -> None:
    (sglang / "ours" / "one.py").write_text("raise RuntimeError('broken')\n", encoding="utf-8")
    done = run(sglang, SGLANG_EXTERNAL_MODEL_PACKAGE="ours")
    assert done.returncode == 0
    assert json.loads(done.stdout.splitlines()[0])["BertModel"] == "stock"
    assert "broken" in done.stderr


def test_the_plan_starts_it_that_way_only_with_the_plugin() -> None:
    engine = Engine(
        release=releases.release("turing"),
        python=Path("/e/bin/python"),
        version="0.5.1.post2",
        root=None,
    )
    assert command.start(engine, plugin=True) == ("/e/bin/python", "-m", "qlaunch_sglang.launch")
    assert command.start(engine, plugin=False) == ("/e/bin/python", "-m", "sglang.launch_server")
