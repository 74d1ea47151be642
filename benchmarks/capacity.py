"""`python -m benchmarks.capacity`: the tables of docs/scale.md, from recorded figures and a model.

Costs are fitted to some recorded figures; others of the same machine are predicted and shown beside
what was measured. The same costs then say what larger rates take.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.figures import Report
from benchmarks.queueing import Costs, Load, Point, Shape, calibrate, closed_loop, open_loop

ROOT: Final = Path(__file__).resolve().parents[1]
PAGE: Final = ROOT / "docs" / "scale.md"
RESULTS: Final = ROOT / "benchmarks" / "results"
RATES: Final = (1_000, 100_000, 10_000_000)
BUSY: Final = 0.7
"""Of its most, what a machine is asked for: the rest is for bursts and for one that is down."""
TEXT_BYTES: Final = 600
"""Of a text of 128 tokens, at four to five bytes a token."""
FLOAT_BYTES: Final = 16 / 3
"""Of a number of a vector in base64."""
GATEWAY_TEXTS_PER_S: Final = 16 / 0.00048
"""Of a gateway at most: hits of 16 texts took 0.48 ms (docs/decisions.md)."""

ONE_INT8: Final = Shape(replicas=1, threads=1, cores=2)
TWO_INT8: Final = Shape(replicas=2, threads=1, cores=2)
BF16: Final = Shape(replicas=1, threads=2, cores=2)
BEGIN: Final = Costs(front_s=0.002, batch_s=0.005, text_s=0.005)


@dataclass(frozen=True)
class Held:
    """A figure that the model was not fitted to."""

    what: str
    measured: float
    model: float
    unit: str

    @property
    def error(self) -> float:
        """How far the model is off, relative."""
        return self.model / self.measured - 1


@cache
def int8() -> Costs:
    """MiniLM in int8, one thread a replica: docs/comparison.md, measured on two Zen 5 cores."""
    return calibrate(
        [
            Point(TWO_INT8, Load(1), p50_s=0.0133),
            Point(ONE_INT8, Load(16), texts_per_s=173.3),
            Point(TWO_INT8, Load(16), texts_per_s=224.8),
        ],
        BEGIN,
    )


def _agreement() -> dict[int, tuple[float, float]]:
    """Texts/s and p50 (s) by clients, medians of five: one replica in bfloat16, two threads."""
    rows = json.loads((RESULTS / "agreement.json").read_text("utf-8"))["rows"]
    figures = {row["name"]: row["ours"]["median"] for row in rows}
    return {
        clients: (figures[f"{name}: throughput"], figures[f"{name}: p50"] / 1000)
        for clients, name in ((1, "1 client"), (4, "4 clients"), (16, "16 clients"))
    }


@cache
def bf16() -> Costs:
    """MiniLM in bfloat16, two threads: results/agreement.json; the front is that of `int8`."""
    recorded = _agreement()
    return calibrate(
        [
            Point(BF16, Load(1), p50_s=recorded[1][1]),
            Point(BF16, Load(16), texts_per_s=recorded[16][0]),
        ],
        Costs(int8().front_s, 0.005, 0.005),
        fixed=("front_s",),
    )


def held() -> list[Held]:
    """Recorded figures of one and two replicas that nothing was fitted to."""
    recorded = _agreement()
    four = closed_loop(bf16(), BF16, Load(4))
    one = closed_loop(int8(), ONE_INT8, Load(16))
    two = closed_loop(int8(), TWO_INT8, Load(1, texts=4))
    return [
        Held("one replica, 4 clients: texts/s", recorded[4][0], four.texts_per_s, ""),
        Held("one replica, 4 clients: p50", recorded[4][1] * 1000, four.p50_s * 1000, " ms"),
        Held("one replica (int8), 16 clients: p95", 96.0, one.p95_s * 1000, " ms"),
        Held("two replicas (int8), one request of 4 texts: p50", 24.6, two.p50_s * 1000, " ms"),
    ]


@dataclass(frozen=True)
class Machine:
    """Something that serves, and where its figures come from."""

    name: str
    costs: Costs
    shape: Shape
    dimensions: int

    @property
    def most(self) -> float:
        """Texts/s that it answers at most: with 128 requests under way."""
        return closed_loop(self.costs, self.shape, Load(128), requests=4000).texts_per_s

    @property
    def asked(self) -> float:
        """Texts/s that it is asked for."""
        return BUSY * self.most


def _article(one_ms: float, four_ms: float) -> Costs:
    """From the article's means for batches of 1 and 4 texts, taken as a straight line."""
    text = (four_ms - one_ms) / 3
    front = int8().front_s
    return Costs(front, (one_ms - text) / 1000 - front, text / 1000)


def machines() -> list[Machine]:
    """What the tables are about."""
    card = Shape()
    return [
        Machine("`cpu-minilm`, bfloat16, 2 cores (measured)", bf16(), BF16, 384),
        Machine("`cpu-minilm`, int8, 2 replicas, 2 cores (measured)", int8(), TWO_INT8, 384),
        Machine("Qwen3-0.6B, T4, fp16 (the article)", _article(48, 62), card, 1024),
        Machine("Qwen3-0.6B, T4, layer-wise offload (the article)", _article(210, 245), card, 1024),
    ]


