"""One level of load: a closed or an open loop against one server, measured into a row.

Closed loop: so many clients, each sends its next request when its last is answered. Open loop:
requests start by a schedule that does not wait, and latency counts from the scheduled moment, so
that an engine that stalls cannot hide it by slowing the client down (coordinated omission).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import selectors
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from launcher.bench.lengths import lengths
from launcher.bench.load_client import AskError, Client
from launcher.bench.stats import mean, percentile
from launcher.bench.target import Bounds, Target, unmeasured
from launcher.bench.texts import TextError, TextSource, texts_for
from launcher.documents.comparison import Level, Row
from launcher.documents.run import Peak
from launcher.record.watch import ResourceWatch

__all__ = [
    "Bounds",
    "Interrupted",
    "Target",
    "TextError",
    "TextSource",
    "measure_level",
    "texts_for",
]

SATURATED_PERCENT = 90.0
"""Of one core: from here the client may be what is slow."""
FAILURES_IN_A_ROW = 5
"""After so many, by all clients together, a level ends: nothing is going to work again."""
AFTER_REFUSAL_S = 0.1
TICK_S = 0.2
"""Between two reports of progress."""
SELECT_LIMIT = 500
"""Connections up to which the open loop uses select(), whose timer is precise to microseconds;
epoll's is to milliseconds."""

Progress = Callable[[int, float], None]
"""Called with the requests answered so far, and the seconds since the level began."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of a level."""

    def __init__(self, row: Row) -> None:
        super().__init__()
        self.row = row
        """What was measured until then; `reason` says that it is not the whole."""


@dataclass
class _Tally:
    """What has come of a level so far."""

    latencies: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    tokens: int = 0
    asked: int = 0
    """Tokens of the texts answered, as they were asked for."""
    uncounted: int = 0
    """Answers without a count of tokens."""
    started: int = 0
    errors: int = 0
    error: str | None = None
    in_a_row: int = 0
    began: float = 0.0
    last: float = 0.0
    cpu_s: float = 0.0
    wall_s: float = 0.0
    worst_in_a_row: int = 0
    out_of_texts: str | None = None
    """Why no more different texts could be made."""

    def failed(self, error: str) -> None:
        self.errors += 1
        self.error = self.error or error
        self.in_a_row += 1
        self.worst_in_a_row = max(self.worst_in_a_row, self.in_a_row)

    def given_up(self) -> str | None:
        """Why nothing more can come of it: so many failures in a row, or no more texts."""
        if self.worst_in_a_row >= FAILURES_IN_A_ROW:
            return self.error
        return self.out_of_texts


def measure_level(
    target: Target,
    level: Level,
    texts: TextSource,
    bounds: Bounds,
    progress: Progress = lambda _requests, _seconds: None,
) -> Row:
    """Run one level and return its row. Nothing the server does is an exception here.

    Raises:
        Interrupted: Ctrl-C, with the row of what was measured.
    """
    problem = _impossible(target, level)
    if problem is not None:
        return unmeasured(target.mode, level, problem)
    tally, watch = (
        _Tally(),
        ResourceWatch(target.leader, gpu=target.gpu),
    )
    run = _Run(target, level, texts, bounds, tally, progress, watch)
    stopped = False
    try:
        with asyncio.Runner(loop_factory=_loop_factory(level)) as runner:
            stopped = runner.run(run.whole())
    except KeyboardInterrupt:
        stopped = True
    except TextError as error:
        return unmeasured(target.mode, level, str(error))
    except AskError as error:
        row = unmeasured(target.mode, level, f"the warm-up failed: {error}")
        return msgspec.structs.replace(row, errors=1, error=str(error))
    row = _row(target, level, tally, watch.peak())
    if stopped:
        raise Interrupted(msgspec.structs.replace(row, reason="interrupted"))
    if tally.given_up() is not None and row.reason is None:
        return msgspec.structs.replace(row, reason=f"ended early: {tally.given_up()}")
    return row


def _impossible(target: Target, level: Level) -> str | None:
    if target.longest is not None and level.tokens > target.longest:
        return f"the longest text it takes has {target.longest} tokens"
    if level.loop == "open" and not (level.rate and level.rate > 0):
        return "an open loop needs a rate"
    return None


def _loop_factory(level: Level) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if level.loop == "closed" or level.clients > SELECT_LIMIT:
        return None
    return lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())


@dataclass(frozen=True)
class _Call:
    """One request, ready to be sent."""

    body: bytes
    tokens: int
    """Of its texts together, as they were asked for."""


