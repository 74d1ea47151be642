"""Profile + hardware + model + engine → the plan. Pure: nothing is read, started or written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

import msgspec

from launcher.argv import options
from launcher.documents.plan import (
    ENGINE_HOST,
    CardFacts,
    EnginePlan,
    Expectation,
    Guard,
    MemoryPrediction,
    Plan,
    ReplicaSet,
)
from launcher.engine import command, support
from launcher.engine.options import flags as flag_tables
from launcher.engine.release import Engine
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.cpu import under
from launcher.model.naming import served_name
from launcher.network.listening import is_loopback
from launcher.plan import (
    caching,
    context,
    engine_and_card,
    fallback,
    fit,
    guard,
    memory,
    option_checks,
    option_terms,
    placement,
    precision,
    replica_set,
    replicas,
    sizes,
    start_budget,
    whole_texts,
)
from launcher.plan.decision import Decision, Flags
from launcher.plan.draft import Draft, make_draft, model_kind
from launcher.plan.inputs import Inputs
from launcher.plan.request_checks import check_request
from launcher.plan.wording import in_one_spelling, placed

PATH: Final = "PYTHONPATH"


def make_plan(inputs: Inputs) -> Plan:
    """Resolve everything to what will run.

    A plan that does not fit this machine's memory has `fits` false and says why in `misfit`.

    Raises:
        QlaunchError: `flag_unknown` and its kin (exit 5) for options the engine does not have,
            `usage` (exit 2) for options qlaunch sets itself, `unauthenticated_bind` (exit 2),
            `checkpoint_unsuitable` (exit 2) for another format than the profile is made for,
            `does_not_fit` (exit 4) for what the card cannot compute, and for more cards than there
            are, `model_unsupported` (exit 2) for a pooling that no server can do.
    """
    inputs = in_one_spelling(inputs)
    try:
        return _made(inputs)
    except QlaunchError as error:
        raise placed(error, inputs.settings, options(inputs.extra)) from error


def _made(inputs: Inputs) -> Plan:
    check_request(inputs.settings, inputs.extra)
    inputs = placement.on_its_cards(_under_the_profiles_masks(inputs))
    draft = make_draft(inputs)
    _check_model(inputs, draft)
    argv, warnings = _checked_argv(inputs, draft)
    knobs = memory.knobs(draft.asked, inputs.checkpoint, no_kv=draft.no_cache)
    environment = _environment(inputs, draft)
    limits = _guard(inputs, draft, knobs)
    one = _predicted(inputs, draft, knobs, limits)
    engines = replica_set.make(inputs, draft, one)
    predicted = replica_set.predicted(one, engines, inputs, draft, limits)
    misfit = _misfit(inputs, draft, knobs, predicted, engines, limits)
    start = _start_budget(inputs)
    return Plan(
        service=inputs.settings.name,
        profile=inputs.profile_name,
        engine=_engine(inputs, argv, guard.environment(limits, environment)),
        device=inputs.engine.release.device,
        model_name=_served_name(inputs),
        model_path=str(inputs.checkpoint.path),
        model_kind=model_kind(inputs),
        fingerprint=inputs.checkpoint.fingerprint,
        expectation=_expectation(inputs, draft, knobs),
        host=inputs.settings.host,
        port=inputs.settings.port,
        cache=inputs.settings.cache,
        replica_set=engines,
        metrics_port=inputs.settings.metrics_port,
        metrics_host=inputs.settings.metrics_host,
        api_key_file=inputs.settings.api_key_file,
        predicted=predicted,
        fits=misfit is None,
        misfit=misfit.reason if misfit else None,
        remedy=misfit.remedy if misfit else None,
        reasons=(
            *(misfit.sentences if misfit else ()),
            *_reasons(inputs, draft, limits),
            *warnings,
        ),
        start_timeout_s=inputs.settings.start_timeout_s,
        start_budget_s=start.value if start else None,
        start_budget_source=start.reasons[0] if start else "",
        fallbacks=fallback.resolved(inputs, make_plan),
        restart=inputs.profile.restart,
        template="template" in draft.parts,
        reference_cache=inputs.reference_cache,
        guard=limits,
    )


def _reasons(inputs: Inputs, draft: Draft, limits: Guard) -> tuple[str, ...]:
    """Why the decisions are what they are, in the order in which they matter to people."""
    return (
        *(inputs.choice.reasons if inputs.choice else ()),
        *draft.dtype.reasons,
        *draft.half_weights.reasons,
        *precision.cautions(inputs.engine.release.device, inputs.hardware.cpu),
        *draft.threads.reasons,
        *replica_set.reasons(inputs),
        *draft.left_out.reasons,
        *draft.context.reasons,
        *draft.calibration.reasons,
        *draft.backend.reasons,
        *draft.workarounds.reasons,
        guard.reason(limits),
        *caching.reasons(inputs.settings.cache),
        *inputs.hardware.assumed,
    )


def _argv(inputs: Inputs, draft: Draft) -> tuple[str, ...]:
    fronted = replica_set.is_fronted(inputs)
    return command.argv(
        inputs.engine,
        model_path=str(inputs.checkpoint.path),
        served_name=_served_name(inputs),
        host=ENGINE_HOST if fronted else inputs.settings.host,
        port=str((not fronted and inputs.settings.port) or "{port}"),
        dtype={"float16": "half"}.get(draft.computed, draft.computed),
        flags=draft.flags,
        extra=inputs.extra,
        has_key=inputs.settings.api_key_file is not None,
        plugin=inputs.settings.plugin,
    )


def _engine(inputs: Inputs, argv: tuple[str, ...], env: dict[str, str]) -> EnginePlan:
    return EnginePlan(
        release=inputs.engine.release.name,
        version=inputs.engine.version,
        python=str(inputs.engine.python),
        argv=argv,
        env=env,
        model_info_path=inputs.engine.release.model_info_path,
        plugin=inputs.settings.plugin,
    )


def _guard(inputs: Inputs, draft: Draft, knobs: memory.Knobs) -> Guard:
    return guard.make_guard(
        inputs.checkpoint,
        guard.Sizes(
            knobs.context,
            draft.replicas * knobs.running_requests,
            cut=draft.cuts_vectors,
            device=inputs.engine.release.device,
        ),
        served_name=_served_name(inputs),
        switches=frozenset(draft.given),
        reach=guard.Reach(
            is_loopback(inputs.settings.host) or replica_set.is_fronted(inputs),
            tuple(inputs.profile.allowed_hosts),
            tuple(inputs.profile.cors_origins),
        ),
        aliases=tuple(inputs.profile.aliases),
    )


def _predicted(
    inputs: Inputs, draft: Draft, knobs: memory.Knobs, limits: Guard
) -> MemoryPrediction:
    """The memory of one engine: its schedulers, and what its front holds of requests."""
    one = draft.predict(inputs, knobs, _pool_bytes(inputs, draft.flags))
    calibrated = draft.calibration.value is not None
    several = replicas.predicted(one, draft.replicas, method=draft.method, calibrated=calibrated)
    if inputs.engine.release.device != "cpu":
        return guard.predicted(several, limits)
    given, env = draft.given, inputs.profile.env
    more = option_terms.predicted(several, given, env, plugin=inputs.settings.plugin)
    return guard.predicted(more, limits, fronts=max(1, option_terms.fronts(given)))


def _misfit(
    inputs: Inputs,
    draft: Draft,
    knobs: memory.Knobs,
    predicted: MemoryPrediction,
    engines: ReplicaSet | None,
    limits: Guard,
) -> fit.Misfit | None:
    if engines is not None and engines.count > 1:
        return replica_set.misfit(engines, inputs, draft, limits)
    return fit.why_not_memory(
        predicted,
        inputs.hardware,
        inputs.checkpoint,
        knobs,
        draft.computed,
        share=option_checks.number(draft.given, sizes.SHARE),
    )


def _start_budget(inputs: Inputs) -> Decision[float] | None:
    """The learned budget of a start; none where the user said how long it may take."""
    source = inputs.settings.sources.get("start_timeout_s", "")
    if source.startswith(("command line", "environment")):
        return None
    return start_budget.learned(
        inputs.observed,
        fingerprint=inputs.checkpoint.fingerprint,
        version=inputs.engine.version,
        device=inputs.engine.release.device,
        limit_s=inputs.settings.start_timeout_s,
    )


def _checked_argv(inputs: Inputs, draft: Draft) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The command, and what the engine will warn of, a sentence each; options that it does not have
    are refused."""
    argv = _argv(inputs, draft)
    words = argv[len(command.start(inputs.engine, plugin=inputs.settings.plugin)) :]
    # Any figure in place of the port that is chosen at the start.
    checkable = ["1" if word == "{port}" else word for word in words]
    known = inputs.engine.options or inputs.engine.version
    option_checks.check_options(
        draft.given,
        device=inputs.engine.release.device,
        kernels=inputs.settings.engine_python is not None,
        both_ways=inputs.checkpoint.encoder or inputs.checkpoint.both_ways,
    )
    if inputs.settings.api_key_file is not None:
        _require_key_by_file(inputs.engine)
    return argv, tuple(problem.message for problem in flag_tables.require(checkable, known))


