"""Predicted memory of a plan, term by term. Pure; bytes throughout.

Every term says how it is known: `computed` from the checkpoint and the flags, `measured` on some
machine (which one, in `source`), or `estimated` where neither is at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from launcher.argv import FlagValue
from launcher.documents.plan import (
    Calibration,
    EnginePart,
    MemoryPrediction,
    ModelKind,
    StartMethod,
    Term,
    engine_parts,
)
from launcher.model.checkpoint import Checkpoint
from launcher.model.shape import DTYPE_BYTES
from launcher.plan import counting, cuda_memory
from launcher.plan.cuda_memory import Overhead
from launcher.units import GIB, MIB

Device = Literal["ram", "gpu"]
PARTS: Final = engine_parts(detokenizer=True, template=False)

_SPAWNED: Final[Mapping[EnginePart, int]] = {
    "front": 390_000_000,
    "scheduler": 485_000_000,
    "detokenizer": 390_000_000,
}
_FORKED: Final[Mapping[EnginePart, int]] = {"detokenizer": 90_000_000, "template": 50_000_000}
CPU_BASE_BYTES: Final[Mapping[ModelKind, Mapping[StartMethod, Mapping[EnginePart, int]]]] = {
    "encoder": {
        "fork": {"front": 255_000_000, "scheduler": 305_000_000, **_FORKED},
        "spawn": _SPAWNED,
    },
    "decoder": {
        "fork": {"front": 250_000_000, "scheduler": 295_000_000, **_FORKED},
        "spawn": _SPAWNED,
    },
}
"""Memory of each engine process without any model, by its kind and by how it was started.