def check_table() -> list[str]:
    """Predicted beside measured."""
    rows = ["| figure | measured | model | off by |", "|---|---|---|---|"]
    for each in held():
        model = f"{each.model:.3g}{each.unit}"
        rows.append(
            f"| {each.what} | {each.measured:.3g}{each.unit} | {model} | {each.error:+.0%} |"
        )
    return rows


def machines_table() -> list[str]:
    """Machines for each rate, and hours for a million vectors."""
    heads = [f"for {rate:,}/s" for rate in RATES]
    rows = [f"| one machine | at most | p95 at {BUSY:.0%} | {' | '.join(heads)} | h a million |"]
    rows.append("|---|---|---|" + "---|" * (len(RATES) + 1))
    for each in machines():
        at = open_loop(each.costs, each.shape, each.asked)
        counts = [f"{_rounded(math.ceil(rate / each.asked)):,}" for rate in RATES]
        hours = 1e6 / each.asked / 3600
        most = f"{each.most:.3g}/s"
        rows.append(
            f"| {each.name} | {most} | {at.p95_s * 1000:.0f} ms | {' | '.join(counts)} "
            f"| {hours:.2g} |"
        )
    return rows


def limits_table() -> list[str]:
    """What else a rate needs, and so what ends first."""
    front = 1 / int8().front_s
    rows = ["| | one holds | " + " | ".join(f"{rate:,}/s" for rate in RATES) + " |"]
    rows.append("|---|---|" + "---|" * len(RATES))
    fronts = [f"{_rounded(math.ceil(rate / front)):,}" for rate in RATES]
    rows.append(f"| fronts (one thread each) | {_rounded(round(front))}/s | {' | '.join(fronts)} |")
    gateways = [f"{_rounded(math.ceil(rate / GATEWAY_TEXTS_PER_S)):,}" for rate in RATES]
    most = f"{_rounded(round(GATEWAY_TEXTS_PER_S)):,}/s"
    rows.append(f"| gateways, all hits, 16 texts a request | {most} | {' | '.join(gateways)} |")
    for dimensions in (384, 1024):
        size = TEXT_BYTES + dimensions * FLOAT_BYTES
        wires = [_bits(rate * size * 8) for rate in RATES]
        rows.append(
            f"| network, {dimensions} numbers | {size / 1000:.1f} kB a text | {' | '.join(wires)} |"
        )
    kept = [f"{_rounded(round(rate * 3600 * 384 * 4 / 1e9)):,} GB" for rate in RATES]
    rows.append(f"| cache of an hour's new texts, 384 numbers | 1.5 kB | {' | '.join(kept)} |")
    return rows


def curves_table() -> list[str]:
    """Predicted beside measured, by clients, as `python -m benchmarks.run scale` recorded it."""
    report = msgspec.json.decode((RESULTS / "scale.json").read_bytes(), type=Report)
    cells: dict[str, dict[str, str]] = {}
    missed = []
    for row in report.rows:
        if row.other is None or row.ratio is None:
            continue
        replicas, clients = row.name.removesuffix(" clients").split(", ")
        # The one whose rate costs are taken from is no prediction.
        off = f"{round(100 * (row.ratio.median - 1)) or 0:+d}%" if row.wanted else "taken from it"
        cells.setdefault(clients, {})[replicas] = (
            f"{row.other.median:.1f} | {row.ours.median:.1f} | {off}"
        )
        if row.wanted and not row.ok:
            missed.append(f"{row.name} ({off})")
    heads = [f"{name}: measured | model | off by" for name in ("one replica", "two replicas")]
    lines = [f"| clients | {' | '.join(heads)} |", "|" + "---|" * 7]
    for clients, found in cells.items():
        lines.append(f"| {clients} | {found['1 replica']} | {found['2 replicas']} |")
    machine, idle = report.machine, report.machine["idle_before"]
    return [
        *lines,
        "",
        f"{machine['cpu']}, {machine['threads']} threads, {report.made[:10]}.",
        f"The processors were at least {100 * idle:.0f} % idle before each round.",
        f"More than 10 % off: {'; '.join(missed)}."
        if missed
        else "All predictions are within 10 %.",
    ]


def _rounded(number: int) -> int:
    """Two digits: the figures behind it have no more."""
    if number < 100:
        return number
    places = 2 - len(str(number))
    return int(round(number, places))


def _bits(per_s: float) -> str:
    unit, name = (1e9, "Gbit/s") if per_s >= 1e9 else (1e6, "Mbit/s")
    return (
        f"{_rounded(round(per_s / unit))} {name}"
        if per_s >= 10 * unit
        else f"{per_s / unit:.1f} {name}"
    )


def filled(text: str) -> str:
    """The page with its tables made again."""
    tables = {
        "check": check_table,
        "curves": curves_table,
        "machines": machines_table,
        "limits": limits_table,
    }
    for name, make in tables.items():
        text = _between(text, name, make())
    return text


def _between(text: str, name: str, lines: Sequence[str]) -> str:
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    return pattern.sub(lambda _: "\n".join((begin, *lines, end)), text)


def main() -> None:
    """Write the page."""
    PAGE.write_text(filled(PAGE.read_text("utf-8")), encoding="utf-8")
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
