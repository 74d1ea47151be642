"""What can be measured, made ready for `compare` and `tune`: profiles, the plain command, peers."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from launcher.app.measuring import target_of
from launcher.app.prepare import Prepared, Request, prepare, require_fit
from launcher.app.running_service import api_key
from launcher.bench import plain
from launcher.bench.compare import quality_of
from launcher.bench.peers import catalogue, exports, installing, refusal
from launcher.bench.trial import Ended, Running, Say, in_words
from launcher.bench.unsupervised import BareEngine, whole_environment
from launcher.config.loading import SUFFIXES
from launcher.documents.comparison import Mode, ModeKind, Quality
from launcher.documents.plan import Plan
from launcher.documents.run import Peak, Run
from launcher.documents.service_state import ServiceState
from launcher.engine import command
from launcher.errors import ExitCode, QlaunchError
from launcher.model import naming
from launcher.model.checkpoint import Checkpoint
from launcher.model.source import parse_source
from launcher.paths import NAME, dirs
from launcher.plan import precision
from launcher.service import control, ports

START_LIMIT_S = 600.0
"""For a server that nobody supervises; the plain command takes 41 s for Qwen3-0.6B's shape."""
SAMPLE_S = 0.5
CALIBRATION = command.PLUGIN / "qlaunch_sglang" / "calibration_texts.py"
"""Texts that our own int8 measures activations with: a peer's int8 gets the same."""
FAULTS_OF_THE_COMMAND = (
    "profile_unknown", "profile_invalid", "setting_invalid", "config_invalid", "usage"
)  # fmt: skip
"""What is wrong with what was typed, and not with the machine."""


class ProfileContender:
    """A profile, as `qlaunch up` starts it: supervised, and verified before it is measured."""

    def __init__(self, facts: Mode, plan: Plan, *, entry: Sequence[str] = control.ENTRY) -> None:
        self.facts = facts
        self._plan, self._entry = plan, entry
        self._run: str | None = None
        self._launched = False

    def start(self, say: Say) -> Running:
        """Start it; returns when its vectors are proved right.

        Raises:
            QlaunchError: as `client.launch`.
        """
        shown = ["starting"]

        def follow(state: ServiceState) -> None:
            self._run, self._launched = state.run, True
            if state.state not in shown:
                shown.append(state.state)
                say(f"{self.facts.name}: {state.state}")

        state = control.launch(self._plan, on_change=follow, entry=self._entry)
        assert state.past_cache is not None
        return Running(
            target=target_of(
                self._plan,
                state.past_cache,
                leader=state.leader.pid if state.leader else None,
                key=api_key(self._plan),
                mode=self.facts.name,
            ),
            model_path=self._plan.model_path,
            ready_s=state.timings.ready_s,
            verified_s=state.timings.verified_s,
            run=state.run,
            argv=state.engine_plan.argv,
            quality=quality(self._plan, state.past_cache),
        )

    def stop(self) -> Ended:
        """Stop it, if it was started here, and read its record."""
        if not self._launched:
            return Ended()
        done = control.down(self._plan.service)
        self._launched = False
        return _of_record(self._run, done.left)


class BareContender:
    """A server that nobody supervises or verifies: the plain command, a peer."""

    def __init__(
        self,
        facts: Mode,
        argv: Callable[[int], Sequence[str]],
        env: Mapping[str, str],
        plan: Plan,
        *,
        model: str,
        log: Path,
        counts_tokens: bool = True,
        ready: Callable[[Say], object] = lambda _: None,
    ) -> None:
        """`argv` makes the command for a port; `plan` is of the profile whose model it serves;
        `ready` installs what is missing."""
        self.facts = facts
        self._argv, self._env, self._plan, self._model = argv, env, plan, model
        self._log, self._counts, self._ready = log, counts_tokens, ready
        self._engine: BareEngine | None = None
        self._watch: _StartWatch | None = None

    def start(self, say: Say) -> Running:
        """Start it; returns with its first `/health` 200.

        Raises:
            QlaunchError: `start_failed` (exit 6) with its last words; what `ready` raises.
        """
        self._ready(say)
        port = ports.pick_free("127.0.0.1")
        argv = list(self._argv(port))
        try:
            self._engine = BareEngine(argv, self._env, port, self._log)
        except OSError as error:
            raise QlaunchError(
                f"{self.facts.name} cannot be started: {error.strerror or error}",
                code="start_failed",
                exit_code=ExitCode.START_FAILED,
            ) from error
        self._watch = _StartWatch(self._engine.pid)
        ready_s = self._engine.wait_healthy(START_LIMIT_S, self._watch.look)
        endpoint = ports.url("127.0.0.1", port)
        target = target_of(
            self._plan, endpoint, leader=self._engine.pid, key=None, mode=self.facts.name
        )
        return Running(
            target=replace(target, model=self._model),
            model_path=self._plan.model_path,
            ready_s=round(ready_s, 3),
            argv=tuple(argv),
            counts_tokens=self._counts,
            quality=quality(self._plan, endpoint, model=self._model),
        )

    def stop(self) -> Ended:
        """Stop it, with everything it started."""
        engine = self._engine
        left: tuple[str, ...] = ()
        if engine is not None:
            try:
                engine.close()
            except QlaunchError as error:
                left = (error.message,)
            self._engine = None
        peak = self._watch.peak() if self._watch is not None else Peak()
        return Ended(left=left, ram_peak_bytes=peak.ram_peak_bytes, memory_method=dict(peak.method))