def _require_key_by_file(engine: Engine) -> None:
    """Refuse a key for an engine that takes it in its arguments alone, which all users can read."""
    table = engine.options or flag_tables.table(engine.version)
    if table is None or "--config" in table.index():
        return
    raise QlaunchError(
        f"SGLang {engine.version} reads no API key from a file",
        code="flag_unknown",
        exit_code=ExitCode.ENGINE,
        fix="leave the key out, on 127.0.0.1, and give it to a gateway before the service:"
        " qlaunch gateway SERVICE --api-key-file FILE",
    )


def _under_the_profiles_masks(inputs: Inputs) -> Inputs:
    """A profile's `env` may hide instruction sets from the engine, as the environment may."""
    cpu = under(inputs.hardware.cpu, inputs.profile.env)
    if cpu is inputs.hardware.cpu:
        return inputs
    return replace(inputs, hardware=msgspec.structs.replace(inputs.hardware, cpu=cpu))


def _check_model(inputs: Inputs, draft: Draft) -> None:
    """Refuse weights in another format than the profile's, or that the card cannot compute; and a
    context that the model does not have."""
    _check_weights(inputs, draft)
    context.check(draft.asked, inputs.checkpoint)


def _check_weights(inputs: Inputs, draft: Draft) -> None:
    dtype, flags = draft.dtype.value, draft.given
    support.require(
        inputs.checkpoint,
        inputs.engine.release,
        inputs.engine.version,
        plugin=inputs.settings.plugin,
    )
    engine_and_card.check_card(inputs.choice, inputs.checkpoint, dtype, flags.get("quantization"))
    precision.check_rotation(inputs.checkpoint, inputs.engine.version)
    if inputs.choice is not None:  # an engine of the user's own may have kernels
        device = inputs.engine.release.device
        precision.check_quantised(device, inputs.checkpoint, flags.get("quantization"))
    precision.check_int8(
        dtype,
        inputs.engine.release.device,
        inputs.hardware.cpu,
        inputs.checkpoint,
        plugin=inputs.settings.plugin,
        whole=draft.no_cache is not None,
    )
    need, found = inputs.profile.checkpoint, inputs.checkpoint.quantization
    if need is None or found in need.quantization:
        return
    formats = " or ".join(need.quantization)
    raise QlaunchError(
        f"profile {inputs.profile_name} needs a checkpoint quantised with {formats};"
        f" {inputs.checkpoint.path} is {found or 'not quantised'}",
        code="checkpoint_unsuitable",
        fix=f"make one: `{precision.quantize_command(_unquantised(inputs), need.quantization)}`;"
        " or give one with --model (a folder, or hf:ORG/NAME), or take another profile",
    )


