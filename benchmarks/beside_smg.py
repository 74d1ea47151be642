"""Two real replicas behind our gateway and behind smg (Shepherd Model Gateway), in turn.

    python -m benchmarks.beside_smg /path/to/venv/bin/smg --rounds 3

Not one of `benchmarks.run`: smg is no part of this project and is installed elsewhere by who wants
to know (`pip install smg`, 128 MB). Both fronts have the same two engines of `cpu-minilm`, one
thread each, behind them; the other front is idle meanwhile. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace

import requests

from benchmarks.beside_litellm import free_port, running
from benchmarks.client import engine_target, sound
from benchmarks.errors import BenchError
from benchmarks.home import home, provide
from benchmarks.start import ENGINE, MODEL, PROFILE
from launcher.bench.load import Bounds, measure_level
from launcher.bench.target import Target
from launcher.bench.texts import TextSource
from launcher.documents.comparison import Level

CLIENTS = (1, 16)
TOKENS = 128
SECONDS = 6.0
START_S = 60.0


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr)


def wait_for(url: str) -> None:
    """Wait until a front lists its model.

    Raises:
        BenchError: it does not within `START_S` seconds.
    """
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            if requests.get(f"{url}/models", timeout=2).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.2)
    raise BenchError(f"{url} does not answer")


def measure(fronts: dict[str, Target], texts: TextSource, rounds: int) -> None:
    """Each front in turn; prints medians and the ratio of neighbours."""
    for clients in CLIENTS:
        level = Level(clients=clients, tokens=TOKENS)
        bounds = Bounds(requests=100_000, limit_s=SECONDS, warmup=16)
        seen = [
            {
                name: sound(measure_level(front, level, texts, bounds))
                for name, front in fronts.items()
            }
            for _ in range(rounds)
        ]
        rates = {name: [row[name].embeddings_per_s or 0.0 for row in seen] for name in fronts}
        p50 = {name: statistics.median(row[name].p50_ms or 0.0 for row in seen) for name in fronts}
        ratios = sorted(ours / its for ours, its in zip(*rates.values(), strict=True))
        words = ", ".join(
            f"{name} {statistics.median(rates[name]):.1f} texts/s (p50 {p50[name]:.1f} ms)"
            for name in fronts
        )
        print(
            f"{clients} client{'s' * (clients > 1)}: {words}, ratio"
            f" {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("smg", help="its program")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    provide(say, engine=ENGINE, model=MODEL)
    with home() as place:
        up = place.up("beside-smg", PROFILE, "--replicas", "2")
        ours, texts = engine_target(place, up.data)
        workers = [each["endpoint"].removesuffix("/v1") for each in up.data["replicas"]]
        port = free_port()
        command = [options.smg, "launch", "--worker-urls", *workers, "--host", "127.0.0.1"]
        command += ["--port", str(port), "--policy", "round_robin"]
        with running(command):
            its = replace(ours, url=f"http://127.0.0.1:{port}/v1")
            wait_for(its.url)
            measure({"our gateway": ours, "smg": its}, texts, options.rounds)


if __name__ == "__main__":
    main()
