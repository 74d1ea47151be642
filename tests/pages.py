"""Pages of docs/, for tests that type what they say: commands, and what is shown below each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
_BLOCK = re.compile(r"^```console\n(.*?)^```", re.DOTALL | re.MULTILINE)
_EXIT = re.compile(r"  # exit ([\d, or]+)$")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True)
class Typed:
    """One command of a page."""

    command: str
    shown: tuple[str, ...]
    """Lines below it: each must begin a line of what it prints, numbers and blanks apart."""
    section: str

    @property
    def codes(self) -> set[int]:
        """Exit codes that are right: 0, or those of a comment `# exit 0, 1 or 2` after it."""
        named = _EXIT.search(self.command)
        return {int(code) for code in re.findall(r"\d+", named[1])} if named else {0}

    def missing(self, printed: str) -> list[str]:
        """Lines of the page that the command did not print."""
        lines = [masked(line) for line in printed.splitlines()]
        return [
            line for line in self.shown if not any(each.startswith(masked(line)) for each in lines)
        ]


def masked(line: str) -> str:
    """`line` without what differs between two machines: figures, and how far columns are apart."""
    return _NUMBER.sub("#", " ".join(line.split()))


def commands(name: str) -> list[Typed]:
    """The commands of a page below docs/, in their order."""
    text = (DOCS / name).read_text("utf-8")
    found = []
    for block in _BLOCK.finditer(text):
        section = re.findall(r"^## (.*)$", text[: block.start()], re.MULTILINE)[-1]
        for part in re.split(r"^\$ ", block[1], flags=re.MULTILINE)[1:]:
            command, *shown = part.rstrip("\n").split("\n")
            kept = tuple(line for line in shown if line.strip() and line.strip() != "...")
            found.append(Typed(command, kept, section))
    return found
