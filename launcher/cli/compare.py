"""`qlaunch compare`: modes of serving side by side, on this machine, with a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from msgspec.structs import asdict

from launcher import extras, report
from launcher.app import contenders, test_conditions
from launcher.app.contenders import BareContender, CannotRun, ProfileContender
from launcher.app.interrupts import ends_by_interrupt
from launcher.app.prepare import Prepared, profiles_dir, what_runs_here
from launcher.app.subject import subject
from launcher.bench import store, test_machine
from launcher.bench.compare import Comparing, Course, failed
from launcher.bench.lengths import Length
from launcher.bench.peers.names import SPECS
from launcher.cli import compare_text, load_options
from launcher.cli.base import command as declare
from launcher.cli.out_file import OutFile
from launcher.cli.progress import Progress
from launcher.cli.result import Problem, Result, Status, table
from launcher.cli.runs_report import without_charts
from launcher.documents.comparison import Comparison, Level, Objective
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.detect import detect
from launcher.linux.files import write_named
from launcher.paths import dirs
from launcher.report import seed_table

Contenders = list[ProfileContender | BareContender | CannotRun]


@dataclass(frozen=True)
class Options:
    """What to measure and to say of it; the command line's options by their names."""

    clients: tuple[int, ...] | None
    batch: tuple[int, ...] | None
    tokens: tuple[Length, ...] | None
    requests: int | None
    seconds: float
    repeats: int
    baseline: bool
    others: tuple[str, ...]
    objective: Objective
    quality: bool
    seed: bool
    html: Path | None
    markdown: Path | None
    csv: Path | None
    quiet: bool

    @property
    def files(self) -> dict[str, Path]:
        """Reports to write, by kind."""
        named = {"html": self.html, "markdown": self.markdown, "csv": self.csv}
        return {kind: file for kind, file in named.items() if file}