class _StartWatch:
    """The memory of a server while it starts; levels are sampled by whoever measures them."""

    def __init__(self, leader: int) -> None:
        from launcher.hardware.nvml import Unavailable
        from launcher.record.peak import PeakTracker
        from launcher.record.sampler import Sampler

        self._sampler = Sampler(leader, nvml=Unavailable("sampled under load only"))
        self._peaks = PeakTracker()
        self._due = 0.0

    def look(self) -> None:
        """Take a sample where one is due."""
        if time.monotonic() >= self._due:
            self._peaks.add(self._sampler.sample())
            self._due = time.monotonic() + max(SAMPLE_S, 20 * self._sampler.cost_s)

    def peak(self) -> Peak:
        """The peak so far."""
        return self._peaks.peak()


@dataclass(frozen=True)
class CannotRun:
    """A mode that this machine cannot run: it is shown with the reason, and never started."""

    facts: Mode

    def start(self, _say: Say) -> Running:
        """Never called."""
        raise AssertionError(self.facts.reason)

    def stop(self) -> Ended:
        """Nothing was started."""
        return Ended()


def service_name(profile: str, command_name: str) -> str:
    """Of the service that is measured: apart from the user's own of that profile."""
    return f"{command_name}-{bare_name(profile)}"[:64].rstrip(".-_")


def bare_name(profile: str) -> str:
    """A profile's name, of a name or a file (a name may have dots in it); a service's name, of a
    model."""
    if profile.endswith(SUFFIXES):
        return Path(profile).stem
    if NAME.fullmatch(profile):
        return profile
    try:
        return naming.service_name(parse_source(profile))
    except QlaunchError:
        return profile  # whoever loads it says what is wrong


def profile_contender(
    name: str,
    progress: Say,
    *,
    command_name: str,
    fetch: bool,
    given: Mapping[str, object | None] | None = None,
    label: str | None = None,
    kind: ModeKind = "profile",
) -> tuple[ProfileContender | CannotRun, Prepared | None]:
    """A profile made ready to be measured, or why it cannot run here.

    Args:
        name: of the profile, or its file; or a model, as `up` takes it.
        command_name: `compare` or `tune`: begins the service's name.
        fetch: whether to install the engine and fetch the model where they are missing.
        given: settings on top of the profile's.
        label: the mode's name, else the profile's, or that of the model's service.
        kind: the mode's kind.

    Raises:
        QlaunchError: exit 2 for a profile that does not exist or is not valid.
    """
    try:
        found = prepared(name, progress, command_name=command_name, fetch=fetch, given=given)
    except QlaunchError as error:
        if error.code in FAULTS_OF_THE_COMMAND:
            raise
        facts = Mode(
            name=label or bare_name(name),
            kind=kind,
            outcome="cannot_run",
            reason=in_words(error),
            profile=bare_name(name),
        )
        return CannotRun(facts), None
    facts = facts_of(found.plan, label or bare_name(name), kind)
    return ProfileContender(facts, found.plan), found


def prepared(
    name: str,
    progress: Say,
    *,
    command_name: str,
    fetch: bool,
    given: Mapping[str, object | None] | None = None,
) -> Prepared:
    """A profile made ready to be measured: on loopback, under a service's name of its own.

    Raises:
        QlaunchError: as `prepare` and `require_fit`.
    """
    settings = {"name": service_name(name, command_name), "host": "127.0.0.1", "port": "0"}
    found = prepare(Request(name, {**settings, **(given or {})}, fetch=fetch), progress)
    require_fit(found)
    return found


def facts_of(plan: Plan, name: str, kind: ModeKind) -> Mode:
    """What a plan says of a mode before it runs."""
    return Mode(
        name=name,
        kind=kind,
        outcome="not_reached",
        profile=plan.profile,
        model=plan.model_name,
        device=plan.device,
        dtype=plan.expectation.dtype,
        release=plan.engine.release,
        version=plan.engine.version,
        argv=plan.engine.argv,
        predicted={
            "ram_bytes": plan.predicted.ram_bytes,
            "gpu_bytes": plan.predicted.gpu_bytes,
        },
    )


def plain_contender(found: Prepared, logs: Path) -> BareContender:
    """The plain tutorial command, with the engine and the model of a profile."""
    plan = found.plan
    start = command.start(found.engine, plugin=False)
    model = plan.model_path
    facts = msgspec.structs.replace(
        facts_of(plan, plain.NAME, "baseline"), profile=None, dtype="auto", predicted={}
    )

    def argv(port: int) -> list[str]:
        return plain.plain_argv(start, model, port, plan.device)

    needed = command.base_environment(found.engine.release, plugin=False)
    env = plain.plain_environment(plan.engine.env | needed)
    facts = msgspec.structs.replace(facts, argv=tuple(argv(0)))
    return BareContender(facts, argv, env, plan, model=model, log=logs / "plain.log")


