"""An engine started by hand, as the benchmarks use it: its failures are theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.errors import BenchError
from launcher.bench import unsupervised
from launcher.bench.unsupervised import BareEngine
from launcher.errors import QlaunchError


@contextlib.contextmanager
def bare_engine(
    argv: Sequence[str], env: Mapping[str, str], port: int, log: Path
) -> Iterator[BareEngine]:
    """As `launcher.bench.unsupervised.bare_engine`.

    Raises:
        BenchError: it did not start, or did not stop.
    """
    try:
        with unsupervised.bare_engine(argv, env, port, log) as engine:
            yield engine
    except QlaunchError as error:
        raise BenchError(error.message) from error
