"""The number format that a model is served in, and what the engine must be told for it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from typing import Final

from launcher.engine.options import flags
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.inventory import BF16_FLAGS, INT8_FLAGS, Cpu, Gpu
from launcher.model.checkpoint import Checkpoint
from launcher.plan.decision import Decision

INT8: Final = "int8"
"""Linear layers in 8-bit integers, computed by qlaunch's plugin, on a CPU."""
ROPE_PARAMETERS_SINCE: Final = "0.5.10"
"""A release known not to read them is 0.5.1.post2, with transformers 4.55.2."""
_WITHOUT_BF16: Final = "this CPU has no bfloat16 arithmetic"
"""Without it PyTorch computes bfloat16 all the same, and right, but converts number by number: a
linear layer of 384 by 1536 takes 5.7 times float32's time on AVX2 and 2.7 times on AVX-512 (Zen 4
kept to these by `ONEDNN_MAX_CPU_ISA`)."""
_WITHOUT_INT8: Final = "this CPU has neither VNNI nor AMX"


def automatic(device: str, cpu: Cpu, gpus: tuple[Gpu, ...]) -> Decision[str]:
    """The dtype that `auto` means here."""
    if device == "cpu":
        if cpu.computes_bf16:
            name, why = "bfloat16", "this CPU computes it (AVX512-BF16, AMX or Arm bf16)"
        else:
            name, why = "float32", f"{_WITHOUT_BF16}{cpu.masked(*BF16_FLAGS)}"
    elif min((gpu.compute_capability for gpu in gpus), default=(8, 0)) < (8, 0):
        name, why = "float16", "GPUs older than sm80 have no bfloat16"
    else:
        name, why = "bfloat16", "the GPU computes it, and float16 can overflow to NaN"
    return Decision(name, (f"dtype {name}: {why}",))


def of_engine(dtype: str, cpu: Cpu) -> str:
    """What `--dtype` is to say: for int8, the format of all that is not a product of int8."""
    return automatic("cpu", cpu, ()).value if dtype == INT8 else dtype


def environment(dtype: str, *, half_weights: bool) -> dict[str, str]:
    """What tells the plugin."""
    env = {"QLAUNCH_DTYPE": INT8} if dtype == INT8 else {}
    return env | ({"QLAUNCH_WEIGHTS": "float16"} if half_weights else {})


def half_weights(dtype: str, cpu: Cpu, *, auto: bool, whole: bool) -> Decision[bool]:
    """Whether float32 keeps the weights of linear layers in float16.

    It does where nobody asked for float32, which then stands for bfloat16: 11 bits of a weight are
    kept, where bfloat16 keeps 8. FBGEMM, which multiplies them, is for x86-64 with AVX2.

    Args:
        dtype: what the model is served in on a CPU.
        auto: whether that was left to us.
        whole: whether the plugin attends over whole texts: it computes the layers then.
    """
    able = whole and cpu.machine == "x86_64" and cpu.vector_kernels
    if not (auto and able and dtype == "float32"):
        return Decision(value=False)
    why = "linear layers keep their weights in 16 bits, and multiply in 32"
    return Decision(True, (f"{why} (exact: dtype float32)",))


def why_not_int8(device: str, cpu: Cpu, checkpoint: Checkpoint, *, plugin: bool) -> str | None:
    """Why int8 is not available; None where it is."""
    if device != "cpu":
        return "it is for CPUs; on a GPU take a quantised checkpoint or --quantization"
    if checkpoint.quantization is not None:
        return f"the checkpoint is quantised already ({checkpoint.quantization})"
    if not plugin:
        return "qlaunch's plugin computes it, and --no-plugin leaves the plugin out"
    if cpu.machine != "x86_64":
        return f"it is for x86-64, and this CPU is {cpu.machine}"
    if not cpu.vector_kernels:
        return f"this CPU has no AVX2{cpu.masked('avx2')}, without which it is slow"
    return None


def remark(dtype: str, device: str, cpu: Cpu) -> str:
    """What is to be said of a format that was asked for and that this processor has no part for."""
    if device != "cpu":
        return ""
    if dtype == "bfloat16" and not cpu.computes_bf16:
        return f"; {_WITHOUT_BF16}{cpu.masked(*BF16_FLAGS)}, and float32 is faster on it"
    if dtype == INT8 and not cpu.computes_int8:
        # On AVX2 and AVX-512 alone two products are summed in 16 bits, which saturate: 255 times
        # 127 over 384 columns gives 6,291,264 instead of 12,435,840 (torch 2.13.0). The plugin
        # asks the operator itself and takes weights of 7 bits then (int8.py).
        return f"; weights in 7 bits, for {_WITHOUT_INT8}{cpu.masked(*INT8_FLAGS)}"
    return ""


