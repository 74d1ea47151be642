"""Read from compiled libraries which GPU architectures their kernels were built for.

    python -m tools.kernel_architectures write turing /path/to/engine
    python -m tools.kernel_architectures show LIBRARY...

`write` reads the libraries of an environment that decide whether a release serves a card, and keeps
what they hold in `tests/engine/kernels/<release>.json`, which the catalogue is held to. Nothing is
executed and no CUDA tool is needed: nvcc puts its output as "fat binaries" into the ELF section
`.nv_fatbin`, one entry an architecture, compiled for it (SASS) or left to the driver (PTX).
"""

from __future__ import annotations

import argparse
import json
import mmap
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

KEPT: Final = Path(__file__).resolve().parent.parent / "tests" / "engine" / "kernels"
LIBRARIES: Final = ("torch/lib/libtorch_cuda.so", "sgl_kernel/**/*.so")
"""Below `site-packages`: what a release's forward pass can call."""

_SECTION: Final = ".nv_fatbin"
_MAGIC: Final = struct.pack("<I", 0xBA55ED50)
_CONTAINER: Final = struct.Struct("<IHHQ")
"""Magic, version, length of this header, length of the entries."""
_ENTRY: Final = struct.Struct("<HHIQIIHHI")
"""Kind, version, length of this header, of the data, two unknown, minor, major, architecture."""
_KINDS: Final = {1: "ptx", 2: "sass"}


def architectures(library: Path) -> dict[str, list[int]]:
    """What a library's kernels were compiled for, by kind (`sass`, `ptx`); empty without any.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no 64-bit ELF, or its fat binaries are not as this knows them.
    """
    with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        held: dict[str, set[int]] = {}
        for offset, length in sections(data, _SECTION):
            for kind, architecture in entries(data, offset, offset + length):
                held.setdefault(kind, set()).add(architecture)
    return {kind: sorted(numbers) for kind, numbers in sorted(held.items())}


def sections(data: mmap.mmap | bytes, name: str) -> list[tuple[int, int]]:
    """Offset and length of the sections of an ELF file that have a name.

    Raises:
        ValueError: it is no little-endian 64-bit ELF file.
    """
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a little-endian 64-bit ELF file")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQ", data, table + size * i) for i in range(count)]
    strings = rows[names][4]
    wanted = name.encode() + b"\0"
    return [
        (offset, length)
        for at, _type, _flags, _address, offset, length in rows
        if data[strings + at : strings + at + len(wanted)] == wanted
    ]


def entries(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[str, int]]:
    """Kind and architecture of every entry of the fat binaries between two offsets.

    Raises:
        ValueError: an entry is of a kind that is not known.
    """
    at = data.find(_MAGIC, start, end)
    while at >= 0:
        _magic, _version, header, length = _CONTAINER.unpack_from(data, at)
        entry, stop = at + header, min(at + header + length, end)
        while entry + _ENTRY.size <= stop:
            kind, _v, own, size, *_rest, architecture = _ENTRY.unpack_from(data, entry)
            if kind not in _KINDS or own < _ENTRY.size:
                raise ValueError(f"a fat binary has an entry of kind {kind} at {entry}")
            yield _KINDS[kind], architecture
            entry += own + size
        at = data.find(_MAGIC, max(stop, at + _CONTAINER.size), end)


def environment(root: Path) -> dict[str, dict[str, list[int]]]:
    """By library below `site-packages`: what its kernels are for; those without kernels left out.

    Raises:
        OSError, ValueError: as `architectures`.
    """
    (packages,) = root.glob("lib/python3.*/site-packages")
    paths = sorted(path for pattern in LIBRARIES for path in packages.glob(pattern))
    read = {_name(path.relative_to(packages)): architectures(path) for path in paths}
    return {name: held for name, held in read.items() if held}


def _name(path: Path) -> str:
    """A library's path without the tags of its Python."""
    return str(path.with_name(path.name.partition(".")[0] + ".so"))


def main() -> int:
    """Write what an environment's libraries hold, or print what some libraries hold."""
    parser = argparse.ArgumentParser(prog="tools.kernel_architectures")
    parser.add_argument("what", choices=["write", "show"])
    parser.add_argument("paths", nargs="+")
    asked = parser.parse_args()
    if asked.what == "show":
        for path in asked.paths:
            print(path, json.dumps(architectures(Path(path))))
        return 0
    release, root = asked.paths
    target = KEPT / f"{release}.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(environment(Path(root)), indent=1) + "\n", "utf-8")
    print(f"wrote {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
