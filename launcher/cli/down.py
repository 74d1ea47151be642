"""`qlaunch down`: stop services; nothing of them is left running."""

from __future__ import annotations

import click
import msgspec
from msgspec.structs import asdict

from launcher.cli import screen
from launcher.cli.base import command as declare
from launcher.cli.base import wants_reasons
from launcher.cli.finite import FiniteRange
from launcher.cli.result import Problem, Result
from launcher.documents.service_state import State
from launcher.errors import ExitCode
from launcher.service import control


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """One service of `down`."""

    service: str
    was_running: bool
    state: State | None
    seconds: float
    forced: bool
    left: tuple[str, ...]


@declare("down")
@click.argument("names", nargs=-1, metavar="[SERVICE]...")
@click.option("--all", "everything", is_flag=True, help="Stop every service.")
@click.option(
    "--timeout",
    type=FiniteRange(min=1),
    default=control.DOWN_S,
    show_default=True,
    help="Seconds for one service, at most.",
)
def command(names: tuple[str, ...], everything: bool, timeout: float) -> Result:
    """Stop services. One that is not running counts as stopped; an unknown name is an error."""
    if bool(names) == everything:
        raise click.UsageError("name the services to stop, or give --all")
    targets = [state.service for state in control.services()] if everything else list(names)
    results = [_one(name, timeout, known=everything) for name in targets]
    left = [line for found in results for line in found.left]
    lines = [_line(found) for found in results] or ["no services"]
    problems = [
        Problem("stop_incomplete", f"still there: {line}", "end that process by its pid")
        for line in left
    ]
    return Result(
        data={"services": results},
        lines=screen.shorten(lines, everything=wants_reasons(), below=len(problems)),
        exit_code=ExitCode.UNEXPECTED if left else ExitCode.OK,
        status="partial" if left else "ok",
        problems=problems,
    )


def _one(name: str, timeout: float, *, known: bool) -> Stopped:
    if not known:
        control.status(name)  # an unknown name is an error, with the names there are
    done = control.down(name, timeout=timeout)
    return Stopped(**asdict(done) | {"state": done.state.state if done.state else None})


def _line(found: Stopped) -> str:
    stopped = f"stopped in {found.seconds:.1f} s" if found.was_running else "not running"
    killed = " (its supervisor had to be killed)" if found.forced else ""
    return f"{found.service}: {stopped}{killed}"