def cautions(device: str, cpu: Cpu) -> tuple[str, ...]:
    """What has to be said of a processor that nothing is measured on."""
    if device != "cpu":
        return ()
    if cpu.machine != "x86_64":
        return (f"not tested on {cpu.machine}: planned from what the packages say",)
    if not cpu.vector_kernels:
        why = f"this CPU has no AVX2{cpu.masked('avx2')}"
        return (f"{why}: PyTorch computes correctly on it, but slowly: without vector kernels",)
    return ()


def quantize_command(model: str, methods: Collection[str]) -> str:
    """The command that makes a copy of `model` with one of these `quant_method`s."""
    to = "int4" if {"awq", "gptq"} & set(methods) else "int8"
    return f"qlaunch model quantize {shlex.quote(model)} --to {to}"


def check_quantised(device: str, checkpoint: Checkpoint, method: object) -> None:
    """Refuse quantised weights on a CPU, whose engine has no kernels for them, and elsewhere those
    of a method that no release has.

    Args:
        method: the value of `--quantization`, None without it.

    Raises:
        QlaunchError: `model_unsupported` (exit 2).
    """
    said, config = checkpoint.quantization, checkpoint.path / "config.json"
    if device != "cpu":
        if said is not None and not _computed(said):
            raise QlaunchError(
                f"{config} says the weights are quantised ({said}), a method that no engine release"
                " computes",
                code="model_unsupported",
                fix="serve the checkpoint it was made from, in 16 or 32 bits, or a copy by"
                " `qlaunch model quantize`",
            )
        return
    if said is None and method is None:
        return
    if said is None:
        why = f"--quantization {method} needs kernels that this engine has for GPUs only"
        fix = "leave it out; dtype int8 is for an x86-64 CPU"
    else:
        why = (
            f"{config} says the weights are quantised ({said}), for which the engine has kernels"
            " for GPUs only"
        )
        fix = "serve the checkpoint it was made from, in 16 or 32 bits, or take a profile for a GPU"
    raise QlaunchError(why, code="model_unsupported", fix=fix)


def _computed(method: str) -> bool:
    """Whether any release reads weights of a `quant_method`: not each lists all that it reads."""
    words = ("--quantization", method.lower().replace("compressed_tensors", "compressed-tensors"))
    return any(not flags.check(words, version) for version in flags.versions())


def check_rotation(checkpoint: Checkpoint, version: str) -> None:
    """Refuse a rotation that the release's transformers (4.55) does not read, nor its reference.

    Both would take 10000 for `rope_theta`, and agree.

    Raises:
        QlaunchError: `model_unsupported` (exit 2).
    """
    from packaging.version import Version

    if not checkpoint.new_rotation or Version(version) >= Version(ROPE_PARAMETERS_SINCE):
        return
    raise QlaunchError(
        f"{checkpoint.path / 'config.json'} gives its rotation in rope_parameters, as"
        f" transformers 5 does, which SGLang {version} does not read",
        code="model_unsupported",
        fix="write rope_theta (and rope_scaling, if it is not the default) beside it, or take a"
        " newer engine release",
    )


def check_int8(
    dtype: str, device: str, cpu: Cpu, checkpoint: Checkpoint, *, plugin: bool, whole: bool
) -> None:
    """Refuse an int8 that cannot be had.

    Args:
        dtype, device, cpu, checkpoint, plugin: of the plan.
        whole: whether the plugin attends over whole texts.

    Raises:
        QlaunchError: `does_not_fit` (exit 4).
    """
    if dtype != INT8:
        return
    why = why_not_int8(device, cpu, checkpoint, plugin=plugin)
    if why is None and not checkpoint.encoder and not whole:
        why = (
            "a decoder is computed so where every text is whole in its batch: attention-backend"
            " torch_native, disable-radix-cache and chunked-prefill-size -1"
        )
    if why is not None:
        raise QlaunchError(
            f"dtype int8 is not available here: {why}",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="leave the dtype auto",
        )
