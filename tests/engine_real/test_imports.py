"""What the real engine imports at its start, and that what is left out is there for who asks."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

import pytest

from launcher.child_environment import foreign_python
from launcher.engine import command
from launcher.engine.release import Engine

pytestmark = pytest.mark.engine

HEAVY = (
    "openai.types.realtime",
    "sympy",
    "torch._inductor",
    "torch._dynamo.eval_frame",
    "torch.distributed.tensor",
)
IMPORTS = """
import sys, json, torch
import sglang.srt.entrypoints.http_server, sglang.srt.model_executor.model_runner
"""
USES = """
import triton, transformers.masking_utils, gguf
from sglang.kernels.ops.elementwise import elementwise
from sglang.srt.layers import model_parallel
from sglang.srt.entrypoints.openai import serving_transcription
before = [name for name in HEAVY if name in sys.modules]
with transformers.masking_utils.TransformGetItemToIndex():
    pass
print(json.dumps({
    "before": before,
    "triton": hasattr(triton, "__file__"),
    "guard": elementwise.guard_or_false(True),
    "compiler": torch._dynamo.eval_frame.__name__,
    "parallel": model_parallel._shard_tensor.__name__,
    "speech": serving_transcription.handle_realtime_transcription.__name__,
    "vocabulary": gguf.vocab.SpecialVocab.__name__,
}))
"""


def answer(engine: Engine, code: str, **more: str) -> Any:
    """What `code` prints, in the engine's Python as the launcher starts it."""
    env = foreign_python(os.environ) | command.base_environment(engine.release, plugin=True)
    done = subprocess.run(
        [engine.python, "-W", "ignore", "-c", code],
        env=env | {"QLAUNCH_START_METHOD": "auto"} | more,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_what_an_embedding_server_never_enters_is_left_out_and_there_when_asked_for(
    engine: Engine,
) -> None:
    found = answer(engine, f"HEAVY = {HEAVY}\n{IMPORTS}{USES}")
    assert found == {
        "before": [],
        "triton": False,
        "guard": True,
        "compiler": "torch._dynamo.eval_frame",
        "parallel": "_shard_tensor",
        "speech": "handle_realtime_transcription",
        "vocabulary": "SpecialVocab",
    }


def test_a_profile_that_turns_it_off_has_all_of_it(engine: Engine) -> None:
    code = f"{IMPORTS}print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    assert answer(engine, code, QLAUNCH_IMPORTS="all") == list(HEAVY)


def test_the_kept_table_of_models_is_what_transformers_finds(engine: Engine) -> None:
    code = """
import json, os, transformers
from transformers.utils import import_utils
ask = import_utils.create_import_structure_from_path
models = os.path.join(os.path.dirname(transformers.__file__), "models")
print(json.dumps([ask(models) == ask.__wrapped__(models), len(ask(models)) > 300]))
"""
    for _ in range(2):  # made, or kept by an earlier engine; then kept for certain
        assert answer(engine, code) == [True, True]
