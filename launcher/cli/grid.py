"""Options that say how load is made: clients, batches, tokens, requests."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import click

from launcher.bench.load import Bounds
from launcher.bench.types import Level

SEED_TOKENS = 128
DEFAULT = (
    Level(clients=1, batch=1, tokens=SEED_TOKENS),
    Level(clients=1, batch=4, tokens=SEED_TOKENS),
    Level(clients=16, batch=1, tokens=SEED_TOKENS),
)
"""The table that the project started from (batches of 1 and 4), and many clients at once."""
LIMIT = 100_000


def numbers(
    _context: click.Context, _parameter: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    """An option such as `1,16` as numbers, each once.

    Raises:
        click.BadParameter: anything else, or a number out of range.
    """
    if value is None:
        return None
    words = [word.strip() for word in value.split(",")]
    if not all(word.isascii() and word.isdecimal() for word in words):
        raise click.BadParameter(f"{value!r} is not a list of whole numbers such as 1,16")
    found = tuple(dict.fromkeys(int(word) for word in words))
    if not all(1 <= number <= LIMIT for number in found):
        raise click.BadParameter(f"each number must be between 1 and {LIMIT}")
    return found


_OPTIONS = (
    click.option(
        "--clients", metavar="N,N,…", callback=numbers, help="Requests at once, such as 1,16."
    ),
    click.option(
        "--batch", metavar="N,N,…", callback=numbers, help="Texts of one request, such as 1,4."
    ),
    click.option(
        "--tokens", metavar="N,N,…", callback=numbers, help="Tokens of one text (default 128)."
    ),
    click.option(
        "--requests",
        type=click.IntRange(min=1),
        default=100,
        show_default=True,
        help="Requests a level, after those to warm up.",
    ),
    click.option(
        "--seconds",
        type=click.FloatRange(min=0.1),
        default=60.0,
        show_default=True,
        help="A level ends after so long, however many requests were answered.",
    ),
)


def grid_options(body: Callable[..., Any]) -> Callable[..., Any]:
    """`--clients`, `--batch`, `--tokens`, `--requests` and `--seconds`."""
    for option in reversed(_OPTIONS):
        body = option(body)
    return body


def levels(
    clients: tuple[int, ...] | None, batch: tuple[int, ...] | None, tokens: tuple[int, ...] | None
) -> tuple[Level, ...]:
    """Every combination; the default levels where nothing was asked for."""
    if not (clients or batch or tokens):
        return DEFAULT
    found = itertools.product(tokens or (SEED_TOKENS,), clients or (1,), batch or (1,))
    return tuple(Level(clients=c, batch=b, tokens=t) for t, c, b in found)


def bounds(requests: int, seconds: float) -> Bounds:
    """When a level ends."""
    return Bounds(requests=requests, seconds=0.0, limit_s=seconds)
