"""Compile SGLang's Triton attention for cards that are not here, with the blocks it would choose.

    PYTHON kernel_worker.py SGLANG_SOURCE > kernels.json

PYTHON has torch and the release's Triton; no GPU is needed. SGLANG_SOURCE is the folder that holds
`sglang/`. The release's own launch functions are called with tensors on the CPU and a recorder in
the kernel's place, as if on each card; what they pass is compiled by Triton for that card, and
Triton's own ptxas says what it takes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

CARDS = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
HEADS = (32, 64, 128)
MODULES = {
    "prefill_attention": "attention of encoders",
    "extend_attention": "attention of decoders",
}
PLACES = ("sglang.srt.layers.attention.triton_ops", "sglang.kernels.ops.attention")
"""Where releases keep them; the second from 0.5.2x on."""


Card = tuple[int, int]
"""Compute capability."""
Answer = Callable[[Any, Card, int], dict[str, Any]]
"""Module, card and size of head → what is told of its kernel."""


class Recorder:
    """Stands for a kernel: keeps what it is launched with."""

    def __init__(self) -> None:
        self.launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, _grid: object) -> Any:
        return lambda *args, **kwargs: self.launches.append((args, kwargs))


def stand_in(source: Path) -> str:
    """Make `sglang` importable without its package's own start: two questions and a folder.

    Returns:
        The package that holds the kernels.
    """
    place = next(each for each in PLACES if source.joinpath(*each.split(".")).is_dir())
    words = place.split(".")
    for name in ("sglang.srt", *(".".join(words[: n + 1]) for n in range(len(words)))):
        module = types.ModuleType(name)
        module.__path__ = [str(source.joinpath(*name.split(".")))]
        sys.modules[name] = module
    utils = types.ModuleType("sglang.srt.utils")

    def answer(name: str) -> Any:
        """Every other question of the kind `is_…` has the answer no."""
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_args, **_kwargs: name == "is_cuda"

    utils.__getattr__ = answer  # type: ignore[method-assign]
    sys.modules["sglang.srt.utils"] = utils
    import torch

    torch.cuda.get_device_capability = lambda *_args: CARDS[0]  # asked for on import
    return place


def launched(module: Any, card: Card, head: int) -> tuple[Any, dict[str, Any]]:
    """Kernel and arguments that the release's own function launches on a card."""
    import torch

    names_of = vars(module)
    names_of.update(CUDA_CAPABILITY=card, _is_cuda=True, _is_hip=False)
    kernel, recorder = names_of["_fwd_kernel"], Recorder()
    names_of["_fwd_kernel"] = recorder
    dtype = torch.float16 if card < (8, 0) else torch.bfloat16
    q, o = (torch.zeros(128, 16, head, dtype=dtype) for _ in range(2))
    k, v = (torch.zeros(128, 8, head, dtype=dtype) for _ in range(2))
    lengths = torch.tensor([128], dtype=torch.int32)
    starts = torch.tensor([0], dtype=torch.int32)
    try:
        if module.__name__.endswith("prefill_attention"):
            module.context_attention_fwd(q, k, v, o, starts, lengths, 128, is_causal=False)
        else:
            indptr = torch.tensor([0, 128], dtype=torch.int32)
            none = torch.tensor([0, 0], dtype=torch.int32)
            indices = torch.zeros(1, dtype=torch.int64)
            # Newer releases ask for the cache's scales as well.
            asked = inspect.signature(module.extend_attention_fwd).parameters
            scales = {name: 1.0 for name in ("k_scale", "v_scale") if name in asked}
            module.extend_attention_fwd(
                q, k, v, o, k, v, indptr, none, indices, None, True, None, 128, **scales
            )
    finally:
        names_of["_fwd_kernel"] = kernel
    args, kwargs = recorder.launches[0]
    names = kernel.arg_names
    return kernel, {**dict(zip(names, args, strict=False)), **kwargs}


def compiled(kernel: Any, given: dict[str, Any], card: Card) -> dict[str, Any]:
    """What one kernel takes on a card."""
    import torch
    import triton  # type: ignore[import-not-found]
    from triton.backends.compiler import GPUTarget  # type: ignore[import-not-found]
    from triton.compiler import ASTSource  # type: ignore[import-not-found]

    types_of = {torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32",
                torch.int64: "*i64"}  # fmt: skip
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    divisible: dict[tuple[int], list[list[object]]] = {}
    fixed = {p.name for p in kernel.params if p.is_constexpr}
    for place, name in enumerate(kernel.arg_names):
        value = given[name]
        if name in fixed or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = types_of[value.dtype]
            divisible[place,] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[name] = "i32"
            if value % 16 == 0:
                divisible[place,] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    options: dict[str, Any] = {
        name: given[name] for name in ("num_warps", "num_stages") if name in given
    }
    number = 10 * card[0] + card[1]
    made = triton.compile(
        ASTSource(kernel, signature, constants, divisible),
        target=GPUTarget("cuda", number, 32),
        options=options,
    )
    ptx = made.asm["ptx"]
    blocks: dict[str, Any] = {name: given[name] for name in ("BLOCK_M", "BLOCK_N") if name in given}
    return {
        **blocks,
        **options,
        "shared_bytes": made.metadata.shared,
        "mma": len(re.findall(r"\b(?:mma\.sync|wgmma\.mma_async|tcgen05\.mma)", ptx)),
        "fma": len(re.findall(r"\bfma\.rn", ptx)),
        **assembled(ptx, made.asm["cubin"]),
    }


def assembled(ptx: str, _cubin: bytes) -> dict[str, int]:
    """Registers a thread and bytes spilled (stored and loaded), by Triton's own ptxas."""
    import triton

    programs = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    target = re.search(r"\.target (sm_\w+)", ptx)
    assert target is not None
    number = int(re.sub(r"\D", "", target[1]))
    program = programs / ("ptxas-blackwell" if number >= 100 else "ptxas")
    if not program.exists():
        program = programs / "ptxas"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(ptx, "utf-8")
        out = str(path.with_suffix(".cubin"))
        argv = [str(program), "-v", f"--gpu-name={target[1]}", str(path), "-o", out]
        said = subprocess.run(argv, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill", said)
    return {
        "registers": int(registers[1]) if registers else -1,
        "spill_bytes": sum(map(int, spills)),
    }


def of_every_kernel(place: str, answer: Answer) -> list[dict[str, Any]]:
    """What `answer` says of each kernel, for each card and size of head; or why it cannot."""
    rows = []
    for name, what in MODULES.items():
        module = importlib.import_module(f"{place}.{name}")
        for card in CARDS:
            for head in HEADS:
                row: dict[str, Any] = {"kernel": name, "what": what, "head": head}
                row["card"] = f"{card[0]}.{card[1]}"
                try:
                    row |= answer(module, card, head)
                except Exception as error:  # noqa: BLE001 - whatever Triton raises is a result
                    row["error"] = f"{type(error).__name__}: {error}"[:300]
                rows.append(row)
    return rows


def main() -> None:
    """Compile everything; what does not compile says why."""
    import triton

    def answer(module: Any, card: Card, head: int) -> dict[str, Any]:
        return compiled(*launched(module, card, head), card)

    rows = of_every_kernel(stand_in(Path(sys.argv[1])), answer)
    json.dump({"triton": triton.__version__, "rows": rows}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
