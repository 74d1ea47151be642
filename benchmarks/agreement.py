"""Our figures against those of SGLang's own `bench_serving`, on the same server, in turn.

It runs as it is, by the engine's own Python, with the same texts' length, encoding and number of
clients. Two things are given to it from outside the engine's environment: our texts as a data set
of its `custom` kind (its random ones are not exact), and an empty module `datasets`, which it
imports at its start for data sets that are not used here.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import machine
from benchmarks.client import engine_target, sound
from benchmarks.errors import BenchError
from benchmarks.figures import Report, Row, compared
from benchmarks.home import Home, home, provide
from benchmarks.options import Options
from benchmarks.start import ENGINE, MODEL, PROFILE
from launcher.bench.load import Bounds, Target, TextSource, measure_level
from launcher.documents.comparison import Level
from launcher.service.supervisor.engine_environment import engine_environment

WITHIN = 0.05
TOKENS = 128
CLIENTS = (1, 4, 16)
WARMUP = 5
LIMIT_S = 300.0
_STAND_IN = '''"""Stands in for a package that is imported and not used."""


def load_dataset(*args, **kwargs):
    raise NotImplementedError("data sets of this kind are not used here")
'''


@dataclass
class Figures:
    """What one tool said, by repeat."""

    per_s: list[float] = field(default_factory=list)
    p50_ms: list[float] = field(default_factory=list)


@dataclass
class Pair:
    """Both tools at one number of clients."""

    ours: Figures = field(default_factory=Figures)
    theirs: Figures = field(default_factory=Figures)


@dataclass(frozen=True)
class Other:
    """The other tool: its program, environment and files."""

    python: Path
    environment: Mapping[str, str]
    tokenizer: str
    folder: Path

    def measure(self, target: Target, texts: TextSource, clients: int, requests: int) -> Any:
        """Run it once; the document it wrote.

        Raises:
            BenchError: it failed, or some of its requests did.
        """
        data, out = self.folder / "texts.jsonl", self.folder / "out.jsonl"
        lines = [
            json.dumps({"conversations": [{"content": text}, {"content": "none"}]})
            for text in texts.take(requests, TOKENS)
        ]
        data.write_text("\n".join(lines) + "\n", encoding="utf-8")
        out.unlink(missing_ok=True)
        arguments = {
            "--backend": "sglang-embedding",
            "--base-url": target.url.removesuffix("/v1"),
            "--model": target.model,
            "--tokenizer": self.tokenizer,
            "--dataset-name": "custom",
            "--dataset-path": str(data),
            "--sharegpt-output-len": "4",
            "--num-prompts": str(requests),
            "--max-concurrency": str(clients),
            "--request-rate": "inf",
            "--warmup-requests": str(WARMUP),
            "--extra-request-body": json.dumps({"encoding_format": target.encoding}),
            "--output-file": str(out),
        }
        argv = [str(self.python), "-m", "sglang.benchmark.serving", "--disable-tqdm"]
        done = subprocess.run(
            argv + [word for pair in arguments.items() for word in pair],
            env=dict(self.environment),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        if done.returncode != 0 or not out.exists():
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise BenchError(f"bench_serving ended with {done.returncode}: {' '.join(last)}")
        found = json.loads(out.read_text(encoding="utf-8").splitlines()[-1])
        if found["completed"] != requests:
            raise BenchError(f"{found['completed']} of {requests} requests of bench_serving worked")
        return found


def run(options: Options) -> Report:
    """Measure, and return what was seen.

    Raises:
        BenchError: something did not start, or requests failed.
    """
    provide(options.say, engine=ENGINE, model=MODEL)
    facts, times = machine.facts(), options.times(usual=5)
    pairs: dict[int, Pair] = {}
    with home() as place:
        options.say("starting the engine")
        up = place.up("bench-agreement", PROFILE)
        target, texts = engine_target(place, up.data)
        target = replace(target, keep_alive=False)
        other = make_other(place, up.data["engine"])
        for number in range(times):
            for clients in CLIENTS:
                options.say(f"round {number + 1} of {times}: {clients} clients")
                machine.look_again(facts)
                requests = 40 if options.quick else 400 + 50 * clients
                pair = pairs.setdefault(clients, Pair())
                _one(pair, other, target, texts, clients, requests, ours_first=number % 2 == 0)
        version = str(up.data["engine"]["version"])
    return Report(
        benchmark="agreement",
        title="`qlaunch bench` against SGLang's own `bench_serving`",
        ours="`qlaunch bench`",
        other="`bench_serving --backend sglang-embedding`",
        made=machine.now(),
        quick=options.quick,
        machine=facts,
        versions=machine.versions({"sglang": version}),
        settings={"repeats": times, "tokens": TOKENS, "clients": CLIENTS, "within": WITHIN},
        rows=rows(pairs),
        notes=(
            (
                "The same running server, one tool after the other, the first of a pair in turn; "
                "one text of 128 tokens a request, base64."
            ),
            (
                "`bench_serving` opens a connection for every request, and so does ours here; it "
                "counts the reading of the JSON, ours checks answers off the clock."
            ),
        ),
        raw=msgspec.to_builtins(pairs, str_keys=True),
    )


def make_other(place: Home, engine: dict[str, Any]) -> Other:
    """`bench_serving` by the engine's own Python, with a folder of ours before its modules."""
    folder = place.root / "bench_serving"
    (folder / "modules").mkdir(parents=True, exist_ok=True)
    (folder / "modules" / "datasets.py").write_text(_STAND_IN, encoding="utf-8")
    path = os.pathsep.join([str(folder / "modules"), engine["env"].get("PYTHONPATH", "")])
    environment = engine_environment(
        os.environ,
        {**engine["env"], "PYTHONPATH": path, "HOME": str(folder)},
        ("QLAUNCH_BENCH", str(os.getpid())),
    )
    argv = list(engine["argv"])
    return Other(
        python=Path(argv[0]).with_name("python"),
        environment=environment,
        tokenizer=argv[argv.index("--model-path") + 1],
        folder=folder,
    )


