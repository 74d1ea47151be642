"""`qlaunch bench`: load on a running service, or on a profile from its start to its stop."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import click
import msgspec

from launcher.app import named_model, test_conditions, text_range
from launcher.app.interrupts import ends_by_interrupt
from launcher.app.measuring import facts_of, target_of
from launcher.app.prepare import profiles_dir
from launcher.app.running_service import api_key, running
from launcher.bench.lengths import Length
from launcher.bench.profiling import program
from launcher.bench.target import Bounds, Encoding, Target, unmeasured
from launcher.cli import benchtable
from launcher.cli.base import command as declare
from launcher.cli.load_options import grid, grid_options, numbers, requests_of
from launcher.cli.options import plan_options, split, start_options
from launcher.cli.progress import Bar, Progress
from launcher.cli.result import Result
from launcher.cli.up import started
from launcher.documents.comparison import Arrivals, Level, Row
from launcher.documents.measurement import BenchResult, Measurement
from launcher.documents.plan import Plan
from launcher.documents.service_state import UP
from launcher.errors import QlaunchError
from launcher.paths import dirs
from launcher.service import control, store
from launcher.units import now

if TYPE_CHECKING:
    from launcher.bench.texts import TextSource

"""How long the machine is looked at before the load begins."""


@declare("bench")
@plan_options
@grid_options(clients="Requests at once (default 1; 64 with --rate).", batch="1,4")
@click.option(
    "--rate",
    metavar="R,R,…",
    callback=numbers(float),
    help="Open loop: start so many requests a second, whether or not answers have come.",
)
@click.option(
    "--arrivals",
    type=click.Choice(("poisson", "constant")),
    default="poisson",
    show_default=True,
    help="With --rate: at random, as independent callers come, or evenly spaced.",
)
@click.option(
    "--encoding",
    type=click.Choice(("base64", "float")),
    default="base64",
    show_default=True,
    help="How vectors are asked for; base64 is what the OpenAI client does.",
)
@click.option(
    "--keep-alive/--no-keep-alive",
    default=True,
    show_default=True,
    help="Keep connections, as the OpenAI client does, or open one for every request.",
)
@click.option(
    "--profile",
    "profiling",
    is_flag=True,
    help="Also where the time goes: every level once more, with stacks sampled by py-spy.",
)
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(
    words: tuple[str, ...],
    clients: tuple[int, ...] | None,
    batch: tuple[int, ...],
    tokens: tuple[Length, ...],
    rate: tuple[float, ...] | None,
    arrivals: Arrivals,
    requests: int | None,
    seconds: float,
    encoding: Encoding,
    keep_alive: bool,
    profiling: bool,
    quiet: bool,
    **given: Any,
) -> Result:
    """Measure a running SERVICE as it is, or a PROFILE or MODEL from its start to its stop.

    Latency, throughput and the engine's memory at every level of a grid: clients × tokens × batch.
    Every request has fresh texts of exactly so many tokens, for a repeated text measures a cache.
    Every vector is checked: finite, whole, in order. With --rate latency counts from the moment a
    request was due (open loop). What was measured is kept with the service's run record.

    \b
        qlaunch bench cpu-minilm --clients 1,16 --batch 1,4,16 --tokens 128,512

    Exit 10 when a level failed, 1 when all did, 3 when nothing of that name runs or is a profile.
    """
    levels = grid(clients, batch, tokens, rate, arrivals)
    progress = Progress(quiet=quiet)
    if profiling:
        program()  # an hour of measuring must not end with the word that it is missing
    work = Work(levels, requests, seconds, encoding, progress, keep_alive, profiling, quiet)
    with ends_by_interrupt():
        found = _running(words, given)
        if found is not None:
            return work.on(*found)
        return _from_start(words, given, work)


def _running(words: tuple[str, ...], given: dict[str, object]) -> tuple[Plan, str] | None:
    """Plan and endpoint of the running service that is named; None where it is a profile.

    Raises:
        click.UsageError: nothing is named, or options of a start beside a running service.
        QlaunchError: `no_such_service`, `not_running` (exit 3) where there is no profile either.
    """
    name, extra = split(words, click.get_current_context().find_root().obj or [])
    if name is None:
        raise click.UsageError("name a running service or a profile")
    if given.get("name") is not None:
        return None  # a service of that name is to be started
    folder = profiles_dir(dirs())
    name = named_model.meant(name, folder)
    try:
        found = running(name, past_cache=True)
    except QlaunchError:
        # A profile or model with a fault in it is one: bringing it up will say what is wrong.
        if _is_no_service(name) or named_model.names_start(name, folder):
            return None
        raise
    if shaping := start_options(given, extra):
        raise click.UsageError(
            "these options shape a start, and a running service is measured as it is:"
            f" {shaping}; stop it first with qlaunch down {name}"
        )
    return found


def _is_no_service(name: str) -> bool:
    """Whether `name` can be none: a path, a source. Whoever starts it says what it lacks."""
    try:
        store.check_name(name)
    except QlaunchError:
        return True
    return False


def _from_start(words: tuple[str, ...], given: dict[str, object], work: Work) -> Result:
    with started(words, given, work.progress, work.require) as (plan, state):
        assert state.past_cache is not None  # launch returns services that are up
        return work.on(plan, state.past_cache, started=True)


@dataclass
class Work:
    """The levels to measure, and what has come of them."""

    levels: tuple[Level, ...]
    requests: int | None
    seconds: float
    encoding: Encoding
    progress: Progress
    keep_alive: bool = True
    profiling: bool = False
    quiet: bool = False
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    run: str = ""

    def require(self, plan: Plan) -> None:
        """Refuse lengths that the model takes none of.

        Raises:
            QlaunchError: `usage` (exit 2).
        """
        text_range.require(self.levels, plan)

    def on(self, plan: Plan, endpoint: str, *, started: bool = False) -> Result:
        """Measure a service that is up; Ctrl-C keeps what was measured.

        Raises:
            QlaunchError: `usage` (exit 2) for lengths that the model takes none of.
        """
        self.require(plan)
        idle: float | None = None
        interrupted = False
        try:
            idle = test_conditions.idle()
            self._measure(plan, endpoint, idle)
        except KeyboardInterrupt:
            interrupted = True
        finally:
            self.progress.done()
        found = BenchResult(
            **msgspec.structs.asdict(facts_of(plan)),
            endpoint=endpoint,
            run=self.run,
            started=started,
            encoding=self.encoding,
            keep_alive=self.keep_alive,
            idle_before=idle,
            rows=tuple(self.rows),
            notes=tuple(self.notes),
        )
        return benchtable.result(found, len(self.levels), interrupted=interrupted)

    def _target(self, plan: Plan, endpoint: str, *, leader: int | None, key: str | None) -> Target:
        found = target_of(plan, endpoint, leader=leader, key=key, encoding=self.encoding)
        return replace(found, keep_alive=self.keep_alive)

    def _measure(self, plan: Plan, endpoint: str, idle: float | None) -> None:
        from launcher.bench.load import Interrupted, measure_level
        from launcher.bench.texts import TextError, texts_for

        measurement = now()
        self.run = control.status(plan.service).run
        key = api_key(plan)
        target = self._target(plan, endpoint, leader=None, key=key)
        self.progress.now("looking for words of one token")
        try:
            texts = texts_for(plan.model_path, target)
        except TextError as error:
            self.rows += [unmeasured(target.mode, each, str(error)) for each in self.levels]
            return
        text_range.require(self.levels, plan, least=texts.around)
        with Bar(self.progress, quiet=self.quiet) as bar:
            for level in self.levels:
                # Between two levels the supervisor may have started the engine again.
                state = control.status(plan.service)
                self.run = state.run
                if state.state not in UP or state.leader is None:
                    why = f"the service is {state.state}" + (
                        f": {state.detail}" if state.detail else ""
                    )
                    self._keep(plan, measurement, idle, unmeasured(target.mode, level, why))
                    continue
                asked = requests_of(level, self.requests)
                bounds = Bounds(requests=asked, limit_s=self.seconds)
                here = self._target(plan, endpoint, leader=state.leader.pid, key=key)
                bar.begin(benchtable.name(level), asked, self.seconds)
                try:
                    row = measure_level(here, level, texts, bounds, bar.at)
                except Interrupted as stopped:
                    bar.clear()
                    self._keep(plan, measurement, idle, stopped.row)
                    raise
                bar.clear()
                if self.profiling and row.reason is None:
                    try:
                        row = self._profiled(row, here, level, texts, bounds)
                    except Interrupted:
                        self._keep(plan, measurement, idle, row)
                        raise
                self._keep(plan, measurement, idle, row)

    def _profiled(
        self, row: Row, target: Target, level: Level, texts: TextSource, bounds: Bounds
    ) -> Row:
        """The row with where its time goes: the level once more, under the sampler."""
        from launcher.bench import profiling
        from launcher.bench.load import measure_level

        self.progress.now(f"{benchtable.name(level)}: sampling stacks")
        short = replace(bounds, limit_s=min(bounds.limit_s, profiling.SECONDS))
        found = profiling.profiled(
            target.leader, lambda: measure_level(target, level, texts, short)
        )
        self.progress.done()
        return msgspec.structs.replace(row, profile=found)

    def _keep(self, plan: Plan, measurement: str, idle: float | None, row: Row) -> None:
        """Show a level's row, and leave it in the run's record."""
        from launcher.record.bench import append_bench

        self.rows.append(row)
        self.progress.line(f"{benchtable.name(row)}: {benchtable.brief(row)}")
        measured = Measurement(
            **msgspec.structs.asdict(facts_of(plan)),
            made=now(),
            measurement=measurement,
            encoding=self.encoding,
            keep_alive=self.keep_alive,
            idle_before=idle,
            rows=(row,),
        )
        try:
            append_bench(dirs().runs / self.run, measured)
        except (OSError, ValueError) as error:
            note = f"the run record does not hold this measurement: {error}"
            if note not in self.notes:
                self.notes.append(note)
