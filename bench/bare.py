"""An engine started by hand, as the benchmarks use it: its failures are theirs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from bench.errors import BenchError
from launcher.errors import QlaunchError
from launcher.service import bare
from launcher.service.bare import BareEngine


@contextlib.contextmanager
def bare_engine(
    argv: Sequence[str], env: Mapping[str, str], port: int, log: Path
) -> Iterator[BareEngine]:
    """As `launcher.service.bare.bare_engine`.

    Raises:
        BenchError: it did not start, or did not stop.
    """
    try:
        with bare.bare_engine(argv, env, port, log) as engine:
            yield engine
    except QlaunchError as error:
        raise BenchError(error.message) from error
