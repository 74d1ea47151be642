"""The sentence that every server of a run is asked first: all must answer alike, and as before."""

from __future__ import annotations

import base64
import binascii
import math
from array import array
from collections.abc import Sequence
from typing import Final

from launcher.app.corpus_servers import Say
from launcher.corpus.endpoints import Endpoint, FailedError, Pool, RefusedError
from launcher.corpus.output import Output
from launcher.corpus.records import Vector
from launcher.errors import ExitCode, QlaunchError

PROBE: Final = "The quick brown fox jumps over the lazy dog."
"""What every server is asked first: all must answer alike, and as when the run was begun."""
SAME: Final = 0.999
"""Least cosine of two answers to it: another dtype or batch is above, another model far below."""
ABSENT_S: Final = 10.0
"""After so long one of several servers that does not answer at the start is left out."""


async def ask_all(pool: Pool, patience_s: float, say: Say) -> Vector:
    """The answer of the first server, once all have answered alike.

    One of several that is not there is left out: nobody would know what it serves later.

    Raises:
        QlaunchError: `probe_refused` (exit 2), `servers_differ` (exit 7); as `Pool.ask`, where
            no server answers.
    """
    answers: list[tuple[Endpoint, Vector]] = []
    absent: QlaunchError | None = None
    if len(pool.endpoints) > 1:
        patience_s = min(patience_s, ABSENT_S)
    for endpoint in pool.endpoints:
        try:
            vectors, _ = await pool.ask([PROBE], endpoint, patience_s)
            answers.append((endpoint, vectors[0]))
        except (RefusedError, FailedError) as error:
            refused = isinstance(error, RefusedError)
            raise QlaunchError(
                f"{endpoint.name} does not embed a plain sentence: {error}",
                code="probe_refused" if refused else "embed_failed",
                exit_code=ExitCode.USAGE if refused else ExitCode.UNEXPECTED,
                fix="look at the service, or leave out --dimensions",
            ) from None
        except QlaunchError as error:
            absent = error
            endpoint.out = error.message
            if len(pool.endpoints) > 1:
                say(f"{endpoint.name} is left out: {error.message}")
    if not answers:
        assert absent is not None  # there is a server at least
        raise absent
    check_alike([(endpoint.name, vector) for endpoint, vector in answers])
    return answers[0][1]


def check_alike(answers: Sequence[tuple[str, Vector]]) -> None:
    """Hold the answers of all servers, by name, to the first one's.

    Raises:
        QlaunchError: `servers_differ` (exit 7).
    """
    first, expected = answers[0]
    for name, vector in answers[1:]:
        if (same := cosine(expected, vector)) < SAME:
            raise QlaunchError(
                f"{name} and {first} give different vectors for the same text (cosine {same:.4f})",
                code="servers_differ",
                exit_code=ExitCode.VERIFY_FAILED,
                fix="take servers of one model, with the same settings",
            )


def hold_to(output: Output, probe: Vector) -> None:
    """Refuse to go on with other vectors than those that are written already.

    Raises:
        QlaunchError: `embed_differs` (exit 9).
    """
    encoded = base64.b64encode(probe.tobytes()).decode()
    if not output.resumed:
        output.identity.probe = encoded
        return
    before = decoded(output.identity.probe)
    if (same := cosine(before, probe)) < SAME:
        raise QlaunchError(
            f"{output.journal.path} is of another run: the same text has another vector now"
            f" (cosine {same:.4f})",
            code="embed_differs",
            exit_code=ExitCode.CONFLICT,
            fix="serve the model it was begun with, or start over: --restart",
        )


def decoded(text: str) -> Vector:
    """The vector that a journal keeps; empty where it keeps none."""
    numbers = array("f")
    try:
        numbers.frombytes(binascii.a2b_base64(text))
    except ValueError:
        return array("f")
    return numbers


def cosine(one: Vector, other: Vector) -> float:
    """Cosine of two vectors; 0 where their sizes differ or one is zero."""
    if len(one) != len(other):
        return 0.0
    product = math.sqrt(sum(x * x for x in one) * sum(x * x for x in other))
    return sum(x * y for x, y in zip(one, other, strict=True)) / product if product else 0.0
