"""How measurements read to a person, and what they are as the result of a command. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from launcher.bench.lengths import TOO_FEW
from launcher.cli.result import Problem, Result, Status, table
from launcher.documents.comparison import Level, Row
from launcher.documents.measurement import BenchResult
from launcher.errors import ExitCode
from launcher.hardware.idle import QUIET
from launcher.units import length, size


def name(of: Level | Row) -> str:
    """`16 clients, 4 × 128 tokens`: a level, or that of a row."""
    many = f"{of.clients} client{'s' if of.clients > 1 else ''}"
    load = many if of.rate is None else f"{of.rate:g}/s"
    return f"{load}, {of.batch} × {length(of.tokens, of.shortest)} tokens"


def brief(row: Row) -> str:
    """One row in a line: what it gave, or why it gave nothing."""
    if row.p50_ms is None:
        return row.reason or "not measured"
    said = f"p50 {figure(row.p50_ms)} ms, {figure(row.embeddings_per_s)} embeddings/s"
    return said + (f", {row.errors} failed" if row.errors else "")


def figure(value: float | None) -> str:
    """Three significant digits, never an exponent; `-` for None."""
    if value is None:
        return "-"
    return (
        f"{value:.{max(0, 3 - len(f'{abs(value):.0f}'))}f}" if abs(value) >= 1 else f"{value:.3f}"
    )


def rows_table(rows: Iterable[Row]) -> list[str]:
    """Rows in aligned columns; reasons below it."""
    found = list(rows)
    opened = any(row.rate for row in found)
    gpu = any(row.gpu_peak_bytes for row in found)
    failed = any(row.errors for row in found)
    headings = [
        "RATE/S" if opened else "CLIENTS",
        "BATCH",
        "TOKENS",
        *("MEAN MS", "P50", "P95", "P99", "N", "EMB/S", "TOKENS/S", "RAM"),
        *(["GPU"] if gpu else []),
        *(["ERRORS"] if failed else []),
    ]
    cells = []
    for row in found:
        measured = row.p50_ms is not None
        cells.append(
            [
                f"{row.rate:g}" if row.rate else row.clients,
                row.batch,
                length(row.tokens, row.shortest),
                *(figure(ms) for ms in (row.mean_ms, row.p50_ms, row.p95_ms, row.p99_ms)),
                row.requests if measured else "-",
                figure(row.embeddings_per_s),
                figure(row.tokens_per_s),
                size(row.ram_peak_bytes) if measured else "-",
                *([size(row.gpu_peak_bytes) if measured else "-"] if gpu else []),
                *([row.errors] if failed else []),
            ]
        )
    return table(headings, cells)


def stages_table(rows: Iterable[Row]) -> list[str]:
    """Where the time of a text goes, a line a level; nothing where no row has a profile."""
    seen = [(row, row.profile.stages) for row in rows if row.profile and row.profile.stages]
    if not seen:
        return []
    headings = ["MS A TEXT", *(each.name.upper() for each in seen[0][1])]
    cells = [
        [name(row), *(f"{figure(each.ms)} ({each.share:.0%})" for each in stages)]
        for row, stages in seen
    ]
    return ["", *table(headings, cells)]


def remarks(rows: Sequence[Row], idle: float | None) -> list[str]:
    """What a reader of the table must know besides its figures."""
    said = []
    if idle is not None and idle < QUIET:
        busy = f"the machine was busy before ({100 * idle:.0f} % idle)"
        said.append(f"{busy}: measure again when it is quiet")
    for row in rows:
        place = name(row)
        if row.reason:
            said.append(f"{place}: {row.reason}")
        if row.profile is not None and row.profile.reason is not None:
            said.append(f"{place}: no profile: {row.profile.reason}")
        if row.profile is not None and row.profile.behind:
            said.append(f"{place}: the sampler fell behind: shares stand, times are too low")
        if row.errors and row.error and row.error not in (row.reason or ""):
            said.append(f"{place}: {row.errors} failed, the first with: {row.error}")
        if row.saturated:
            used = f"{row.client_cpu_percent:.0f} % of a core"
            said.append(f"{place}: the client itself used {used}: the engine may be faster")
        if row.tokens_counted not in (None, row.tokens_asked or row.tokens):
            said.append(f"{place}: texts had {row.tokens_counted:g} tokens")
        if row.ram_peak_bytes is None and row.p50_ms is not None:
            why = row.memory_method.get("ram_reason", "no reason known")
            said.append(f"{place}: memory was not measured: {why}")
    return said


def result(found: BenchResult, levels: int, *, interrupted: bool = False) -> Result:
    """Rows as the result of `bench`: 0, 10 where some levels failed, 1 where all did, or 130."""
    rows = found.rows
    lines = [
        f"service   {found.service} ({found.profile}): {found.model}, {found.dtype}",
        f"engine    {found.release} {found.engine}, on the {found.device}",
        f"run       {found.run or '-'}",
        *rows_table(rows),
        *stages_table(rows),
        *remarks(rows, found.idle_before),
        *found.notes,
    ]
    problems = [
        Problem(
            "level_failed", f"{name(row)}: {row.reason or f'{row.errors} failed'}", _advice(row)
        )
        for row in rows
        if row.reason or row.errors
    ]
    code = ExitCode.OK
    if interrupted:
        code = ExitCode.INTERRUPTED
        done = sum(row.reason is None for row in rows)
        problems.insert(0, Problem("interrupted", f"interrupted: {done} of {levels} levels done"))
    elif problems:
        some = any(row.p50_ms is not None for row in rows)
        code = ExitCode.PARTIAL if some else ExitCode.UNEXPECTED
    if code is ExitCode.OK:
        return Result(data=found, lines=lines)
    status: Status = "error" if code is ExitCode.UNEXPECTED else "partial"
    return Result(data=found, lines=lines, exit_code=code, status=status, problems=tuple(problems))


def _advice(row: Row) -> str | None:
    """What to change, where the lengths asked for are what failed."""
    if TOO_FEW in (row.reason or ""):
        return "give longer texts with --tokens, or fewer with --requests"
    return None
