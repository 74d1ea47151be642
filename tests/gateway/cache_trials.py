"""Nine trials of a cache before an embedding server, of any proxy with OpenAI's interface.

They are the faults that caches of embeddings have been reported for. A server that errs as it is
told stands behind the proxy, a real Redis beside it, and every vector is compared with the only
right one:

    python -m tests.gateway.cache_trials --port 4000 'litellm --config /tmp/config.yaml --port 4000'

starts the server on port 4100 and Redis on port 4200, writes nothing else, and prints a line for
each trial. The proxy serves the model `m` of http://127.0.0.1:4100/v1.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import shlex
import shutil
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from tests.gateway.harness import numbers
from tests.gateway.scripted_server import ScriptedServer, truth

UPSTREAM, REDIS = 4100, 4200
START_S: Final = 120.0
LIMIT_S = 20.0
"""After which an answer counts as none."""
SETTLE_S = 1.0
"""For what was answered to be kept."""


class InstructedServer(ScriptedServer):
    """`instruction` in a request changes the vectors, as it does with models that know one."""

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """A right answer."""
        before = body.get("instruction")
        items = body["input"] if isinstance(body["input"], list) else [body["input"]]
        if items and isinstance(items[0], int):
            items = [items]
        texts = [f"{before}{item}" if before else item for item in items]
        return super().answer(body | {"input": texts})


class WrongError(AssertionError):
    """What the proxy did wrong, in a few words."""


@dataclass
class Proxy:
    """What is tried."""

    url: str
    session: aiohttp.ClientSession
    server: InstructedServer
    stop_redis: Callable[[], None]

    async def post(self, value: Any, **fields: Any) -> tuple[int, Any]:
        """Status and body of a request; 0 where no answer came."""
        body = {"model": "m", "input": value, "encoding_format": "float", **fields}
        limit = aiohttp.ClientTimeout(total=LIMIT_S)
        try:
            async with self.session.post(
                f"{self.url}/embeddings", json=body, timeout=limit
            ) as answer:
                return answer.status, await answer.json(content_type=None)
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            return 0, type(error).__name__

    async def right(self, value: Any, wanted: list[list[float]], **fields: Any) -> None:
        """Ask, and compare everything."""
        status, body = await self.post(value, **fields)
        if status != 200:
            raise WrongError(f"status {status}: {str(body)[:160]}")
        data = body["data"]
        places = [item["index"] for item in data]
        if places != list(range(len(wanted))):
            raise WrongError(f"indices {places}")
        for place, item in enumerate(data):
            numeric = isinstance(item["embedding"], list)
            if numeric != (fields.get("encoding_format") != "base64"):
                raise WrongError("the other encoding_format")
            if not _close(_numbers(item["embedding"]), wanted[place]):
                raise WrongError(f"another vector for {place} of {value!r} {fields or ''}")

    async def settle(self) -> None:
        """Give what is to be kept the time to be kept."""
        await asyncio.sleep(SETTLE_S)


def _numbers(value: Any) -> list[float]:
    if isinstance(value, list) and not all(isinstance(one, int | float) for one in value):
        raise WrongError("a vector that is not of numbers")
    return numbers(value)


def _close(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(one, other, strict=True)
    )


async def mixed(proxy: Proxy) -> None:
    """Hits and misses in one batch keep their order, with indices 0 to N-1."""
    await proxy.right(["m1", "m2", "m3"], [truth(t) for t in ("m1", "m2", "m3")])
    await proxy.settle()
    for batch in (["n1", "m2", "n2", "m1"], ["m3", "n3"], ["n4", "m3", "m2"]):
        await proxy.right(batch, [truth(text) for text in batch])


async def disorder(proxy: Proxy) -> None:
    """A server that answers out of order is put in order."""
    proxy.server.spoil = lambda answer: {**answer, "data": answer["data"][::-1]}
    texts = ["d1", "d2", "d3"]
    status, body = await proxy.post(texts)
    await proxy.settle()
    proxy.server.spoil = lambda answer: answer
    await proxy.right(texts, [truth(text) for text in texts])
    if status != 200 or [item["index"] for item in body["data"]] != [0, 1, 2]:
        raise WrongError("right from the cache; the first answer has the server's order")


async def shapes(proxy: Proxy) -> None:
    """A text, a list of one, token ids and their digits are told apart."""
    for _ in range(2):
        await proxy.right("s1", [truth("s1")])
        await proxy.right(["s1"], [truth("s1")])
        await proxy.right([[1, 2]], [truth([1, 2])])
        await proxy.right(["[1, 2]"], [truth("[1, 2]")])
        await proxy.right([[1, 2], [3]], [truth([1, 2]), truth([3])])
        await proxy.settle()


async def encodings(proxy: Proxy) -> None:
    """One text as float and as base64, in either order."""
    for first, second in (("float", "base64"), ("base64", "float")):
        for encoding in (first, second):
            text = f"e {first}"
            await proxy.right([text], [truth(text)], encoding_format=encoding)
            await proxy.settle()


async def variants(proxy: Proxy) -> None:
    """`dimensions` and fields that change vectors make other entries."""
    for _ in range(2):
        await proxy.right(["v1"], [truth("v1")])
        await proxy.right(["v1"], [truth("v1", 8)], dimensions=8)
        await proxy.right(["v1"], [truth("q: v1")], instruction="q: ")
        await proxy.settle()


async def duplicates(proxy: Proxy) -> None:
    """One text several times in a batch."""
    batch = ["u1", "u1", "u2", "u1"]
    for _ in range(2):
        await proxy.right(batch, [truth(text) for text in batch])
        await proxy.settle()
    batch = ["u3", "u1", "u3"]
    await proxy.right(batch, [truth(text) for text in batch])


async def errors(proxy: Proxy) -> None:
    """An error of the server is an error, and is not kept."""
    proxy.server.status = 500
    status, _body = await proxy.post(["f1"])
    if 200 <= status < 300:
        raise WrongError("status 200 for an error")
    proxy.server.status = 200
    await proxy.settle()
    # Some proxies leave a server that failed alone for a while.
    await _eventually(lambda: proxy.right(["f1"], [truth("f1")]))


async def not_numbers(proxy: Proxy) -> None:
    """NaN is not kept (and should not be answered)."""

    def nan(answer: dict[str, Any]) -> dict[str, Any]:
        for item in answer["data"]:
            item["embedding"] = [math.nan] * 16
        return answer

    proxy.server.spoil = nan
    proxy.server.base64 = False
    status, _body = await proxy.post(["k1"])
    proxy.server.spoil = lambda answer: answer
    await proxy.settle()
    await _eventually(lambda: proxy.right(["k1"], [truth("k1")]))
    if status == 200:
        raise WrongError("NaN was answered with status 200, not kept")


async def without_redis(proxy: Proxy) -> None:
    """Redis down: answers all the same, and soon."""
    await proxy.right(["r1"], [truth("r1")])
    proxy.stop_redis()
    for batch in (["r1"], ["r2"], ["r1", "r3"]):
        begun = time.monotonic()
        await proxy.right(batch, [truth(text) for text in batch])
        if time.monotonic() - begun > LIMIT_S / 2:
            raise WrongError("a hang")


TRIALS: Final = (
    mixed, disorder, shapes, encodings, variants, duplicates, errors, not_numbers, without_redis,
)  # fmt: skip


async def _eventually(check: Callable[[], Awaitable[None]]) -> None:
    until = time.monotonic() + LIMIT_S
    while True:
        try:
            return await check()
        except WrongError as wrong:
            if "status" not in str(wrong) or time.monotonic() > until:
                raise
        await asyncio.sleep(0.5)


async def trials(proxy: Proxy) -> dict[str, str]:
    """The outcome of each: `ok`, or what was wrong."""
    outcomes = {}
    for trial in TRIALS:
        name = (trial.__doc__ or "").splitlines()[0]
        try:
            await trial(proxy)
            outcomes[name] = "ok"
        except WrongError as wrong:
            outcomes[name] = str(wrong)
        proxy.server.status, proxy.server.base64 = 200, True
        proxy.server.spoil = lambda answer: answer
    return outcomes


def run_against(words: list[str], url: str, upstream: int, redis: int) -> dict[str, str]:
    """Start Redis, the proxy and a server behind it, try it, and end them all."""
    program = shutil.which("redis-server")
    assert program, "redis-server is missing"
    options = ["--port", str(redis), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    store = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL)
    child = subprocess.Popen(words)

    def stop_redis() -> None:
        store.kill()
        store.wait()

    try:
        return asyncio.run(_started(url, upstream, child, stop_redis))
    finally:
        child.terminate()
        child.wait(30)
        stop_redis()


async def _started(
    url: str, upstream: int, child: subprocess.Popen[bytes], stop_redis: Callable[[], None]
) -> dict[str, str]:
    server = InstructedServer()
    async with server.running(upstream), aiohttp.ClientSession() as session:
        proxy = Proxy(url, session, server, stop_redis)
        until = time.monotonic() + START_S
        while (await proxy.post(["ready"]))[0] != 200:
            assert time.monotonic() < until, "the proxy does not answer"
            assert child.poll() is None, "the proxy has ended"
            await asyncio.sleep(0.5)
        return await trials(proxy)


def main() -> None:
    """Run the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("command", help="that starts the proxy")
    parser.add_argument("--port", type=int, default=4000)
    options = parser.parse_args()
    url = f"http://127.0.0.1:{options.port}/v1"
    words = shlex.split(options.command)
    for name, outcome in run_against(words, url, UPSTREAM, REDIS).items():
        print(f"{name}\n    {outcome}")


if __name__ == "__main__":
    main()