def _unquantised(inputs: Inputs) -> str:
    """The model that a quantised copy can be made of, as a user names it."""
    if inputs.checkpoint.quantization is not None:
        return inputs.profile.model
    return inputs.card.name if inputs.card is not None else str(inputs.checkpoint.path)


def _environment(inputs: Inputs, draft: Draft) -> dict[str, str]:
    env = command.environment(
        inputs.engine,
        model_path=str(inputs.checkpoint.path),
        architectures=(inputs.checkpoint.engine_class,),
        threads=draft.threads.value,
        plugin=inputs.settings.plugin,
        start_method=inputs.settings.start_method,
    )
    env |= context.environment(draft.asked, inputs.checkpoint)
    env |= replicas.environment(draft.replicas, draft.threads.value)
    env |= precision.environment(draft.dtype.value, half_weights=draft.half_weights.value)
    env |= whole_texts.ENVIRONMENT if draft.no_cache else {}
    env |= {} if "detokenizer" in draft.parts else whole_texts.STRAIGHT
    if inputs.checkpoint.lower_case:
        env["QLAUNCH_LOWER_CASE"] = "1"
    env = env | placement.shown(inputs) | _own_variables(inputs, env)
    guard.check_doors(draft.flags, inputs.extra, env)
    return env


def _own_variables(inputs: Inputs, env: Mapping[str, str]) -> dict[str, str]:
    """The profile's own variables, which win; its PYTHONPATH comes after ours, without which the
    engine has neither qlaunch's plugin nor what stands in for missing kernels."""
    own = dict(inputs.profile.env)
    if PATH in own and PATH in env:
        own[PATH] = ":".join(filter(None, (env[PATH], own[PATH])))
    return own


