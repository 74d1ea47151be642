"""What the recommendation is made from: the profiles, the cards of their models, past runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config.loading import ProfileRef, list_profiles
from launcher.config.profile import Profile
from launcher.documents.comparison import Row
from launcher.engine.environments import install
from launcher.engine.release import Engine, Release
from launcher.engine.releases import releases, this_host
from launcher.errors import QlaunchError
from launcher.hardware.inventory import Hardware
from launcher.model.cards import load_card, resolve_model
from launcher.model.checkpoint import Checkpoint, ModelCard
from launcher.model.fetch import locate
from launcher.model.inspect import inspect
from launcher.model.shape import from_card
from launcher.paths import Dirs
from launcher.plan.calibration import Observed
from launcher.plan.past_runs import THREADS, PastRun
from launcher.plan.recommend import Judged, Recommendation, judge_all, recommend
from launcher.plan.suitability import Candidate, World
from launcher.units import moment
from launcher.verify.thresholds import parity_min

if TYPE_CHECKING:
    from launcher.documents.run import Run

RUNS_READ = 50
"""Newest run records that are looked at: a record is read in under a millisecond."""


@dataclass(frozen=True)
class Advice:
    """Every profile in its bucket, best first; and those that cannot be read."""

    judged: list[Judged]
    broken: list[ProfileRef]
    world: World


def advise(hardware: Hardware, where: Dirs, observed: tuple[Observed, ...] = ()) -> Advice:
    """Sort all profiles for a machine; a few milliseconds each, nothing is fetched."""
    user_dir = where.config / "profiles"
    refs = list_profiles(user_dir)
    candidates = [_candidate(ref, where) for ref in refs if ref.profile is not None]
    world = world_of(hardware, where, observed)
    judged = judge_all([c for c in candidates if c is not None], world)
    return Advice(judged, [ref for ref in refs if ref.profile is None], world)


def recommendation(advice: Advice, where: Dirs) -> Recommendation:
    """The best profile of `advice` with its evidence.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) where nothing runs.
    """
    elsewhere = bool(advice.world.hardware.assumed)
    return recommend(advice.judged, advice.world, [] if elsewhere else past_runs(where))


def world_of(hardware: Hardware, where: Dirs, observed: tuple[Observed, ...] = ()) -> World:
    """The machine with this host's platform and engines."""
    installed = {
        name for name, release in releases().items() if install.find(release, where.engines)
    }
    return World(
        hardware=hardware,
        host=this_host(frozenset(installed)),
        engine=lambda release: engine_for(release, where),
        parity_min=parity_min,
        observed=observed,
    )


def engine_for(release: Release, where: Dirs) -> Engine:
    """The installed engine, or the one that an install would make."""
    found = install.find(release, where.engines)
    if found is not None:
        return found
    root = install.environment_dir(where.engines, release)
    return Engine(
        release=release, python=root / "bin" / "python", version=release.version, root=root
    )


def past_runs(where: Dirs) -> list[PastRun]:
    """The newest run records of this machine, as evidence."""
    from launcher.record.bench import bench_rows
    from launcher.record.runs import list_runs, load_run

    now = datetime.now(UTC)
    found: list[PastRun] = []
    for summary in list_runs(where.runs)[:RUNS_READ]:
        rows = bench_rows(where.runs / summary.run)
        try:
            run = load_run(where.runs, summary.run)
        except QlaunchError:
            continue  # removed since it was listed
        # A replica shares with others what it imported: its set's run counts.
        if run.plan is None or run.plan.part_of is None:
            found.append(_past(run, now, tuple(rows)))
    return found


def sizes(card: ModelCard | None, profile: Profile) -> Checkpoint | None:
    """What is known of the checkpoint that a profile wants, from the model's card alone."""
    if card is None:
        return None
    need = profile.checkpoint
    return from_card(card, quantization=need.quantization[0] if need else None)


def _past(run: Run, now: datetime, bench: tuple[Row, ...] = ()) -> PastRun:
    began = moment(run.began)
    plan, forked = run.plan, run.forked  # a start without the import is no measure of one with it
    return PastRun(
        run=run.run,
        profile=run.profile,
        release=run.versions.get("release"),
        version=run.versions.get("engine"),
        age_s=max(0.0, (now - began).total_seconds()) if began else 0.0,
        verified=began is not None and run.smoke is not None and run.smoke.ok,
        ready_s=None if forked else run.timings.ready_s,
        verified_s=None if forked else run.timings.verified_s,
        ram_peak_bytes=run.peak.ram_peak_bytes,
        gpu_peak_bytes=run.peak.gpu_peak_bytes,
        model=plan.model_name if plan else None,
        fingerprint=plan.fingerprint if plan else None,
        argv=plan.engine.argv if plan else (),
        threads=plan.engine.env.get(THREADS) if plan else None,
        bench=bench,
    )


def _candidate(ref: ProfileRef, where: Dirs) -> Candidate | None:
    loaded = ref.loaded
    if loaded is None:
        return None
    model, base = loaded.profile.model, loaded.file(("model",)).parent
    try:
        card, sources = resolve_model(model, where.config / "profiles" / "models", base=base)
        if card is None and sources[0].kind == "path":
            return Candidate(loaded, None, inspect(Path(sources[0].location)))
        known = sizes(card, loaded.profile)
        if known is None and card is not None:  # a card without sizes: the files have them
            here = locate(sources, models_dir=where.models)
            known = None if here is None else inspect(here)
    except QlaunchError as error:
        return Candidate(loaded, None, None, broken=error.message)
    return Candidate(loaded, card, known)


def card_named(model: str, folder: Path) -> ModelCard | None:
    """The card of a profile's model; None where it names a source or there is no such card."""
    try:
        return load_card(model, folder)
    except QlaunchError:
        return None
