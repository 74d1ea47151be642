"""Hits a second of the gateway and of LiteLLM's proxy, in turn, each with a Redis of its own.

    python -m benchmarks.beside_litellm /path/to/venv/bin/litellm --rounds 5

Not one of `benchmarks.run`: LiteLLM is no part of this project and is installed elsewhere by who
wants to know (`pip install 'litellm[proxy]'`). The server behind both answers at once, so what is
measured is the proxy and its cache. Takes about two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.errors import BenchError
from benchmarks.gateway import CLIENTS, Asker, rate_of

SERVER = """
import asyncio, sys
from tests.gateway.scripted_server import ScriptedServer
async def main():
    server = ScriptedServer()
    server.dimensions = 384
    async with server.running(int(sys.argv[1])):
        await asyncio.sleep(3600)
asyncio.run(main())
"""
CONFIG = """
model_list:
  - model_name: m
    litellm_params: {{model: openai/m, api_base: "http://127.0.0.1:{server}/v1", api_key: none}}
litellm_settings:
  cache: true
  cache_params: {{type: redis, host: 127.0.0.1, port: {redis}}}
"""
BATCHES = (1, 16)
KNOWN = 512
START_S = 120.0


def free_port() -> int:
    """A port that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(words: list[str], **env: str) -> Iterator[None]:
    """A program that is ended at the end; its output goes nowhere."""
    silent = subprocess.DEVNULL
    child = subprocess.Popen(words, env={**os.environ, **env}, stdout=silent, stderr=silent)
    try:
        yield
    finally:
        child.terminate()
        child.wait(60)


def filled(url: str, batches: list[list[str]]) -> None:
    """Wait until a proxy answers, and have it keep all texts.

    Raises:
        BenchError: it does not answer, or does not know the texts afterwards.
    """
    until = time.monotonic() + START_S
    while True:
        try:
            asker = Asker(url, "m")
            asker.ask(["ready"])
            break
        except (OSError, BenchError) as error:
            if time.monotonic() > until:
                raise BenchError(f"{url} does not answer: {error}") from error
            time.sleep(0.5)
    for batch in batches:
        asker.ask(batch)
    time.sleep(2)
    for batch in batches:
        asker.ask(batch)


def main() -> None:
    """Measure, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("litellm", help="its program")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=400, help="of one round")
    options = parser.parse_args()
    redis = shutil.which("redis-server") or parser.error("redis-server is missing")
    server, front, other, *stores = (free_port() for _ in range(5))
    place = tempfile.mkdtemp(prefix="beside-litellm-")
    config = Path(place) / "config.yaml"
    config.write_text(CONFIG.format(server=server, redis=stores[1]), "utf-8")
    ours = [sys.executable, "-m", "launcher", "gateway", f"m=http://127.0.0.1:{server}/v1"]
    ours += ["--port", str(front), "--cache", f"redis://127.0.0.1:{stores[0]}/0"]
    its = [options.litellm, "--config", str(config), "--host", "127.0.0.1", "--port", str(other)]
    unset = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    with contextlib.ExitStack() as stack:
        for port in stores:
            words = [redis, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            stack.enter_context(running([*words, "--dir", place]))
        stack.enter_context(running([sys.executable, "-c", SERVER, str(server)]))
        stack.enter_context(running(ours, QLAUNCH_HOME=place))
        stack.enter_context(running(its, **unset, LITELLM_LOCAL_MODEL_COST_MAP="True"))
        urls = [f"http://127.0.0.1:{port}/v1" for port in (front, other)]
        measure(urls, options.rounds, options.requests)
    shutil.rmtree(place, ignore_errors=True)


def measure(urls: list[str], rounds: int, requests: int) -> None:
    """Both in turn; prints medians and the ratio of neighbours."""
    texts = [f"a text of about ten words that is asked for again, number {n}" for n in range(KNOWN)]
    for url in urls:
        filled(url, [texts[at : at + 16] for at in range(0, KNOWN, 16)])
    for batch in BATCHES:
        cut = [texts[at : at + batch] for at in range(0, KNOWN, batch)]
        batches = [cut[n % len(cut)] for n in range(requests)]
        rates = [[rate_of(url, "m", batches) for url in urls] for _ in range(rounds)]
        mine, its = zip(*rates, strict=True)
        ratios = sorted(a / b for a, b in rates)
        print(
            f"{CLIENTS} clients, {batch} texts a request: gateway {statistics.median(mine):.0f}"
            f" texts/s, LiteLLM {statistics.median(its):.0f}, ratio"
            f" {statistics.median(ratios):.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )


if __name__ == "__main__":
    main()
