"""Profile + hardware + model + engine → the plan. Pure: nothing is read, started or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from launcher.config.profile import FlagValue
from launcher.documents.plan import (
    Calibration,
    CardFacts,
    EnginePlan,
    Expectation,
    MemoryPrediction,
    ModelKind,
    Plan,
    StartMethod,
)
from launcher.engine import command, support
from launcher.engine.options import flags as flag_tables
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.cpu import under
from launcher.model.naming import folder_name
from launcher.plan import (
    calibration,
    context,
    engine_and_card,
    fallback,
    fit,
    guard,
    memory,
    precision,
    replicas,
    start_budget,
)
from launcher.plan import sizes as sizing
from launcher.plan.inputs import Inputs
from launcher.plan.request_checks import check_request, is_loopback

ENCODER_FLAGS: Final[Mapping[str, FlagValue]] = {
    "disable-radix-cache": True,
    "chunked-prefill-size": -1,
    # With chunking off SGLang reserves for the largest prefill, and may leave nothing for the KV
    # cache ("Loaded weights leave no GPU memory …"), unless the fraction is explicit.
    "mem-fraction-static": 0.5,
}
"""What keeps the vectors right of encoders and of all that pools or attends over whole texts: a
cached or split prefix changes them (cosine 0.25 to 0.88 with the reference)."""

MATRYOSHKA_FLAGS: Final[Mapping[str, FlagValue]] = {
    "json-model-override-args": '{"is_matryoshka": true}',
}
"""Models whose card says that vectors may be cut do not say so in config.json, and the engine
answers a request for fewer `dimensions` with 400 until it is told."""
MATRYOSHKA_SINCE: Final = "0.5.6"
"""First SGLang that cuts vectors (layers/pooler.py cuts before it normalises)."""


def make_plan(given: Inputs) -> Plan:
    """Resolve everything to what will run.

    A plan that does not fit this machine's memory is returned with `fits` false and the reason
    first; the caller decides whether to refuse.

    Raises:
        QlaunchError: `flag_unknown` and its kin (exit 5) for options the engine does not have,
            `usage` (exit 2) for options qlaunch sets itself, `unauthenticated_bind` (exit 2),
            `checkpoint_unsuitable` (exit 2) for another format than the profile is made for,
            `does_not_fit` (exit 4) for what the card cannot compute, `model_unsupported` (exit 2)
            for a pooling that no server can do.
    """
    check_request(given.settings, given.extra)
    given = _under_the_profile_s_masks(given)
    dtype, dtype_reason = _dtype(given)
    computed = precision.of_engine(dtype, given.hardware.cpu)
    side_by_side = _side_by_side(given)
    own = _calibration(given, side_by_side)
    left_out = _left_out(given, computed, own)
    flags = _flags(given, left_out.flags)
    _check_model(given, dtype, flags)
    asked = context.as_given(flags, given.extra)
    context.check(asked, given.checkpoint)
    threads = _threads(given, side_by_side)
    argv = command.argv(
        given.engine,
        model_path=str(given.checkpoint.path),
        served_name=_served_name(given),
        host=given.settings.host,
        port=str(given.settings.port or "{port}"),
        dtype={"float16": "half"}.get(computed, computed),
        flags=flags,
        extra=given.extra,
        has_key=given.settings.api_key_file is not None,
        plugin=given.settings.plugin,
    )
    known = given.engine.options or given.engine.version
    warnings = flag_tables.require(_checkable(argv, given), known)
    sizes = memory.knobs(asked, given.checkpoint)
    predicted = _predict(given, sizes, computed, own, _pool_bytes(given, flags))
    predicted = replicas.predicted(
        predicted, side_by_side, method=_start_method(given), calibrated=own is not None
    )
    environment = _environment(given, flags, dtype, threads, side_by_side)
    guard.check_doors(flags, given.extra, environment)
    limits = guard.make_guard(
        given.checkpoint,
        guard.Sizes(
            sizes.context,
            side_by_side * sizes.running_requests,
            cut=_cuts_vectors(given),
            device=given.engine.release.device,
        ),
        served_name=_served_name(given),
        switches=guard.switches(flags, given.extra),
        reach=guard.Reach(
            is_loopback(given.settings.host),
            tuple(given.profile.allowed_hosts),
            tuple(given.profile.cors_origins),
        ),
    )
    predicted = guard.predicted(predicted, limits)
    start = _start_budget(given)
    lacking = fit.why_not_memory(predicted, given.hardware, given.checkpoint, sizes, computed)
    return Plan(
        service=given.settings.name,
        profile=given.profile_name,
        engine=EnginePlan(
            release=given.engine.release.name,
            version=given.engine.version,
            python=str(given.engine.python),
            argv=argv,
            env=guard.environment(limits, environment),
            model_info_path=given.engine.release.model_info_path,
            plugin=given.settings.plugin,
        ),
        device=given.engine.release.device,
        model_name=_served_name(given),
        model_path=str(given.checkpoint.path),
        model_kind=_model_kind(given),
        fingerprint=given.checkpoint.fingerprint,
        expectation=_expectation(given, dtype, sizes, side_by_side),
        host=given.settings.host,
        port=given.settings.port,
        metrics_port=given.settings.metrics_port,
        api_key_file=given.settings.api_key_file,
        predicted=predicted,
        fits=lacking is None,
        misfit=lacking.reason if lacking else None,
        remedy=lacking.remedy if lacking else None,
        reasons=(
            *((lacking.reason,) if lacking else ()),
            *((lacking.remedy,) if lacking and lacking.remedy else ()),
            *(given.choice.reasons if given.choice else ()),
            dtype_reason,
            *precision.cautions(given.engine.release.device, given.hardware.cpu),
            *_thread_reason(given, threads, side_by_side),
            *left_out.reasons,
            *context.reasons(given.settings.flags, flags, given.extra, given.checkpoint),
            *((f"memory of the engine's processes: {own.source} on this host",) if own else ()),
            *_flag_reasons(given, flags),
            guard.reason(limits),
            *given.hardware.assumed,
            *(problem.message for problem in warnings),
        ),
        start_timeout_s=given.settings.start_timeout_s,
        start_budget_s=start[0] if start else None,
        start_budget_source=start[1] if start else "",
        fallbacks=fallback.resolved(given, make_plan),
        restart=given.profile.restart,
        reference_cache=given.reference_cache,
        guard=limits,
    )


def _side_by_side(given: Inputs) -> int:
    """Schedulers of a CPU engine."""
    if given.engine.release.device != "cpu":
        return 1
    return memory.replicas(context.as_given(given.settings.flags, given.extra))


def _left_out(given: Inputs, computed: str, own: Calibration | None) -> sizing.Filled:
    """What profile, user's config and command line are silent about, computed."""
    said = {word.partition("=")[0].removeprefix("--"): True for word in given.extra}
    return sizing.fill(
        {**said, **context.as_given(given.settings.flags, given.extra)},
        given.checkpoint,
        given.engine,
        given.hardware,
        width=memory.DTYPE_BYTES.get(computed, 2),
        predict=lambda sizes: _predict(given, sizes, computed, own, 0),
    )


