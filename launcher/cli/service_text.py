"""How services, plans and checks read to a person. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, UnsetType
from msgspec.structs import asdict

from launcher.argv import grouped
from launcher.cli import screen
from launcher.cli.result import Problem, Result
from launcher.documents.evidence import Evidence
from launcher.documents.failure import Failure, TakenFallback
from launcher.documents.plan import Plan
from launcher.documents.plan_report import (
    AbsentPart,
    ClientPrompts,
    PlannedMemory,
    PlannedReplica,
    PlanReport,
)
from launcher.documents.run import CacheUse, Peak, Timings
from launcher.documents.service_state import FINAL, ExecutedEngine, ServiceState, at_work
from launcher.documents.smoke import SmokeReport, SuiteReport
from launcher.errors import ExitCode
from launcher.model.checkpoint import Prompts
from launcher.service.document import prediction_error
from launcher.units import counted, off, peak, size

if TYPE_CHECKING:
    from launcher.app.prepare import Prepared

_WORDS = {
    "starting": "starting the engine",
    "loading": "loading the model",
    "warming": "warming up",
    "verifying": "checking the vectors",
    "ready": "ready: vectors proved right",
    "idle": "idle: a request starts the engine",
}


def phase(state: str, detail: str) -> str:
    """One phase of a start."""
    words = _WORDS.get(state, state)
    return f"{words} ({detail})" if detail and state != "ready" else words


def service(state: ServiceState, *, brief: bool = False) -> list[str]:
    """A service: where it is, what it takes, what its checks found.

    `brief` names the checks that passed on one line.
    """
    engine, metrics = state.engine_plan, None if state.state in FINAL else state.metrics
    pid = f"pid {state.engine.pid if state.engine else '-'}"
    if state.replicas:
        pid = counted(len(state.replicas), "replica")
    lines = [
        f"service   {state.service} ({state.profile}): {state.state}",
        f"endpoint  {state.endpoint or '-'}",
        f"engine    {engine.release} {engine.version}, {pid}",
        *replicas(state),
        f"run       {state.run}",
        *memory(state),
        *timings(state.timings),
    ]
    if state.detail:
        lines.append(f"now       {state.detail}")
    if state.problem and state.problem != state.detail:
        lines.append(f"note      {state.problem}")
    if metrics:
        lines.append(f"metrics   {metrics.url or metrics.problem}")
    lines += gateway(state)
    if state.template and at_work(state):
        lines.append(f"template  pid {state.template.pid}, from which a new start is forked")
    if state.restarts:
        lines.append(f"restarts  {state.restarts}")
    lines += fallbacks(state.fallbacks)
    return [*lines, *failure(state.failure), *checks(state.smoke, brief=brief)]


def replicas(state: ServiceState) -> list[str]:
    """The replicas of a set, one a line; what changes of it now, or why it did not."""
    runs = at_work(state)
    lines = []
    for each in state.replicas:
        if not runs:
            lines.append(f"replica   {each.service}: {each.state}")
            continue
        pid = f"pid {each.engine.pid}" if each.engine else "pid -"
        place = (each.endpoint or "-").removesuffix("/v1")
        word = "serves" if each.serving else each.detail or each.state
        lines.append(f"replica   {each.service}: {place}, {pid}: {word}")
    change = state.rollout
    if change is not None and not change.done and runs:
        lines.append(f"change    {change.kind} to {change.replicas}: {change.detail}")
    elif change is not None and change.failure is not None:
        lines.append(f"change    {change.kind} to {change.replicas} failed: {change.detail}")
    return lines


def missing_replicas(state: ServiceState) -> list[Problem]:
    """What is wrong with a set that came up with fewer replicas than were asked for."""
    return [
        Problem(
            "replica_missing",
            f"{each.service}: {each.detail}",
            f"qlaunch logs {each.service}; then start it again: qlaunch restart {state.service}",
        )
        for each in state.replicas
        if not each.serving
    ]


def gateway(state: ServiceState) -> list[str]:
    """The gateway before the engine, and what its cache is worth; nothing where there is none."""
    found = state.gateway
    if found is None:
        return []
    lines = []
    if found.process and at_work(state):
        behind = "the replicas" if state.replicas else f"the engine at {_bare(state)}"
        lines.append(f"gateway   pid {found.process.pid}, before {behind}")
    lines += cache_use(found.use) if found.cached else restarts_of_gateway(found.use)
    if found.problem and found.problem != state.detail:
        lines.append(f"warning   {found.problem}")
    return lines


def cache_use(use: CacheUse | None) -> list[str]:
    """What a cache answered; nothing before the first text, and where there is none."""
    lines = []
    if use is not None and use.hit_rate is not None:
        hits = f"{use.hits} of {counted(use.inputs, 'text')} from the cache ({use.hit_rate:.0%})"
        lines.append(f"cache     {hits}")
    return lines if use is None else [*lines, *restarts_of_gateway(use)]


def restarts_of_gateway(use: CacheUse) -> list[str]:
    """How often it was started again; nothing where it was not."""
    return [f"restarts  {use.restarts} of the gateway"] if use.restarts else []


def _bare(state: ServiceState) -> str:
    return (state.engine_endpoint or "-").removesuffix("/v1")


def fitting(state: ServiceState, *, everything: bool = False, below: int = 0) -> list[str]:
    """A service on one screen: as much of it as fits, what failed in any case.

    Args:
        state: of the service.
        everything: all of it, however long.
        below: lines of the screen that something else will take.
    """
    lines = service(state)
    if not everything and not screen.fits(lines, below):
        lines = service(state, brief=True)
    return screen.shorten(lines, everything=everything, below=below)


def fallbacks(steps: Iterable[TakenFallback]) -> list[str]:
    """What was given up after memory failures, step by step."""
    return [
        f"fallback  {step.step} of {step.of}, after {step.after}: "
        + ", ".join(f"{name} {value}" for name, value in step.flags.items())
        for step in steps
    ]


def memory(state: ServiceState) -> list[str]:
    """Predicted and measured memory."""
    predicted, measured, off = state.predicted, state.measured, prediction_error(state)
    ram, gpu = (predicted.ram_bytes, predicted.gpu_bytes) if predicted else (None, None)
    how = {device: peak(measured.method.get(device)) for device in ("ram", "gpu")}
    proved = state.verified_peak or Peak()
    used = _grown(measured.ram_peak_bytes, proved.ram_peak_bytes, how["ram"])
    lines = [f"RAM       {used}, predicted {size(ram)}{_after_comma(off.ram)}"]
    if gpu is not None or measured.gpu_peak_bytes is not None:
        used = _grown(measured.gpu_peak_bytes, proved.gpu_peak_bytes, how["gpu"])
        lines.append(f"GPU       {used}, predicted {size(gpu)}{_after_comma(off.gpu)}")
    return lines


def _grown(peak_bytes: int | None, proved_bytes: int | None, how: str) -> str:
    """A peak, and beside one that load has raised what it was when the vectors were proved."""
    used, before = size(peak_bytes), size(proved_bytes)
    grew = proved_bytes is not None and used != before
    return f"{used} {how}, {before} until verified" if grew else f"{used} {how}"


def _after_comma(error: float | None) -> str:
    return f", {off(error)}" if error is not None else ""


def timings(found: Timings) -> list[str]:
    """How long the start took."""
    if found.ready_s is None:
        return []
    verified = found.verified_s
    proved = f", vectors proved right after {verified:.1f} s" if verified is not None else ""
    return [f"start     healthy after {found.ready_s:.1f} s{proved}"]


def checks(smoke: SmokeReport | None, *, brief: bool = False) -> list[str]:
    """The smoke's checks, one a line, and a vector to look at; see `service` for `brief`."""
    if smoke is None or not smoke.checks:
        return []
    passed = [check.name for check in smoke.checks if check.ok]
    lines = [
        f"  {'ok  ' if check.ok else 'FAIL'}  {check.name:<18} {check.detail}"
        for check in smoke.checks
        if not (brief and check.ok)
    ]
    if brief and passed:
        lines += screen.folded(f"{len(passed)} ok: {', '.join(passed)}", "  ")
    if smoke.explanation:
        lines.append(f"  suspect: {smoke.suspect}: {smoke.explanation}")
    if smoke.sample:
        lines.append(f"vector    [{', '.join(f'{x:.3f}' for x in smoke.sample)}, …]")
    if smoke.latency_ms is not None:
        lines.append(f"latency   {smoke.latency_ms:.0f} ms for one short text, alone")
    return ["checks", *lines]


