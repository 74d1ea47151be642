"""The screen that results are written for: its size, its colours, and what fits on it."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Final, Literal, TextIO

from launcher.units import counted

Choice = Literal["auto", "always", "never"]

_COLUMNS: Final = 80
_LINES: Final = 24
"""Of a screen whose size nobody tells: a pipe's reader has a terminal of its own."""

GREEN, YELLOW, RED, BOLD, DIM = "32", "33", "31", "1", "2"
_WORDS: Final = {
    GREEN: ("ok", "ready", "idle", "yes", "stopped", "valid"),
    YELLOW: (
        *("warning", "degraded", "starting", "loading", "warming", "verifying", "stopping"),
        *("backoff", "unknown", "unavailable"),
    ),
    RED: ("FAIL", "failed", "problem", "broken"),
}
_BY_WORD: Final = {word: colour for colour, words in _WORDS.items() for word in words}
# A word is a state where it is a column of its own, or ends a line after a colon.
_STATE: Final = re.compile(
    rf"(?:(?:(?<=^)|(?<=  ))|(?<=: ))({'|'.join(map(re.escape, _BY_WORD))})(?=  |$)"
)
_HEADING: Final = re.compile(r"[A-Z][A-Z0-9 %/]+(?:  +[A-Z][A-Z0-9 %/]*)+")
_LABEL: Final = re.compile(r"^(Error:|  Try:|… .*)")


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # it has been closed
        return False


def size() -> os.terminal_size:
    """Columns and lines of the terminal that stdout is, COLUMNS and LINES where they are set."""
    import shutil  # with bz2 and lzma: 3 ms that `--help` does without

    return shutil.get_terminal_size((_COLUMNS, _LINES))


def width() -> int | None:
    """Columns of the terminal that stdout is; None where it is a pipe or a file."""
    return size().columns if _is_terminal(sys.stdout) else None


def height() -> int:
    """Lines of the terminal that stdout is, 24 elsewhere."""
    if not _is_terminal(sys.stdout):
        return _LINES
    return max(size().lines, 10)


def colours(stream: TextIO | None, choice: Choice) -> bool:
    """Whether to write colours to `stream`: `--color` decides, then NO_COLOR, then the terminal."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    return _is_terminal(stream)


def paint(line: str) -> str:
    """One line with its headings bold and its states in colour; the same characters otherwise."""
    if _HEADING.fullmatch(line):
        return styled(line, BOLD)
    label = _LABEL.match(line)
    if label:
        style = {"Error:": f"{RED};{BOLD}", "  Try:": BOLD}.get(label[0], DIM)
        return styled(label[0], style) + line[label.end() :]
    return _STATE.sub(lambda found: styled(found[0], _BY_WORD[found[1]]), line)


def styled(text: str, style: str) -> str:
    """`text` with a style of SGR codes, such as `31;1`, and back to none."""
    return f"\x1b[{style}m{text}\x1b[0m"


def fits(lines: Sequence[str], below: int = 0) -> bool:
    """Whether lines fit one screen, with so many more (of errors) `below` them."""
    return sum(map(_rows, lines)) <= height() - 1 - below


def shorten(
    lines: Sequence[str], *, everything: bool = False, keep: int = 0, below: int = 0
) -> list[str]:
    """`lines` cut to one screen, with a line that says how many are left out.

    Args:
        everything: cut nothing (`--all`).
        keep: lines at the end that stay, whatever is cut before them.
        below: lines of the screen that something else will take.
    """
    room = height() - 1 - below  # one is the prompt's
    if everything or fits(lines, below):
        return list(lines)
    tail = list(lines[len(lines) - keep :]) if keep else []
    room -= 1 + sum(map(_rows, tail))
    head: list[str] = []
    for line in lines[: len(lines) - keep]:
        room -= _rows(line)
        if room < 0:
            break
        head.append(line)
    left = len(lines) - len(head) - len(tail)
    return [*head, f"… {counted(left, 'more line')}: --all shows everything", *tail]


def _rows(line: str) -> int:
    """Rows of the screen that a line takes."""
    return max(1, math.ceil(len(line) / (width() or _COLUMNS)))


def fits_across(line: str) -> bool:
    """Whether a line fits the terminal's width, 80 columns elsewhere."""
    return len(line) <= (width() or _COLUMNS)


def fit(cells: Sequence[Sequence[str]], widths: list[int], gap: int) -> list[int]:
    """Widths of columns that fit the terminal: the widest are cut, the first one never.

    Args:
        cells: the rows, headings first; no column becomes narrower than its heading or 6.
        widths: what each column takes as it is.
        gap: blanks between two columns.
    """
    room = width()
    if room is None:
        return widths
    cut = list(widths)
    least = [max(6, len(heading)) for heading in cells[0]]
    while sum(cut) + gap * (len(cut) - 1) > room:
        can = [at for at in range(1, len(cut)) if cut[at] > least[at]]
        if not can:
            break
        cut[max(can, key=lambda at: cut[at])] -= 1
    return cut


def clip(text: str, columns: int) -> str:
    """`text` in at most so many columns, `…` at its end where something was cut off."""
    return text if len(text) <= columns else f"{text[: columns - 1]}…"


def by_reason(entries: Iterable[tuple[str, str]]) -> list[str]:
    """Names under the reason that they share, so that each reason is said once.

    Args:
        entries: pairs of a name and its reason.
    """
    groups: dict[str, list[str]] = {}
    for name, reason in entries:
        groups.setdefault(reason, []).append(name)
    lines: list[str] = []
    for reason, names in groups.items():
        lines += folded(f"{', '.join(names)}: {reason}", "  ")
    return lines


def folded(text: str, indent: str = "", hanging: str = "  ") -> list[str]:
    """A sentence on lines of the terminal's width, 80 columns elsewhere, broken between words."""
    import textwrap

    return textwrap.wrap(
        text,
        max(width() or _COLUMNS, 20),
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def share(sections: Sequence[Sequence[str]], *, everything: bool = False) -> list[str]:
    """Sections under their headings on one screen, a blank line between them.

    Where they do not fit the longest lose lines, and say how many; no heading is lost.
    """
    kept = [list(section) for section in sections]

    def shown() -> list[str]:
        lines: list[str] = []
        for whole, part in zip(sections, kept, strict=True):
            left = len(whole) - len(part)
            lines += [*([""] if lines else []), *part, *([f"  … {left} more: --all"] * (left > 0))]
        return lines

    while not everything and not fits(shown()):
        longest = max(kept, key=lambda part: sum(map(_rows, part)))
        if len(longest) <= _LEAST_OF_SECTION:
            break
        longest.pop()
    return shown()


_LEAST_OF_SECTION: Final = 3
"""A heading, the headings of its columns, and one row."""


def last(lines: Sequence[str]) -> list[str]:
    """The last lines that fit the terminal; all of them where stdout is none."""
    if width() is None:
        return list(lines)
    kept: list[str] = []
    for line in reversed(lines):
        if not fits([*kept, line]):
            break
        kept.append(line)
    return kept[::-1]