def _one(
    pair: Pair,
    other: Other,
    target: Target,
    texts: TextSource,
    clients: int,
    requests: int,
    *,
    ours_first: bool,
) -> None:
    def ours() -> None:
        bounds = Bounds(requests=requests, limit_s=LIMIT_S, warmup=WARMUP)
        level = Level(clients=clients, tokens=TOKENS)
        row = sound(measure_level(target, level, texts, bounds))
        pair.ours.per_s.append(row.embeddings_per_s or 0.0)
        pair.ours.p50_ms.append(row.p50_ms or 0.0)

    def theirs() -> None:
        found = other.measure(target, texts, clients, requests)
        pair.theirs.per_s.append(float(found["request_throughput"]))
        pair.theirs.p50_ms.append(float(found["median_e2e_latency_ms"]))

    for measure in (ours, theirs) if ours_first else (theirs, ours):
        measure()


def rows(pairs: Mapping[int, Pair]) -> tuple[Row, ...]:
    """Throughput and median latency by number of clients, wanted within 5 %."""
    made = []
    for clients, pair in pairs.items():
        name = f"{clients} client{'s' if clients > 1 else ''}"
        ours, theirs = pair.ours, pair.theirs
        made += [
            _near(f"{name}: throughput", "texts/s", ours.per_s, theirs.per_s),
            _near(f"{name}: p50", "ms", ours.p50_ms, theirs.p50_ms),
        ]
    return tuple(made)


def _near(name: str, unit: str, ours: list[float], theirs: list[float]) -> Row:
    row = compared(name, unit, ours, theirs)
    assert row.ratio is not None  # compared() always gives one
    ok = abs(row.ratio.median - 1) <= WITHIN
    return msgspec.structs.replace(row, wanted=f"within {WITHIN:.0%}", ok=ok)