def judged(
    name: str,
    data: dict[str, object],
    report: SmokeReport | SuiteReport,
    lines: list[str],
    code: str,
) -> Result:
    """The result of a command that proves a service: `code` and exit 7 where a check failed."""
    if report.ok:
        return Result(data=data, lines=[*lines, f"{name}: every check is ok"])
    failed = ", ".join(check.name for check in report.checks if not check.ok)
    message = f"service {name!r}: failed checks: {failed}"
    return Result(
        data=data,
        lines=lines,
        exit_code=ExitCode.VERIFY_FAILED,
        status="error",
        problems=(Problem(code, message, report.explanation),),
    )


def failure(found: Failure | None) -> list[str]:
    """Why it failed, with the lines that prove it."""
    if found is None:
        return []
    kind = f" [{found.failure_class}]" if found.failure_class else ""
    lines = [f"failed    {found.code}{kind}: {found.message}"]
    lines += [f"  | {line}" for line in found.evidence]
    if found.fix:
        lines.append(f"  try: {found.fix}")
    return lines


def prompts(found: Prompts | None) -> list[str]:
    """What clients must put before texts, as the checkpoint's own files say."""
    if found is None or not any(found.named.values()):
        return []
    said = {"queries": found.query, "documents": found.document}
    lines = [f"{who} with {_quoted(prompt)}" for who, prompt in said.items() if prompt]
    if found.default is not None and found.named.get(found.default):
        lines.append(f"by default every text with {_quoted(found.plain)} ({found.default})")
    begin = f"the model wants {', '.join(lines)}; " if lines else "its files have prompts; "
    return [f"prompts   {begin}the server adds none, clients must: qlaunch client NAME"]


