"""A queueing model of a service: clients, one front, replicas that batch what waits, shared cores.

    requests ──> front (one at a time) ──> replica's queue ──> batch ──> front ──> client

A closed network of stations, whose service demands are measured by the utilisation law, work done
over requests answered (Lazowska et al., Quantitative System Performance, 1984, chapter 3), with
bulk service (Bailey, On Queueing Processes with Bulk Service, 1954): a replica that is free takes
all that waits in its queue, up to a limit, as one batch, which takes `batch_s + text_s × texts` of
its threads; where batches keep one size, it takes half of what waits and of what it had last. Texts
of a request are handed out to the replicas in turn, as SGLang's data parallel controller does; one
that comes alone may go to the replica with the least to do. Work on more threads than there are
cores slows down all of it alike (processor sharing), and cores that share caches or execution units
are slower together than alone. Whoever was idle takes longer for what comes first: a process is
woken, its caches are cold (exceptional first service of a busy period: Welch, On a Generalized
M/G/1 Queuing Process, 1964). Times are in seconds; a run is exact and repeatable.
"""

from __future__ import annotations

import itertools
import math
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang.even_batches import share
from qlaunch_sglang.least_loaded import least

_STEPS: Final = (0.3, 0.1, 0.03, 0.01)
"""Of the search for costs, relative."""
_TRIES: Final = 60
"""Steps of each size."""


@dataclass(frozen=True)
class Costs:
    """What a request costs."""

    front_s: float
    """Of the front's one thread, for a text: taking it in, cutting it into tokens, answering."""
    batch_s: float
    """Of a replica's threads, for a batch, however many texts are in it."""
    text_s: float
    """Of a replica's threads, for each text of it."""
    front_wake_s: float = 0.0
    """Of the front, once more, for a piece of work that finds it asleep."""
    wake_s: float = 0.0
    """The same of a replica, for a batch."""
    delay_s: float = 0.0
    """On the way to a replica, in which nobody works: processes are woken."""
    spread: float = 0.0
    """Of each piece of work's time (lognormal, its sigma): clients do not stay in step."""
    after_s: float = 0.0
    """Part of a batch's cost that comes after its answers are handed over: the next batch waits for
    it, no request of this one does."""


@dataclass(frozen=True)
class Shape:
    """How a service is laid out on a machine."""

    replicas: int = 1
    threads: int = 1
    """Of a replica."""
    cores: float = math.inf
    """Of the machine: what front and replicas share; infinite where a GPU computes."""
    most: int = 64
    """Texts of a batch, at most."""
    even: bool = False
    """Whether batches keep one size (`qlaunch_sglang/even_batches.py`), as of 28 November 2026."""
    balanced: bool = False
    """Whether a text that comes alone goes to the replica with the least to do
    (`qlaunch_sglang/least_loaded.py`), as of 28 November 2026."""
    together: float = 1.0
    """Speed of a core while another one is at work too, of that of one alone."""


@dataclass(frozen=True)
class Load:
    """What asks."""

    clients: int
    """Requests under way at any time (closed loop)."""
    texts: int = 1
    """Of a request."""


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    texts_per_s: float
    mean_s: float
    p50_s: float
    p95_s: float
    front_busy: float
    """Share of the time in which the front was at work."""
    replicas_busy: float
    """The same of the replicas, on average."""
    batch: float
    """Texts of a batch, on average."""

    @property
    def bottleneck(self) -> str:
        """Which of the two is busier."""
        return "front" if self.front_busy > self.replicas_busy else "replicas"


@dataclass
class _Request:
    began: float
    left: int
    """Texts without an answer."""


@dataclass
class _Worker:
    """Something that does one piece of work at a time."""

    threads: int
    work_s: float = 0.0
    """Left of the piece under way, at full speed."""
    then: Callable[[], None] | None = None
    """What follows it; None while idle."""
    busy_s: float = 0.0
    ended: float = -1.0
    """When the last piece ended."""
    last: int = 0
    """Texts of its last batch."""

    def asleep(self, now: float) -> bool:
        """Did it have nothing to do until `now`?"""
        return self.ended < now - 1e-12


_Way = Literal["in", "out"]
"""A text that comes, a text that is answered."""


