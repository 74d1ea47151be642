"""Predicted memory of a plan, term by term. Pure; bytes throughout.

Every term says how it is known: `computed` from the checkpoint and the flags, `measured` on some
machine (which one, in `source`), or `estimated` where neither is at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from launcher.model.types import Checkpoint
from launcher.plan.types import MemoryPrediction, Term
from launcher.profile.types import FlagValue

MIB: Final = 1 << 20
DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}

CPU_BASE_BYTES: Final = {"fork": 985 * MIB, "spawn": 1760 * MIB}
"""Interpreter and libraries of front, scheduler and detokenizer together, without any model.

PSS of the three processes less the computed terms of all-MiniLM-L6-v2 in bfloat16; SGLang 0.5.23
with PyTorch's CPU build on x86-64, 2 cores: docs/decisions.md, "Memory of an engine on a CPU"."""

CUDA_CONTEXT_BYTES: Final = 512 * MIB
"""CUDA context, libraries' handles and the allocator's slack. Estimated: nothing was run on a GPU;
0.4 to 0.7 GiB is what operators commonly report."""
CUDA_HOST_BYTES: Final = 6_000 * MIB
"""RAM of a CUDA engine's processes. Estimated, not measured."""
SLACK: Final = 1.05
"""What must be left beside the prediction: allocators and page tables are not modelled."""
DEFAULT_PREFILL_TOKENS: Final = 16_384
"""SGLang's own default of --max-prefill-tokens."""


@dataclass(frozen=True)
class Knobs:
    """The sizes a prediction depends on, taken from the plan's flags."""

    kv_tokens: int | None
    running_requests: int
    context: int
    prefill_tokens: int


def knobs(flags: Mapping[str, FlagValue], checkpoint: Checkpoint) -> Knobs:
    """Read the sizes from the engine's flags, with SGLang's defaults where they are not given."""
    context = _count(flags, "context-length") or checkpoint.context_length
    prefill = _count(flags, "max-prefill-tokens") or DEFAULT_PREFILL_TOKENS
    chunk = _count(flags, "chunked-prefill-size")
    tokens = _count(flags, "max-total-tokens")
    # One forward pass holds at most a chunk, the prefill limit, and what the cache has room for.
    limits = [n for n in (prefill, chunk if chunk and chunk > 0 else None, tokens) if n]
    return Knobs(
        kv_tokens=tokens,
        running_requests=_count(flags, "max-running-requests") or 2048,
        context=context,
        prefill_tokens=min(limits),
    )


def predict(
    checkpoint: Checkpoint,
    sizes: Knobs,
    *,
    device: Literal["cpu", "cuda"],
    dtype: str,
    forked: bool,
    kv_pool_bytes: int,
) -> MemoryPrediction:
    """The terms of one plan.

    Args:
        checkpoint: what is served.
        sizes: from `knobs`.
        device: where it computes.
        dtype: the serving dtype, already decided.
        forked: whether the engine forks its children (one import) or spawns them.
        kv_pool_bytes: what the engine would take for KV cache if the flags did not cap it.
    """
    where: Literal["ram", "gpu"] = "ram" if device == "cpu" else "gpu"
    width = DTYPE_BYTES.get(dtype, 2)
    terms = [
        _weights(checkpoint, where, dtype, width),
        _kv(checkpoint, sizes, where, width, kv_pool_bytes),
        Term(
            name="request table",
            device=where,
            bytes=(sizes.running_requests + 1) * sizes.context * 4,
            basis="computed",
            source="(max-running-requests + 1) × context × 4 B, SGLang's ReqToTokenPool",
        ),
        _activations(checkpoint, sizes, where, width),
        *_base(device, forked),
    ]
    ram = sum(t.bytes for t in terms if t.device == "ram")
    gpu = sum(t.bytes for t in terms if t.device == "gpu") if device == "cuda" else None
    return MemoryPrediction(ram_bytes=ram, gpu_bytes=gpu, terms=tuple(terms))


def kv_bytes_per_token(checkpoint: Checkpoint, width: int) -> int:
    """Key and value cache of one token, bytes: 2 × layers × KV heads × head size × width."""
    return checkpoint.kv_bytes_per_token // 2 * width


def _weights(checkpoint: Checkpoint, where: Literal["ram", "gpu"], dtype: str, width: int) -> Term:
    if checkpoint.quantization is not None:
        return Term(
            name="weights",
            device=where,
            bytes=checkpoint.weight_bytes,
            basis="computed",
            source=f"{checkpoint.quantization} tensors as stored (safetensors headers)",
        )
    return Term(
        name="weights",
        device=where,
        bytes=checkpoint.parameters * width,
        basis="computed",
        source=f"{checkpoint.parameters} elements (safetensors headers) × {width} B ({dtype})",
    )


def _kv(
    checkpoint: Checkpoint, sizes: Knobs, where: Literal["ram", "gpu"], width: int, pool: int
) -> Term:
    per_token = kv_bytes_per_token(checkpoint, width)
    if sizes.kv_tokens is None:
        return Term(
            name="KV cache",
            device=where,
            bytes=pool,
            basis="computed",
            source="no --max-total-tokens: the engine takes its memory fraction of what is free",
        )
    return Term(
        name="KV cache",
        device=where,
        bytes=sizes.kv_tokens * per_token,
        basis="computed",
        source=f"{sizes.kv_tokens} tokens × {per_token} B",
    )


def _activations(
    checkpoint: Checkpoint, sizes: Knobs, where: Literal["ram", "gpu"], width: int
) -> Term:
    # Residual, normalised input, QKV and attention output (about 6 × hidden), and the gate and up
    # projections (2 × intermediate; one for encoders) are alive at once in one layer.
    columns = 6 * checkpoint.hidden_size + 2 * checkpoint.intermediate_size
    return Term(
        name="activations",
        device=where,
        bytes=sizes.prefill_tokens * columns * width,
        basis="estimated",
        source=f"{sizes.prefill_tokens} tokens × (6 × hidden + 2 × intermediate) × {width} B",
    )


def _base(device: Literal["cpu", "cuda"], forked: bool) -> list[Term]:
    if device == "cpu":
        method = "fork" if forked else "spawn"
        return [
            Term(
                name=f"engine processes ({method})",
                device="ram",
                bytes=CPU_BASE_BYTES[method],
                basis="measured",
                source="SGLang 0.5.23, PyTorch CPU build, x86-64; not on this host",
            )
        ]
    return [
        Term(
            name="CUDA context",
            device="gpu",
            bytes=CUDA_CONTEXT_BYTES,
            basis="estimated",
            source="not measured by us",
        ),
        Term(
            name="engine processes",
            device="ram",
            bytes=CUDA_HOST_BYTES,
            basis="estimated",
            source="not measured by us",
        ),
    ]


def _count(flags: Mapping[str, FlagValue], name: str) -> int | None:
    value = flags.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
