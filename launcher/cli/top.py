"""`qlaunch top`: what runs, live."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator

import click

from launcher.app.interrupts import ends_by_interrupt
from launcher.app.live_view import LiveView
from launcher.cli import screen, top_view
from launcher.cli.base import color_choice, wants_json
from launcher.cli.base import command as declare
from launcher.cli.finite import FiniteRange
from launcher.cli.full_screen import FullScreen
from launcher.cli.result import Result, stream_document
from launcher.documents.look import Look
from launcher.errors import ExitCode

SLICE_S = 0.1
"""Between two looks at the size of the terminal."""
FIRST_LOOK_S = 0.3
"""Between the two samples that a CPU percentage needs, where there is only one look."""


@declare("top", json_help="Print one JSON document a look, a line each; with --once one document.")
@click.argument("services", nargs=-1, metavar="[SERVICE]...")
@click.option("--all", "-a", "everything", is_flag=True, help="Also those that are not running.")
@click.option("--once", is_flag=True, help="Look once, print it, and end.")
@click.option(
    "--interval",
    type=FiniteRange(min=0.2, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Seconds between two looks.",
)
@click.option(
    "--count", type=click.IntRange(min=1), metavar="N", help="End after N looks (default: never)."
)
def command(
    services: tuple[str, ...], everything: bool, once: bool, interval: float, count: int | None
) -> Result:
    """Show services live: state, memory by process, CPU, rate, latency, queue. Ctrl-C ends it.

    The engine is not asked: memory and CPU come from the system, rate and queue from the engine's
    log, latency from the supervisor's own check. Without a terminal it looks once, or --count
    times.
    """
    watch = LiveView()
    look = lambda: watch.look(services, everything=everything)  # noqa: E731 - bound once
    try:
        if once or (count is None and not wants_json() and not _on_terminal()):
            return _once(look, everything=everything)
        if wants_json():
            return _stream(look, interval, count)
        return _live(look, interval, count) if _on_terminal() else _plain(look, interval, count)
    except KeyboardInterrupt:
        # The usual end of watching. No document: scripts read one a line here.
        return Result(data={}, exit_code=ExitCode.INTERRUPTED, streamed=True)
    finally:
        watch.close()


def _on_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


Looking = Callable[[], Look]


def _once(look: Looking, *, everything: bool) -> Result:
    """One look, with a CPU percentage: it takes two samples."""
    if look().services:
        time.sleep(FIRST_LOOK_S)
    found = look()
    return Result(
        data=found,
        lines=screen.shorten(top_view.plain(found), everything=everything),
    )


def _ticks(look: Looking, interval: float, count: int | None) -> Iterator[Look]:
    """Looks, `interval` seconds apart however long each takes."""
    due = time.monotonic()
    taken = 0
    while count is None or taken < count:
        yield look()
        taken += 1
        due = max(due + interval, time.monotonic())
        if count is None or taken < count:
            time.sleep(due - time.monotonic() if due > time.monotonic() else 0)


def _stream(look: Looking, interval: float, count: int | None) -> Result:
    for found in _ticks(look, interval, count):
        if not stream_document(found):
            break
    return Result(data={}, streamed=True)


def _plain(look: Looking, interval: float, count: int | None) -> Result:
    from launcher.cli.result import stream

    for found in _ticks(look, interval, count):
        if not all(stream(line, as_json=False) for line in [*top_view.plain(found), ""]):
            break
    return Result(data={}, streamed=True)


def _live(look: Looking, interval: float, count: int | None) -> Result:
    """On the terminal's other screen, which is put back at the end, however it ends."""
    colour = screen.colours(sys.stdout, color_choice())
    with ends_by_interrupt(), FullScreen() as shown:
        taken = 0
        while count is None or taken < count:
            due = time.monotonic() + interval
            found = look()
            taken += 1
            size = None
            while size != (now := screen.size()) or time.monotonic() < due:
                if size != now:
                    size = now
                    shown.draw(top_view.screen(found, *size, colour=colour))
                time.sleep(max(0.0, min(SLICE_S, due - time.monotonic())))
    return Result(data={}, streamed=True)
