"""`qlaunch prove`: everything that the profiles claim of this machine, run and written down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import click
from msgspec.structs import asdict

from launcher.app import interrupts, proving
from launcher.cli import screen
from launcher.cli.base import command as declare
from launcher.cli.base import wants_json
from launcher.cli.finite import FiniteRange
from launcher.cli.progress import Progress
from launcher.cli.result import Problem, Result
from launcher.documents.proof import Chapter
from launcher.errors import ExitCode
from launcher.prove.bundle import PAGE
from launcher.prove.page import verdict

_GO_ON: Final = "qlaunch prove goes on with what was cut short; --again does all of it"


@declare("prove")
@click.option(
    "--minutes",
    type=FiniteRange(min=0.1, max=600),
    default=20.0,
    show_default=True,
    help="Time for all of it; what does not fit is named, and done by the next call.",
)
@click.option(
    "--profile",
    "profiles",
    metavar="PROFILE",
    multiple=True,
    help="Prove this profile only; may be given more than once; without it, all that run here.",
)
@click.option("--again", is_flag=True, help="All from the start, also where one was cut short.")
@click.option("--offline", is_flag=True, help="Fetch nothing; what is not here is skipped.")
@click.option("--quiet", "-q", is_flag=True, help="No progress on stderr.")
def command(
    minutes: float, profiles: tuple[str, ...], again: bool, offline: bool, quiet: bool
) -> Result:
    """Run everything that the profiles claim of this machine, and leave one file to send.

    Each profile that runs here from start to stop (vectors against float32, retrieval, load,
    predicted and measured memory), the table of direct, offloaded and CPU, quantised copies, two
    services on one card, and what happens when a process is killed. A step that fails is written
    down, and the rest goes on. One that was cut short, by time or Ctrl-C, goes on where it ended
    when it is called again. Exit 10 unless everything was done and succeeded.
    """
    progress = Progress(quiet=quiet)
    try:
        with interrupts.ends_by_interrupt():
            found = proving.prove(
                minutes=minutes, only=profiles, offline=offline, again=again, progress=progress.line
            )
    finally:
        progress.done()
    return _result(found)


def _result(found: proving.Proved) -> Result:
    data = {**asdict(found.proof), "page": found.folder / PAGE, "bundle": found.bundle}
    lines = [
        verdict(found.proof),
        *_by_outcome(found.proof.chapters),
        f"page: {found.folder / PAGE}",
        f"to send: {found.bundle}",
    ]
    if found.whole:
        return Result(data=data, lines=lines)
    bad = [chapter for chapter in found.proof.chapters if chapter.outcome != "ok"]
    return Result(
        data=data,
        lines=lines,
        exit_code=ExitCode.PARTIAL,
        status="partial",
        # The text has each in its place already.
        problems=list(map(_problem, bad)) if wants_json() else [_together(bad)],
    )


def _by_outcome(chapters: Iterable[Chapter]) -> Iterator[str]:
    """What succeeded on one line, and the rest under what became of it, each reason once."""
    by_outcome: dict[str, list[Chapter]] = {}
    for chapter in sorted(chapters, key=lambda each: each.outcome == "ok"):
        by_outcome.setdefault(chapter.outcome.replace("_", " "), []).append(chapter)
    for outcome, some in by_outcome.items():
        if outcome == "ok":
            names = ", ".join(f"{each.title} ({each.seconds:.0f} s)" for each in some)
            yield from screen.folded(f"ok        {names}", hanging=" " * 10)
        else:
            yield outcome
            yield from screen.by_reason((each.title, each.why or "no reason") for each in some)


def _problem(chapter: Chapter) -> Problem:
    return Problem(code="not_proved", message=f"{chapter.title}: {chapter.why}", fix=_GO_ON)


def _together(bad: Sequence[Chapter]) -> Problem:
    names = ", ".join(chapter.title for chapter in bad[:3]) + (", …" if len(bad) > 3 else "")
    return Problem(code="not_proved", message=f"not everything is proved: {names}", fix=_GO_ON)