def _quoted(prompt: str) -> str:
    """A prompt on one line, whatever is in it."""
    return json.dumps(prompt, ensure_ascii=False)


PLACEHOLDERS: Final = {
    "{port}": "<picked at start>",
    "{secrets_config}": "<file with the key, written at start>",
}
"""What a supervisor fills in when it starts, as people read it."""


def shown_argv(argv: Iterable[str]) -> list[str]:
    """An engine's command line with words for what is filled in at the start."""
    return [PLACEHOLDERS.get(word, word) for word in argv]


def prepared(found: Prepared, *, brief: bool = False) -> list[str]:
    """A plan, how the request was understood, and what is not on this machine yet."""
    text = brief_plan(found.plan) if brief else plan(found.plan)
    beside = [f"not here  {each.words}" for each in found.absent]
    return [*(f"note      {note}" for note in found.notes), *beside, *text]


def plan_report(found: Prepared, evidence: Evidence | UnsetType = UNSET) -> PlanReport:
    """The same for programs."""
    plan, engines = found.plan, found.plan.replica_set
    return PlanReport(
        service=plan.service,
        profile=plan.profile,
        model=plan.model_name,
        model_path=plan.model_path,
        fingerprint=plan.fingerprint,
        **asdict(ClientPrompts.of(plan.expectation.prompts)),
        engine=ExecutedEngine(
            release=plan.engine.release,
            version=plan.engine.version,
            argv=tuple(shown_argv(plan.engine.argv)),
            env=plan.engine.env,
        ),
        memory=PlannedMemory(predicted=plan.predicted),
        fits=plan.fits,
        reasons=plan.reasons,
        guard=plan.guard,
        cache=UNSET if plan.cache is None else plan.cache,
        replicas=UNSET if engines is None else engines.count,
        replica=UNSET
        if engines is None
        else PlannedReplica(memory=PlannedMemory(predicted=engines.one), env=engines.shares),
        notes=tuple(found.notes),
        absent=tuple(
            AbsentPart(kind=each.kind, name=each.name, message=each.words) for each in found.absent
        ),
        evidence=evidence,
    )


