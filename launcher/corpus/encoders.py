"""Rows with their vectors, as the bytes of an output: JSONL and NumPy's format."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

from launcher.corpus.records import Row, Vector
from launcher.linux.files import sync

NPY_HEAD: Final = 128
"""Bytes before the numbers: NumPy's own size for an array of two dimensions."""


class Encoder(Protocol):
    """A format that grows at its end."""

    @property
    def head(self) -> bytes:
        """What stands before the first row."""

    def encode(self, rows: Sequence[Row], vectors: Sequence[Vector]) -> bytes:
        """The bytes of some rows."""

    def finish(self, part: Path, rows: int) -> Path:
        """Make `part`, which has all rows, whole; returns the file that is, and is on the disk."""


class JsonlEncoder:
    """A JSON object a line: the row's own columns, then the vector.

    Numbers have nine significant digits, from which every reader gets the same float32 again.
    """

    def __init__(self, vectors: str, dimensions: int) -> None:
        import msgspec

        self._key = b"," + msgspec.json.encode(vectors) + b":["
        self._numbers = ",".join(["%.9g"] * dimensions)

    @property
    def head(self) -> bytes:
        """Nothing stands before the rows."""
        return b""

    def encode(self, rows: Sequence[Row], vectors: Sequence[Vector]) -> bytes:
        """A line a row."""
        pieces: list[bytes] = []
        for row, vector in zip(rows, vectors, strict=True):
            numbers = (self._numbers % tuple(vector)).encode()
            pieces += (row.carried, self._key, numbers, b"]}\n")
        return b"".join(pieces)

    def finish(self, part: Path, _rows: int) -> Path:
        """Nothing is missing."""
        return part


class NpyEncoder:
    """An array of (rows, dimensions), float32, for `numpy.load`."""

    def __init__(self, dimensions: int) -> None:
        self._dimensions = dimensions

    @property
    def head(self) -> bytes:
        """Room for the header: how many rows there are is known at the end."""
        return self._header(0)

    def _header(self, rows: int) -> bytes:
        shape = f"({rows}, {self._dimensions})"
        words = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
        room = NPY_HEAD - 10
        return b"\x93NUMPY\x01\x00" + room.to_bytes(2, "little") + f"{words:<{room - 1}}\n".encode()

    def encode(self, rows: Sequence[Row], vectors: Sequence[Vector]) -> bytes:  # noqa: ARG002 - the protocol's
        """The numbers, little end first."""
        if sys.byteorder == "big":
            vectors = [type(each)("f", each) for each in vectors]
            for each in vectors:
                each.byteswap()
        return b"".join(each.tobytes() for each in vectors)

    def finish(self, part: Path, rows: int) -> Path:
        """Write the header."""
        with part.open("r+b") as file:
            file.write(self._header(rows))
            sync(file)
        return part