def _pool_bytes(inputs: Inputs, flags: Flags) -> int:
    """What SGLang takes for KV cache without --max-total-tokens: its fraction of what is free."""
    fraction = option_checks.number(flags, sizes.SHARE)
    share = 0.88 if fraction is None else fraction
    if inputs.engine.release.device == "cpu":
        # The machine's memory, not the cgroup's: SGLang asks psutil.
        return int(inputs.hardware.memory.total_bytes * share)
    return int(fit.least_free(inputs.hardware) * share)


def _expectation(inputs: Inputs, draft: Draft, knobs: memory.Knobs) -> Expectation:
    checkpoint, dtype = inputs.checkpoint, draft.dtype.value
    return Expectation(
        dimensions=checkpoint.dimensions,
        normalize=checkpoint.normalize,
        pooling=checkpoint.pooling,
        encoder=checkpoint.whole_texts,
        max_running_requests=draft.replicas * knobs.running_requests,
        context_length=knobs.context,
        parity_min=inputs.parity_min(dtype),
        dtype=dtype,
        pooling_source=checkpoint.pooling_source,
        normalize_source=checkpoint.normalize_source,
        card=_card_facts(inputs, draft),
        prompts=checkpoint.prompts,
        replicas=memory.replicas(draft.asked),
    )


def _card_facts(inputs: Inputs, draft: Draft) -> CardFacts | None:
    """The card's facts, as far as this engine can keep them."""
    card = inputs.card
    if card is None:
        return None
    facts = {name: getattr(card, name) for name in CardFacts.__struct_fields__}
    return CardFacts(**facts | {"matryoshka": draft.cuts_vectors})


def _served_name(inputs: Inputs) -> str:
    return inputs.card.name if inputs.card else served_name(inputs.checkpoint.path)