PSS at the highest moment until verified less the computed terms: SGLang 0.5.23, PyTorch's CPU
build, x86-64, 2 cores, with the plugin, which leaves out what an embedding server never enters
(MiniLM: 651 MB, 663 after a restart; spawned 923; Qwen3-0.6B's shape 1,854; a tiny Qwen3 578). What
several share is counted with front and scheduler; template and detokenizer add the pages of their
own. The detokenizer's are estimated: what the other processes take of imports. A host's own runs
replace these (launcher/plan/calibration.py)."""
BARE_BYTES: Final[Mapping[EnginePart, int]] = {
    "front": 575_000_000,
    "scheduler": 620_000_000,
    "detokenizer": 530_000_000,
}
"""The same of an engine without the plugin, which imports everything in every process."""
CUDA_BUILD_BYTES: Final = 155_000_000
"""What the scheduler takes more where PyTorch is a CUDA build, which PyPI alone gives on x86-64:
its libraries are loaded on a CPU too. MiniLM 813 MB at most instead of 651, Qwen3-0.6B's shape
1,972 instead of 1,854 (torch 2.11.0+cu130, Zen 4, 2 cores)."""
SMOKE_TOKENS: Final = 512
"""Tokens of the smoke's largest forward pass: what every service has seen when it is ready."""

NO_CACHE: Final = "prefill-only-disable-kv-cache"
SLACK: Final = 1.05
"""What must be left beside the prediction: allocators and page tables are not modelled."""
_INT8_COLUMN: Final = 64
"""Bytes beside the steps of a linear layer's output column: scale, zero point, what oneDNN adds for
the inputs' zero point, the columns that are computed apart, and the pages that all these end in."""
SCORES_BYTES: Final = 32 * MIB
"""What the plugin's attention holds of scores at once."""
DEFAULT_PREFILL_TOKENS: Final = 16_384
"""SGLang's own default of --max-prefill-tokens."""


@dataclass(frozen=True)
class Knobs:
    """The sizes a prediction depends on, taken from the plan's flags."""

    kv_tokens: int | None
    running_requests: int
    context: int
    prefill_tokens: int
    offload_bytes: int = 0
    """Weights that --cpu-offload-gb keeps in RAM; decoders only: encoders ignore the option."""
    quantised_online: bool = False
    """--quantization fp8 on a checkpoint of 16 or 32 bits: the layers' matrices become one byte."""
    no_kv: str | None = None
    """Why there is no cache of keys and values; None where there is one."""
    graph_tokens: int = 0
    """Tokens of the largest captured forward pass on a card; 0 where none is captured."""


def knobs(
    flags: Mapping[str, FlagValue], checkpoint: Checkpoint, *, no_kv: str | None = None
) -> Knobs:
    """Read the sizes from the engine's flags, with SGLang's defaults where they are not given.

    Args:
        flags: the engine's options as they will be given.
        checkpoint: what is served.
        no_kv: why the plugin leaves out the cache of keys and values, if it does.
    """
    context = count(flags, "context-length") or checkpoint.context_length
    prefill = count(flags, "max-prefill-tokens") or DEFAULT_PREFILL_TOKENS
    chunk = count(flags, "chunked-prefill-size")
    tokens = count(flags, "max-total-tokens")
    # One forward pass holds at most a chunk, the prefill limit, and what the cache has room for;
    # with chunking off a single text may be longer than the limit: it then goes alone.
    longest = context if chunk is not None and chunk <= 0 else 0
    limits = [n for n in (max(prefill, longest), chunk if (chunk or 0) > 0 else None, tokens) if n]
    return Knobs(
        kv_tokens=tokens,
        running_requests=count(flags, "max-running-requests") or 2048,
        context=context,
        prefill_tokens=min(limits),
        offload_bytes=0 if checkpoint.encoder else (count(flags, "cpu-offload-gb") or 0) * GIB,
        quantised_online=checkpoint.quantization is None and flags.get("quantization") == "fp8",
        no_kv=f"--{NO_CACHE}" if flags.get(NO_CACHE) is True else no_kv,
        graph_tokens=_graph_tokens(flags, min(limits), chunk),
    )


def _graph_tokens(flags: Mapping[str, FlagValue], prefill: int, chunk: int | None) -> int:
    off = any(flags.get(name) is True for name in cuda_memory.NO_GRAPH)
    if off or flags.get("attention-backend") == "torch_native":
        return 0
    return min(prefill, chunk if chunk and chunk > 0 else cuda_memory.GRAPH_TOKENS)


def replicas(flags: Mapping[str, FlagValue]) -> int:
    """Schedulers side by side in one engine: --dp-size, 1 where it is not given."""
    return max(1, count(flags, "dp-size") or 1)


def predict(
    checkpoint: Checkpoint,
    sizes: Knobs,
    *,
    device: Literal["cpu", "cuda"],
    dtype: str,
    method: StartMethod,
    kv_pool_bytes: int,
    calibration: Calibration | None = None,
    parts: frozenset[EnginePart] = PARTS,
    int8: bool = False,
    half_weights: bool = False,
    base: Mapping[EnginePart, int] | None = None,
    overhead: Overhead = cuda_memory.UNKNOWN,
) -> MemoryPrediction:
    """The terms of one plan.

    `ram_bytes` and `gpu_bytes` are the peak of a service that has just been verified; the `full`
    figures add the largest batch that the flags allow. Admission is decided by the full ones.

    Args:
        checkpoint: what is served.
        sizes: from `knobs`.
        device: where it computes.
        dtype: the engine's own dtype, already decided.
        method: whether the engine forks its children (one import) or spawns them.
        kv_pool_bytes: what the engine would take for KV cache if the flags did not cap it.
        calibration: what this host's own runs say of the engine's processes.
        parts: those processes.
        int8: whether the plugin computes in 8-bit integers what else is in `dtype`.
        half_weights: whether the plugin keeps float32's linear layers in float16.
        base: from `cpu_base`; None: that of an engine with the plugin.
        overhead: what an engine on a card takes without any model.
    """
    where: Device = "ram" if device == "cpu" else "gpu"
    width = DTYPE_BYTES.get(dtype, 2)
    terms = (
        *_weights(checkpoint, sizes, where, dtype, int8=int8, half=half_weights),
        _kv(checkpoint, sizes, where, width, kv_pool_bytes),
        _request_table(sizes, where),
        *(
            _own_activations(checkpoint, sizes, width, int8=int8)
            if device == "cpu" and sizes.no_kv and not checkpoint.encoder
            else _activations(checkpoint, sizes, where, width)
        ),
        *(
            _cpu_terms(method, base or cpu_base(checkpoint, method), calibration, parts)
            if device == "cpu"
            else _cuda_terms(checkpoint, sizes, width, overhead)
        ),
    )

    on_gpu = device == "cuda"
    return MemoryPrediction(
        ram_bytes=total(terms, "ram", full=False),
        gpu_bytes=total(terms, "gpu", full=False) if on_gpu else None,
        ram_full_bytes=total(terms, "ram", full=True),
        gpu_full_bytes=total(terms, "gpu", full=True) if on_gpu else None,
        terms=terms,
    )


def cpu_base(
    checkpoint: Checkpoint, method: StartMethod, *, plugin: bool = True, cuda_build: bool = False
) -> Mapping[EnginePart, int]:
    """Bytes of each process of an engine on a CPU without any model, as it was measured.

    Args:
        checkpoint: what it serves.
        method: how its processes are started.
        plugin: whether qlaunch's runs in it.
        cuda_build: whether its PyTorch is a CUDA build.
    """
    sizes: Mapping[EnginePart, int] = BARE_BYTES
    if plugin:
        sizes = CPU_BASE_BYTES["encoder" if checkpoint.encoder else "decoder"][method]
    if cuda_build:
        sizes = {**sizes, "scheduler": sizes["scheduler"] + CUDA_BUILD_BYTES}
    return sizes


def total(terms: Iterable[Term], device: Device, *, full: bool) -> int:
    """Bytes of all terms on a device; `full` counts those of the largest batch too."""
    return sum(t.bytes for t in terms if t.device == device and (full or not t.reserve))


def with_ram(one: MemoryPrediction, terms: tuple[Term, ...]) -> MemoryPrediction:
    """The prediction of other terms for an engine on a CPU."""
    return msgspec.structs.replace(
        one,
        ram_bytes=total(terms, "ram", full=False),
        ram_full_bytes=total(terms, "ram", full=True),
        terms=terms,
    )


def error(predicted: int | None, measured: int | None) -> float | None:
    """How far a prediction was off, as a share of what was measured: 0.1 is 10 % too much."""
    if not predicted or not measured:
        return None
    return predicted / measured - 1


def kv_bytes_per_token(checkpoint: Checkpoint, width: int) -> int:
    """Key and value cache of one token, bytes: 2 × layers × KV heads × head size × width."""
    return checkpoint.kv_bytes_per_token // 2 * width


def activation_bytes(checkpoint: Checkpoint, width: int) -> int:
    """What a token of one forward pass holds at once in one layer, bytes."""
    return _activation_columns(checkpoint)[0] * width


def _weights(
    checkpoint: Checkpoint, sizes: Knobs, where: Device, dtype: str, *, int8: bool, half: bool
) -> list[Term]:
    width = DTYPE_BYTES.get(dtype, 2)
    if half:
        return [_half_weights(checkpoint)]
    if int8 and not checkpoint.encoder:
        return [_int8_weights(checkpoint, where)]
    if checkpoint.quantization is not None:
        size, source = checkpoint.weight_bytes, f"{checkpoint.quantization} tensors as stored"
    elif sizes.quantised_online:
        table = checkpoint.vocab_size * checkpoint.hidden_size
        size = table * width + (checkpoint.parameters - table)
        source = f"embedding table × {width} B ({dtype}), the rest × 1 B (fp8)"
    else:
        size = checkpoint.parameters * width
        source = f"{checkpoint.parameters} elements × {width} B ({dtype})"
    # Layers alone are offloaded: the table of embeddings stays.
    layers = size - checkpoint.vocab_size * checkpoint.hidden_size * width
    kept = min(sizes.offload_bytes, max(0, layers)) if where == "gpu" else 0
    if not kept:
        return [_model_term("weights", where, size, source)]
    why = "--cpu-offload-gb: copied to the GPU again in every forward pass"
    return [
        _model_term("weights", where, size - kept, f"{source}, less {kept} B kept in RAM"),
        _model_term("offloaded weights", "ram", kept, why),
    ]


def _int8_weights(checkpoint: Checkpoint, where: Device) -> Term:
    """A decoder's, as the plugin keeps them: a byte each, with scales and zeros beside them."""
    queries = checkpoint.num_attention_heads * checkpoint.head_dim
    keys = checkpoint.num_kv_heads * checkpoint.head_dim
    columns = queries + 2 * keys + 2 * checkpoint.hidden_size + 2 * checkpoint.intermediate_size
    beside = checkpoint.num_layers * columns * _INT8_COLUMN + checkpoint.vocab_size * 4
    return _model_term(
        "weights",
        where,
        checkpoint.parameters + beside,
        f"{checkpoint.parameters} elements × 1 B (int8), {beside} B of scales",
    )


def _half_weights(checkpoint: Checkpoint) -> Term:
    """A model in float32 on a CPU, the weights of whose linear layers are kept in float16."""
    hidden, inner = checkpoint.hidden_size, checkpoint.intermediate_size
    queries = checkpoint.num_attention_heads * checkpoint.head_dim
    keys = checkpoint.num_kv_heads * checkpoint.head_dim
    # A decoder's feed-forward block has a gate besides.
    layer = hidden * (2 * queries + 2 * keys + (2 if checkpoint.encoder else 3) * inner)
    linear = checkpoint.num_layers * layer
    return _model_term(
        "weights",
        "ram",
        checkpoint.parameters * 4 - linear * 2,
        f"{linear} elements of linear layers × 2 B, {checkpoint.parameters - linear} × 4 B",
    )


def _kv(checkpoint: Checkpoint, sizes: Knobs, where: Device, width: int, pool: int) -> Term:
    if sizes.no_kv:
        # In two bytes a number at most, for the cache's format may be said apart.
        each = kv_bytes_per_token(checkpoint, min(width, 2))
        bytes_, why = counting.size(sizes.kv_tokens, pool=pool, per_token=each)
        if where == "gpu":  # not measured there
            bytes_, why = 0, ""
        return _model_term("KV cache", where, bytes_, sizes.no_kv + why)
    if sizes.kv_tokens is None:
        why = "no --max-total-tokens: the engine takes its memory fraction of what is free"
        return _model_term("KV cache", where, pool, why)
    per_token = kv_bytes_per_token(checkpoint, width)
    source = f"{sizes.kv_tokens} tokens × {per_token} B"
    return _model_term("KV cache", where, sizes.kv_tokens * per_token, source)


def _request_table(sizes: Knobs, where: Device) -> Term:
    size = (sizes.running_requests + 1) * sizes.context * 4
    source = "(max-running-requests + 1) × context × 4 B, SGLang's ReqToTokenPool"
    return _model_term("request table", where, size, source)


def _activations(checkpoint: Checkpoint, sizes: Knobs, where: Device, width: int) -> list[Term]:
    columns, formula = _activation_columns(checkpoint)
    smoke = min(SMOKE_TOKENS, sizes.prefill_tokens)
    largest = sizes.prefill_tokens - smoke
    return [
        _model_term(
            "activations",
            where,
            smoke * columns * width,
            f"{smoke} tokens of the smoke × {formula} × {width} B",
        ),
        _model_term(
            "largest batch",
            where,
            largest * columns * width,
            f"{largest} more tokens, when clients send that many at once",
            reserve=True,
        ),
    ]


def _own_activations(checkpoint: Checkpoint, sizes: Knobs, width: int, *, int8: bool) -> list[Term]:
    """Those of a decoder whose layers the plugin computes, a group of texts at a time.

    Of a whole batch there is the stream alone: what came into a layer, what its groups have given,
    and both joined. Of a group there are a norm's result, queries, keys and values, what attention
    gives, and the queries once more as they are turned, in float32. Held against the plugin: see
    docs/memory.md.
    """
    hidden = checkpoint.hidden_size
    queries = checkpoint.num_attention_heads * checkpoint.head_dim
    keys = checkpoint.num_kv_heads * checkpoint.head_dim
    stream = 3 * hidden * (4 if int8 else width)
    projected = (4 if int8 else width) * (queries + 2 * keys)
    group = projected + width * (hidden + 2 * queries) + 8 * queries
    smoke = min(SMOKE_TOKENS, sizes.prefill_tokens)
    longest = max(smoke, min(sizes.context, sizes.prefill_tokens))
    more = (sizes.prefill_tokens - smoke) * stream + (longest - smoke) * group
    return [
        _model_term(
            "activations",
            "ram",
            smoke * (stream + group) + SCORES_BYTES,
            f"{smoke} tokens of the smoke × {stream + group} B, and a block of scores",
        ),
        _model_term(
            "largest batch",
            "ram",
            more,
            f"{sizes.prefill_tokens} tokens × {stream} B, {longest} of one text × {group} B",
            reserve=True,
        ),
    ]


def _activation_columns(checkpoint: Checkpoint) -> tuple[int, str]:
    """Elements a token holds at once in one layer.

    Encoders: residual, QKV and attention output, and the MLP twice. Decoders: residual and norm in
    double width, queries, keys and values repeated to the queries' heads, and gate, up and product.
    Held against torch_native on a CPU: MiniLM 10.7 kB a token measured, 10.8 computed;
    Qwen3-0.6B's shape 47.0 measured, 47.1 computed (bfloat16, docs/memory.md).
    """
    hidden, inner = checkpoint.hidden_size, checkpoint.intermediate_size
    if checkpoint.encoder:
        return 6 * hidden + 2 * inner, "(6 × hidden + 2 × intermediate)"
    queries = checkpoint.num_attention_heads * checkpoint.head_dim
    keys = checkpoint.num_kv_heads * checkpoint.head_dim
    return (
        4 * hidden + 4 * queries + 2 * keys + 3 * inner,
        "(4 × hidden + 4 × queries + 2 × keys + 3 × intermediate)",
    )


def _cuda_terms(checkpoint: Checkpoint, sizes: Knobs, width: int, overhead: Overhead) -> list[Term]:
    """What the engine itself takes on a card and in RAM, and its captured forward passes."""
    terms = [
        _engine_term(
            "CUDA context",
            overhead.gpu_bytes,
            measured=overhead.gpu_source,
            device="gpu",
            process="scheduler",
        ),
        _engine_term("engine processes", overhead.ram_bytes, measured=overhead.ram_source),
    ]
    if sizes.graph_tokens and not checkpoint.encoder:
        each = int(cuda_memory.GRAPH_SHARE * activation_bytes(checkpoint, width))
        terms.append(
            _engine_term(
                "prefill graphs",
                sizes.graph_tokens * each,
                measured=f"{sizes.graph_tokens} tokens captured × {each} B, as on an H100; "
                "not on this host",
                device="gpu",
                process="scheduler",
            )
        )
    return terms


def _cpu_terms(
    method: StartMethod,
    sizes: Mapping[EnginePart, int],
    calibration: Calibration | None,
    parts: frozenset[EnginePart],
) -> list[Term]:
    if calibration is not None:
        source = f"this host's own: {calibration.source}"
        return [_engine_term(f"engine ({method})", calibration.base_bytes, method, source)]
    source = "SGLang 0.5.23, PyTorch CPU build, x86-64; not on this host"
    return [
        _engine_term(f"engine: {process} ({method})", size, method, source, process=process)
        for process, size in sizes.items()
        if process in parts
    ]


def _model_term(
    name: str, device: Device, size: int, source: str, *, reserve: bool = False
) -> Term:
    return Term(
        name=name,
        device=device,
        process="scheduler",
        bytes=size,
        basis="computed",
        source=source,
        reserve=reserve,
        kind="model",
    )


def _engine_term(
    name: str,
    size: int,
    method: StartMethod | None = None,
    measured: str | None = None,
    *,
    device: Device = "ram",
    process: str | None = None,
) -> Term:
    return Term(
        name=name,
        device=device,
        process=process,
        bytes=size,
        basis="measured" if measured else "estimated",
        source=measured or "not measured by us",
        kind="engine",
        start_method=method,
    )


def count(flags: Mapping[str, FlagValue], name: str) -> int | None:
    """The whole number that an option has; None where it is not given, or is none."""
    value = flags.get(name)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