@declare("compare")
@click.argument("profiles", nargs=-1, metavar="[PROFILE|MODEL]...")
@load_options.grid_options()
@click.option(
    "--repeats",
    type=click.IntRange(1, 50),
    default=3,
    show_default=True,
    help="Lives of each mode, in turn.",
)
@click.option(
    "--baseline",
    is_flag=True,
    help="Also the plain command of the tutorials, so that the gain of a profile is a number.",
)
@click.option(
    "--peer",
    "others",
    multiple=True,
    type=click.Choice(SPECS),
    metavar="PEER[:FORMAT]",
    help="Also another server, in an environment of its own, installed once: infinity,"
    " sentence-transformers, onnxruntime[:int8], openvino[:bfloat16|:int8], llama.cpp[:Q4_K_M],"
    " accelerate[:disk].",
)
@click.option(
    "--objective",
    type=click.Choice(["throughput", "latency"]),
    default="throughput",
    show_default=True,
    help="What the winner is chosen by.",
)
@click.option("--quality/--no-quality", default=True, help="Compare the vectors too (default).")
@click.option(
    "--seed-table",
    "seed",
    is_flag=True,
    help="Also the table of the article this project started from, beside ours.",
)
@click.option("--html", type=OutFile(), metavar="FILE", help="Write a report as one HTML page.")
@click.option("--markdown", type=OutFile(), metavar="FILE", help="Write a report as Markdown.")
@click.option("--csv", type=OutFile(), metavar="FILE", help="Write every row as CSV.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(profiles: tuple[str, ...], **given: Any) -> Result:
    """Measure PROFILEs and MODELs in turn and say which is best, by how much, and how sure that is.

    Each is brought up alone on a machine proved clean, in repeats that take turns; the winner is
    measured once more. Without PROFILE: those that run here and are installed. What was measured
    is kept when it ends early: exit 130 after Ctrl-C, 10 where a mode failed.

    \b
        qlaunch compare cpu-minilm --baseline
        qlaunch compare cpu-minilm cpu-bge-micro --clients 1,16 --repeats 5
        qlaunch compare cpu-minilm --peer onnxruntime --peer openvino:int8 --tokens 128,mixed
    """
    asked = Options(**given)
    progress = Progress(quiet=asked.quiet)
    test_machine.refuse_company()
    with ends_by_interrupt():
        kept = store.Store(dirs().comparisons, "compare")
        modes = _modes(profiles, asked, kept.folder, progress)
        levels = load_options.levels(asked.clients, asked.batch, asked.tokens)
        if asked.seed:
            levels = tuple(dict.fromkeys((*levels, *seed_table.LEVELS)))
        found = _measured(modes, levels, asked, kept, progress)
    return _result(found, kept, asked)


def _modes(profiles: tuple[str, ...], asked: Options, logs: Path, progress: Progress) -> Contenders:
    """Everything that was asked for, ready to be measured or with the reason why not.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) where no profile can run here at all; those of
            `subject` (exit 2).
    """
    for word in profiles:
        subject(word, profiles_dir(dirs()))  # a slip of the hand is no mode that cannot run here
    names = profiles or what_runs_here(detect(), dirs())
    found: Contenders = []
    first: Prepared | None = None
    for name in dict.fromkeys(names):
        contender, prepared = contenders.profile_contender(
            name, progress.line, command_name="compare", fetch=bool(profiles)
        )
        found.append(contender)
        first = first or prepared
    if first is None:
        reasons = "; ".join(f"{each.facts.name}: {each.facts.reason}" for each in found)
        raise QlaunchError(
            f"none of the profiles can run here ({reasons})" if found else "no profile runs here",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="see why: qlaunch profiles list",
            data={"modes": [each.facts for each in found]},
        )
    if asked.baseline:
        found.append(contenders.plain_contender(first, logs))
    found += [contenders.peer_contender(name, first, logs) for name in dict.fromkeys(asked.others)]
    called = [each.facts.name for each in found]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise QlaunchError(
            f"two modes are called {twice}, so their figures could not be told apart",
            code="usage",
            fix="rename one of the profiles",
        )
    return found


def _measured(
    modes: Contenders,
    levels: tuple[Level, ...],
    asked: Options,
    kept: store.Store,
    progress: Progress,
) -> Comparison:
    hardware = detect()
    comparing = Comparing(
        modes,
        Course(levels, asked.repeats, asked.objective, asked.quality),
        test_conditions.header(kept, hardware),
        test_conditions.tools(
            load_options.bounds(asked.requests, asked.seconds),
            hardware,
            say=progress.line,
            now=progress.now,
        ),
        write=kept.write,
        idle=test_conditions.idle,
    )
    try:
        return comparing.run()
    finally:
        progress.done()


def _result(found: Comparison, kept: store.Store, asked: Options) -> Result:
    data = {**asdict(found), "path": str(kept.path)}
    lines = compare_text.lines(found)
    if asked.seed:
        data["seed_table"] = {"source": seed_table.SOURCE, "rows": seed_table.rows(found)}
        lines += ["", f"{seed_table.TITLE}: {seed_table.SOURCE}."]
        lines += table([name.upper() for name in seed_table.HEADINGS], seed_table.texts(found))
    problems = _problems(found, kept)
    problems += _reports(found, asked)
    lines += ["", f"kept in {kept.path}", *(f"report: {file}" for file in asked.files.values())]
    code, status = _exit(found, problems)
    return Result(data=data, lines=lines, exit_code=code, status=status, problems=problems)


def _exit(found: Comparison, problems: list[Problem]) -> tuple[ExitCode, Status]:
    if found.interrupted:
        return ExitCode.INTERRUPTED, "error"
    if problems:
        return ExitCode.PARTIAL, "partial"
    return ExitCode.OK, "ok"


def _problems(found: Comparison, kept: store.Store) -> list[Problem]:
    """What did not go as asked. A mode that cannot run here is an answer, not a problem."""
    out = []
    if found.interrupted:
        out.append(Problem("interrupted", f"{found.interrupted}; what was measured is kept"))
    else:
        out += [
            Problem("mode_failed", f"{mode.name}: {mode.reason}", f"see {kept.folder}")
            for mode in failed(found)
        ]
        if found.winner is not None and found.remeasured is None:
            out.append(Problem("not_remeasured", f"{found.winner} could not be measured again"))
    if kept.problem is not None:
        out.append(Problem("not_kept", kept.problem))
    return out


def _reports(document: Comparison, asked: Options) -> list[Problem]:
    if not asked.files:
        return []
    makers: dict[str, Callable[[], str]] = {
        "html": lambda: report.comparison_html(document, seed=asked.seed),
        "markdown": lambda: report.comparison_markdown(document, seed=asked.seed),
        "csv": lambda: report.comparison_csv(document),
    }
    problems = []
    for kind, file in asked.files.items():
        try:
            write_named(file, makers[kind]().encode("utf-8"))
        except OSError as error:
            problems.append(
                Problem("not_written", f"{file}: {error.strerror or error}", "free space there")
            )
    if "html" in asked.files and (undrawn := extras.lacking("report")) is not None:
        problems.append(without_charts(undrawn))
    return problems
