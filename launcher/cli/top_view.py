"""How a look of `top` reads: as plain lines, or drawn for a terminal of 80 columns and more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.cli.result import table

if TYPE_CHECKING:
    from rich.text import Text

HEADINGS = (
    *("SERVICE", "STATE", "PORT", "UP", "RAM", "GPU", "CPU%", "TEXT/S", "MS", "QUEUE", "REST"),
)
_GOOD = {"ready"}
_BAD = {"failed", "unknown", "degraded", "backoff"}


def plain(found: dict[str, Any]) -> list[str]:
    """A look as text, a line a service and one for its processes."""
    services = found["services"]
    if not services:
        return ["no services are running"]
    lines = table(HEADINGS, [cells(row) for row in services])
    out = lines[:1]
    for row, line in zip(services, lines[1:], strict=True):
        out += [line, *(f"  {text}" for text in more(row))]
    return out


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """One service: what stands in the columns."""
    return (
        row["service"],
        row["state"],
        port(row["endpoint"]),
        duration(row["uptime_s"]),
        memory(row["ram"]["bytes"]),
        memory(row["gpu"]["bytes"]),
        number(row["cpu_percent"]),
        number(row["rate"]["texts_per_s"]),
        number(row["latency"]["ms"]),
        number(row["queue"]["requests"]),
        number(row["restarts"]),
    )


def more(row: dict[str, Any]) -> list[str]:
    """What does not fit into the columns: processes, where the latency is from, what is wrong."""
    parts = [f"{role} {memory(used)}" for role, used in row["ram"]["by_process"].items()]
    parts += [f"{role} GPU {memory(used)}" for role, used in row["gpu"]["by_process"].items()]
    if row["ram"]["bytes"] is not None and row["ram"]["method"] != "pss":
        parts.append(f"RAM by {row['ram']['method']}")
    latency = row["latency"]
    if latency["ms"] is not None:
        age = latency["age_s"]
        parts.append("ms: the smoke" if age is None else f"ms: check {duration(age)} ago")
    lines = ["  ".join(parts)] if parts else []
    if row["detail"] and row["state"] not in _GOOD:
        lines.append(row["detail"])
    gpu = row["gpu"]
    if gpu["bytes"] is None and gpu["reason"] not in {"the plan uses no GPU", "no engine runs"}:
        lines.append(f"GPU unavailable: {gpu['reason']}")
    return lines


def port(endpoint: str | None) -> str:
    """The port of an endpoint."""
    return endpoint.removesuffix("/v1").rpartition(":")[2] if endpoint else "–"


def memory(count: int | None) -> str:
    """Bytes in five characters: `1.11G`, `451M`."""
    if count is None:
        return "–"
    if count >= 1e11:
        return f"{count / 1e9:.0f}G"
    if count >= 1e9:
        return f"{count / 1e9:.{1 if count >= 1e10 else 2}f}G"
    return f"{count / 1e6:.0f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"


def number(value: float | None) -> str:
    """A figure in few characters; `–` where there is none."""
    if value is None:
        return "–"
    if isinstance(value, int) or value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}"


def duration(seconds: float | None) -> str:
    """A time in four characters: `42s`, `12m`, `3h`, `9d`."""
    if seconds is None:
        return "–"
    for limit, unit, length in ((120, "s", 1), (7200, "m", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 86400:.0f}d"


def screen(found: dict[str, Any], width: int, height: int) -> Text:
    """A look as rich draws it, no wider and no higher than the terminal."""
    from rich.text import Text

    services = found["services"]
    head = Text("qlaunch top", style="bold")
    head.append(f"  {found['at'][11:19]} UTC", style="not bold dim")
    lines = [head, Text("")]
    if services:
        lines += _rows(services, width)
    else:
        lines.append(Text("no services are running"))
    if len(lines) > height - 1:
        hidden = len(lines) - (height - 2)
        lines = [*lines[: height - 2], Text(f"… {hidden} more lines", style="dim")]
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return Text("\n").join(lines)


def _rows(services: list[dict[str, Any]], width: int) -> list[Text]:
    """Aligned columns, the name cut where they would not fit; under each service what is more."""
    from rich.text import Text

    rows = [list(HEADINGS), *(list(cells(row)) for row in services)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    rest = sum(widths[1:]) + len(widths) - 1
    widths[0] = min(widths[0], max(6, width - rest))
    lines = [Text(_aligned(rows[0], widths), style="bold")]
    for row, texts in zip(services, rows[1:], strict=True):
        line = Text(_aligned(texts, widths))
        at = widths[0] + 1
        line.stylize(_style(row["state"]), at, at + len(row["state"]))
        lines += [line, *(Text(f"  {text}", style="dim") for text in more(row))]
    return lines


def _aligned(texts: list[str], widths: list[int]) -> str:
    """Text to the left in the first two columns, figures to the right."""
    first = texts[0] if len(texts[0]) <= widths[0] else f"{texts[0][: widths[0] - 1]}…"
    cut = [first, *texts[1:]]
    return " ".join(
        text.ljust(size) if at < 2 else text.rjust(size)
        for at, (text, size) in enumerate(zip(cut, widths, strict=True))
    )


def _style(state: str) -> str:
    return "green" if state in _GOOD else "red" if state in _BAD else "yellow"
