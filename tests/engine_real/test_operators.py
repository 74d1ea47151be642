"""The compiled operators of SGLang's CUDA branch, traced without a card and without kernels."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

import launcher
from launcher.engine import command, releases
from launcher.engine.release import Engine
from tests.engine_real import qlaunch

STANDINS = Path(launcher.__file__).parent / "plugin" / "standins"
"""Of torchvision's compiled part, which the CPU engine does without."""
SCRIPT = Path(__file__).with_name("operators.py")
OPERATORS = {
    "RMSNorm": ["sgl_kernel.rmsnorm"],
    "RMSNorm with residual": ["sgl_kernel.fused_add_rmsnorm"],
    "SiluAndMul": ["silu_and_mul"],
    "rotary embedding": ["apply_rope_with_cos_sin_cache_inplace"],
    "norms of heads": ["fused_inplace_qknorm"],
    "BERT's LayerNorm": [],
    "BERT's GELU": [],
}
"""By layer of Qwen3 and BERT; what is not `sgl_kernel`'s is compiled by SGLang at the start."""


@pytest.fixture(scope="module")
def traced(engine: Engine) -> dict[str, dict[str, list[str]]]:
    done = subprocess.run(
        [engine.python, str(SCRIPT)],
        env={**qlaunch.environment(None), "PYTHONPATH": str(STANDINS)},
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    found: dict[str, dict[str, list[str]]] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_five_compiled_operators_are_all_that_an_embedding_s_forward_pass_calls(
    traced: dict[str, dict[str, list[str]]],
) -> None:
    short = {
        layer: [
            name if name.startswith("sgl_kernel") else name.rpartition(".")[2] for name in names
        ]
        for layer, names in traced["card"].items()
    }
    assert short == OPERATORS


def test_every_one_has_a_way_in_pytorch_alone(traced: dict[str, dict[str, list[str]]]) -> None:
    """What a release without compiled kernels would be made of: SGLang's own `forward_native`."""
    assert traced["native"] == {layer: [] for layer in OPERATORS}


def test_the_release_without_compiled_kernels_calls_none_and_imports_without_them(
    engine: Engine,
) -> None:
    """Its environment, the plugin and SGLang's own switch: no layer is told anything here."""
    env = command.base_environment(releases.release("cuda13-portable"), plugin=True)
    done = subprocess.run(
        [engine.python, str(SCRIPT), "portable"],
        env={
            **qlaunch.environment(None),
            **env,
            "PYTHONPATH": f"{env['PYTHONPATH']}:{STANDINS}",  # torchvision's, beside a CPU build
        },
        stdout=subprocess.PIPE,
        check=True,
        timeout=600,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["portable"] == {layer: [] for layer in OPERATORS}
    assert "sglang.srt.managers.scheduler" in found["imported"]
    # As on an H100: building a Qwen3 imported cutlass, and the scheduler died (2026-11-26).
    assert found["built"] == []
    # The server's own `device` is None there, and attention over whole texts was left out.
    assert found["attends"] == "WholeTextAttention"
