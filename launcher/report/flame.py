"""A flame graph as one SVG, without script: width is time, a row down is a call deeper. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final
from xml.sax.saxutils import escape

from launcher.documents.comparison import Frame
from launcher.report import formatting

WIDTH: Final = 960.0
ROW: Final = 17
LETTER: Final = 6.2
"""Width of a letter of the labels, which are 10.5 pixels high."""
DEEPEST: Final = 60
HUES: Final = ("#e8743b", "#f0a04b", "#d9563f", "#eebb55")


def graph(frames: Sequence[Frame]) -> str:
    """The drawing of `Profile.frames`; empty where there are none."""
    if not frames:
        return ""
    bars = list(_bars(frames, 0.0, 0))
    height = ROW * (1 + max(depth for _, _, depth in bars))
    drawn = "".join(_bar(frame, at, depth) for frame, at, depth in bars)
    return (
        f'<svg class="flame" viewBox="0 0 {WIDTH:g} {height}" role="img"'
        f' aria-label="Flame graph of the engine" font-size="10.5">{drawn}</svg>'
    )


def _bars(frames: Iterable[Frame], at: float, depth: int) -> Iterator[tuple[Frame, float, int]]:
    if depth >= DEEPEST:
        return
    for frame in frames:
        yield frame, at, depth
        yield from _bars(frame.frames, at, depth + 1)
        at += frame.share


def _bar(frame: Frame, at: float, depth: int) -> str:
    share = frame.share
    name = formatting.plain(frame.name)
    x, width, y = at * WIDTH, share * WIDTH, depth * ROW
    room = int((width - 6) / LETTER)
    label = name if len(name) <= room else f"{name[: max(0, room - 1)]}…" if room > 3 else ""
    hue = HUES[sum(name.encode()) % len(HUES)]
    text = f'<text x="{x + 3:.1f}" y="{y + 12}" fill="#1b1b1b">{escape(label)}</text>'
    return (
        f"<g><title>{escape(name)}: {share:.1%}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(0.5, width - 0.6):.1f}" height="{ROW - 1}"'
        f' rx="1" fill="{hue}"/>{text if label else ""}</g>'
    )
