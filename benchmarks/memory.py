"""Predicted memory against the measured peak: three checkpoints at three sizes of KV cache each.

Every figure is a life of its own: `up` until verified, then the record's own two figures. The home
is fresh, so the first lives judge the shipped terms, and the later ones what the host's own runs
have taught it, as on a user's machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.figures import Report, Row, compared, spread
from benchmarks.home import Home, home, provide
from benchmarks.options import Options
from benchmarks.start import ENGINE, MODEL

SMALL, LARGE = (8192, 32768, 131072), (2048, 8704, 24576)
WITHIN = 0.10
_MB = 1e6


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start.
    """
    # Needs numpy and tokenizers, which only those who work on qlaunch have.
    from tests.checkpoints import make_qwen3, make_qwen3_06b_shape

    provide(options.say, engine=ENGINE, model=MODEL)
    facts = machine.facts()
    rows: list[Row] = []
    raw: dict[str, Any] = {}
    with home() as place:
        tiny = make_qwen3(place.root / "qwen3-tiny")
        large = make_qwen3_06b_shape(place.root / "qwen3-0.6b-shape")
        cases: list[tuple[str, tuple[str, ...], tuple[int, ...]]] = [
            ("all-MiniLM-L6-v2", ("cpu-minilm",), SMALL),
            ("tiny Qwen3", _qwen(tiny), SMALL),
            ("Qwen3-0.6B's shape", _qwen(large), LARGE),
        ]
        for name, asked, sizes in cases:
            for tokens in sizes[:1] if options.quick else sizes:
                options.say(f"{name}, {tokens} tokens")
                found = _life(place, asked, tokens)
                raw[f"{name}, {tokens}"] = found
                rows.append(_row(f"{name}, KV cache of {tokens} tokens", found))
        own = place.data("plan", "cpu-minilm")
    return Report(
        benchmark="memory",
        title="Predicted memory against the measured peak",
        ours="predicted",
        other="measured (PSS of the engine's processes)",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions({"sglang": str(own["engine"]["version"])}),
        settings={"within": WITHIN},
        rows=tuple(rows),
        notes=_notes(own),
        raw=raw,
    )


def _qwen(path: Path) -> tuple[str, ...]:
    return ("cpu-qwen3-0.6b", "--model", str(path))


def _life(place: Home, asked: tuple[str, ...], tokens: int) -> dict[str, Any]:
    up = place.up("bench-memory", *asked, "--", "--max-total-tokens", str(tokens))
    record = place.run_record(str(up.data["run"]))
    place.down("bench-memory")
    predicted = record["plan"]["predicted"]
    return {
        "predicted_bytes": predicted["ram_bytes"],
        "measured_bytes": record["verified_peak"]["ram_peak_bytes"],
        "method": record["verified_peak"]["method"]["ram"],
        "terms": predicted["terms"],
    }


def _row(name: str, found: dict[str, Any]) -> Row:
    row = compared(name, "MB", [found["predicted_bytes"] / _MB], [found["measured_bytes"] / _MB])
    assert row.ratio is not None  # compared() always gives one
    error = abs(row.ratio.median - 1)
    return Row(
        name=row.name,
        unit=row.unit,
        ours=row.ours,
        other=row.other,
        ratio=spread([row.ratio.median]),
        wanted=f"within {WITHIN:.0%}",
        ok=error <= WITHIN,
    )


def _notes(own: dict[str, Any]) -> tuple[str, ...]:
    learnt = [reason for reason in own["reasons"] if "on this host" in reason]
    return (
        "Peak of the whole process tree from the start until the vectors were proved right.",
        "From the fourth life on, the engine's own share is what this host measured before.",
        *(f"After these runs a plan says: {reason}." for reason in learnt),
    )