@dataclass
class _Simulation:
    """One run."""

    costs: Costs
    shape: Shape
    now: float = 0.0
    turn: int = 0
    seed: int = 0
    done: list[tuple[float, float, int]] = field(default_factory=list)
    """Requests answered: when, after how long, how many texts."""

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.front = _Worker(1)
        self.replicas = [_Worker(self.shape.threads) for _ in range(self.shape.replicas)]
        self.at_front: deque[tuple[_Request, _Way, int]] = deque()
        self.on_the_way: deque[tuple[float, int, _Request]] = deque()
        """Texts by when they reach which replica."""
        self.batches = self.batched = 0
        self.queues: list[deque[_Request]] = [deque() for _ in self.replicas]
        self.answered: Callable[[_Request, int], None] = lambda _request, _texts: None

    def send(self, texts: int) -> None:
        """A request arrives."""
        self.at_front.append((_Request(self.now, texts), "in", texts))

    def pending(self) -> bool:
        """Is there a request without an answer?"""
        waiting = (self.at_front, self.on_the_way, *self.queues)
        return any(waiting) or any(each.then for each in (self.front, *self.replicas))

    def start(self) -> None:
        """Give work to who is idle."""
        if self.front.then is None and self.at_front:
            request, way, texts = self.at_front.popleft()
            woken = self.costs.front_wake_s if self.front.asleep(self.now) else 0.0
            self.front.work_s = self._varied(self.costs.front_s / 2 * texts + woken)
            self.front.then = lambda: self._front_done(request, way, texts)
        for number, worker in enumerate(self.replicas):
            if worker.then is None and self.queues[number]:
                self._batch(worker, self.queues[number])

    def _batch(self, worker: _Worker, queue: deque[_Request]) -> None:
        last = 0 if worker.asleep(self.now) else worker.last
        taken = share(len(queue), last, worker.threads) if self.shape.even else len(queue)
        batch = [queue.popleft() for _ in range(min(taken, self.shape.most))]
        worker.last = len(batch)
        self.batches += 1
        self.batched += len(batch)
        cost_s = self.costs.batch_s + self.costs.text_s * len(batch)
        cost_s += self.costs.wake_s if worker.asleep(self.now) else 0.0
        worker.work_s = self._varied(max(0.0, cost_s - self.costs.after_s))
        worker.then = lambda: self._computed(worker, batch)

    def _varied(self, work_s: float) -> float:
        """A piece of work as it happens to be; on average as it is."""
        if not self.costs.spread:
            return work_s
        sigma = self.costs.spread
        return work_s * self.dice.lognormvariate(-sigma * sigma / 2, sigma)

    def _front_done(self, request: _Request, way: _Way, texts: int) -> None:
        if way == "in":
            due = self.now + self.costs.delay_s
            for _ in range(texts):
                self.on_the_way.append((due, self._replica(texts), request))
                self.turn += 1
            self._arrive()
        else:
            request.left -= texts
            if request.left == 0:
                self.answered(request, texts)

    def _replica(self, texts: int) -> int:
        """Which one gets the next text of a request with so many."""
        count = len(self.queues)
        in_turn = [(self.turn + number) % count for number in range(count)]
        if texts > 1 or not self.shape.balanced:
            return in_turn[0]
        waiting = [len(queue) for queue in self.queues]
        for number, worker in enumerate(self.replicas):
            waiting[number] += worker.last if worker.then not in (None, _nothing) else 0
        for _, number, _ in self.on_the_way:
            waiting[number] += 1
        chosen: int | None = least(waiting, in_turn)
        return in_turn[0] if chosen is None else chosen

    def _arrive(self) -> None:
        """Texts whose time has come join their replica's queue."""
        while self.on_the_way and self.on_the_way[0][0] <= self.now + 1e-12:
            _, number, request = self.on_the_way.popleft()
            self.queues[number].append(request)

    def _computed(self, worker: _Worker, batch: list[_Request]) -> None:
        if self.costs.after_s:
            worker.work_s, worker.then = self.costs.after_s, _nothing
        counts: dict[int, tuple[_Request, int]] = {}
        for request in batch:
            counts[id(request)] = (request, counts.get(id(request), (request, 0))[1] + 1)
        self.at_front.extend((request, "out", texts) for request, texts in counts.values())

    def step(self, until: float) -> bool:
        """On to the next moment at which a piece of work ends; False once `until` is reached."""
        self.start()
        workers = [each for each in (self.front, *self.replicas) if each.then is not None]
        if not workers and not self.on_the_way:
            self.now = until
            return False
        speed = self._speed(sum(each.threads for each in workers))
        ends = [self.now + each.work_s / speed for each in workers]
        ends += [due for due, _, _ in itertools.islice(self.on_the_way, 1)]
        took = min(*ends, max(until, self.now)) - self.now
        self.now += took
        for each in workers:
            each.work_s -= took * speed
            each.busy_s += took
        self._arrive()
        ended = [each for each in workers if each.work_s <= 1e-12]
        for each in ended:
            then, each.then, each.ended = each.then, None, self.now
            assert then is not None
            then()
        return self.now < until

    def _speed(self, threads: int) -> float:
        """Of each thread that works, while so many do."""
        share = min(1.0, self.shape.cores / max(1, threads))
        return share * self.shape.together if threads > 1 else share


