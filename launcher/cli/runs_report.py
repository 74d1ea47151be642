"""`qlaunch runs report` and `runs diff`: run records for people, and two of them side by side."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import msgspec

from launcher import extras
from launcher.bench import store
from launcher.cli.base import command as declare
from launcher.cli.base import wants_json
from launcher.cli.out_file import OutFile
from launcher.cli.result import Problem, Result, table
from launcher.documents.comparison import VERSION, Comparison
from launcher.documents.run import Run
from launcher.documents.run_diff import (
    Change,
    CheckResult,
    Figure,
    LevelFigures,
    RunDiff,
    SameVectors,
)
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import NOT_WRITABLE, read_bounded, write_atomic, write_named
from launcher.paths import dirs
from launcher.record.bench import bench_rows
from launcher.record.runs import list_runs, load_run, read_events, read_samples, run_directory

"""What `tune` wrote: the comparison of its pick with the profile as it is stands in it."""
COMPARISON_LIMIT = 64 << 20
_FILE = OutFile(dash=True)


@declare("runs report")
@click.argument("source", metavar="[RUN|COMPARISON]", default="latest")
@click.option("--html", type=_FILE, metavar="FILE", help="Where the page goes; - is stdout.")
@click.option("--markdown", type=_FILE, metavar="FILE", help="Write Markdown; - is stdout.")
@click.option(
    "--csv", type=_FILE, metavar="FILE", help="Write figures (of a run: its samples); - is stdout."
)
def report(source: str, html: Path | None, markdown: Path | None, csv: Path | None) -> Result:
    """Write a report of RUN, or of COMPARISON: an id or a file of what `compare` wrote.

    RUN is an id, the beginning of one, a service (its last run), or `latest`. Without --html,
    --markdown or --csv a page is written: of a run as `report.html` into its folder, of a
    comparison beside its file. The page is one file that loads nothing. Its charts need the
    extra `report`: without it they are words, and the command ends with 10.
    """
    path = _comparison_file(source)
    data, texts, beside = _run(source) if path is None else _comparison(path)
    wanted = {"html": html, "markdown": markdown, "csv": csv}
    own = not any(wanted.values())
    if own:
        wanted["html"] = beside
    if list(wanted.values()).count(Path("-")) > 1:
        raise click.UsageError("only one of --html, --markdown and --csv can go to stdout")
    if Path("-") in wanted.values() and wants_json():
        raise click.UsageError("with --json the document is what goes to stdout: name a file")
    files, lines = {}, []
    for kind, path in wanted.items():
        if path is None:
            continue
        text = texts[kind]()
        if str(path) == "-":
            lines += text.splitlines()
            continue
        _write(path, text, write_atomic if own else write_named)
        files[kind] = str(path.absolute())
    lines += files.values()
    undrawn = extras.lacking("report") if wanted["html"] else None
    if undrawn is None:
        return Result(data={**data, "files": files}, lines=lines)
    return Result(
        data={**data, "files": files},
        lines=lines,
        exit_code=ExitCode.PARTIAL,
        status="partial",
        problems=(without_charts(undrawn),),
    )


def without_charts(undrawn: QlaunchError) -> Problem:
    """What to say of a page whose charts are words, because what draws them is not installed."""
    message = f"the page has no charts, only their figures in words: {undrawn.message}"
    return Problem(undrawn.code, message, undrawn.fix)


def _comparison_file(source: str) -> Path | None:
    """The document of a comparison, by its file, its folder, its id or the beginning of one."""
    if "/" in source or source.endswith(".json"):
        path = Path(source)
        return _document(path) if path.is_dir() else path
    if source == "latest" or not source:
        return None
    folders = [path for path in (dirs().state / "comparisons").glob("*") if path.is_dir()]
    found = [path for path in folders if path.name.startswith(source)]
    runs = (run for run in dirs().runs.glob("*") if run.name.startswith(source))
    # What begins runs too is a run's: there an ambiguity is told with the ids.
    return _document(found[0]) if len(found) == 1 and next(runs, None) is None else None


def _document(folder: Path) -> Path:
    """What a folder of `compare` or of `tune` holds."""
    tuning = folder / store.TUNING
    return tuning if tuning.exists() and not (folder / store.FILE).exists() else folder / store.FILE


def _run(wanted: str) -> tuple[Mapping[str, object], Mapping[str, Callable[[], str]], Path]:
    from launcher import report as make

    runs = dirs().runs
    run = load_run(runs, wanted)
    folder = run_directory(runs, run.run)
    samples, events = list(read_samples(folder)), list(read_events(folder))
    bench = bench_rows(folder)
    texts = {
        "html": lambda: make.run_html(run, samples, events, bench),
        "markdown": lambda: make.run_markdown(run, samples, bench),
        "csv": lambda: make.run_csv(samples),
    }
    data = {"report": make.document(run, samples, events, bench)}
    return data, texts, folder / "report.html"


def _comparison(path: Path) -> tuple[Mapping[str, object], Mapping[str, Callable[[], str]], Path]:
    from launcher import report as make

    doc = read_comparison(path)
    texts = {
        "html": lambda: make.comparison_html(doc),
        "markdown": lambda: make.comparison_markdown(doc),
        "csv": lambda: make.comparison_csv(doc),
    }
    return {"report": doc}, texts, path.with_suffix(".html")


def read_comparison(path: Path) -> Comparison:
    """The document of a comparison, also from the output of `compare --json`.

    Raises:
        QlaunchError: `comparison_unreadable` (exit 2).
    """
    try:
        found = msgspec.json.decode(read_bounded(path, COMPARISON_LIMIT))
        if isinstance(found, dict) and "modes" not in found:
            found = found.get("data", found)
            found = found.get("comparison", found) if isinstance(found, dict) else found
        if found is None:
            raise ValueError("this search compared nothing in the end: no candidate was better")
        comparison = msgspec.convert(found, Comparison)
        if comparison.version != VERSION:
            raise ValueError(f"it has version {comparison.version}, this reads {VERSION}")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise QlaunchError(
            f"{path} is not a comparison that can be read: {reason}",
            code="comparison_unreadable",
            fix="give a file that qlaunch compare wrote, or the id of a run (qlaunch runs list)",
        ) from error
    return comparison


def _write(path: Path, text: str, write: Callable[[Path, bytes], None]) -> None:
    try:
        write(path, text.encode("utf-8", "replace"))
    except OSError as error:
        no_room = error.errno in NOT_WRITABLE
        raise QlaunchError(
            f"cannot write {path}: {error.strerror or error}",
            code="report_not_written",
            exit_code=ExitCode.UNEXPECTED,
            fix="make room there, or name a file on another disk"
            if no_room
            else "name a file in a folder that exists and is yours",
        ) from error


@declare("runs diff")
@click.argument("a")
@click.argument("b", required=False)
def diff(a: str, b: str | None) -> Result:
    """Say what differs in run B (default: the latest) from run A: plan, figures, checks.

    With a service alone its last run is B, and the one before it A.

    The command and its environment word by word, versions, times and memory with their ratio
    (B / A), the checks, and the levels that `bench` measured in both. `vectors` says whether one
    index may hold the vectors of both.
    """
    from launcher.record.diff import diff as compare

    runs = dirs().runs
    one, two = load_run(runs, a), load_run(runs, b or "latest")
    if b is None and not one.run.startswith(a):  # a service's name, or `latest`
        one, two = _before(runs, one), one
    benches = [bench_rows(runs / run.run) for run in (one, two)]
    found = compare(one, two, *benches)
    return Result(data=found, lines=_diff_lines(found))


def _before(runs: Path, last: Run) -> Run:
    """The run of the same service before its last one.

    Raises:
        QlaunchError: `run_unknown` (exit 2): there is none.
    """
    ids = [each.run for each in list_runs(runs) if each.service == last.service]
    earlier = ids[ids.index(last.run) + 1 :]
    if not earlier:
        raise QlaunchError(
            f"{last.service} has one run only, {last.run}: there is nothing to compare it with",
            code="run_unknown",
            fix="name two runs: qlaunch runs list",
        )
    return load_run(runs, earlier[0])


def _diff_lines(found: RunDiff) -> list[str]:
    lines = [
        f"{name}  {run.run}: {run.outcome} ({run.profile})"
        for name, run in (("A", found.a), ("B", found.b))
    ]
    options = [_signed("", change.a, change.b) for change in found.argv]
    lines += _changed("command", options)
    for title in ("env", "settings", "versions"):
        changes: tuple[Change, ...] = getattr(found, title)
        signed = [_signed(f"{change.name}: ", change.a, change.b) for change in changes]
        lines += _changed("environment" if title == "env" else title, signed)
    lines.append(f"vectors: {_vectors(found.vectors)}")
    lines += ["figures", *_figures_table(found.figures)]
    for check in found.checks:
        lines.append(f"check     {check.name}")
        lines += [f"  - {_check_words(check.a)}", f"  + {_check_words(check.b)}"]
    for level in found.bench:
        lines += _level_lines(level)
    return lines


def _vectors(found: SameVectors) -> str:
    """Whether they may be mixed, for people."""
    words = {True: "of one model", False: "of two models, do not mix them", None: "not known"}
    return f"{words[found.same]} ({found.reason})"


def _signed(name: str, a: object, b: object) -> list[str]:
    return [f"  {sign} {name}{value}" for sign, value in (("-", a), ("+", b)) if value is not None]


def _changed(title: str, changes: list[list[str]]) -> list[str]:
    return [title, *itertools.chain(*changes)] if changes else [f"{title}: the same"]


def _figures_table(figures: tuple[Figure, ...]) -> list[str]:
    rows = [_figure_row(figure) for figure in figures]
    return [f"  {line}" for line in table(("", "A", "B", "B / A"), rows)]


def _figure_row(figure: Figure) -> tuple[str, ...]:
    from launcher.report import formatting

    show = formatting.size if figure.name.endswith("_bytes") else formatting.figure
    return (
        figure.name,
        show(figure.a),
        show(figure.b),
        formatting.ABSENT if figure.ratio is None else f"{figure.ratio:.2f} ×",
    )


def _check_words(check: CheckResult | None) -> str:
    if check is None:
        return "not made"
    return f"{'ok' if check.ok else 'FAILED'}: {check.detail}"


def _level_lines(found: LevelFigures) -> list[str]:
    from launcher.report import formatting

    level = formatting.level_of(found.level)
    return [f"load      {formatting.level(level)}", *_figures_table(found.figures)]
