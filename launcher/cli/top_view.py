"""How a look of `top` reads: as plain lines, or drawn for a terminal of 80 columns and more."""

from __future__ import annotations

from collections.abc import Sequence

from launcher.cli.full_screen import cut, printable
from launcher.cli.result import table
from launcher.cli.screen import BOLD, DIM, GREEN, RED, YELLOW, styled
from launcher.documents.look import Look, ServiceLook
from launcher.units import counted

HEADINGS = (
    *("SERVICE", "STATE", "PORT", "UP", "RAM", "GPU", "CPU%", "TEXT/S", "MS", "QUEUE", "REST"),
)
_GOOD = {"ready"}
_BAD = {"failed", "unknown", "degraded", "backoff"}


def plain(found: Look) -> list[str]:
    """A look as text, a line a service and one for its processes."""
    services = found.services
    if not services:
        return ["no services are running"]
    lines = table(HEADINGS, [cells(row) for row in services])
    out = lines[:1]
    for row, line in zip(services, lines[1:], strict=True):
        out += [line, *(f"  {text}" for text in more(row))]
    return out


def cells(row: ServiceLook) -> tuple[str, ...]:
    """One service: what stands in the columns."""
    return (
        row.service,
        row.state,
        port(row.endpoint),
        duration(row.uptime_s),
        memory(row.ram.bytes),
        memory(row.gpu.bytes),
        number(row.cpu_percent),
        number(row.rate.texts_per_s),
        number(row.latency.ms),
        number(row.queue.requests),
        number(row.restarts),
    )


def more(row: ServiceLook) -> list[str]:
    """What does not fit into the columns: processes, where the latency is from, what is wrong."""
    parts = [f"{role} {memory(used)}" for role, used in row.ram.by_process.items()]
    parts += [f"{role} GPU {memory(used)}" for role, used in row.gpu.by_process.items()]
    if row.ram.bytes is not None and row.ram.method != "pss":
        parts.append(f"RAM by {row.ram.method}")
    if row.latency.ms is not None:
        age = row.latency.age_s
        checked = f"check {duration(age)} ago" if isinstance(age, float) else "the smoke"
        parts.append(f"ms: {checked}")
    cache = row.cache or None
    if cache is not None and cache.hit_rate is not None:
        parts.append(f"cache {cache.hit_rate:.0%} of {cache.inputs}")
    lines = ["  ".join(parts)] if parts else []
    if cache is not None and cache.problem:
        lines.append(cache.problem)
    if row.detail and row.state not in _GOOD:
        lines.append(row.detail)
    gpu = row.gpu
    if gpu.bytes is None and gpu.reason not in {"the plan uses no GPU", "no engine runs"}:
        lines.append(f"GPU unavailable: {gpu.reason}")
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


def screen(found: Look, width: int, height: int, *, colour: bool = True) -> list[str]:
    """A look as lines for a terminal, no wider and no higher than it."""
    services = found.services
    rows = _rows(services, width) if services else [[("no services are running", "")]]
    lines = [[("qlaunch top", BOLD), (f"  {found.at[11:19]} UTC", DIM)], [], *rows]
    if len(lines) > height - 1:
        hidden = len(lines) - (height - 2)
        lines = [*lines[: height - 2], [(f"… {counted(hidden, 'more line')}", DIM)]]
    return [_drawn(line, width, colour=colour) for line in lines]


Part = tuple[str, str]
"""Text and its style."""


def _rows(services: Sequence[ServiceLook], width: int) -> list[list[Part]]:
    """Aligned columns, the name cut where they would not fit; under each service what is more."""
    rows = [list(HEADINGS), *(list(cells(row)) for row in services)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(HEADINGS))]
    rest = sum(widths[1:]) + len(widths) - 1
    widths[0] = min(widths[0], max(6, width - rest))
    lines: list[list[Part]] = [[(_aligned(rows[0], widths), BOLD)]]
    for row, texts in zip(services, rows[1:], strict=True):
        line = _aligned(texts, widths)
        begin = widths[0] + 1
        end = begin + len(row.state)
        state = (line[begin:end], _style(row.state))
        lines.append([(line[:begin], ""), state, (line[end:], "")])
        lines += [[(f"  {printable(text)}", DIM)] for text in more(row)]
    return lines


def _drawn(parts: list[Part], width: int, *, colour: bool) -> str:
    """Parts one after the other, cut where the terminal ends."""
    rest = cut("".join(text for text, _ in parts), width)
    line = ""
    for text, style in parts:
        piece, rest = rest[: len(text)], rest[len(text) :]
        line += styled(piece, style) if colour and style and piece else piece
    return line


def _aligned(texts: list[str], widths: list[int]) -> str:
    """Text to the left in the first two columns, figures to the right."""
    first = texts[0] if len(texts[0]) <= widths[0] else f"{texts[0][: widths[0] - 1]}…"
    cut = [first, *texts[1:]]
    return " ".join(
        text.ljust(size) if at < 2 else text.rjust(size)
        for at, (text, size) in enumerate(zip(cut, widths, strict=True))
    )


def _style(state: str) -> str:
    return GREEN if state in _GOOD else RED if state in _BAD else YELLOW
