"""`qlaunch embed`: files of texts into files of vectors."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click

from launcher.app import corpus_servers
from launcher.app.corpus_job import Job, Moment, Outcome, run_job
from launcher.app.corpus_ray import Cluster
from launcher.app.interrupts import ends_by_interrupt
from launcher.cli.base import command as declare
from launcher.cli.finite import FiniteRange
from launcher.cli.progress import Progress
from launcher.cli.result import Problem, Result
from launcher.cli.up import Follow
from launcher.corpus.inputs import InputFormat, OutputFormat
from launcher.corpus.records import unreadable
from launcher.errors import ExitCode, QlaunchError
from launcher.paths import require_utf8
from launcher.units import counted

SHOWN_S = 0.25
"""Between two lines on a terminal."""
LOGGED_S = 60.0
"""Between two lines of a log."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to make, and of whom; the command line's options by their names."""

    output: str
    output_format: OutputFormat | None
    input_format: InputFormat | None
    services: tuple[str, ...]
    profile: str | None
    urls: tuple[str, ...]
    model: str | None
    api_key_file: str | None
    column: str | None
    output_column: str
    prompt: str | None
    truncate: bool
    dimensions: int | None
    batch: int
    concurrency: int
    wait: float
    ray: str | None
    ray_workers: int | None
    restart: bool
    force: bool
    offline: bool
    quiet: bool


@declare("embed")
@click.argument("words", nargs=-1, required=True, metavar="FILE… [SERVICE]")
@click.option("--output", "-o", required=True, metavar="OUT", help="File to make.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(get_args(OutputFormat)),
    help="Format of OUT (default: by its suffix).",
)
@click.option(
    "--input-format",
    type=click.Choice(get_args(InputFormat)),
    help="Format of all FILEs (default: by their suffix).",
)
@click.option("--service", "services", multiple=True, metavar="NAME", help="Ask this service.")
@click.option("--profile", metavar="NAME", help="Start this profile, and stop it at the end.")
@click.option("--url", "urls", multiple=True, metavar="URL", help="Ask the server at this address.")
@click.option("--model", metavar="NAME", help="Model to ask for at --url (default: its first).")
@click.option("--api-key-file", metavar="FILE", help="File (mode 0600) with the key for --url.")
@click.option("--column", metavar="NAME", help="Column of the texts (default: text, or the only).")
@click.option(
    "--output-column",
    metavar="NAME",
    default="embedding",
    show_default=True,
    help="Column of the vectors.",
)
@click.option(
    "--prompt",
    metavar="NAME",
    help="query, document, or a prompt of the model's files, put before every text.",
)
@click.option("--truncate", is_flag=True, help="Cut texts that are too long, at the end of a word.")
@click.option("--dimensions", type=click.IntRange(min=1), help="Cut vectors to this many numbers.")
@click.option(
    "--batch",
    type=click.IntRange(1, 4096),
    default=32,
    show_default=True,
    help="Texts of a call.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="Calls at once to each server.",
)
@click.option(
    "--wait",
    type=FiniteRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds to wait while no server answers.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Embed on a Ray cluster: auto, HOST:PORT, or local; each worker starts the profile.",
)
@click.option(
    "--ray-workers",
    type=click.IntRange(min=1),
    help="Workers there (default: one for each machine, or GPU).",
)
@click.option("--restart", is_flag=True, help="Start over where an earlier run was not finished.")
@click.option("--force", is_flag=True, help="Replace OUT where it exists.")
@click.option(
    "--offline", is_flag=True, help="Do not install or fetch anything to start a profile."
)
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(words: tuple[str, ...], **given: Any) -> Result:
    """Embed all texts of FILEs and write their vectors to OUT, in their order.

    FILEs are text (a text a line), JSONL, CSV, TSV or Parquet; OUT is JSONL, .npy or Parquet.
    Other columns are carried along. SERVICE is a running service, or a service, profile or model
    (./DIR, hf:ORG/NAME) to be started and stopped. Run the same command again after any
    interruption: it goes on where it was.

    \b
        qlaunch embed corpus.jsonl -o vectors.parquet cpu-minilm

    Rows that cannot be embedded are left out of OUT and named, with the reason, in OUT.bad.jsonl;
    the exit code is 10 then.
    """
    asked = Options(**given)
    for option, text in (("--output-column", asked.output_column), ("--model", asked.model)):
        require_utf8(text or "", option)
    progress = Progress(quiet=asked.quiet)
    files, named = _split(words, served=bool(asked.services or asked.profile or asked.urls))
    with ends_by_interrupt():
        try:
            _require_there(files)
            servers = _servers((*asked.services, *named), asked, progress)
            job = _job(files, servers, asked)
            shown = _Shown(progress, quiet=asked.quiet)
            outcome = run_job(job, progress.line, Follow(progress), shown)
        except OSError as error:
            raise _disk(error, asked.output) from error
        finally:
            progress.done()
    return _result(outcome)


