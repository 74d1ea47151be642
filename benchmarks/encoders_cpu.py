"""MiniLM on a CPU against ONNX Runtime in process: float32 and int8, as on AVX2 and as it is.

ONNX Runtime is called from Python with ids at hand, its vectors pooled and normalised; ours is a
server with a client, a tokenizer and JSON between. ENCODERS_ORT_PYTHON names a Python with torch,
transformers, onnx and onnxruntime; without it an environment is made in the cache.

AVX2 alone is shown by masks on our side and by a copy of onnxruntime that is told the same
(ort_worker.py).
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from benchmarks import machine
from benchmarks.client import engine_target, sound
from benchmarks.errors import BenchError
from benchmarks.figures import Relation, Report, Row, compared
from benchmarks.home import home, provide
from benchmarks.options import Options
from benchmarks.start import ENGINE, MODEL, PROFILE
from launcher.bench.load import Bounds, measure_level
from launcher.documents.comparison import Level
from launcher.paths import dirs

PYTHON: Final = "ENCODERS_ORT_PYTHON"
WORKER: Final = Path(__file__).with_name("ort_worker.py")
MASKS: Final = {
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
}
PACKAGES: Final = ("torch==2.13.0", "transformers", "onnx", "onnxruntime==1.32.0")
TOKENS, CLIENTS = 128, (1, 16)
EXPORT_LIMIT_S = 600.0


@dataclass(frozen=True)
class Side:
    """One row of contenders: how ours is asked, and which file ONNX Runtime computes."""

    name: str
    dtype: str
    file: str
    avx2: bool
    more: tuple[str, ...] = ()


SIDES: Final = (
    Side("float32, AVX2", "auto", "fused", avx2=True),
    Side("int8, AVX2", "int8", "int8_seven", avx2=True),
    Side("float32", "float32", "fused", avx2=False),
    Side("int8", "int8", "int8", avx2=False),
    Side("int8, two replicas", "int8", "int8", avx2=False, more=("--", "--dp-size", "2")),
)


@dataclass
class Seen:
    """What one side gave, by repeat: milliseconds of one text, texts a second of sixteen."""

    p50_ms: list[float] = field(default_factory=list)
    texts_per_s: list[float] = field(default_factory=list)
    ort_ms: list[float] = field(default_factory=list)
    ort_texts_per_s: list[float] = field(default_factory=list)
    worst_cosine: float | None = None
    ram_bytes: int | None = None


class Ort:
    """ONNX Runtime in an environment of its own, with MiniLM exported to a folder."""

    def __init__(self, model: str, folder: Path) -> None:
        self._python, self._folder = os.environ.get(PYTHON) or _environment(), folder
        self._call("export", model, str(folder))
        self._call("avx2", str(folder))

    def measure(self, side: Side, threads: int, seconds: float, seen: Seen) -> None:
        """Add the median of one text's time, and the rate of sixteen at once."""
        env = {"PYTHONPATH": str(self._folder)} if side.avx2 else {}
        file = self._folder / f"{side.file}.onnx"
        said = self._call("time", str(file), str(threads), str(seconds), env=env)
        found = json.loads(said.splitlines()[-1])["seconds"]
        seen.ort_ms.append(1000 * statistics.median(found["1"]))
        seen.ort_texts_per_s.append(16 / statistics.median(found["16"]))

    def _call(self, *words: str, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [self._python, str(WORKER), *words],
            env={**os.environ, **(env or {})},
            capture_output=True,
            text=True,
            timeout=EXPORT_LIMIT_S,
            check=False,
        )
        if done.returncode:
            raise BenchError(f"ONNX Runtime: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout


def _environment() -> str:
    """The Python of an environment with what is needed, made in the cache where there is none.

    Raises:
        BenchError: it could not be installed.
    """
    folder = dirs().cache / "bench-ort"
    python = folder / "bin" / "python"
    install = [str(python), "-m", "pip", "install", "--quiet", *PACKAGES]
    for command in ([sys.executable, "-m", "venv", str(folder)], install):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"ONNX Runtime: {done.stderr.strip().splitlines()[-1]}")
    return str(python)


def run(options: Options) -> Report:
    """Measure every side in turn, and return what was seen.

    Raises:
        BenchError: something did not start, or there is no ONNX Runtime.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, seen = machine.facts(), {side.name: Seen() for side in SIDES}
    with home() as place, tempfile.TemporaryDirectory(prefix="encoders-") as folder:
        model = str(place.data("plan", PROFILE)["model_path"])
        options.say("exporting for ONNX Runtime")
        ort = Ort(model, Path(folder))
        for side in SIDES:
            _measure(place, ort, side, options, facts, seen[side.name])
    return Report(
        benchmark="encoders_cpu",
        title="MiniLM on a CPU against ONNX Runtime in process",
        ours="`qlaunch up cpu-minilm`, over HTTP",
        other="ONNX Runtime, in process, graph fused",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions(),
        settings={"tokens": TOKENS, "clients": CLIENTS, "masks": MASKS},
        rows=tuple(row for side in SIDES for row in _rows(side, seen[side.name])),
        notes=(
            "ONNX Runtime's int8 takes a scale a batch: a text's vector changes with its company.",
            "AVX2: by masks, and by a copy of onnxruntime that finds no AVX-512.",
            "float32 on AVX2 is what `auto` gives there: weights kept in float16 (decision 125).",
        ),
        raw={name: msgspec.to_builtins(each) for name, each in seen.items()},
    )


def _measure(
    place: Any, ort: Ort, side: Side, options: Options, facts: dict[str, Any], seen: Seen
) -> None:
    seconds = 1.0 if options.quick else 4.0
    with masked(MASKS if side.avx2 else {}):
        options.say(f"{side.name}: starting")
        up = place.up("bench-encoders", PROFILE, "--dtype", side.dtype, *side.more)
        seen.worst_cosine = up.data["smoke"]["worst_cosine"]
        seen.ram_bytes = up.data["memory"]["measured"]["ram_peak_bytes"]
        target, texts = engine_target(place, up.data)
        for number in range(options.times(usual=3)):
            options.say(f"{side.name}: round {number + 1}")
            machine.look_again(facts)
            for clients in CLIENTS:
                level = Level(batch=1, clients=clients, tokens=TOKENS)
                bounds = Bounds(requests=5 * clients, seconds=seconds, limit_s=60.0)
                row = sound(measure_level(target, level, texts, bounds))
                if clients == 1:
                    seen.p50_ms.append(row.p50_ms or 0.0)
                else:
                    seen.texts_per_s.append(row.embeddings_per_s or 0.0)
            ort.measure(side, facts["threads"], seconds / 2, seen)
        place.down("bench-encoders")


def _rows(side: Side, seen: Seen) -> list[Row]:
    rate, wait = f"{side.name}: 16 clients", f"{side.name}: 1 client, p50"
    slower: Relation | None = "at most" if side.file == "fused" else None
    wanted = 1.3 if side.more else 1.0
    return [
        compared(rate, "texts/s", seen.texts_per_s, seen.ort_texts_per_s, "at least", wanted),
        compared(wait, "ms", seen.p50_ms, seen.ort_ms, slower, 1.25),
    ]


@contextlib.contextmanager
def masked(masks: Mapping[str, str]) -> Iterator[None]:
    """These variables in our own environment, which services inherit, for a while."""
    before = {name: os.environ.get(name) for name in masks}
    os.environ.update(masks)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
