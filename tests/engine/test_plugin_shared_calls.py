"""A call's texts reach each of several schedulers in one message."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import shared_calls


@dataclass
class Request:
    """A text, as the controller has it."""

    name: str
    stamp: str = ""


@dataclass
class Call:
    """The texts of a call, in one message."""

    batch: list[Request]


@dataclass
class Worker:
    """A scheduler's socket."""

    sent: list[Any] = field(default_factory=list)

    def send_pyobj(self, message: Any) -> None:
        """Note what is sent."""
        self.sent.append(message)

    def send(self, data: bytes, flags: int = 0) -> None:
        """Note bytes and flags."""
        self.sent.append((data, flags))


class Controller:
    """Hands out texts in turn, and writes on them before and after, as SGLang's does."""

    def __init__(self, workers: list[Worker | None], *, packs: bool = False) -> None:
        self.workers, self.packs = workers, packs
        self.fails_at: int | None = None

    def dispatch(self, call: Call) -> str:
        """Send each text to the next scheduler."""
        there = [number for number, worker in enumerate(self.workers) if worker is not None]
        for number, request in enumerate(call.batch):
            if number == self.fails_at:
                raise RuntimeError("no scheduler is left")
            worker = self.workers[there[number % len(there)]]
            assert worker is not None
            request.stamp = "sent"
            if self.packs:
                worker.send(request.name.encode(), flags=1)
            else:
                worker.send_pyobj(request)
            request.stamp = "after"
        return "done"


def _dispatched(controller: Controller, count: int) -> Any:
    call = Call([Request(str(number)) for number in range(count)])
    return shared_calls._around(Controller.dispatch, controller, call)


def test_each_scheduler_gets_its_texts_in_one_message_and_in_order() -> None:
    first, second = Worker(), Worker()
    controller = Controller([first, None, second])
    assert _dispatched(controller, 5) == "done"
    assert controller.workers == [first, None, second]
    assert first.sent == [Call([Request(name, "sent") for name in "024"])]
    assert second.sent == [Call([Request(name, "sent") for name in "13"])]


def test_a_single_text_stays_what_it_is() -> None:
    first, second, third = workers = [Worker(), Worker(), Worker()]
    _dispatched(Controller(list(workers)), 2)
    assert first.sent == [Request("0", "sent")]
    assert second.sent == [Request("1", "sent")]
    assert third.sent == []


def test_what_was_handed_out_before_a_failure_is_sent() -> None:
    """As without the hook: the failure is the controller's own."""
    worker = Worker()
    controller = Controller([worker])
    controller.fails_at = 2
    with pytest.raises(RuntimeError, match="no scheduler is left"):
        _dispatched(controller, 3)
    assert controller.workers == [worker]
    assert worker.sent == [Call([Request("0", "sent"), Request("1", "sent")])]


def test_messages_that_sglang_packs_itself_go_at_once() -> None:
    worker = Worker()
    _dispatched(Controller([worker], packs=True), 2)
    assert worker.sent == [(b"0", 1), (b"1", 1)]