def _split(words: tuple[str, ...], *, served: bool) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Files, and a service that is named after them: a word that is no file, and is a service.

    A folder is a model, unless it is said elsewhere (`served`) who makes the vectors.
    """
    last = words[-1]
    is_file = Path(last).exists() and (served or not Path(last).is_dir())
    is_name = not is_file and corpus_servers.names_service(last)
    files = words[:-1] if is_name else words
    if not files:
        raise click.UsageError(
            f"name the files to embed: {last} is a service, a profile or a model"
        )
    return tuple(map(Path, files)), words[len(files) :]


def _require_there(files: tuple[Path, ...]) -> None:
    """Refuse a word that is nothing before a service is looked for: it may have meant one."""
    for path in files:
        with contextlib.suppress(PermissionError):
            if not path.exists():
                why = "there is no such file, and no service, profile or model of that name"
                raise unreadable(
                    path, why, "what runs: qlaunch ps; what can: qlaunch profiles list"
                )


def _servers(
    services: tuple[str, ...], asked: Options, progress: Progress
) -> corpus_servers.Servers:
    if not asked.urls and (asked.model is not None or asked.api_key_file is not None):
        raise click.UsageError("--model and --api-key-file belong to --url")
    addresses = tuple(map(corpus_servers.clean_url, asked.urls))
    if not services and asked.profile is None and not asked.urls:
        services = (corpus_servers.the_one_that_runs(),)
    servers = corpus_servers.find(services, asked.profile, offline=asked.offline, say=progress.line)
    servers.urls, servers.url_model = addresses, asked.model
    servers.url_key = corpus_servers.read_url_key(asked.api_key_file)
    servers.url_wait_s = asked.wait
    return servers


def _job(files: tuple[Path, ...], servers: corpus_servers.Servers, asked: Options) -> Job:
    if asked.ray is None and asked.ray_workers is not None:
        raise click.UsageError("--ray-workers belongs to --ray")
    return Job(
        files=files,
        out=Path(asked.output),
        servers=servers,
        input_format=asked.input_format,
        output_format=asked.output_format,
        column=asked.column,
        output_column=asked.output_column,
        prompt=asked.prompt,
        truncate=asked.truncate,
        dimensions=asked.dimensions,
        batch=asked.batch,
        concurrency=asked.concurrency,
        patience_s=asked.wait,
        restart=asked.restart,
        force=asked.force,
        cluster=None if asked.ray is None else Cluster(asked.ray, asked.ray_workers),
    )


class _Shown:
    """Rate and time left: a line that moves on a terminal, one a minute elsewhere."""

    def __init__(self, progress: Progress, *, quiet: bool) -> None:
        self._progress, self._quiet = progress, quiet
        self._next = time.monotonic()
        if not progress.live:
            self._next += LOGGED_S

    def __call__(self, moment: Moment) -> None:
        now = time.monotonic()
        if self._quiet or now < self._next:
            return
        live = self._progress.live
        self._next = now + (SHOWN_S if live else LOGGED_S)
        (self._progress.now if live else self._progress.line)(words(moment))


def words(moment: Moment) -> str:
    """`12,345 rows, 34 %, 210 rows/s, 2 min left`."""
    said = [counted(moment.rows, "row", ","), f"{100 * moment.share:.0f} %"]
    if moment.bad:
        said.append(f"{moment.bad:,} left out")
    if moment.rows_per_s is not None:
        said.append(f"{moment.rows_per_s:,.0f} rows/s")
    if moment.left_s is not None:
        said.append(f"{duration(moment.left_s)} left")
    return ", ".join(said)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _disk(error: OSError, output: str) -> QlaunchError:
    return QlaunchError(
        f"cannot write {error.filename or output}: {error.strerror or error}",
        code="not_written",
        exit_code=ExitCode.UNEXPECTED,
        fix="see to it, then run the same command again: what was done is kept",
    )


def _result(outcome: Outcome) -> Result:
    data = {
        "output": str(outcome.out),
        "format": outcome.format,
        "model": outcome.model,
        "dimensions": outcome.dimensions,
        "endpoints": outcome.endpoints,
        "rows": outcome.rows,
        "bad": outcome.bad,
        "reasons": outcome.reasons,
        "bad_file": None if outcome.bad_file is None else str(outcome.bad_file),
        "resumed_rows": outcome.resumed_rows,
        "seconds": round(outcome.seconds, 3),
        "rows_per_s": None if outcome.rows_per_s is None else round(outcome.rows_per_s, 3),
        "interrupted": outcome.interrupted,
    }
    if outcome.interrupted:
        done = outcome.rows + outcome.bad
        fix = "run the same command again to go on"
        problem = Problem(
            "interrupted",
            f"interrupted after {counted(done, 'row', ',')}, which are kept",
            fix,
        )
        return Result(data, exit_code=ExitCode.INTERRUPTED, status="error", problems=(problem,))
    lines = [_summary(outcome)]
    if not outcome.bad:
        return Result(data, lines)
    reasons = ", ".join(f"{name} {count:,}" for name, count in sorted(outcome.reasons.items()))
    asked = counted(outcome.rows + outcome.bad, "row", ",")
    has = "has" if outcome.bad == 1 else "have"
    message = f"{outcome.bad:,} of {asked} {has} no vector: {reasons}"
    problem = Problem("bad_rows", message, f"they are named in {outcome.bad_file}")
    return Result(data, lines, exit_code=ExitCode.PARTIAL, status="partial", problems=(problem,))


def _summary(outcome: Outcome) -> str:
    size = "" if outcome.dimensions is None else f" of {outcome.dimensions} numbers"
    said = f"{counted(outcome.rows, 'vector', ',')}{size} in {outcome.out}"
    if outcome.rows_per_s is not None:
        said += f" ({outcome.seconds:.1f} s, {outcome.rows_per_s:,.0f} rows/s)"
    return said