def _calibration(given: Inputs, side_by_side: int) -> Calibration | None:
    return calibration.calibrate(
        given.observed,
        version=given.engine.version,
        method=_start_method(given),
        model=_model_kind(given),
        replicas=side_by_side,
    )


def _model_kind(given: Inputs) -> ModelKind:
    return "encoder" if given.checkpoint.encoder else "decoder"


def _predict(
    given: Inputs, sizes: memory.Knobs, dtype: str, own: Calibration | None, pool_bytes: int
) -> MemoryPrediction:
    return memory.predict(
        given.checkpoint,
        sizes,
        device=given.engine.release.device,
        dtype=dtype,
        method=_start_method(given),
        kv_pool_bytes=pool_bytes,
        calibration=own,
    )


def _start_budget(given: Inputs) -> tuple[float, str] | None:
    """The learned budget of a start; none where the user said how long it may take."""
    source = given.settings.sources.get("start_timeout_s", "")
    if source.startswith(("command line", "environment")):
        return None
    return start_budget.learned(
        given.observed,
        fingerprint=given.checkpoint.fingerprint,
        version=given.engine.version,
        device=given.engine.release.device,
        limit_s=given.settings.start_timeout_s,
    )


def _checkable(argv: tuple[str, ...], given: Inputs) -> list[str]:
    """The engine's options with any figure in place of the port that is chosen at the start."""
    options = argv[len(command.start(given.engine, plugin=given.settings.plugin)) :]
    return ["1" if word == "{port}" else word for word in options]