def peer_contender(spec: str, found: Prepared, logs: Path) -> BareContender | CannotRun:
    """A peer with the model of a profile, in the profile's number format or in one of its own.

    Installed, and what it serves made of the checkpoint, when it is started.

    Args:
        spec: as `--peer` takes it: a name of the catalogue, `onnxruntime:int8`.
    """
    chosen, plan, cpu = catalogue.choose(spec), found.plan, found.hardware.cpu
    peer = chosen.peer
    dtype = precision.of_engine(plan.expectation.dtype, cpu)
    facts = Mode(
        name=spec,
        kind="peer",
        outcome="not_reached",
        model=plan.model_name,
        device="cpu",
        dtype=chosen.format or dtype,
        version=peer.version,
    )
    compiler = can_build()
    why: str | None = f"it is set up for the CPU only; {plan.profile} computes on {plan.device}"
    if plan.device == "cpu":
        why = refusal.why_not(chosen, dtype, _model(found.checkpoint), cpu, compiler=compiler)
    if why is not None:
        return CannotRun(msgspec.structs.replace(facts, outcome="cannot_run", reason=why))
    data = dirs().data
    serving = _serving(chosen, dtype, found, native=peer.builds and compiler)
    root = installing.folder(peer, data)
    export = exports.place(peer, root, serving) if peer.export else ""
    env = catalogue.environment(peer, serving.threads)

    def argv(port: int) -> list[str]:
        return catalogue.command(peer, root, serving, export=str(export), port=port)

    def ready(say: Say) -> None:
        installing.install(peer, data, progress=say)
        if peer.export:
            exports.export(peer, root, serving, whole_environment(env), say)

    return BareContender(
        msgspec.structs.replace(facts, argv=tuple(argv(0)), note=_note(chosen, serving)),
        argv,
        env,
        plan,
        model=plan.model_name,
        log=logs / f"{spec.replace(':', '-')}.log",
        counts_tokens=peer.counts_tokens,
        ready=ready,
    )


def _model(checkpoint: Checkpoint) -> refusal.ModelFacts:
    return refusal.ModelFacts(
        encoder=checkpoint.encoder,
        model_type=checkpoint.model_type,
        pooling=checkpoint.pooling,
        dense=bool(checkpoint.dense_dims),
        quantization=checkpoint.quantization,
    )


def _note(chosen: catalogue.Chosen, serving: catalogue.Serving) -> str | None:
    peer = chosen.peer
    made = [("native" if serving.native else "prebuilt")] if peer.builds else []
    known = [peer.notes.get(word or "") for word in (chosen.variant, *made)]
    return "; ".join(filter(None, known)) or None


def can_build() -> bool:
    """Whether there are cmake and a C++ compiler."""
    compiler = os.environ.get("CXX") or "c++"
    return all(shutil.which(program) is not None for program in ("cmake", compiler))


def _serving(
    chosen: catalogue.Chosen, dtype: str, found: Prepared, *, native: bool
) -> catalogue.Serving:
    plan, cpu = found.plan, found.hardware.cpu
    return catalogue.Serving(
        model_path=plan.model_path,
        model=plan.model_name,
        variant=chosen.variant or dtype,
        dtype=chosen.format or dtype,
        threads=int(plan.engine.env.get("OMP_NUM_THREADS", cpu.usable)),
        pooling=plan.expectation.pooling,
        normalize=plan.expectation.normalize,
        longest=plan.longest_text or plan.expectation.context_length,
        lower_case=found.checkpoint.lower_case,
        seven_bits=not cpu.computes_int8,
        native=native,
        texts=str(CALIBRATION),
        fingerprint=plan.fingerprint,
    )


def quality(plan: Plan, endpoint: str, *, model: str | None = None) -> Callable[[Say], Quality]:
    """Compares the vectors at an endpoint with those of the plan's checkpoint in float32."""

    def measure(say: Say) -> Quality:
        from launcher.service.supervisor.smoke_process import verify_request
        from launcher.verify.quality import measure_quality

        request = verify_request(plan, endpoint)
        if model is not None:
            request = msgspec.structs.replace(request, model=model)
        return quality_of(measure_quality(request, key=api_key(plan), progress=say))

    return measure


def _of_record(run: str | None, left: tuple[str, ...]) -> Ended:
    found: Run | None = None
    if run is not None:
        from launcher.record.runs import load_run

        with contextlib.suppress(QlaunchError):
            found = load_run(dirs().runs, run)
    if found is None:
        return Ended(left=left)
    verified = found.verified_peak
    return Ended(
        left=left,
        ram_peak_bytes=found.peak.ram_peak_bytes,
        gpu_peak_bytes=found.peak.gpu_peak_bytes,
        verified_ram_bytes=verified.ram_peak_bytes if verified else None,
        memory_method=dict(found.peak.method),
    )
