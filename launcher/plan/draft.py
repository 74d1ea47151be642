"""What is decided of a plan, step by step: number format, threads, flags. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from launcher.argv import FlagValue, options
from launcher.config.settings import at_its_place
from launcher.documents.plan import (
    Calibration,
    EnginePart,
    MemoryPrediction,
    ModelKind,
    StartMethod,
    engine_parts,
)
from launcher.engine import support
from launcher.engine.cutting import OVERRIDE, cuts_vectors
from launcher.errors import QlaunchError
from launcher.model.shape import DTYPE_BYTES
from launcher.plan import (
    calibration,
    context,
    cuda_memory,
    engine_and_card,
    memory,
    placement,
    precision,
    replicas,
    sizes,
    whole_texts,
)
from launcher.plan.decision import Decision, Flags
from launcher.plan.inputs import Inputs
from launcher.plan.option_checks import given
from launcher.units import counted

ENCODER_FLAGS: Final[Mapping[str, FlagValue]] = {
    **whole_texts.WHOLE,
    # With chunking off SGLang reserves for the largest prefill, and may leave nothing for the KV
    # cache ("Loaded weights leave no GPU memory …"), unless the fraction is explicit.
    sizes.SHARE: sizes.ALL_BUT_A_LITTLE,
}
"""What keeps the vectors right of encoders and of all that pools or attends over whole texts: a
cached or split prefix changes them (cosine 0.25 to 0.88 with the reference)."""

THREADS_EACH: Final = 16
"""Compute threads for each processor of the machine beyond which a number is a slip, and refused.
Fewer that are too many for it are noted."""

MATRYOSHKA_FLAGS: Final[Mapping[str, FlagValue]] = {
    OVERRIDE: '{"is_matryoshka": true}',
}
"""Models whose card says that vectors may be cut do not say so in config.json, and the engine
answers a request for fewer `dimensions` with 400 until it is told."""


@dataclass(frozen=True)
class _Base:
    """The engine's processes, as far as memory goes."""

    method: StartMethod
    parts: frozenset[EnginePart]
    calibration: Calibration | None
    half_weights: bool
    """Whether float32 keeps the weights of linear layers in float16."""


@dataclass(frozen=True)
class Draft:
    """The decisions that a plan follows from."""

    dtype: Decision[str]
    """The format that vectors are served in."""
    computed: str
    """The engine's own `--dtype`: another one for int8, which the plugin computes."""
    half_weights: Decision[bool]
    """Whether float32 keeps the weights of linear layers in float16."""
    replicas: int
    """Schedulers side by side on a CPU, within one engine."""
    method: StartMethod
    parts: frozenset[EnginePart]
    """The engine's processes: with a template where a new start is to be forked, without a
    detokenizer where nothing is generated."""
    calibration: Decision[Calibration | None]
    threads: Decision[int | None]
    """Compute threads of each replica; None on a GPU."""
    left_out: Decision[Flags]
    """What profile, user's config and command line are silent about."""
    context: Decision[Flags]
    backend: Decision[Flags]
    """The attention backend that follows from the card."""
    workarounds: Decision[Flags]
    """What goes around the release's own faults."""
    flags: Flags
    """All flags without those that the user gives again after `--`: theirs win."""
    given: Flags
    """Those and the user's own, without what is switched off."""
    asked: Flags
    """`flags` with the whole numbers of the user's own."""
    no_cache: str | None
    """Why the engine needs no memory for keys and values; None where it does."""
    cuts_vectors: bool
    """Whether vectors may be cut to fewer dimensions."""

    def predict(self, inputs: Inputs, knobs: memory.Knobs, pool_bytes: int) -> MemoryPrediction:
        """The memory of one scheduler with these sizes."""
        half = self.half_weights.value
        base = _Base(self.method, self.parts, self.calibration.value, half)
        return _predict(inputs, self.dtype.value, base, knobs, pool_bytes)