def _under_the_profile_s_masks(given: Inputs) -> Inputs:
    """A profile's `env` may hide instruction sets from the engine, as the environment may."""
    cpu = under(given.hardware.cpu, given.profile.env)
    if cpu is given.hardware.cpu:
        return given
    return replace(given, hardware=msgspec.structs.replace(given.hardware, cpu=cpu))


def _dtype(given: Inputs) -> tuple[str, str]:
    wanted = given.settings.dtype
    if wanted != "auto":
        reason = f"dtype {wanted}: {given.settings.sources.get('dtype', 'as given')}"
        device, cpu = given.engine.release.device, given.hardware.cpu
        return wanted, reason + precision.emulated(wanted, device, cpu)
    gpus = (given.choice.gpu,) if given.choice and given.choice.gpu else given.hardware.gpus
    return precision.automatic(given.engine.release.device, given.hardware.cpu, gpus)


def _threads(given: Inputs, side_by_side: int) -> int | None:
    if given.engine.release.device != "cpu":
        return None
    wanted = given.settings.threads
    if wanted != "auto":
        return wanted
    return replicas.threads_each(given.hardware.cpu.usable, side_by_side)


def _thread_reason(given: Inputs, threads: int | None, side_by_side: int) -> tuple[str, ...]:
    if threads is None:
        return ()
    words = f"{threads} threads"
    if side_by_side > 1:
        words = f"{side_by_side} replicas of {threads} {'thread' if threads == 1 else 'threads'}"
    if given.settings.threads == "auto":
        return (f"{words}: {given.hardware.cpu.usable_source}",)
    return (f"{words}: {given.settings.sources.get('threads', 'as given')}",)


def _flags(given: Inputs, left_out: Mapping[str, FlagValue]) -> dict[str, FlagValue]:
    """The engine's flags without those the user gives again after `--`: theirs win."""
    flags = {**left_out, **given.settings.flags}
    if given.checkpoint.whole_texts:
        flags = {**ENCODER_FLAGS, **flags}
    if _cuts_vectors(given):
        flags = {**MATRYOSHKA_FLAGS, **flags}
    if more := support.overrides(given.checkpoint):
        flags[support.OVERRIDE] = support.merged(flags.get(support.OVERRIDE), more)
    flags = {**engine_and_card.backend(given.choice, given.checkpoint)[0], **flags}
    flags |= engine_and_card.workarounds(given.engine.release)[0]
    flags |= context.flags(flags, given.extra, given.checkpoint)
    overridden = {
        word.partition("=")[0].removeprefix("--") for word in context.options(given.extra)
    }
    return {name: value for name, value in flags.items() if name not in overridden}


def _flag_reasons(given: Inputs, flags: Mapping[str, FlagValue]) -> tuple[str, ...]:
    """Why flags are there that no profile asked for."""
    backend, why = engine_and_card.backend(given.choice, given.checkpoint)
    asked = given.settings.flags
    chosen = (
        (why,)
        if backend and flags.get("attention-backend") and not asked.keys() & backend.keys()
        else ()
    )
    return (*chosen, *engine_and_card.workarounds(given.engine.release)[1])


def _check_model(given: Inputs, dtype: str, flags: Mapping[str, FlagValue]) -> None:
    """Refuse weights in another format than the profile's, or that the card cannot compute."""
    support.require(
        given.checkpoint,
        given.engine.release,
        given.engine.version,
        plugin=given.settings.plugin,
    )
    engine_and_card.check_card(given.choice, given.checkpoint, dtype, flags.get("quantization"))
    precision.check_rotation(given.checkpoint, given.engine.version)
    if given.choice is not None:  # an engine of the user's own may have kernels
        device = given.engine.release.device
        precision.check_quantised(device, given.checkpoint, flags.get("quantization"))
    precision.check_int8(
        dtype,
        given.engine.release.device,
        given.hardware.cpu,
        given.checkpoint,
        plugin=given.settings.plugin,
    )
    need, found = given.profile.checkpoint, given.checkpoint.quantization
    if need is None or found in need.quantization:
        return
    formats = " or ".join(need.quantization)
    raise QlaunchError(
        f"profile {given.profile_name} needs a checkpoint quantised with {formats};"
        f" {given.checkpoint.path} is {found or 'not quantised'}",
        code="checkpoint_unsuitable",
        exit_code=ExitCode.USAGE,
        fix="give one with --model (a folder, or hf:ORG/NAME), or take another profile",
    )


