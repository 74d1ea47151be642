"""Options of `bench`, `compare` and `tune` that say how load is made, and the levels they name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from launcher.bench.lengths import Length, read_length
from launcher.bench.target import Bounds
from launcher.cli.finite import FiniteRange
from launcher.documents.comparison import Arrivals, Level

OPEN_CONNECTIONS = 64
"""Of the open loop: enough that a request hardly ever waits for a free one."""
MOST = 1_000_000
"""The largest number of a list, against slips of the keyboard."""
MOST_CLIENTS = 1024
"""As many calls as an engine's guard has open at once: more are refused there."""
REQUESTS, REQUESTS_A_CLIENT = 100, 25
"""So many requests a level, more where each client would have few of them."""
SEED_TOKENS = 128
DEFAULT = (
    Level(clients=1, batch=1, tokens=SEED_TOKENS),
    Level(clients=1, batch=4, tokens=SEED_TOKENS),
    Level(clients=16, batch=1, tokens=SEED_TOKENS),
)
"""The table that the project started from (batches of 1 and 4), and many clients at once."""


def numbers(kind: type[int | float], most: int = MOST) -> Callable[..., tuple[Any, ...] | None]:
    """A click callback that reads several positive numbers, as in `1,4,16`, each once."""

    def read(
        context: click.Context, option: click.Parameter, value: str | None
    ) -> tuple[Any, ...] | None:
        if value is None:
            return None
        try:
            found = [kind(word) for word in value.split(",")]
        except ValueError:
            found = []
        if not found or not all(0 < number <= most for number in found):
            said = f"{value!r} is not a list of positive numbers such as 1,4,16, {most} at most"
            raise click.BadParameter(said, context, option)
        return tuple(dict.fromkeys(found))

    return read


def lengths(
    context: click.Context, option: click.Parameter, value: str | None
) -> tuple[Length, ...] | None:
    """A click callback that reads `--tokens`: `128`, `128,512`, `mixed`, `16-400`; each once."""
    if value is None:
        return None
    try:
        found = [read_length(word) for word in value.split(",")]
    except ValueError:
        said = f"{value!r} is not a list of lengths such as 128,512 or mixed or 16-400"
        raise click.BadParameter(said, context, option) from None
    return tuple(dict.fromkeys(found))


def grid(
    clients: Sequence[int] | None,
    batches: Sequence[int],
    tokens: Sequence[Length],
    rates: Sequence[float] | None = None,
    arrivals: Arrivals = "poisson",
) -> tuple[Level, ...]:
    """Every combination, small ones first; with rates an open loop.

    Args:
        clients: None takes 1 for the closed loop, and `OPEN_CONNECTIONS` for the open one.
    """
    return tuple(
        Level(
            loop="closed" if rate is None else "open",
            arrivals=arrivals,
            clients=count,
            batch=batch,
            tokens=length.tokens,
            shortest=length.shortest,
            rate=rate,
        )
        for count in clients or ((1,) if rates is None else (OPEN_CONNECTIONS,))
        for rate in rates or (None,)
        for length in tokens
        for batch in batches
    )


def requests_of(level: Level, asked: int | None) -> int:
    """Requests of one level: what was asked for, else enough of them for every client."""
    if asked is not None:
        return asked
    return REQUESTS if level.loop == "open" else max(REQUESTS, REQUESTS_A_CLIENT * level.clients)


Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def grid_options(
    *, clients: str = "Requests at once, such as 1,16.", batch: str | None = None
) -> Decorator:
    """`--clients`, `--batch`, `--tokens`, `--requests` and `--seconds`, the first three as lists.

    Args:
        clients: help of `--clients`.
        batch: default of `--batch`, and with it that of `--tokens` is told to click too; None
            leaves both to `levels`.
    """
    options = (
        click.option(
            "--clients", metavar="N,N,…", callback=numbers(int, MOST_CLIENTS), help=clients
        ),
        click.option(
            "--batch",
            metavar="N,N,…",
            callback=numbers(int),
            default=batch,
            show_default=batch is not None,
            help="Texts of a request." if batch else "Texts of a request, such as 1,4.",
        ),
        click.option(
            "--tokens",
            metavar="N,N,…",
            callback=lengths,
            default=str(SEED_TOKENS) if batch else None,
            show_default=batch is not None,
            help="Tokens of a text, special tokens counted"
            + ("" if batch else f" (default {SEED_TOKENS})")
            + "; 16-400 or mixed: of lengths from 16 to 400.",
        ),
        requests_option("a level, warm-up not counted"),
        seconds_option("A level starts no more requests after this time."),
    )

    def add(body: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            body = option(body)
        return body

    return add


def requests_option(of: str) -> Decorator:
    """`--requests`: how many, of a level or of a candidate."""
    return click.option(
        "--requests",
        type=click.IntRange(min=1),
        help=f"Requests {of} (default {REQUESTS}, or {REQUESTS_A_CLIENT} a client where that is"
        " more).",
    )


def seconds_option(text: str) -> Decorator:
    """`--seconds`: the longest that load goes on."""
    return click.option(
        "--seconds", type=FiniteRange(min=0.1), default=60.0, show_default=True, help=text
    )


def levels(
    clients: tuple[int, ...] | None,
    batch: tuple[int, ...] | None,
    tokens: tuple[Length, ...] | None,
) -> tuple[Level, ...]:
    """Every combination; the default levels where nothing was asked for."""
    if not (clients or batch or tokens):
        return DEFAULT
    return grid(clients, batch or (1,), tokens or (Length(SEED_TOKENS),))


def bounds(requests: int | None, seconds: float) -> Callable[[Level], Bounds]:
    """When a level ends."""
    return lambda level: Bounds(requests=requests_of(level, requests), limit_s=seconds)