def brief_plan(found: Plan) -> list[str]:
    """A plan on one screen, what decides first: whether it fits, memory, command, reasons."""
    terms = sorted(found.predicted.terms, key=lambda term: -term.bytes)[:_TERMS]
    named = ", ".join(f"{term.name} {size(term.bytes)}" for term in terms)
    needs = size(found.predicted.ram_bytes) + " of RAM"
    if found.predicted.gpu_bytes is not None:
        needs += f", {size(found.predicted.gpu_bytes)} of GPU memory"
    return [
        f"service   {found.service} (profile {found.profile})",
        f"engine    {found.engine.release} {found.engine.version}",
        f"model     {found.model_name} in {found.model_path}",
        *prompts(found.expectation.prompts),
        f"fits      {'yes' if found.fits else 'no'}",
        *screen.folded(f"memory    {needs}: {named}, …", hanging=" " * 10),
        *_address(found),
        f"command   with {len(found.engine.env)} variables of its own (--all)",
        *_packed(shown_argv(found.engine.argv)),
        *(line for reason in found.reasons for line in screen.folded(reason, "  ")),
    ]


def _address(found: Plan) -> list[str]:
    """Where clients ask, where that is not the engine's own address."""
    if not found.fronted:
        return []
    port, engines = found.port or "<picked at start>", found.replica_set
    kept = "" if found.cache is None else f", vectors kept in {found.cache.place}"
    lines = [f"gateway   {found.host} port {port}{kept}"]
    if engines is not None:
        one = size(engines.one.ram_bytes)
        if engines.one.gpu_bytes is not None:
            one += f" of RAM and {size(engines.one.gpu_bytes)} of GPU memory"
        lines.append(f"replicas  {engines.count}, each {one}, as below but for its port")
    return lines


def _packed(argv: Iterable[str]) -> list[str]:
    """A command on few lines, options with their values, ready to paste into a shell."""
    lines: list[str] = []
    for piece in map(shlex.join, grouped(argv)):
        if lines and screen.fits_across(f"  {lines[-1]} {piece} \\"):
            lines[-1] += f" {piece}"
        else:
            lines.append(piece)
    return [f"  {line} \\" for line in lines[:-1]] + [f"  {line}" for line in lines[-1:]]


_TERMS = 4
"""Of a prediction, the largest that a short text names."""


def plan(found: Plan) -> list[str]:
    """A plan: what would run, and what it would need."""
    settings = [f"{name}={shlex.quote(value)}" for name, value in found.engine.env.items()]
    return [
        f"service   {found.service} (profile {found.profile})",
        f"engine    {found.engine.release} {found.engine.version}",
        f"model     {found.model_name} in {found.model_path}",
        *prompts(found.expectation.prompts),
        *_address(found),
        "environment",
        *(f"  {setting}" for setting in settings),
        "command",
        *(f"  {line}" for line in _argv(shown_argv(found.engine.argv))),
        "memory",
        *(
            f"  {term.name:<28} {size(term.bytes):>9} {term.device:<4} {term.basis}: {term.source}"
            for term in found.predicted.terms
        ),
        f"  {'in all':<28} {size(found.predicted.ram_bytes):>9} ram"
        + (
            f", {size(found.predicted.gpu_bytes)} gpu"
            if found.predicted.gpu_bytes is not None
            else ""
        ),
        f"fits      {'yes' if found.fits else 'no'}",
        *(f"  {reason}" for reason in found.reasons),
    ]


def _argv(argv: Iterable[str]) -> list[str]:
    """One option a line, ready to paste into a shell."""
    lines = [shlex.join(group) for group in grouped(argv)]
    return [f"{line} \\" for line in lines[:-1]] + lines[-1:]