def _environment(
    given: Inputs,
    flags: Mapping[str, FlagValue],
    dtype: str,
    threads: int | None,
    side_by_side: int,
) -> dict[str, str]:
    env = command.environment(
        given.engine,
        model_path=str(given.checkpoint.path),
        architectures=(given.checkpoint.engine_class,),
        threads=threads,
        plugin=given.settings.plugin,
        start_method=given.settings.start_method,
    )
    env |= context.environment(flags, given.extra, given.checkpoint)
    env |= replicas.environment(side_by_side, threads)
    env |= precision.environment(dtype)
    if given.checkpoint.lower_case:
        env["QLAUNCH_LOWER_CASE"] = "1"
    return env | _visible(given) | given.profile.env


def _visible(given: Inputs) -> dict[str, str]:
    """Show the engine one card of several; parallel engines (their options are the user's) see all.

    Whole cards go by number: engines parse the list. A MIG slice has none, only its UUID.
    """
    choice = given.choice
    parallel = {"--tp-size", "--tp", "--dp-size", "--dp", "--pp-size", "--base-gpu-id"}
    words = {word.partition("=")[0] for word in context.options(given.extra)}
    if choice is None or choice.gpu is None or parallel & words:
        return {}
    if choice.gpu.mig:
        return {"CUDA_VISIBLE_DEVICES": choice.gpu.uuid}
    return {} if choice.only_gpu else {"CUDA_VISIBLE_DEVICES": str(choice.gpu.index)}


def _start_method(given: Inputs) -> StartMethod:
    """How the engine starts its processes: it forks them only under qlaunch's plugin, on a CPU."""
    forks = (
        given.engine.release.device == "cpu"
        and given.settings.plugin
        and given.engine.release.plugin == "framework"
        and given.settings.start_method != "spawn"
    )
    return "fork" if forks else "spawn"


def _pool_bytes(given: Inputs, flags: Mapping[str, FlagValue]) -> int:
    """What SGLang takes for KV cache without --max-total-tokens: its fraction of what is free."""
    fraction = flags.get("mem-fraction-static")
    share = fraction if isinstance(fraction, float) else 0.88
    if given.engine.release.device == "cpu":
        # The machine's memory, not the cgroup's: SGLang asks psutil.
        return int(given.hardware.memory.total_bytes * share)
    free = (g.memory_free_bytes or g.memory_total_bytes for g in given.hardware.gpus)
    return int(max(free, default=0) * share)


def _expectation(given: Inputs, dtype: str, sizes: memory.Knobs, side_by_side: int) -> Expectation:
    return Expectation(
        dimensions=given.checkpoint.dimensions,
        normalize=given.checkpoint.normalize,
        pooling=given.checkpoint.pooling,
        encoder=given.checkpoint.whole_texts,
        max_running_requests=side_by_side * sizes.running_requests,
        context_length=sizes.context,
        parity_min=given.parity_min(dtype),
        dtype=dtype,
        pooling_source=given.checkpoint.pooling_source,
        normalize_source=given.checkpoint.normalize_source,
        card=_card_facts(given),
        prompts=given.checkpoint.prompts,
        replicas=memory.replicas(context.as_given(given.settings.flags, given.extra)),
    )


def _card_facts(given: Inputs) -> CardFacts | None:
    """The card's facts, as far as this engine can keep them."""
    card = given.card
    if card is None:
        return None
    facts = {name: getattr(card, name) for name in CardFacts.__struct_fields__}
    return CardFacts(**facts | {"matryoshka": _cuts_vectors(given)})


def _cuts_vectors(given: Inputs) -> bool:
    from packaging.version import Version

    if given.card is None or not given.card.matryoshka:
        return False
    return Version(given.engine.version) >= Version(MATRYOSHKA_SINCE)


def _served_name(given: Inputs) -> str:
    name = given.card.name if given.card else folder_name(given.checkpoint.path)
    # A colon means a LoRA adapter to SGLang, which refuses it in a model's name.
    return name.replace(":", "-") or "model"