def _nothing() -> None:
    """What follows a piece of work that nobody waits for."""


def closed_loop(costs: Costs, shape: Shape, load: Load, requests: int = 2000) -> Outcome:
    """Clients who each send the next request when the last one is answered.

    Args:
        requests: how many are counted; the first fifth of as many more are not.
    """
    run = _Simulation(costs, shape)
    skipped = requests // 5

    def answered(request: _Request, _texts: int) -> None:
        run.done.append((run.now, run.now - request.began, load.texts))
        run.send(load.texts)

    run.answered = answered
    for _ in range(load.clients):
        run.send(load.texts)
    while len(run.done) < skipped + requests:
        run.step(math.inf)
    return _outcome(run, skipped)


def trial(costs: Costs, shape: Shape, load: Load, seconds: float, *, seed: int = 0) -> float:
    """Texts/s as a load client measures them.

    All clients begin at once, none sends after `seconds`, and the rate is that until the last
    answer, while fewer and fewer are under way.
    """
    run = _Simulation(costs, shape, seed=seed)

    def answered(request: _Request, _texts: int) -> None:
        run.done.append((run.now, run.now - request.began, load.texts))
        if run.now < seconds:
            run.send(load.texts)

    run.answered = answered
    for _ in range(load.clients):
        run.send(load.texts)
    while run.pending():
        run.step(math.inf)
    return sum(each[2] for each in run.done) / run.done[-1][0]


def open_loop(
    costs: Costs, shape: Shape, texts_per_s: float, *, requests: int = 20_000, seed: int = 0
) -> Outcome:
    """Requests of one text that come at random (Poisson), answered or not."""
    run = _Simulation(costs, shape)
    dice = random.Random(seed)

    def answered(request: _Request, _texts: int) -> None:
        run.done.append((run.now, run.now - request.began, 1))

    run.answered = answered
    at = 0.0
    for _ in range(requests):
        at += dice.expovariate(texts_per_s)
        while run.step(at):
            pass
        run.send(1)
    while len(run.done) < requests:
        run.step(math.inf)
    return _outcome(run, requests // 5)


def _outcome(run: _Simulation, skipped: int) -> Outcome:
    began = run.done[skipped - 1][0] if skipped else 0.0
    counted = run.done[skipped:]
    waited = sorted(each[1] for each in counted)
    return Outcome(
        texts_per_s=sum(each[2] for each in counted) / (counted[-1][0] - began),
        mean_s=sum(waited) / len(waited),
        p50_s=waited[len(waited) // 2],
        p95_s=waited[min(len(waited) - 1, len(waited) * 95 // 100)],
        front_busy=run.front.busy_s / run.now,
        replicas_busy=sum(each.busy_s for each in run.replicas) / run.now / len(run.replicas),
        batch=run.batched / run.batches,
    )


@dataclass(frozen=True)
class Point:
    """One measured level of a curve."""

    shape: Shape
    load: Load
    texts_per_s: float | None = None
    p50_s: float | None = None

    def errors(self, costs: Costs, requests: int = 2000) -> list[float]:
        """How far the model is off, relative to each measured figure."""
        outcome = closed_loop(costs, self.shape, self.load, requests)
        pairs = ((self.texts_per_s, outcome.texts_per_s), (self.p50_s, outcome.p50_s))
        return [made / wanted - 1 for wanted, made in pairs if wanted is not None]


def calibrate(points: list[Point], begin: Costs, *, fixed: tuple[str, ...] = ()) -> Costs:
    """The costs with which the model meets `points` best (least squares of relative errors).

    Args:
        points: measured levels, at least as many figures as costs that are sought.
        begin: where the search begins.
        fixed: names of costs that are known.
    """
    names = [name for name in ("front_s", "batch_s", "text_s") if name not in fixed]
    best = {name: getattr(begin, name) for name in ("front_s", "batch_s", "text_s")}
    least = _square(points, best)
    dice = random.Random(0)
    for step in _STEPS:
        for _ in range(_TRIES):  # all at once: costs make up for each other
            moved = {name: best[name] * math.exp(dice.gauss(0, step)) for name in names}
            if (square := _square(points, best | moved)) < least:
                best, least = best | moved, square
    return Costs(**best)


def _square(points: list[Point], costs: dict[str, float]) -> float:
    return sum(e * e for point in points for e in point.errors(Costs(**costs), requests=400))
