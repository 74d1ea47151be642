"""How an engine is started: argv and environment. Pure.

The launcher never joins these into a shell line. Options are full long names: argparse accepts
abbreviations, but they change meaning between releases.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from launcher.argv import FlagValue
from launcher.child_environment import SPINS
from launcher.engine.release import Engine, Release

INSIDE: Final = Path(__file__).resolve().parents[1] / "plugin"
STANDINS: Final = INSIDE / "standins"
CUDA_STANDINS: Final = INSIDE / "standins_cuda"
PLUGIN: Final = INSIDE / "sglang_plugin"
GUARD: Final = INSIDE / "guard"
"""What stands before the engine's handlers, plugin or not (launcher/plan/guard.py)."""

EXTERNAL_PACKAGES: Final = {
    "BertModel": "qlaunch_sglang.encoders",
    "Contriever": "qlaunch_sglang.encoders",
    "XLMRobertaModel": "qlaunch_sglang.encoders",
    "RobertaModel": "qlaunch_sglang.encoders",
    "DistilBertModel": "qlaunch_sglang.encoders",
    "Qwen3ForCausalLM": "qlaunch_sglang.decoders",
    "Qwen3Model": "qlaunch_sglang.decoders",
    "Qwen2ForCausalLM": "qlaunch_sglang.decoders",
    "Qwen2Model": "qlaunch_sglang.decoders",
    "LlamaForCausalLM": "qlaunch_sglang.decoders",
    "LlamaModel": "qlaunch_sglang.decoders",
    "MistralForCausalLM": "qlaunch_sglang.decoders",
    "MistralModel": "qlaunch_sglang.decoders",
}
"""Our model package by the checkpoint's architecture; others are served by SGLang's own classes."""

PRIMITIVE_CACHES: Final = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "16"}
"""Compiled products that oneDNN, and PyTorch above it, keep by shape. Every number of tokens in a
batch is another shape: with their own 1024 each, mixed lengths grow a scheduler by a gigabyte."""
ARENA_THREADS: Final = 2
"""Compute threads that share one of the C library's arenas. What is freed in one serves no other:
each keeps its own largest batch. With one arena of all, many threads would wait for its lock."""


TORCH_KERNELS: Final = {
    # SGLang's own switch: every layer by its PyTorch code (sglang/kernels/fused_op.py).
    "SGLANG_FORCE_FUSED_OP_BACKEND": "torch",
    # It would refuse to start without the package that is stood in for.
    "SGLANG_SKIP_SGL_KERNEL_VERSION_CHECK": "1",
    "QLAUNCH_KERNELS": "torch",
}
"""What tells an engine without compiled operators that it has none."""


def base_environment(release: Release, *, plugin: bool) -> dict[str, str]:
    """Variables every process in the engine's environment needs, whatever it does."""
    paths = [STANDINS] if release.standins else []
    if release.kernels == "torch":
        paths.append(CUDA_STANDINS)
    if plugin:
        paths.append(PLUGIN)
    env = {"PYTHONPATH": ":".join(map(str, paths))} if paths else {}
    if release.device == "cpu":
        env["SGLANG_USE_CPU_ENGINE"] = "1"
        # An environment with a CUDA build of torch must not go looking for a GPU.
        env["CUDA_VISIBLE_DEVICES"] = ""
        # When a part of it dies the front would sleep 5 s and then wait 60 for core dumps of a
        # GPU that is not there, with every request hanging meanwhile (0.5.15, 0.5.23).
        env["SGLANG_CUDA_COREDUMP_BEFORE_CRASH"] = "0"
        env["SGLANG_PYSPY_DUMP_BEFORE_CRASH"] = "0"
    else:
        # NVML counts cards in PCI order; CUDA's own default is fastest first.
        env["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
    if release.kernels == "torch":
        env |= TORCH_KERNELS
    return env


def environment(
    engine: Engine,
    *,
    model_path: str,
    architectures: tuple[str, ...],
    threads: int | None,
    plugin: bool,
    start_method: str,
) -> dict[str, str]:
    """Variables for serving, on top of the allow-list taken from the caller's environment.

    Args:
        engine: what is started.
        model_path: folder of the checkpoint.
        architectures: the classes that compute the checkpoint.
        threads: compute threads on a CPU, None leaves the libraries' choice.
        plugin: whether qlaunch's plugin runs inside the engine.
        start_method: `auto`, `fork` or `spawn`.
    """
    env = base_environment(engine.release, plugin=plugin)
    # The model is a local folder: nothing is fetched behind the user's back.
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    if engine.cuda_home is not None:
        # Kernels that are compiled on the spot look for nvcc in CUDA_HOME, on PATH and in
        # /usr/local/cuda only (srt/kernels/jit/utils/arch.py), not where pip put it.
        env["CUDA_HOME"] = str(engine.cuda_home)
    if threads is not None:
        # OpenBLAS (numpy, scipy) computes nothing here, and its pool would forbid forking.
        env |= {"OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": "1"}
    if engine.release.device == "cpu":
        env |= {**PRIMITIVE_CACHES, **SPINS}
        if threads is not None:
            env["MALLOC_ARENA_MAX"] = str(max(1, threads // ARENA_THREADS))
    if not plugin:
        return env
    env |= {"QLAUNCH_MODEL_PATH": model_path, "QLAUNCH_START_METHOD": start_method}
    packages = {EXTERNAL_PACKAGES[a] for a in architectures if a in EXTERNAL_PACKAGES}
    if len(packages) == 1:
        env["SGLANG_EXTERNAL_MODEL_PACKAGE"] = packages.pop()
    return env


def start(engine: Engine, *, plugin: bool) -> tuple[str, ...]:
    """The command that starts the engine, before its options."""
    release = engine.release
    words = release.plugin_start if plugin and release.plugin_start else release.start
    return tuple(word.format(bin=str(engine.bin), python=str(engine.python)) for word in words)


def argv(
    engine: Engine,
    *,
    model_path: str,
    served_name: str,
    host: str,
    port: str,
    dtype: str,
    flags: Mapping[str, FlagValue],
    extra: tuple[str, ...] = (),
    has_key: bool = False,
    plugin: bool = True,
) -> tuple[str, ...]:
    """The exact command line; `{secrets_config}` stands for the 0600 file with the API key."""
    options: dict[str, FlagValue] = {
        "model-path": model_path,
        "served-model-name": served_name,
        "host": host,
        "port": port,
        "is-embedding": True,
        **({"device": "cpu"} if engine.release.device == "cpu" else {}),
        "dtype": dtype,
        **({"config": "{secrets_config}"} if has_key else {}),
        **flags,
    }
    return (*start(engine, plugin=plugin), *render(options), *extra)


def render(options: Mapping[str, FlagValue]) -> list[str]:
    """Options as argv elements: true is a bare switch, false leaves it out, lists repeat values."""
    out: list[str] = []
    for name, value in options.items():
        if value is False:
            continue
        out.append(f"--{name}")
        if value is True:
            continue
        out += [str(item) for item in value] if isinstance(value, list) else [str(value)]
    return out
