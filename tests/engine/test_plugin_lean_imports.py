"""What the plugin leaves out of the engine's imports, and how it is there all the same."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import lean_imports


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A transformers whose losses bring something heavy with them."""
    loss = tmp_path / "transformers" / "loss"
    loss.mkdir(parents=True)
    (loss.parent / "__init__.py").write_text("")
    (loss / "__init__.py").write_text("")
    (loss / "loss_utils.py").write_text(
        "from . import heavy\nLOSS_MAPPING = {'ForCausalLM': heavy.loss}\nother = 7\n"
    )
    (loss / "heavy.py").write_text("def loss():\n    return 'a loss'\n")
    return tmp_path


def run(packages: Path, code: str, **env: str) -> str:
    """The output of `code` with the plugin's imports installed, in a Python of its own."""
    source = f"import sys\nfrom qlaunch_sglang import lean_imports\nlean_imports.install()\n{code}"
    done = subprocess.run(
        [sys.executable, "-S", "-c", source],
        env={"PYTHONPATH": f"{command.PLUGIN}:{packages}", **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


LOSSES = (
    "from transformers.loss.loss_utils import LOSS_MAPPING\n"
    "print('transformers.loss.heavy' in sys.modules)\n"
)


def test_losses_are_imported_by_whoever_looks_for_one(packages: Path) -> None:
    code = LOSSES + (
        "print('ForCausalLM' in LOSS_MAPPING, LOSS_MAPPING['ForCausalLM'](), *LOSS_MAPPING)\n"
        "from transformers.loss.loss_utils import other\n"
        "print(other, LOSS_MAPPING.get('none', 8), len(LOSS_MAPPING))"
    )
    said = run(packages, code).splitlines()
    assert said == ["False", "True a loss ForCausalLM", "7 8 1"]


def test_a_profile_can_turn_it_off(packages: Path) -> None:
    assert run(packages, LOSSES, QLAUNCH_IMPORTS="all").split() == ["True"]


def test_nothing_else_is_touched() -> None:
    finder = lean_imports._Finder()
    assert finder.find_spec("json") is None
    assert importlib.import_module("json").__spec__ is not None
