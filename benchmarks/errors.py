"""The one error of the benchmarks."""

from __future__ import annotations


class BenchError(Exception):
    """A benchmark cannot go on; the message says why, in one sentence."""
