"""Changes the weights of a running engine from outside, as nobody should: through /proc/PID/mem.

The engine's routes that would do so are closed to everybody. What is written over is found by what
it holds: rows of the checkpoint's word embeddings, in the engine's number format.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

from launcher.linux import processes, procfs

CHUNK = 16 * 2**20
ROWS = 29_000
"""Rows written over, from row 1000 on: within MiniLM's 30,522, for what lies behind is the heap."""
NEEDLE_ROWS = 2
"""Rows in a row that only the table has; one may be left of a computation."""


def first_rows(model: Path, *, first: int) -> tuple[bytes, bytes]:
    """Rows from `first` on of the word embeddings of `model`, as float32 and as bfloat16."""
    with (model / "model.safetensors").open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        name = next(name for name in header if name.endswith("word_embeddings.weight"))
        assert header[name]["dtype"] == "F32"
        width = header[name]["shape"][1]
        file.seek(8 + length + header[name]["data_offsets"][0] + 4 * width * first)
        rows = file.read(4 * width * NEEDLE_ROWS)
    return rows, bfloat16(rows)


def bfloat16(row: bytes) -> bytes:
    """float32 numbers rounded to the nearest bfloat16, as torch does it."""
    whole = struct.unpack(f"<{len(row) // 4}I", row)
    return struct.pack(
        f"<{len(whole)}H", *((one + 0x7FFF + (one >> 16 & 1)) >> 16 for one in whole)
    )


def find(pid: int, needle: bytes) -> list[int]:
    """Addresses of `needle` in the writable memory of a process.

    Raises:
        PermissionError: this user may not look into that process.
    """
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", 0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, flags, *_ = line.split()
            begin, end = (int(part, 16) for part in span.split("-"))
            if not flags.startswith("rw"):
                continue
            for at in range(begin, end, CHUNK):
                size = min(CHUNK + len(needle), end - at)
                try:
                    data = os.pread(memory.fileno(), size, at)
                except OSError:  # a guard page
                    continue
                where = data.find(needle)
                while where >= 0:
                    found.append(at + where)
                    where = data.find(needle, where + 1)
    return sorted(set(found))


def tamper(leader: int, model: Path, *, first: int = 1000) -> int:
    """Turn the words of every engine process below `leader` around; how many tables were found.

    Raises:
        PermissionError: this user may not write into another process's memory.
    """
    tables = 0
    for pid in procfs.descendants([leader], processes.all_processes()):
        for needle in first_rows(model, first=first):
            for address in find(pid, needle):
                turn_around(pid, address, len(needle) // NEEDLE_ROWS)
                tables += 1
    return tables


def turn_around(pid: int, address: int, row: int) -> None:
    """Write the table's rows from `address` on in the reverse order: another word's numbers."""
    with Path(f"/proc/{pid}/mem").open("r+b", 0) as memory:
        data = os.pread(memory.fileno(), row * ROWS, address)
        rows = [data[at : at + row] for at in range(0, len(data) - row + 1, row)]
        os.pwrite(memory.fileno(), b"".join(reversed(rows)), address)
