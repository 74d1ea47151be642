"""One file to send: the proof, its page, and the records of the services it started, scrubbed."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from launcher.documents.proof import Proof, ProvedMachine
from launcher.linux.files import read_bounded, write_atomic
from launcher.paths import Dirs
from launcher.prove import calls, page

PAGE: Final = "index.html"
_LIMIT: Final = 8 << 20
"""Of one record; more is left out and named."""


def path(folder: Path) -> Path:
    """The bundle of the proof in `folder`."""
    return folder / f"qlaunch-proof-{folder.name}.tar.gz"


def write(proof: Proof, folder: Path, where: Dirs) -> Path:
    """Write the page and the bundle beside the proof; returns the bundle's path.

    Raises:
        OSError: the folder cannot be written.
    """
    html = page.html(proof)
    write_atomic(folder / PAGE, html.encode(), mode=0o600)
    files = {PAGE: html, "proof.json": _text(proof)}
    left_out = []
    for name, source in records(proof, where):
        try:
            files[name] = calls.scrub(read_bounded(source, _LIMIT).decode("utf-8", "replace"))
        except (OSError, ValueError) as error:
            left_out.append(f"{name}: {calls.scrub(str(error))}")
    files["README.txt"] = _readme(proof, left_out)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in sorted(files.items()):
            entry = tarfile.TarInfo(f"{proof.id}/{name}")
            data = text.encode()
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    write_atomic(path(folder), packed.getvalue(), mode=0o600)
    return path(folder)


def records(proof: Proof, where: Dirs) -> Iterator[tuple[str, Path]]:
    """Name in the bundle and place on the disk of every record that the proof's steps made."""
    seen = set()
    for step in (step for chapter in proof.chapters for step in chapter.steps):
        run, comparison = step.data.get("run"), step.data.get("id")
        if step.command.startswith("qlaunch compare") and _is_name(comparison):
            seen.add((f"comparisons/{comparison}.json", _of(where.comparisons, comparison)))
        elif _is_name(run):
            seen.add((f"runs/{run}.json", where.runs / str(run) / "run.json"))
    yield from sorted(seen)


def _of(comparisons: Path, name: object) -> Path:
    return comparisons / str(name) / "comparison.json"


def _is_name(value: object) -> bool:
    """Whether a document's word is one file name, and no way out of a folder."""
    return isinstance(value, str) and bool(value) and "/" not in value and value not in (".", "..")


def _text(proof: Proof) -> str:
    return msgspec.json.format(msgspec.json.encode(proof), indent=1).decode()


def _readme(proof: Proof, left_out: list[str]) -> str:
    lines = [
        f"qlaunch {proof.qlaunch} prove, begun {proof.began}, on {_machine(proof.machine)}.",
        "index.html shows it; proof.json is the whole of it; runs/ and comparisons/ hold the",
        "records of what was started. Secrets of the environment, the home folder and",
        "QLAUNCH_HOME are replaced. The texts that were embedded are qlaunch's own.",
    ]
    return "\n".join([*lines, *(f"Left out: {each}" for each in left_out)]) + "\n"


def _machine(machine: ProvedMachine) -> str:
    cards = ", ".join(card.name for card in machine.cards)
    return f"{machine.cpu}, {cards or 'no GPU'}"
