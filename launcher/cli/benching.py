"""Levels of load from what the user asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from launcher.bench.lengths import Length, read_length
from launcher.documents.comparison import Arrivals, Level

OPEN_CONNECTIONS = 64
"""Of the open loop: enough that a request hardly ever waits for a free one."""
MOST = 1_000_000
"""The largest number of a list, against slips of the keyboard."""
REQUESTS, REQUESTS_A_CLIENT = 100, 25
"""So many requests a level, more where each client would have few of them."""


def numbers(kind: type[int | float]) -> Callable[..., tuple[Any, ...] | None]:
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
        if not found or not all(0 < number <= MOST for number in found):
            said = f"{value!r} is not a list of positive numbers such as 1,4,16"
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
