"""Runs with the CPU engine's Python: which compiled operators SGLang's CUDA branch would call.

PyTorch says that there is a card, compiled packages are stood in for, and every layer that an
embedding's forward pass goes through is called with fake tensors: shapes alone, nothing is
computed. One JSON document on stdout: operators by layer, as SGLang would call them (`card`), and
with each layer's own `forward_native` in their place (`native`).

`operators.py portable` asks the same of a release without compiled kernels: with its environment
and the plugin, our stand-in alone in the place of compiled packages, and no layer told anything.
Beside the layers (`portable`), modules of the server that were imported so (`imported`), and what
a decoder's layer calls while it is built (`built`) and attends by (`attends`).
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import json
import sys
import types
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

CALLS: list[str] = []
COMPILED = {"sgl_kernel"}
"""Packages that are stood in for; those that turn out missing on the way are added."""


class Operator:
    """A name in a compiled package: notes that it was called."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Operator:
        if name.startswith("__"):
            raise AttributeError(name)
        return Operator(f"{self.name}.{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        import torch

        CALLS.append(self.name)
        first = next(iter((*args, *kwargs.values())), None)
        return torch.empty_like(first) if isinstance(first, torch.Tensor) else None


class Package(types.ModuleType):
    """A compiled package in name only."""

    def __getattr__(self, name: str) -> Operator:
        if name.startswith("__"):
            raise AttributeError(name)
        return Operator(f"{self.__name__}.{name}")


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `COMPILED` and all that is below."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None, _target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] not in COMPILED:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Package:
        return Package(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__path__ = []
        module.__dict__["__version__"] = "99.0.0"


def pretend(card: tuple[int, int]) -> None:
    """Have PyTorch say that there is a card."""
    import torch

    facts = SimpleNamespace(
        major=card[0], minor=card[1], multi_processor_count=40, total_memory=16 << 30, name="card"
    )
    torch.version.cuda = "13.0"
    for name, value in (
        ("is_available", True), ("get_device_capability", card), ("device_count", 1),
        ("current_device", 0), ("get_device_name", "card"), ("get_device_properties", facts),
    ):  # fmt: skip
        setattr(torch.cuda, name, lambda *_args, _value=value, **_kwargs: _value)


SERVER = (
    "sglang.srt.entrypoints.http_server",
    "sglang.srt.managers.scheduler",
    "sglang.srt.model_executor.model_runner",
    "sglang.srt.layers.attention.torch_native_backend",
    "sglang.srt.models.qwen3",
    "sglang.srt.models.llama",
    "sglang.srt.models.bert",
)
"""What a server of embeddings imports on a card."""


def modules(*, portable: bool) -> tuple[Any, Any, Any, Any]:
    """SGLang's layers as they are on a card: norms, activations, rotations, the models' helpers."""
    if not portable:
        sys.meta_path.insert(0, Finder())
    while True:
        try:
            from sglang.srt.layers import activation, layernorm
            from sglang.srt.layers.rotary_embedding import base
            from sglang.srt.models import utils
        except ModuleNotFoundError as error:
            top = (error.name or "").partition(".")[0]
            if portable or not top or top in COMPILED:
                raise
            COMPILED.add(top)
            for name in [name for name in sys.modules if name.startswith("sglang")]:
                del sys.modules[name]
        else:
            return layernorm, activation, base, utils


def note(module: Any, *names: str) -> None:
    """Stand in for functions that are compiled when they are first called."""
    for name in names:
        place = getattr(getattr(module, name), "__module__", module.__name__)
        setattr(module, name, Operator(f"{place}.{name.removeprefix('_jit_')}"))


def called(work: Callable[[], object]) -> list[str]:
    """Operators that `work` calls, each once, in order; an error is an answer too."""
    CALLS.clear()
    try:
        work()
    except Exception as error:  # noqa: BLE001 - what a layer cannot do is what is asked
        return [f"{type(error).__name__}: {str(error)[:200]}"]
    return list(dict.fromkeys(CALLS))


def _device(native: bool) -> str:
    """A fake card for what calls compiled operators; PyTorch's CPU build cannot slice on one."""
    return "cpu" if native else "cuda"


def layers(head: int, *, portable: bool) -> dict[str, Callable[[bool], list[str]]]:
    """What an embedding's forward pass goes through besides PyTorch's own products."""
    import torch

    layernorm, activation, base, utils = modules(portable=portable)
    note(activation, "_jit_silu_and_mul", "_jit_gelu_and_mul", "_jit_gelu_tanh_and_mul")
    note(base, "apply_rope_with_cos_sin_cache_inplace")
    note(utils, "fused_inplace_qknorm")
    utils.can_use_fused_inplace_qknorm = lambda *_args: True
    if portable:
        from qlaunch_sglang import torch_kernels

        torch_kernels.register()
    graph = SimpleNamespace(
        cuda_graph_config=SimpleNamespace(prefill=SimpleNamespace(tc_compiler=""))
    )
    utils.get_exec = lambda: SimpleNamespace(graph=graph)

    def some(native: bool, *shape: int) -> Any:
        return torch.empty(*shape, dtype=torch.float16, device=_device(native))

    def made(kind: Callable[[], Any], native: bool) -> Any:
        with torch.device(_device(native)):
            layer = kind()
        if not portable:
            layer._forward_method = layer.forward_native if native else layer.forward_cuda
        return layer

    def norm(native: bool) -> Any:
        return made(lambda: layernorm.RMSNorm(1024, weight_dtype=torch.float16), native)

    def rotate(native: bool) -> None:
        rope = made(lambda: base.RotaryEmbedding(head, head, 512, 1e6, True, torch.float16), native)
        positions = torch.arange(7, device=_device(native))
        rope(positions, some(native, 7, 16 * head), some(native, 7, 8 * head))

    def heads(native: bool) -> None:
        norms = [made(lambda: layernorm.RMSNorm(head), native) for _ in range(2)]
        pair = some(native, 7, 16 * head), some(native, 7, 8 * head)
        utils.apply_qk_norm(*pair, *norms, head, allow_inplace=portable or not native)

    return {
        "RMSNorm": lambda native: called(lambda: norm(native)(some(native, 7, 1024))),
        "RMSNorm with residual": lambda native: called(
            lambda: norm(native)(some(native, 7, 1024), some(native, 7, 1024))
        ),
        "SiluAndMul": lambda native: called(
            lambda: made(activation.SiluAndMul, native)(some(native, 7, 6144))
        ),
        "rotary embedding": lambda native: called(lambda: rotate(native)),
        "norms of heads": lambda native: called(lambda: heads(native)),
        "BERT's LayerNorm": lambda _native: called(
            lambda: torch.nn.LayerNorm(384, device="cuda", dtype=torch.float16)(some(False, 7, 384))
        ),
        "BERT's GELU": lambda _native: called(lambda: torch.nn.GELU()(some(False, 7, 1536))),
    }


def select_dual_gemm() -> None:
    """What a decoder's layer asks while it is built: on a card, for the compiler of a kernel."""
    from sglang.srt.layers.dual_gemm import DualGemm

    linear = SimpleNamespace(quant_method=None, params_dtype=None, output_partition_sizes=[3072])
    selected = DualGemm._select_mode(SimpleNamespace(down_proj=linear), linear, 1024)
    assert selected is None, selected


def attention() -> str:
    """Which attention a layer has on a card, where the server was started for whole texts."""
    import torch
    from qlaunch_sglang import attention
    from sglang.srt.layers.radix_attention import RadixAttention

    attention._settings = lambda: ("torch_native", True, -1)
    owner = torch.nn.Module()
    owner.weight = torch.nn.Parameter(torch.empty(8, device="cuda"))
    owner.attn = RadixAttention(4, 32, 1.0, num_kv_heads=2, layer_id=0)
    attention.whole_texts([owner])
    return type(owner.attn).__name__


def main() -> None:
    """Trace all layers, with and without compiled operators."""
    pretend((7, 5))
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    torch.set_grad_enabled(False)
    if sys.argv[1:] == ["portable"]:
        imported = [name for name in SERVER if importlib.import_module(name)]
        found = layers(128, portable=True)
        with FakeTensorMode(allow_non_fake_inputs=True):
            traced = {name: layer(True) for name, layer in found.items()}
            built = called(select_dual_gemm)
            attends = attention()
        answer = {"portable": traced, "imported": imported, "built": built, "attends": attends}
        json.dump(answer, sys.stdout)
        return
    found = layers(128, portable=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        answer = {
            way: {name: layer(native) for name, layer in found.items()}
            for way, native in (("card", False), ("native", True))
        }
    json.dump({**answer, "stood_in": sorted(COMPILED)}, sys.stdout)


if __name__ == "__main__":
    main()
