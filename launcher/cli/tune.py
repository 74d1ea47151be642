"""`qlaunch tune`: search better settings for a profile on this machine, and write them down."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from launcher.app import contenders, own_profile, test_conditions, text_range, tuned_profile
from launcher.app.interrupts import ends_by_interrupt
from launcher.app.prepare import Prepared, Request, prepare, profiles_dir
from launcher.app.subject import Subject, subject
from launcher.app.tuning_space import dimensions
from launcher.bench import store, test_machine
from launcher.bench.compare import Comparing, Course, failed
from launcher.bench.store import TUNING
from launcher.bench.trial import Contender
from launcher.bench.tune import Aim, Overlay, Search, Trial, Tuning, beats, measured, sentences
from launcher.cli.base import command as declare
from launcher.cli.finite import FiniteRange
from launcher.cli.load_options import bounds, requests_option, seconds_option
from launcher.cli.out_file import OutFile
from launcher.cli.progress import Progress
from launcher.cli.result import Problem, Result, Status, table
from launcher.config.loading import LoadedProfile, check_name, load_profile
from launcher.documents.comparison import Level
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import write_atomic
from launcher.paths import dirs
from launcher.yaml_messages import shown


@dataclass(frozen=True)
class Options:
    """How to search; the command line's options by their names."""

    objective: str
    max_p95_ms: float | None
    clients: int
    batch: int
    tokens: int
    requests: int | None
    seconds: float
    budget: float
    trials: int
    repeats: int
    output: Path | None
    force: bool
    quiet: bool

    @property
    def level(self) -> Level:
        """The load of a candidate."""
        return Level(clients=self.clients, batch=self.batch, tokens=self.tokens)