def make_draft(inputs: Inputs) -> Draft:
    """Decide everything that a plan follows from."""
    dtype = _dtype(inputs)
    computed = precision.of_engine(dtype.value, inputs.hardware.cpu)
    said = context.as_given(inputs.settings.flags, inputs.extra)
    side_by_side = memory.replicas(said) if inputs.engine.release.device == "cpu" else 1
    method = _start_method(inputs)
    again = options(inputs.extra)
    parts = _parts(inputs, method, {*said, *again})
    own = _calibration(inputs, said, method, side_by_side, parts)
    whole = whole_texts.left_open(said, inputs)
    half = _half_weights(inputs, dtype.value, whole=whole)
    base = _Base(method, parts, own.value, half.value)
    left_out = sizes.fill(
        {**dict.fromkeys(again, True), **said},
        inputs.checkpoint,
        inputs.engine,
        inputs.hardware,
        width=DTYPE_BYTES.get(computed, 2),
        whole=whole,
        plugin=inputs.settings.plugin,
        engines=placement.most_on_one(inputs),
        predict=lambda knobs: _predict(inputs, dtype.value, base, knobs, 0),
    )
    cuts = _cuts_vectors(inputs)
    backend = engine_and_card.backend(
        inputs.choice, inputs.checkpoint, taken={*inputs.settings.flags, *again}
    )
    workarounds = engine_and_card.workarounds(inputs.engine.release)
    flags = backend.value | _flags(inputs, left_out.value, cuts=cuts) | workarounds.value
    length = context.decide(flags, inputs.extra, inputs.checkpoint)
    flags = {name: value for name, value in (flags | length.value).items() if name not in again}
    asked = context.as_given(flags, inputs.extra)
    no_cache = whole_texts.no_cache(asked, inputs)
    return Draft(
        dtype=dtype,
        computed=computed,
        half_weights=_half_weights(inputs, dtype.value, whole=no_cache is not None),
        replicas=side_by_side,
        method=method,
        parts=parts,
        calibration=own,
        threads=_threads(inputs, side_by_side),
        left_out=left_out,
        context=length,
        backend=backend,
        workarounds=workarounds,
        flags=flags,
        given=given(flags, inputs.extra),
        asked=asked,
        no_cache=no_cache,
        cuts_vectors=cuts,
    )


def model_kind(inputs: Inputs) -> ModelKind:
    """The kind of the model, by which engines of different size are told apart."""
    return "encoder" if inputs.checkpoint.encoder else "decoder"


def _dtype(inputs: Inputs) -> Decision[str]:
    wanted, device, cpu = inputs.settings.dtype, inputs.engine.release.device, inputs.hardware.cpu
    if wanted == "auto":
        choice = inputs.choice
        gpus = (choice.gpu,) if choice and choice.gpu else inputs.hardware.gpus
        return precision.automatic(device, cpu, gpus)
    source = inputs.settings.sources.get("dtype", "as given")
    return Decision(wanted, (f"dtype {wanted}: {source}{precision.remark(wanted, device, cpu)}",))


def _half_weights(inputs: Inputs, dtype: str, *, whole: bool) -> Decision[bool]:
    auto, cpu = inputs.settings.dtype == "auto", inputs.hardware.cpu
    return precision.half_weights(dtype, cpu, auto=auto, whole=whole)


def _start_method(inputs: Inputs) -> StartMethod:
    """How the engine starts its processes: it forks them only under qlaunch's plugin, on a CPU."""
    forks = (
        inputs.engine.release.device == "cpu"
        and inputs.settings.plugin
        and inputs.engine.release.plugin == "framework"
        and inputs.settings.start_method != "spawn"
    )
    return "fork" if forks else "spawn"


def _parts(inputs: Inputs, method: StartMethod, names: Collection[str]) -> frozenset[EnginePart]:
    """The engine's processes, `names` being its options: a template needs a start to come."""
    restart = inputs.profile.restart
    return engine_parts(
        detokenizer=not whole_texts.no_detokenizer(names, inputs),
        template=method == "fork" and restart.template and restart.max_attempts > 0,
    )


