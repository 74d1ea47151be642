"""The plugin's own layers of a decoder on a CPU, beside what their products alone take.

`python -m benchmarks.decoders_cpu [--engine DIR] [--out FILE]`: layers of Qwen3-Embedding-0.6B's
shape, random weights, 16 texts of 128 tokens in one pass, no server. For each number format, under
no mask and kept to AVX2: milliseconds a layer, of the layer's linear layers alone (the limit of the
matrix products: the same operator, packed weights and shapes), and texts a second that 28 such
layers give. Rounds take the formats in turn; the least time counts. On
one thread (`--threads 1`) it is processor time, and stands beside other work.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click

from benchmarks import machine
from benchmarks.errors import BenchError
from launcher.engine import command
from launcher.engine.releases import release
from launcher.paths import dirs

INSIDE = Path(__file__).with_name("decoders_inside.py")
AVX2 = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}
RUNS: dict[str, tuple[dict[str, str], tuple[str, ...]]] = {
    "none": ({}, ("bfloat16", "int8", "float32")),
    "AVX2": (AVX2, ("float32", "int8")),
}
"""Masks and the formats to measure under each."""
LAYERS = 28
TEXTS = 16


def measure(
    engine: Path, mask: dict[str, str], formats: tuple[str, ...], rounds: int, threads: int
) -> Any:
    """What one process of the engine's Python measured.

    Raises:
        BenchError: it failed; with the end of what it wrote.
    """
    env = dict(os.environ) | command.base_environment(release("cpu"), plugin=True) | mask
    done = subprocess.run(
        [str(engine / "bin" / "python"), str(INSIDE), str(rounds), *formats],
        env=env | {"OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchError(f"{INSIDE.name} ended with {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)


def row(found: dict[str, float]) -> dict[str, float]:
    """The figures of one format, from milliseconds of a layer and of its products."""
    seconds = found["layer_ms"] * LAYERS / 1000
    return {
        **found,
        "of_limit": round(found["linears_ms"] / found["layer_ms"], 3),
        "texts_per_s": round(TEXTS / seconds, 2),
        "limit_texts_per_s": round(TEXTS / (found["linears_ms"] * LAYERS / 1000), 2),
    }


@click.command()
@click.option("--engine", type=click.Path(path_type=Path), help="Folder of the engine cpu.")
@click.option("--out", type=click.Path(path_type=Path), help="Where the raw results go.")
@click.option("--rounds", default=5, show_default=True)
@click.option("--threads", type=int, help="Default: as many as there are processors.")
def main(engine: Path | None, out: Path | None, rounds: int, threads: int | None) -> None:
    """Measure, print, and write the raw results."""
    engine = engine or dirs().engines / "cpu"
    result: dict[str, Any] = {"at": machine.now(), "machine": machine.facts(), "masks": {}}
    threads = threads or int(result["machine"]["threads"])
    result |= {"threads": threads, "clock": "processor time" if threads == 1 else "wall"}
    for name, (mask, formats) in RUNS.items():
        found = measure(engine, mask, formats, rounds, threads)
        result["torch"] = found.pop("torch")
        result["masks"][name] = {each: row(figures) for each, figures in found.items()}
        machine.look_again(result["machine"])
    text = json.dumps(result, indent=2) + "\n"
    if out:
        out.write_text(text, encoding="utf-8")
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
