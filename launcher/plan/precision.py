"""The number format that a model is served in, and what the engine must be told for it. Pure."""

from __future__ import annotations

from typing import Final

from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.types import Cpu, Gpu
from launcher.model.types import Checkpoint

INT8: Final = "int8"
"""Linear layers of encoders in 8-bit integers, computed by qlaunch's plugin, on a CPU."""


def automatic(device: str, cpu: Cpu, gpus: tuple[Gpu, ...]) -> tuple[str, str]:
    """The dtype that `auto` means here, and why."""
    if device == "cpu":
        if cpu.computes_bf16:
            return "bfloat16", "dtype bfloat16: this CPU computes it (AVX512-BF16, AMX or Arm bf16)"
        return "float32", "dtype float32: this CPU has no bfloat16 arithmetic"
    if min((gpu.compute_capability for gpu in gpus), default=(8, 0)) < (8, 0):
        return "float16", "dtype float16: GPUs older than sm80 have no bfloat16"
    return "bfloat16", "dtype bfloat16: the GPU computes it, and float16 can overflow to NaN"


def of_engine(dtype: str, cpu: Cpu) -> str:
    """What `--dtype` is to say: for int8, the format of all that is not a product of int8."""
    return automatic("cpu", cpu, ())[0] if dtype == INT8 else dtype


def environment(dtype: str) -> dict[str, str]:
    """What tells the plugin."""
    return {"QLAUNCH_DTYPE": INT8} if dtype == INT8 else {}


def why_not_int8(device: str, cpu: Cpu, checkpoint: Checkpoint, *, plugin: bool) -> str | None:
    """Why int8 cannot be had; None where it can."""
    if device != "cpu":
        return "it is for CPUs; on a GPU take a quantised checkpoint or --quantization"
    if not checkpoint.encoder:
        return "it is for encoders (BERT, RoBERTa, XLM-RoBERTa), and this model is a decoder"
    if checkpoint.quantization is not None:
        return f"the checkpoint is quantised already ({checkpoint.quantization})"
    if not plugin:
        return "it is qlaunch's plugin that computes it, and --no-plugin leaves that out"
    if not cpu.computes_int8:
        return "this CPU has neither VNNI nor AMX, without which it is slow and can overflow"
    return None


def check_int8(dtype: str, device: str, cpu: Cpu, checkpoint: Checkpoint, *, plugin: bool) -> None:
    """Refuse an int8 that cannot be had.

    Raises:
        QlaunchError: `does_not_fit` (exit 4).
    """
    why = why_not_int8(device, cpu, checkpoint, plugin=plugin) if dtype == INT8 else None
    if why is not None:
        raise QlaunchError(
            f"dtype int8 cannot be had: {why}",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="leave the dtype auto",
        )