def _calibration(
    inputs: Inputs,
    said: Flags,
    method: StartMethod,
    side_by_side: int,
    parts: frozenset[EnginePart],
) -> Decision[Calibration | None]:
    whole_too = inputs.checkpoint.whole_texts or whole_texts.possible(inputs)
    whole = ENCODER_FLAGS if whole_too else {}
    likely = {**sizes.CPU_SWITCHES, **whole, **said}
    own = calibration.calibrate(
        inputs.observed,
        version=inputs.engine.version,
        method=method,
        model=model_kind(inputs),
        replicas=side_by_side,
        cached=whole_texts.no_cache(likely, inputs) is None,
        parts=parts,
    )
    if own is None:
        return Decision(None)
    return Decision(own, (f"memory of the engine's processes: {own.source} on this host",))


def _predict(
    inputs: Inputs,
    dtype: str,
    base: _Base,
    knobs: memory.Knobs,
    pool_bytes: int,
) -> MemoryPrediction:
    return memory.predict(
        inputs.checkpoint,
        knobs,
        device=inputs.engine.release.device,
        dtype=precision.of_engine(dtype, inputs.hardware.cpu),
        int8=dtype == precision.INT8,
        half_weights=base.half_weights,
        method=base.method,
        kv_pool_bytes=pool_bytes,
        calibration=base.calibration,
        parts=base.parts,
        base=memory.cpu_base(
            inputs.checkpoint,
            base.method,
            plugin=inputs.settings.plugin,
            cuda_build="+cu" in (inputs.engine.torch or ""),
        ),
        overhead=cuda_memory.overhead(
            inputs.engine.version,
            (gpu.compute_capability for gpu in inputs.hardware.gpus),
            encoder=inputs.checkpoint.encoder,
        ),
    )


def _threads(inputs: Inputs, side_by_side: int) -> Decision[int | None]:
    if inputs.engine.release.device != "cpu":
        return Decision(None)
    wanted, cpu = inputs.settings.threads, inputs.hardware.cpu
    side_by_side *= inputs.settings.replicas
    if wanted == "auto":
        threads, source = replicas.threads_each(cpu.usable, side_by_side), cpu.usable_source
    else:
        threads, source = wanted, inputs.settings.sources.get("threads", "as given")
    own = inputs.profile.env.get("OMP_NUM_THREADS", "")
    if own:  # it goes before ours in the engine's environment; a number, as every profile's is
        threads, source = int(own), "OMP_NUM_THREADS in the profile's env"
    _require_few(threads, inputs, said_by="env.OMP_NUM_THREADS" if own else "threads")
    words = counted(threads, "thread")
    if side_by_side > 1:
        words = f"{side_by_side} replicas of {words}"
    much = threads * side_by_side > cpu.usable
    slower = f"; more than the {cpu.usable} that can be used here: slower" if much else ""
    return Decision(threads, (f"{words}: {source}{slower}",))


def _require_few(threads: int, inputs: Inputs, *, said_by: str) -> None:
    """Refuse a number of threads that is a slip, and not a wish to have a few more."""
    most = THREADS_EACH * inputs.hardware.cpu.logical
    if threads <= most:
        return
    error = QlaunchError(
        f"`{said_by}` {threads}: {most} are the most here, {THREADS_EACH} for each of"
        f" {counted(inputs.hardware.cpu.logical, 'processor')}",
        code="setting_invalid",
        fix=f"write {inputs.hardware.cpu.usable} or fewer, or auto",
    )
    raise at_its_place(error, inputs.settings, said_by)


def _flags(inputs: Inputs, left_out: Flags, *, cuts: bool) -> Flags:
    """What the model needs, and what was said outright, which wins."""
    flags = {**left_out, **inputs.settings.flags}
    if inputs.checkpoint.whole_texts:
        flags = {**ENCODER_FLAGS, **flags}
    if cuts:
        flags = {**MATRYOSHKA_FLAGS, **flags}
    if more := support.overrides(inputs.checkpoint):
        flags[OVERRIDE] = support.merged(flags.get(OVERRIDE), more)
    return flags


def _cuts_vectors(inputs: Inputs) -> bool:
    if inputs.card is None or not inputs.card.matryoshka:
        return False
    return cuts_vectors(inputs.engine.version)
