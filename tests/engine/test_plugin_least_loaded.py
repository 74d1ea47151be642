"""A text that comes alone goes to the scheduler with the least to do."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import least_loaded, shared_calls


@dataclass
class TokenizedEmbeddingReqInput:
    """A text, as the controller has it; named as SGLang names it."""

    input_ids: list[int] | None
    rid: str = "a"
    routed_dp_rank: int | None = None


@dataclass
class Controller:
    """What of SGLang's controller is looked at."""

    total_tokens: list[int]
    load_balance_method: Any = field(default_factory=lambda: SimpleNamespace(name="ROUND_ROBIN"))
    round_robin_counter: int = 0
    refreshed: int = 0

    def __post_init__(self) -> None:
        self.dp_budget = SimpleNamespace(
            total_tokens=self.total_tokens, total_requests=[0] * len(self.total_tokens)
        )
        self._active_workers = list(range(len(self.total_tokens)))
        self.sent: list[int | None] = []

    def refresh_load_budget(self) -> None:
        """Read what schedulers say they have."""
        self.refreshed += 1

    def dispatching_with_trace(self, request: Any, refresh_load_budget: bool = True) -> str:
        """Note where a text was sent to; None: in turn."""
        self.sent.append(request.routed_dp_rank)
        return "sent"


@pytest.fixture(autouse=True)
def sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hook asks SGLang: which texts are its own looks at health."""
    utils = ModuleType("sglang.srt.managers.utils")
    vars(utils)["is_health_check_generate_req"] = lambda request: request.rid.startswith("HEALTH")
    for name in ("sglang", "sglang.srt", "sglang.srt.managers"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, utils.__name__, utils)


def sent(controller: Controller, *requests: Any, **asked: Any) -> list[int | None]:
    """Where the controller sends texts that come one after the other."""
    for request in requests:
        answer = least_loaded._around(
            Controller.dispatching_with_trace, controller, request, **asked
        )
        assert answer == "sent"
    return controller.sent


def text(tokens: int, **given: Any) -> TokenizedEmbeddingReqInput:
    return TokenizedEmbeddingReqInput(list(range(tokens)), **given)


def test_the_scheduler_with_fewer_tokens_gets_the_next_text() -> None:
    controller = Controller([300, 100])
    assert sent(controller, text(150), text(100), text(10)) == [1, 1, 0]
    assert controller.dp_budget.total_tokens == [310, 350]
    assert controller.dp_budget.total_requests == [1, 2]
    assert controller.refreshed == 3


def test_an_idle_service_is_asked_in_turn() -> None:
    """Else its first scheduler alone would answer, and nobody would hear of another that hangs."""
    controller, asked = Controller([0, 0, 0]), []
    for _ in range(7):
        asked += sent(controller, text(3))[-1:]
        controller.dp_budget.total_tokens[:] = [0, 0, 0]  # it was answered
    assert asked == [0, 1, 2, 0, 1, 2, 0]


def test_a_scheduler_that_is_gone_is_not_asked() -> None:
    controller = Controller([0, 500, 400])
    controller._active_workers = [1, 2]
    assert sent(controller, text(3), text(3)) == [2, 2]


def test_where_nobody_is_there_sglang_says_so_itself() -> None:
    controller = Controller([0, 0])
    controller._active_workers = []
    assert sent(controller, text(3)) == [None]


@pytest.mark.parametrize(
    ("request_", "asked"),
    [
        pytest.param(text(3, rid="HEALTH_CHECK_1"), {}, id="a look at health"),
        pytest.param(text(3), {"refresh_load_budget": False}, id="a text of a call with several"),
        pytest.param(SimpleNamespace(routed_dp_rank=None, rid="a"), {}, id="no embedding"),
    ],
)
def test_what_is_handed_out_in_turn_stays_so(request_: Any, asked: dict[str, Any]) -> None:
    controller = Controller([900, 0])
    assert sent(controller, request_, **asked) == [None]
    assert controller.dp_budget.total_tokens == [900, 0]


def test_a_scheduler_that_the_client_names_is_kept() -> None:
    assert sent(Controller([900, 0]), text(3, routed_dp_rank=0)) == [0]


def test_another_way_of_balancing_is_left_to_sglang() -> None:
    other = SimpleNamespace(name="TOTAL_REQUESTS")
    assert sent(Controller([900, 0], load_balance_method=other), text(3)) == [None]


def test_texts_of_a_call_count_for_those_that_come_alone_after_it() -> None:
    class Worker:
        def send_pyobj(self, message: Any) -> None:
            pass

    controller: Any = Controller([0, 0])
    controller.workers = [Worker(), Worker()]

    def dispatch(there: Any, call: Any) -> None:
        for rank, request in enumerate(call.batch):
            there.workers[rank % 2].send_pyobj(request)

    shared_calls._around(dispatch, controller, SimpleNamespace(batch=[text(400), text(20)]))
    assert controller.dp_budget.total_tokens == [400, 20]
    assert sent(controller, text(5)) == [1]


def test_a_text_without_tokens_counts_as_none() -> None:
    """SGLang lets a request bring embeddings of its own in their place."""
    controller = Controller([0, 7])
    assert sent(controller, TokenizedEmbeddingReqInput(None)) == [0]
    assert controller.dp_budget.total_tokens == [0, 7]


@pytest.mark.parametrize("cpu", [True, False])
def test_it_is_hooked_on_a_cpu_alone(monkeypatch: pytest.MonkeyPatch, cpu: bool) -> None:
    hooked: list[str] = []
    module = ModuleType("sglang.srt.plugins.hook_registry")
    registry = SimpleNamespace(register=lambda target, *_: hooked.append(target))
    vars(module).update(HookRegistry=registry, HookType=SimpleNamespace(AROUND="around"))
    monkeypatch.setitem(sys.modules, "sglang.srt.plugins", ModuleType("sglang.srt.plugins"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(least_loaded, "serves_on_cpu", lambda: cpu)
    least_loaded.register()
    assert hooked == ([least_loaded._TARGET] if cpu else [])
