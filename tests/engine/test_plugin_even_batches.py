"""A batch leaves as many texts behind as make the next one its equal."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import even_batches


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch, which this environment does not have, computes with two threads."""
    torch = ModuleType("torch")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2, raising=False)
    monkeypatch.setitem(sys.modules, "torch", torch)


@pytest.mark.parametrize(
    ("waiting", "last", "threads", "taken"),
    [
        pytest.param(15, 1, 2, 8, id="15-after-1"),
        pytest.param(9, 7, 2, 8, id="9-after-7"),
        pytest.param(63, 1, 4, 32, id="63-after-1"),
        pytest.param(8, 8, 2, 8, id="as-many-as-before"),
        pytest.param(2, 14, 2, 2, id="fewer-than-before"),
        pytest.param(16, 0, 2, 16, id="nothing-before"),
        pytest.param(9, 1, 2, 6, id="no-thread-left-over"),
        pytest.param(9, 1, 8, 5, id="too-many-threads-to-round-to"),
        pytest.param(3, 1, 2, 2, id="three-after-one"),
        pytest.param(2, 1, 2, 2, id="two-after-one"),
        pytest.param(0, 3, 2, 0, id="nobody-waits"),
    ],
)
def test_what_waits_is_shared_between_two_batches(
    waiting: int, last: int, threads: int, taken: int
) -> None:
    assert even_batches.share(waiting, last, threads) == taken


@pytest.mark.parametrize("clients", [4, 6, 10, 16, 64])
def test_batches_of_clients_that_wait_for_their_answers_become_equal(clients: int) -> None:
    """Each asks anew when it is answered: of all, some wait while the others are computed."""
    sizes = _sizes(clients, first=1, rounds=12)
    assert abs(sizes[-1] - sizes[-2]) <= 2
    assert sizes[-1] + sizes[-2] == clients
    alone = _sizes(clients, first=1, rounds=12, share=lambda waiting, _last: waiting)
    assert {alone[-1], alone[-2]} == {1, clients - 1}, "as SGLang has it"


def _sizes(
    clients: int, first: int, rounds: int, share: Callable[[int, int], int] | None = None
) -> list[int]:
    share = share or (lambda waiting, last: even_batches.share(waiting, last, 2))
    waiting, last, sizes = clients - first, first, []
    for _ in range(rounds):
        taken = share(waiting, last)
        waiting, last = waiting - taken + last, taken  # the last ones come again meanwhile
        sizes.append(taken)
    return sizes


class Scheduler:
    """Takes what waits, as far as there is room, and puts another list in its place."""

    def __init__(self, waiting: str, last: str, *, policy: str = "fcfs") -> None:
        self.waiting_queue = list(waiting)
        self.last_batch = SimpleNamespace(reqs=list(last)) if last else None
        self.server_args = SimpleNamespace(schedule_policy=policy, enable_priority_scheduling=False)
        self.room = 100
        self.fails = False

    def get_next_batch_to_run(self, *, running_batch: str) -> str:
        """The texts of the next batch."""
        if self.fails:
            raise RuntimeError("no memory")
        taken = self.waiting_queue[: self.room]
        self.waiting_queue = self.waiting_queue[self.room :]
        return running_batch + "".join(taken)


def _next(scheduler: Scheduler) -> Any:
    return even_batches._around(Scheduler.get_next_batch_to_run, scheduler, running_batch=">")


@pytest.mark.usefixtures("two_threads")
def test_the_first_are_taken_and_the_others_wait_in_their_order() -> None:
    scheduler = Scheduler("abcdefg", "z")
    assert _next(scheduler) == ">abcd"
    assert scheduler.waiting_queue == list("efg")


@pytest.mark.usefixtures("two_threads")
def test_those_that_find_no_room_stay_before_the_others() -> None:
    scheduler = Scheduler("abcdefg", "z")
    scheduler.room = 1
    assert _next(scheduler) == ">a"
    assert scheduler.waiting_queue == list("bcdefg")


@pytest.mark.usefixtures("two_threads")
def test_nobody_is_lost_where_no_batch_can_be_made() -> None:
    scheduler = Scheduler("abcdefg", "z")
    scheduler.fails = True
    with pytest.raises(RuntimeError, match="no memory"):
        _next(scheduler)
    assert scheduler.waiting_queue == list("abcdefg")


@pytest.mark.usefixtures("two_threads")
def test_sglang_takes_all_where_it_was_idle_or_puts_them_in_an_order_of_its_own() -> None:
    assert _next(Scheduler("abcdefg", "")) == ">abcdefg"
    assert _next(Scheduler("abcdefg", "z", policy="lof")) == ">abcdefg"


@pytest.fixture
def hooked(monkeypatch: pytest.MonkeyPatch) -> deque[str]:
    """What is hooked in an SGLang."""
    seen: deque[str] = deque()
    registry = ModuleType("sglang.srt.plugins.hook_registry")
    kinds = SimpleNamespace(AROUND="around")
    hooks = SimpleNamespace(register=lambda target, _hook, _kind: seen.append(target))
    monkeypatch.setattr(registry, "HookRegistry", hooks, raising=False)
    monkeypatch.setattr(registry, "HookType", kinds, raising=False)
    for name in ("sglang", "sglang.srt", "sglang.srt.plugins"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, registry.__name__, registry)
    return seen


@pytest.mark.parametrize("cpu", ["1", "0"])
def test_only_an_engine_on_a_cpu_is_hooked(
    cpu: str, hooked: deque[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_USE_CPU_ENGINE", cpu)
    even_batches.register()
    assert len(hooked) == int(cpu)