@declare("tune")
@click.argument("profile", metavar="PROFILE|MODEL")
@click.option(
    "--objective",
    type=click.Choice(["throughput"]),
    default="throughput",
    show_default=True,
    help="What is better; with --max-p95 within that limit.",
)
@click.option(
    "--max-p95",
    "max_p95_ms",
    metavar="MS",
    type=FiniteRange(min=0, min_open=True),
    help="The most texts a second with a p95 latency of at most this many milliseconds.",
)
@click.option(
    "--clients",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Requests at once.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Texts of a request."
)
@click.option(
    "--tokens",
    type=click.IntRange(min=1),
    default=128,
    show_default=True,
    help="Tokens of a text, special tokens counted.",
)
@requests_option("a candidate")
@seconds_option("A candidate's load ends after this time.")
@click.option(
    "--budget",
    metavar="SECONDS",
    type=FiniteRange(min=1),
    default=1800.0,
    show_default=True,
    help="Time for everything, the last comparison included.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    help="Candidates that are started, at most.",
)
@click.option(
    "--repeats",
    type=click.IntRange(2, 50),
    default=3,
    show_default=True,
    help="Lives of pick and default in the last comparison.",
)
@click.option(
    "--output",
    type=OutFile(),
    metavar="FILE",
    help="Profile to write (default PROFILE-tuned.yaml among your own profiles).",
)
@click.option("--force", is_flag=True, help="Replace that file where it is there already.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(profile: str, **given: Any) -> Result:
    """Search settings that serve a model better on this machine, and write a new profile.

    The model is PROFILE's, or MODEL (./DIR, hf:ORG/NAME) with the best profile for it. Number
    format, threads, replicas, running requests, prefill and chunk sizes, attention backend, one
    after the other. What does not fit is refused before a start, what serves wrong vectors is out.
    The pick is measured against the profile once more, in turn; where it does not win beyond the
    noise nothing is written, or with --output the profile as it is with that evidence.

    \b
        qlaunch tune cpu-minilm
        qlaunch tune ./my-finetune --max-p95 250 --budget 900
    """
    asked = Options(**given)
    progress = Progress(quiet=asked.quiet)
    folder = profiles_dir(dirs())
    named = subject(profile, folder)
    output = _output(named.service or contenders.bare_name(profile), asked)
    test_machine.refuse_company()
    with ends_by_interrupt(), tempfile.TemporaryDirectory(prefix="qlaunch-tune-") as made:
        word = profile if named.model is None else _profile_of(profile, named, made, progress)
        work = _prepared(word, profile, output, asked, progress)
        work.run()
        return work.result()


def _profile_of(word: str, named: Subject, folder: str, progress: Progress) -> str:
    """The file of a profile for the model `word`, made for this search."""
    name = named.service
    given = {"name": name, "port": "0"}
    prepared = prepare(Request(word, given), progress.line)
    return str(own_profile.of_model(prepared, Path(folder)))


def _output(name: str, asked: Options) -> Path:
    """Where the profile that comes of the one called `name` goes.

    Raises:
        QlaunchError: `output_exists` (exit 9); `usage` or `profile_invalid` (exit 2) for a name
            that is no profile's.
    """
    path = asked.output or profiles_dir(dirs()) / f"{name}-tuned.yaml"
    if path.suffix not in (".yaml", ".yml"):
        raise QlaunchError(
            f"{path} would not be a profile: its name must end in .yaml",
            code="usage",
        )
    check_name(path.stem, path)
    if path.exists() and not asked.force:
        raise QlaunchError(
            f"{path} is there already",
            code="output_exists",
            exit_code=ExitCode.CONFLICT,
            fix="replace it with --force, or name another with --output",
        )
    return path


def _prepared(name: str, word: str, output: Path, asked: Options, progress: Progress) -> Work:
    """The profile as it is, ready to be started; `word` is what was typed for it.

    Raises:
        QlaunchError: as `launcher.app.prepare.prepare`; `does_not_fit` (exit 4); `usage` (exit 2)
            for a length of texts that the model does not take.
    """
    base = load_profile(name, profiles_dir(dirs()))
    prepared = contenders.prepared(name, progress.line, command_name="tune", fetch=True)
    text_range.require([asked.level], prepared.plan)
    return Work(name, word, base, output, asked, progress, prepared)


@dataclass
class Work:
    """A tuning under way."""

    name: str
    word: str
    """What was typed."""
    base: LoadedProfile
    output: Path
    asked: Options
    progress: Progress
    prepared: Prepared

    def __post_init__(self) -> None:
        asked, hardware = self.asked, self.prepared.hardware
        self.began = time.monotonic()
        self.level = asked.level
        self.aim = Aim(asked.max_p95_ms)
        self.store = store.Store(dirs().comparisons, "tune")
        self.header = test_conditions.header(self.store, hardware)
        within = bounds(asked.requests, asked.seconds)
        self.tools = test_conditions.tools(
            within, hardware, say=self.progress.line, now=self.progress.now
        )
        self.search = Search(
            self.evaluate, self.aim, self.may_go_on, lambda: self.keep(self.document())
        )
        self.comparison: Comparing | None = None
        self.interrupted: str | None = None
        self.written: Path | None = None
        self.problem: str | None = None

    @property
    def tuned(self) -> str:
        """Name of the pick in the last comparison."""
        return f"{self.base.name}-tuned"

    def run(self) -> None:
        """Search, measure the pick again, write the profile. Ctrl-C keeps the trials."""
        try:
            best = self.search.run(dimensions(self.prepared))
            if best is not None and best.overlay != Overlay():
                self.confirm(best.overlay)
        except KeyboardInterrupt:
            self.interrupted = "interrupted"
        finally:
            self.progress.done()
        if self.interrupted is None and self.search.best is not None:
            self.write()
        self.keep(self.document())

    def evaluate(self, overlay: Overlay) -> Trial:
        """Try one candidate."""
        number = len(self.search.trials) + 1
        self.progress.line(f"candidate {number}: {self.base.name}, {overlay.words}")
        trial = measured(overlay, self.contender(overlay, self.base.name), self.level, self.tools)
        if trial.reason is not None:
            self.progress.line(f"candidate {number}: {trial.outcome}: {trial.reason}")
        return trial

    def contender(self, overlay: Overlay, label: str) -> Contender:
        """The profile with a candidate's settings; refused here where it does not fit."""
        kind = "profile" if overlay == Overlay() else "tuned"
        contender, _ = contenders.profile_contender(
            self.name,
            self.progress.line,
            command_name="tune",
            fetch=False,
            given=overlay.given,
            label=label,
            kind=kind,  # type: ignore[arg-type]  # a conditional of two literals
        )
        return contender

    def may_go_on(self, trials: Sequence[Trial]) -> str | None:
        """Why the search is to end, or None: time is left for the last comparison."""
        started = [trial for trial in trials if trial.outcome != "refused"]
        if len(started) >= self.asked.trials:
            return f"{len(started)} candidates were started (--trials)"
        spent = time.monotonic() - self.began
        lives = 1 + 2 * self.asked.repeats
        if spent + lives * spent / max(1, len(started)) > self.asked.budget:
            return f"{spent:.0f} s of {self.asked.budget:g} are spent (--budget)"
        return None

    def confirm(self, pick: Overlay) -> None:
        """Pick and default once more, in turn."""
        self.progress.line(f"the pick ({pick.words}) against {self.base.name} as it is")
        modes = [
            self.contender(Overlay(), self.base.name),
            self.contender(pick, self.tuned),
        ]
        self.comparison = Comparing(
            modes,
            Course((self.level,), self.asked.repeats, again=False),
            self.header,
            self.tools,
            write=lambda _: self.keep(self.document()),
            idle=test_conditions.idle,
        )
        found = self.comparison.run()
        self.store.write(found)
        if found.interrupted:
            raise KeyboardInterrupt

    def write(self) -> None:
        """The new profile; the old one with the evidence only where a file was asked for."""
        found = self.document()
        if found.confirmed or self.asked.output:
            folder = profiles_dir(dirs())
            tuned_profile.write(self.output, self.base, found, folder, word=self.word)
            self.written = self.output

    def document(self) -> Tuning:
        """Everything so far."""
        best = self.search.best
        pick = best.overlay if best is not None and best.overlay != Overlay() else None
        comparison = self.comparison.document() if self.comparison is not None else None
        confirmed: bool | None = None
        if comparison is not None and comparison.complete:
            confirmed = beats(comparison, self.tuned, self.base.name, self.aim)
        found = Tuning(
            id=self.store.id,
            made=self.header.made,
            profile=self.base.name,
            level=self.level,
            max_p95_ms=self.aim.max_p95_ms,
            complete=self.interrupted is None and (pick is None or confirmed is not None),
            interrupted=self.interrupted,
            ended=self.search.ended,
            trials=tuple(self.search.trials),
            pick=pick,
            confirmed=confirmed,
            comparison=comparison,
            machine=self.header.machine,
            versions=self.header.versions,
        )
        return msgspec.structs.replace(found, verdict=sentences(found, self.tuned))

    def keep(self, found: Tuning) -> None:
        """Replace the document on disk."""
        try:
            data = msgspec.json.format(msgspec.json.encode(found))
            write_atomic(self.store.folder / TUNING, data)
        except OSError as error:
            self.problem = f"{self.store.folder / TUNING}: {error.strerror or error}"

    def result(self) -> Result:
        """The document, for both kinds of readers."""
        found = self.document()
        data = {
            **msgspec.structs.asdict(found),
            "path": str(self.store.folder / TUNING),
            "output": str(self.written) if self.written else None,
        }
        lines = [*_table(found), "", *found.verdict, f"kept in {self.store.folder / TUNING}"]
        if self.written is not None:
            lines.append(
                f"written: {self.written}; start it with qlaunch up {_start(self.written)}"
            )
        problems = self._problems(found)
        code, status = _exit(found, problems)
        return Result(data=data, lines=lines, exit_code=code, status=status, problems=problems)

    def _problems(self, found: Tuning) -> list[Problem]:
        out = []
        if found.interrupted:
            out.append(Problem("interrupted", "interrupted; what was tried is kept"))
        elif self.search.best is None:
            first = found.trials[0]
            out.append(Problem("default_failed", f"{found.profile} as it is: {first.reason}"))
        elif found.comparison is not None:
            out += [
                Problem("mode_failed", f"{mode.name}: {mode.reason}")
                for mode in failed(found.comparison)
            ]
        if self.problem:
            out.append(Problem("not_kept", self.problem))
        return out


def _exit(found: Tuning, problems: Sequence[Problem]) -> tuple[ExitCode, Status]:
    if found.interrupted:
        return ExitCode.INTERRUPTED, "error"
    if any(problem.code == "default_failed" for problem in problems):
        return ExitCode.START_FAILED, "error"
    return (ExitCode.PARTIAL, "partial") if problems else (ExitCode.OK, "ok")


def _start(path: Path) -> str:
    own = path.parent.absolute() == profiles_dir(dirs()).absolute()
    return path.stem if own else str(path)


def _table(found: Tuning) -> list[str]:
    rows = []
    for trial in found.trials:
        row = trial.row
        rows.append(
            (
                trial.overlay.words,
                trial.outcome,
                None if row is None else f"{row.embeddings_per_s:.1f}",
                None if row is None or row.p95_ms is None else f"{row.p95_ms:.1f}",
                shown(trial.reason or "", 120),
            )
        )
    return table(("CANDIDATE", "OUTCOME", "TEXTS/S", "P95 MS", "WHY"), rows)
