"""What a worker is told on its command line."""

from __future__ import annotations

import argparse
from pathlib import Path


class Settings(argparse.Namespace):
    """The options of every worker; each reads those that it needs."""

    model_path: str
    """Folder of the checkpoint."""
    export: str
    """Folder of what was made of it for this peer; empty where it reads the checkpoint itself."""
    variant: str
    """Of the peer: float32, int8, Q8_0, …; for accelerate where the weights lie."""
    dtype: str
    """Number format, where `variant` says something else."""
    port: int
    threads: int
    pooling: str
    """mean, cls or last."""
    normalize: bool
    longest: int
    """Tokens of the longest text; longer ones are cut."""
    lower_case: bool
    seven_bits: bool
    """Whether products of 8-bit integers can overflow on this processor."""
    native: bool
    """Whether the peer's program is built here."""
    texts: str
    """Python file whose `TEXTS` activations are measured with."""

    @property
    def checkpoint(self) -> Path:
        """`model_path`."""
        return Path(self.model_path)

    @property
    def folder(self) -> Path:
        """`export`."""
        return Path(self.export)


def read(argv: list[str] | None = None) -> Settings:
    """The command line of a worker."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model-path", required=True)
    parser.add_argument("--export", default="")
    parser.add_argument("--variant", default="float32")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pooling", default="mean")
    parser.add_argument("--normalize", type=_yes, default=True)
    parser.add_argument("--longest", type=int, default=512)
    parser.add_argument("--lower-case", type=_yes, default=False)
    parser.add_argument("--seven-bits", type=_yes, default=False)
    parser.add_argument("--native", type=_yes, default=False)
    parser.add_argument("--texts", default="")
    return parser.parse_args(argv, Settings())


def _yes(word: str) -> bool:
    return word == "yes"
