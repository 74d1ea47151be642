"""Which cards the compiled kernels of a release are for, by its binaries and by the catalogue."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from launcher.engine import releases
from tools import kernel_architectures as kernels

CUDA = [name for name, release in releases.releases().items() if release.device == "cuda"]
CARDS = {"T4": 75, "A100": 80, "RTX 3060": 86, "L4": 89, "H100": 90, "B200": 100, "RTX 5090": 120}


def held(name: str) -> dict[str, dict[str, list[int]]]:
    """By library: the architectures by kind, as read from the release's wheels."""
    loaded: dict[str, dict[str, list[int]]] = json.loads(
        (kernels.KEPT / f"{name}.json").read_text("utf-8")
    )
    return loaded


def runs(card: int, kinds: dict[str, list[int]]) -> bool:
    """Whether a card runs one of these: code of its own major up to its minor, or older PTX."""
    compiled = any(sass // 10 == card // 10 and sass <= card for sass in kinds.get("sass", []))
    return compiled or any(ptx <= card for ptx in kinds.get("ptx", []))


def number(capability: str | None, otherwise: int) -> int:
    return int(capability.replace(".", "")) if capability else otherwise


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("name", CUDA)
def test_the_catalogue_promises_a_card_only_where_all_kernels_have_code_for_it(
    name: str, card: str
) -> None:
    release = releases.release(name)
    low = number(release.min_compute_capability, 0)
    high = number(release.max_compute_capability, 999)
    promised = low <= CARDS[card] <= high
    libraries = held(name)
    needed = [path for path in libraries if path.endswith(("libtorch_cuda.so", "common_ops.so"))]
    assert len(needed) >= (1 if release.kernels == "torch" else 2)
    serves = all(runs(CARDS[card], libraries[path]) for path in needed)
    if promised:
        assert serves, f"{name} has no kernels for {card}"
    elif CARDS[card] < low:
        assert not serves, f"{name} has kernels for {card}, which the catalogue denies"


@pytest.mark.parametrize("name", CUDA)
def test_a_card_newer_than_all_kernels_is_refused_before_the_install(name: str) -> None:
    high = number(releases.release(name).max_compute_capability, 999)
    needed = [path for path in held(name) if path.endswith(("libtorch_cuda.so", "common_ops.so"))]
    newer = [card for card in (110, 130, 140) if card > high]
    assert newer
    for card in newer:
        assert not all(runs(card, held(name)[path]) for path in needed)


def test_flash_attention_has_no_code_for_turing() -> None:
    assert not runs(75, held("turing")["sgl_kernel/flash_ops.so"])


# --- the reader -----------------------------------------------------------------------------------


def fatbin(*held: tuple[int, int], padding: int = 0) -> bytes:
    """A container with entries of (kind, architecture)."""
    body = b""
    for kind, architecture in held:
        body += kernels._ENTRY.pack(kind, 1, 64, 16, 0, 0, 0, 0, architecture).ljust(64, b"\0")
        body += b"\x7fELF".ljust(16, b"\0")
    return kernels._CONTAINER.pack(0xBA55ED50, 1, 16, len(body)) + body + bytes(padding)


def elf(section: str, content: bytes) -> bytes:
    """The least ELF file with a section."""
    names = b"\0.names\0" + section.encode() + b"\0"
    start = 64
    table = start + len(content) + len(names)
    rows = [
        (0, 0, 0, 0, 0, 0),
        (1, 3, 0, 0, start + len(content), len(names)),
        (8, 1, 0, 0, start, len(content)),
    ]
    header = b"\x7fELF\x02\x01".ljust(40, b"\0") + struct.pack("<Q", table)
    header = header.ljust(58, b"\0") + struct.pack("<HHH", 64, len(rows), 1)
    rest = b"".join(struct.pack("<IIQQQQ", *row).ljust(64, b"\0") for row in rows)
    return header + content + names + rest


@pytest.mark.parametrize("padding", [0, 8, 4096])
def test_every_entry_of_every_container_is_read(padding: int, tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    content = fatbin((2, 80), (2, 75), padding=padding) + fatbin((1, 90), (2, 80))
    library.write_bytes(elf(".nv_fatbin", content))
    assert kernels.architectures(library) == {"ptx": [90], "sass": [75, 80]}


def test_a_library_without_kernels_has_none(tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    library.write_bytes(elf(".text", b"code"))
    assert kernels.architectures(library) == {}


def test_what_is_not_understood_is_not_taken_for_nothing(tmp_path: Path) -> None:
    library = tmp_path / "ops.so"
    library.write_bytes(elf(".nv_fatbin", fatbin((9, 80))))
    with pytest.raises(ValueError, match="kind 9"):
        kernels.architectures(library)
    library.write_text("not a library at all, but long enough")
    with pytest.raises(ValueError, match="ELF"):
        kernels.architectures(library)
