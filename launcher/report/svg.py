"""A figure of matplotlib as SVG that lives inside a page: its text is text, its colours the page's.

The page decides colours, light or dark, by CSS variables, which matplotlib does not know. So a
figure is drawn in stand-in colours that are put in their place afterwards. The same figure gives
the same bytes: no dates, ids from a fixed salt.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from launcher import extras
from launcher.paths import dirs

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT, WARN = "#010101", "#010102", "#010103"
SERIES = tuple(f"#0102{number:02x}" for number in range(1, 9))
"""Stand-ins, in the order of the page's `--s1` … `--s8`; no figure uses such colours otherwise."""
MARKERS = "osD^vPX*"
"""A shape for each series, too: colours alone are not told apart by everybody, nor in print."""

_VARIABLES = {
    INK: "currentColor",
    FAINT: "var(--grid)",
    WARN: "var(--warn)",
    **{stand_in: f"var(--s{number})" for number, stand_in in enumerate(SERIES, 1)},
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "qlaunch",
    "text.parse_math": False,
    "text.color": INK,
    "font.family": ["DejaVu Sans"],
    "font.size": 11,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.8,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "legend.frameon": False,
    "legend.fontsize": 10,
}


def series(number: int) -> str:
    """The stand-in colour of a series; they begin again after eight."""
    return SERIES[number % len(SERIES)]


def marker(number: int) -> str:
    """The mark of a series."""
    return MARKERS[number % len(MARKERS)]


def draw(
    name: str,
    paint: Callable[[Figure, Axes], object],
    *,
    title: str,
    description: str,
    height: float,
    width: float = 8.4,
) -> str:
    """Paint a figure and return it as an `<svg>` element; without matplotlib, its words instead.

    Args:
        name: unique in its page; its ids begin with it.
        paint: draws on the axes it is given.
        title: what it shows, for those who do not see it.
        description: the same at more length: the figures in words.
        height: inches, at 72 units an inch.
        width: inches.
    """
    # Its cache of fonts goes where ours are, not into a folder of its own in the user's home.
    os.environ.setdefault("MPLCONFIGDIR", str(dirs().cache / "matplotlib"))
    # Where it cannot be written they lie in a temporary folder, which is not worth two lines.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    lacking = extras.lacking("report")
    if lacking is not None:
        how = f"Not drawn: {lacking.message}. To draw it: {lacking.fix}"
        return f"<p>{escape(title)}: {escape(description)}</p><p>{escape(how)}</p>"
    with _matplotlib() as figure_class:
        figure = figure_class(figsize=(width, height), layout="constrained")
        paint(figure, figure.add_subplot())
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing)
    return _inline(out.getvalue(), name, title, description)


_LABEL_PT = 9
_CHARACTER = 0.64
"""Width of a character of a label, in its height: DejaVu's digits have 0.636, and the page's own
sans-serif is not wider."""
_MARK_PT = 5.0
"""Half a mark."""
_PLACES = tuple(
    (x * distance, y * distance)
    for distance in (1.0, 2.2, 3.6)
    for x, y in ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1.6), (0, -1.6), (1.4, 0), (-1.4, 0))
)
"""Where a label may stand, nearest first: to the right of its mark (1) or the left (-1), above or
below it, in units of the mark's own half."""

Box = tuple[float, float, float, float]


def place_labels(
    figure: Figure, axes: Axes, labels: Sequence[tuple[str, float, float]]
) -> list[str]:
    """Write labels beside their marks so that none lies on another one or on a mark.

    What has no place is left out: the page's table has it. To be called when everything else of the
    figure is there; returns what was left out.

    Args:
        figure: whose layout decides where a mark is.
        axes: of the marks.
        labels: text and position in data units.
    """
    figure.draw_without_rendering()
    figure.draw_without_rendering()  # the layout moves a little once more when it is done again
    scale = 72 / figure.dpi
    at = [scale * axes.transData.transform((x, y)) for _, x, y in labels]
    whole = scale * axes.bbox.get_points()
    frame: Box = (*whole[0], *whole[1])
    taken: list[Box] = [(x - _MARK_PT, y - _MARK_PT, x + _MARK_PT, y + _MARK_PT) for x, y in at]
    left_out = []
    for (text, x, y), (left, bottom) in zip(labels, at, strict=True):
        width, height = len(text) * _LABEL_PT * _CHARACTER, _LABEL_PT * 1.35
        for shift in _PLACES:
            box = _beside(left, bottom, width, height, shift)
            if _inside(box, frame) and not any(_overlap(box, other) for other in taken):
                break
        else:
            left_out.append(text)
            continue
        taken.append(box)
        label = axes.annotate(
            text,
            (x, y),
            xytext=((box[0] + box[2]) / 2 - left, (box[1] + box[3]) / 2 - bottom),
            textcoords="offset points",
            fontsize=_LABEL_PT,
            ha="center",
            va="center",
        )
        label.set_in_layout(False)
    return left_out


def _beside(x: float, y: float, width: float, height: float, shift: tuple[float, float]) -> Box:
    """The box of a label beside a mark at `x`, `y`; points."""
    right, up = shift
    middle_x = x + right * _MARK_PT + (right > 0) * width / 2 - (right < 0) * width / 2
    middle_y = y + up * _MARK_PT + (up > 0) * height / 2 - (up < 0) * height / 2
    return (
        middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2
    )  # fmt: skip


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _inside(box: Box, frame: Box) -> bool:
    """Whether a label stays within the axes, a little more to the right and above."""
    room = 2 * _LABEL_PT
    return (
        frame[0] <= box[0]
        and frame[1] <= box[1]
        and box[2] <= frame[2] + room
        and box[3] <= frame[3] + room
    )


@contextmanager
def _matplotlib() -> Iterator[Any]:
    """Matplotlib in our style, whatever the user's own configuration says."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield Figure


def _inline(text: str, name: str, title: str, description: str) -> str:
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'xlink:href="#', f'href="#{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    text = re.sub(r"#0(?:10[12]\d\d)\b", lambda found: _VARIABLES[found[0]], text)
    text = re.sub(r"'DejaVu Sans'", "system-ui, 'DejaVu Sans', sans-serif", text)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None  # matplotlib always gives one
    head = (
        f'<svg {box[0]} role="img" aria-labelledby="{name}-title {name}-desc">'
        f'<title id="{name}-title">{escape(title)}</title>'
        f'<desc id="{name}-desc">{escape(description)}</desc>'
    )
    return head + text[text.index(">") + 1 :]
