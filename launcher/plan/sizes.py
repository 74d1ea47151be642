"""What a profile leaves out: the KV cache's size, limits, chunking, the switches of a CPU. Pure.

The engine's own defaults are made for a server of its own with a large GPU: it takes nearly all the
memory there is, and on a CPU an attention backend that needs kernels which are not there. So
whatever profile, user's config and command line are silent about is computed from the model and the
memory that is free. What they say is never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from launcher.argv import FlagValue
from launcher.documents.plan import MemoryPrediction
from launcher.engine.options import flags as flag_tables
from launcher.engine.release import Engine
from launcher.hardware.inventory import Hardware
from launcher.model.checkpoint import Checkpoint
from launcher.plan import context, memory, whole_texts
from launcher.plan.decision import Decision, Flags
from launcher.plan.fit import least_free
from launcher.units import size

RUNNING: Final = "max-running-requests"
OVERFLOW: Final = 8
"""The smoke asks for so many more inputs than the engine runs at once (`smoke.OVERFLOW_EXTRA`)."""
PREFILL: Final = "max-prefill-tokens"
CHUNK: Final = "chunked-prefill-size"

SHARE: Final = "mem-fraction-static"
"""Weights and cache, as a share of the memory that is free before the weights are loaded."""
ALL_BUT_A_LITTLE: Final = 0.95
"""What it is where nobody says otherwise: --max-total-tokens bounds the cache anyway. SGLang's own
is reckoned from the smallest card of the machine, used or not, and leaves nothing for a cache on
one of 4 GB: 4096 MiB less 3.7 GB for the largest forward pass is a share of 0.094
(docs/decisions.md 148)."""

CPU_SWITCHES: Final[Mapping[str, FlagValue]] = MappingProxyType(
    {
        # The engine's own choice on x86-64, intel_amx, needs compiled kernels and AMX.
        "attention-backend": "torch_native",
        "disable-overlap-schedule": True,
        # An idle scheduler spins a whole core otherwise.
        "sleep-on-idle": True,
        # The smoke is the warm-up.
        "skip-server-warmup": True,
        "log-level-http": "warning",
    }
)
"""The switches that every shipped profile for a CPU has, with the measurements beside them."""

WHOLE_TEXTS: Final[Mapping[str, FlagValue]] = MappingProxyType(
    {
        **whole_texts.WHOLE,
        # Must be given with chunking off: the engine's own fraction comes out negative.
        SHARE: ALL_BUT_A_LITTLE,
    }
)
"""Those of decoders whose texts the plugin keeps whole, as `cpu-qwen3-0.6b` has them."""

TURING: Final = "turing"
TURING_SWITCHES: Final[Mapping[str, FlagValue]] = MappingProxyType(
    {
        # FlashInfer gives trouble on these cards, for sampling too.
        "sampling-backend": "pytorch",
        # Graphs speed up decoding, which an embedding server never does.
        "disable-cuda-graph": True,
    }
)
"""Those that every shipped profile has on that release. Not measured by us."""

TOGETHER: Final = "enable-tokenizer-batch-encode"
"""A call's texts go to the scheduler in one message. One by one, the first is computed alone while
the others arrive: a batch more for every call (docs/decisions.md 132)."""
APART: Final = frozenset({"enable-dynamic-batch-tokenizer", "enable-dp-attention"})
"""Options that the engine does not take together with it."""

TEXTS: Final = 16_384
"""Tokens of cache that are worth having for short texts: 64 texts of 256."""
BESIDE: Final = 512
"""Tokens of short texts that fit beside one text of the full context."""
LONGEST: Final = 8192
"""Context that room is made for where a decoder's checkpoint allows more: the table of positions
and the cache grow with it, and a CPU needs minutes for longer texts."""
STEP: Final = 512
"""Sizes are whole multiples of it."""
PIECE: Final = 2048
"""Tokens of a piece in which a decoder computes longer texts: its activations stay small."""
CACHE_SHARE: Final = 0.5
BATCH_SHARE: Final = 0.25
"""Shares of the memory that is left beside weights and engine, for the cache and for one batch."""


def fill(
    said: Mapping[str, FlagValue],
    checkpoint: Checkpoint,
    engine: Engine,
    hardware: Hardware,
    *,
    width: int,
    whole: bool,
    plugin: bool = True,
    engines: int = 1,
    predict: Callable[[memory.Knobs], MemoryPrediction],
) -> Decision[Flags]:
    """The flags that nobody gave.

    Args:
        said: the options of the profile, the user's config and the command line.
        checkpoint: what is served.
        engine: the release decides the device, and which switches there are.
        hardware: the memory that is free.
        width: bytes of one number of the cache.
        whole: whether the plugin may keep a decoder's texts whole, without a cache.
        plugin: whether qlaunch's plugin runs in the engine.
        engines: how many share the memory that is free, each with as much.
        predict: the memory of a plan with the given sizes.
    """
    on_cpu = engine.release.device == "cpu"
    whole = whole and not checkpoint.encoder
    switches = _switches(said, engine, whole=whole)
    in_one = together(said, engine, plugin=plugin)
    share = {} if on_cpu or {SHARE, memory.NO_CACHE} & said.keys() else {SHARE: ALL_BUT_A_LITTLE}
    running = _running(checkpoint, on_cpu=on_cpu) if RUNNING not in said else {}
    sizes = {}
    if context.POOL not in said:
        each = _free(hardware, on_cpu=on_cpu) // engines
        spare = _spare({**said, **running}, checkpoint, each, predict, on_cpu=on_cpu)
        sizes = _sizes(said, checkpoint, spare, width, on_cpu=on_cpu, whole=whole)
    reasons = []
    if switches:
        what = "a CPU" if on_cpu else f"engine {engine.release.name}"
        reasons.append(f"not in the profile, set for {what}: {_words(switches)}")
    if in_one:
        reasons.append(
            f"--{TOGETHER}: else the first text of a call is computed alone, before the others"
        )
    if share:
        reasons.append(
            f"--{SHARE} {ALL_BUT_A_LITTLE}: --{context.POOL} bounds the cache; the engine's own"
            " share leaves none on a card of 4 GB"
        )
    if sizes or running:
        free = size(_free(hardware, on_cpu=on_cpu))
        shared = f", shared by {engines} replicas" if engines > 1 else ""
        reasons.append(
            f"not in the profile, computed from the model and {free} of free memory{shared}: "
            + _words({**sizes, **running})
        )
    return Decision({**switches, **in_one, **share, **sizes, **running}, tuple(reasons))


def _switches(
    said: Mapping[str, FlagValue], engine: Engine, *, whole: bool
) -> dict[str, FlagValue]:
    """The switches for this engine, as far as it has them."""
    switches: Mapping[str, FlagValue] = {}
    if engine.release.device == "cpu":
        switches = {**CPU_SWITCHES, **WHOLE_TEXTS} if whole else CPU_SWITCHES
    elif engine.release.name == TURING:
        switches = TURING_SWITCHES
    return {name: switches[name] for name in switches if name not in said and _has(engine, name)}


def together(
    said: Mapping[str, FlagValue], engine: Engine, *, plugin: bool
) -> dict[str, FlagValue]:
    """The texts of a call in one message, where nobody said otherwise, and the plugin has the one
    front read them in slices: all at once they would take more memory than is predicted."""
    sliced = plugin and engine.release.plugin == "framework"
    others = APART | whole_texts.FRONTS
    apart = TOGETHER in said or any(said.get(name) not in (None, False) for name in others)
    return {TOGETHER: True} if sliced and not apart and _has(engine, TOGETHER) else {}


def _has(engine: Engine, name: str) -> bool:
    """Whether the engine has the option."""
    table = engine.options or flag_tables.table(engine.version)
    return table is not None and f"--{name}" in table.index()


def _running(checkpoint: Checkpoint, *, on_cpu: bool) -> dict[str, FlagValue]:
    """Texts at once, as the shipped profiles have them; the engine's own 2048 makes a large table
    of positions for nothing."""
    least = 32 if on_cpu else 64
    return {RUNNING: 2 * least if checkpoint.encoder else least}


def _spare(
    said: Mapping[str, FlagValue],
    checkpoint: Checkpoint,
    free: int,
    predict: Callable[[memory.Knobs], MemoryPrediction],
    *,
    on_cpu: bool,
) -> float:
    """Bytes of `free` left for cache and batches beside weights and engine, per scheduler."""
    smallest = {
        **said,
        context.POOL: memory.SMOKE_TOKENS,
        context.FLAG: said.get(context.FLAG, min(checkpoint.context_length, LONGEST)),
    }
    predicted = predict(memory.knobs(smallest, checkpoint))
    used = predicted.ram_full_bytes if on_cpu else predicted.gpu_full_bytes
    replicas = memory.replicas(said) if on_cpu else 1
    return max(0.0, free / memory.SLACK - (used or 0)) / replicas


def _sizes(
    said: Mapping[str, FlagValue],
    checkpoint: Checkpoint,
    spare: float,
    width: int,
    *,
    on_cpu: bool,
    whole: bool,
) -> dict[str, FlagValue]:
    """Cache, context, prefill and chunk, as far as nobody gave them."""
    out: dict[str, FlagValue] = {}
    wanted = said.get(context.FLAG)
    longest = wanted if isinstance(wanted, int) else checkpoint.context_length
    if not checkpoint.encoder and wanted is None:
        longest = min(longest, LONGEST)
    token = memory.kv_bytes_per_token(checkpoint, width)
    if whole:  # no cache, but the longest text is computed in one piece
        token = memory.activation_bytes(checkpoint, width)
    room = int(spare * CACHE_SHARE / token)
    goal = _goal(longest, checkpoint, on_cpu=on_cpu)
    pool = out[context.POOL] = max(2 * STEP, min(goal, room - room % STEP))
    if not checkpoint.encoder and wanted is None:
        longest = min(longest, pool - STEP)
        if longest < checkpoint.context_length:
            out[context.FLAG] = longest
    if checkpoint.whole_texts or whole:
        # With chunking off this alone bounds one forward pass, which must hold a whole text.
        batch = int(spare * BATCH_SHARE / memory.activation_bytes(checkpoint, width))
        least = min(longest + 1, pool)
        _unless_said(out, said, PREFILL, max(least, min(pool, batch - batch % STEP)))
    else:
        _unless_said(out, said, PREFILL, min(longest, LONGEST))
        if longest > PIECE:
            _unless_said(out, said, CHUNK, PIECE)
    return out


def _goal(longest: int, checkpoint: Checkpoint, *, on_cpu: bool) -> int:
    """Tokens of cache where memory is no matter: the figures of the shipped profiles."""
    beside = -(-longest // STEP) * STEP + BESIDE
    if checkpoint.encoder:
        return max(TEXTS, beside)
    return max(TEXTS // 2 + BESIDE, beside) if on_cpu else max(2 * TEXTS, beside)


def _unless_said(
    out: dict[str, FlagValue], said: Mapping[str, FlagValue], name: str, value: int
) -> None:
    if name not in said:
        out[name] = value


def _free(hardware: Hardware, *, on_cpu: bool) -> int:
    if on_cpu:
        return hardware.memory.available_bytes
    return least_free(hardware)


def _words(flags: Mapping[str, FlagValue]) -> str:
    return ", ".join(
        f"--{name}" if value is True else f"--{name} {value}" for name, value in flags.items()
    )