@dataclass
class _Run:
    """One level under way."""

    target: Target
    level: Level
    texts: TextSource
    bounds: Bounds
    tally: _Tally
    progress: Progress
    watch: ResourceWatch
    _lengths: Iterator[int] = field(init=False)

    def __post_init__(self) -> None:
        self._lengths = lengths(self.level)

    async def whole(self) -> bool:
        """Warm up, then measure; whether it was interrupted.

        Raises:
            AskError: the warm-up failed.
            TextError: there are no such texts.
        """
        async with Client(self.target, self.level.clients, self.bounds.timeout_s) as client:
            try:
                await self._warm(client)
                with self.watch:
                    await self._measure(client)
            except asyncio.CancelledError:
                return True
        return False

    async def _warm(self, client: Client) -> None:
        """As many at once as in the level, so that its connections are open."""
        if self.bounds.warmup <= 0:
            return
        left = itertools.repeat(None, max(self.bounds.warmup, self.level.clients))

        async def one() -> None:
            for _ in left:
                data, _ = await client.send(self._call(client).body)
                client.check(data, self.level.batch)

        await _all([one() for _ in range(self.level.clients)])
        # Whoever is measured gets the same lengths in the same order, however long the warm-up was.
        self._lengths = lengths(self.level)

    def _call(self, client: Client) -> _Call:
        wanted = list(itertools.islice(self._lengths, self.level.batch))
        texts = [text for tokens in wanted for text in self.texts.take(1, tokens)]
        return _Call(client.body(texts), sum(wanted))

    async def _measure(self, client: Client) -> None:
        tally = self.tally
        schedule = self._schedule()
        calls = [self._call(client) for _ in range(self.level.clients)]
        cpu = time.process_time()
        tally.began = tally.last = time.perf_counter()
        workers = [self._worker(client, call, schedule) for call in calls]
        ticker = asyncio.ensure_future(self._tick())
        try:
            await _all(workers)
        finally:
            ticker.cancel()
            tally.wall_s = time.perf_counter() - tally.began
            tally.cpu_s = time.process_time() - cpu
            self.progress(len(tally.latencies), tally.wall_s)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            elapsed = time.perf_counter() - self.tally.began
            self.progress(len(self.tally.latencies), elapsed)

    def _schedule(self) -> Iterator[float] | None:
        """When requests start, seconds after the level began; None: as soon as a client is free."""
        if self.level.loop == "closed":
            return None
        rate = self.level.rate or 1.0
        if self.level.arrivals == "constant":
            return (number / rate for number in itertools.count())
        chance = random.Random()  # noqa: S311 - arrivals, no secrets
        gaps = (chance.expovariate(rate) for _ in itertools.count())
        return itertools.accumulate(gaps)

    async def _worker(
        self, client: Client, call: _Call | None, schedule: Iterator[float] | None
    ) -> None:
        tally = self.tally
        while tally.given_up() is None:
            due = time.perf_counter()
            if schedule is not None:
                due = tally.began + next(schedule)
            if not self.bounds.more(tally.started, due - tally.began):
                return
            tally.started += 1
            if schedule is not None:
                await _until(due)
                if tally.given_up() is not None:
                    return
                tally.late.append(max(0.0, time.perf_counter() - due))
            try:
                call = call or self._call(client)
            except TextError as error:
                tally.out_of_texts = str(error)
                return
            call = await self._one(client, call, due)

    async def _one(self, client: Client, call: _Call, due: float) -> _Call | None:
        """One request; the next, made while the engine computes."""
        tally = self.tally
        sending = asyncio.ensure_future(client.send(call.body))
        following: _Call | None = None
        try:
            await asyncio.sleep(0)  # let it be sent first
            with contextlib.suppress(TextError):  # the next attempt to make one will say so
                following = self._call(client)
            data, at = await sending
            counted = client.check(data, self.level.batch)
        except AskError as error:
            tally.failed(str(error))
            if error.refused:
                await asyncio.sleep(AFTER_REFUSAL_S)
        except asyncio.CancelledError:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            raise
        else:
            tally.in_a_row = 0
            tally.latencies.append(at - due)
            tally.last = max(tally.last, at)
            tally.tokens += counted or 0
            tally.asked += call.tokens
            tally.uncounted += counted is None
        return following


async def _all(coroutines: list[Coroutine[Any, Any, None]]) -> None:
    """Run all at once; the first failure, or an interrupt, ends them all."""
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _until(due: float) -> None:
    wait = due - time.perf_counter()
    if wait > 0:
        await asyncio.sleep(wait)


def _row(target: Target, level: Level, tally: _Tally, peak: Peak) -> Row:
    ordered = sorted(tally.latencies)
    answered, seconds = len(ordered), tally.last - tally.began
    texts = answered * level.batch
    counted = tally.tokens if answered and not tally.uncounted else None
    cpu = 100 * tally.cpu_s / tally.wall_s if tally.wall_s > 0 else None
    late = percentile(sorted(tally.late), 0.99)

    def ms(value: float | None) -> float | None:
        return None if value is None else round(1000 * value, 4)

    return Row(
        mode=target.mode,
        batch=level.batch,
        clients=level.clients,
        mean_ms=ms(mean(ordered)),
        p50_ms=ms(percentile(ordered, 0.50)),
        p95_ms=ms(percentile(ordered, 0.95)),
        p99_ms=ms(percentile(ordered, 0.99)),
        embeddings_per_s=_rate(texts, seconds),
        tokens_per_s=_rate(counted, seconds),
        ram_peak_bytes=peak.ram_peak_bytes,
        gpu_peak_bytes=peak.gpu_peak_bytes,
        loop=level.loop,
        tokens=level.tokens,
        shortest=level.shortest,
        tokens_asked=round(tally.asked / texts, 2) if texts and level.shortest else None,
        rate=level.rate,
        requests=answered,
        errors=tally.errors,
        error=tally.error,
        seconds=round(tally.wall_s, 4),
        tokens_counted=None if counted is None else round(counted / texts, 2),
        client_cpu_percent=None if cpu is None else round(cpu, 1),
        saturated=cpu is not None and cpu >= SATURATED_PERCENT,
        late_ms=ms(late),
        memory_method=dict(peak.method),
        reason=None if answered else f"no request was answered: {tally.error or 'none was sent'}",
    )


def _rate(count: int | None, seconds: float) -> float | None:
    return round(count / seconds, 3) if count and seconds > 0 else None
