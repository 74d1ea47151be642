"""How figures and foreign text read in a report. A figure that was not measured is a dash."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from launcher import units
from launcher.documents.comparison import Level, Row, Spread
from launcher.documents.run_diff import MeasuredLevel
from launcher.record.scrub import terminal_safe

ABSENT = "–"
"""Stands where nothing was measured; never 0."""
NOT_MEASURED = "not measured"
"""Said in place of a row's figures."""

OUTCOMES = {
    "measured": "measured",
    "partial": "measured in part",
    "failed": "failed",
    "cannot_run": "cannot run here",
    "not_reached": "not reached",
}


def size(count: float | None) -> str:
    """Bytes: `1.30 GB`, `451 MB`."""
    return ABSENT if count is None else units.size(count)


def figure(value: float | None) -> str:
    """A number with three significant digits, thousands set apart: `0.123`, `12.3`, `5 369`.

    Counts stay whole: `0`, `16`.
    """
    if value is None:
        return ABSENT
    if isinstance(value, int) and abs(value) < 1000:
        return str(value)
    if abs(value) >= 1000:
        return f"{value:,.0f}".replace(",", "\u202f")
    if abs(value) >= 100:
        return f"{value:.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 1 or value == 0 else f"{value:.3g}"


def seconds(value: float | None) -> str:
    """A time: `10.3 s`, `2 min 5 s`, `3 h 12 min`, `4 d 3 h`."""
    if value is None:
        return ABSENT
    if value < 120:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 172800:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def plain(value: object) -> str:
    """Text of whatever origin, fit for one line of a page: no control characters."""
    return terminal_safe("" if value is None else str(value)).replace("\n", " ").strip()


def level_of(row: Row | MeasuredLevel) -> Level:
    """The level that a row of `bench` was measured at."""
    return Level(
        loop=row.loop,
        clients=row.clients,
        batch=row.batch,
        tokens=row.tokens,
        shortest=row.shortest,
        rate=row.rate,
    )


def level(found: Level) -> str:
    """A level of load: `16 clients × batch 4, 128 tokens`."""
    who = units.counted(found.clients, "client")
    if found.loop == "open":
        who = f"{found.rate or 0:g} requests/s"
    tokens = units.length(found.tokens, found.shortest, to=" to ")
    return f"{who} × batch {found.batch}, {tokens} tokens"


def short_level(found: Level) -> str:
    """The same beside a mark of a plot: `16×4`."""
    if found.loop == "open":
        return f"{found.rate or 0:g}/s×{found.batch}"
    return f"{found.clients}×{found.batch}"


def spread(found: Spread | None) -> tuple[str, str]:
    """A figure over its repeats: the median, and `least to most` where they were several."""
    if found is None:
        return ABSENT, ""
    text = figure(found.median)
    if found.count < 2:
        return text, ""
    return text, f"{figure(found.least)} to {figure(found.most)}"


_MARKDOWN = re.compile(r"([\\`*\[\]|])")


def markdown(value: object) -> str:
    """Text as it may stand in a cell of a Markdown table: no markup, no HTML."""
    text = plain(value).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKDOWN.sub(r"\\\1", text)


def code(value: object) -> str:
    """Text as inline code in Markdown, whatever backquotes it holds."""
    text = plain(value)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}" if text else ""


def markdown_table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, left: int = 1
) -> list[str]:
    """Rows as a Markdown table; the first `left` columns are text, the others figures."""
    marks = ["---"] * left + ["---:"] * (len(headings) - left)
    lines = [headings, marks, *([markdown(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def csv_text(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV (RFC 4180); what was not measured is empty.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(headings)
    for row in rows:
        writer.writerow([_csv_cell(cell) for cell in row])
    return out.getvalue()


def _csv_cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = plain(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
