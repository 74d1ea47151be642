"""Options of `compare` and `tune` that say how load is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from launcher.bench.lengths import Length
from launcher.bench.load import Bounds
from launcher.cli.benching import grid, lengths, numbers, requests_of
from launcher.documents.comparison import Level

SEED_TOKENS = 128
DEFAULT = (
    Level(clients=1, batch=1, tokens=SEED_TOKENS),
    Level(clients=1, batch=4, tokens=SEED_TOKENS),
    Level(clients=16, batch=1, tokens=SEED_TOKENS),
)
"""The table that the project started from (batches of 1 and 4), and many clients at once."""

_OPTIONS = (
    click.option(
        "--clients", metavar="N,N,…", callback=numbers(int), help="Requests at once, such as 1,16."
    ),
    click.option(
        "--batch", metavar="N,N,…", callback=numbers(int), help="Texts of a request, such as 1,4."
    ),
    click.option(
        "--tokens",
        metavar="N,N,…",
        callback=lengths,
        help="Tokens of a text, special tokens counted (default 128); 16-400 or mixed: of lengths"
        " from 16 to 400.",
    ),
    click.option(
        "--requests",
        type=click.IntRange(min=1),
        help="Requests a level, warm-up not counted (default 100, or 25 a client where that is"
        " more).",
    ),
    click.option(
        "--seconds",
        type=click.FloatRange(min=0.1),
        default=60.0,
        show_default=True,
        help="A level starts no more requests after this time.",
    ),
)


def grid_options(body: Callable[..., Any]) -> Callable[..., Any]:
    """`--clients`, `--batch`, `--tokens`, `--requests` and `--seconds`."""
    for option in reversed(_OPTIONS):
        body = option(body)
    return body


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
