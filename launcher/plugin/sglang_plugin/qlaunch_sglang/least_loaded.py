"""A text that comes alone goes to the scheduler with the least to do, on a CPU.

SGLang's data parallel controller hands texts out in turn, whatever their length and whatever waits.
A scheduler whose core also serves HTTP falls behind; where clients wait for their answers, most of
their texts then wait for it, and the others compute batches of one and two. SGLang can count what
waits (`--load-balance-method total_tokens`), but then nothing is sent in turn any more: an idle
service has its first scheduler alone answer, and nobody hears of another that hangs. Here those
counts choose for a text that comes alone; of schedulers with equal counts it is the one whose turn
it is, and the texts of one call are handed out in turn as before (`shared_calls`), which is how the
launcher asks every scheduler.
"""

import logging

from qlaunch_sglang.lean_imports import serves_on_cpu

logger = logging.getLogger(__name__)

ALONE = "TokenizedEmbeddingReqInput"
"""SGLang's class of a text that comes alone."""
_MODULE = "sglang.srt.managers.data_parallel_controller"
_TARGET = f"{_MODULE}.DataParallelController.dispatching_with_trace"


def register() -> None:
    """Hook the place where the controller sends a text on its way."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if serves_on_cpu():
        HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, controller, request, *args, **kwargs):
    if kwargs.get("refresh_load_budget", True) and _ours(controller, request):
        controller.refresh_load_budget()
        rank = least(controller.dp_budget.total_tokens, _in_turn(controller))
        if rank is not None:
            # SGLang's own way of saying where a request is to go.
            request.routed_dp_rank = rank
            add(controller, rank, [request])
    return original(controller, request, *args, **kwargs)


def _ours(controller, request) -> bool:
    """Whether it is a text of a client's that may go anywhere."""
    from sglang.srt.managers.utils import is_health_check_generate_req

    return (
        type(request).__name__ == ALONE
        and request.routed_dp_rank is None
        and getattr(controller.load_balance_method, "name", "") == "ROUND_ROBIN"
        and not is_health_check_generate_req(request)
    )


def _in_turn(controller) -> list[int]:
    """The schedulers that are there, beginning with the one whose turn it is; the next text has
    the next one's turn."""
    there = controller._active_workers
    if not there:
        return []
    turn = controller.round_robin_counter % len(there)
    controller.round_robin_counter = (turn + 1) % len(there)
    return [*there[turn:], *there[:turn]]


def least(tokens: list[int], in_turn: list[int]) -> int | None:
    """Who has the least to do; None where nobody is there.

    Args:
        tokens: of each scheduler, that wait or are computed.
        in_turn: schedulers, the one whose turn it is first.
    """
    return min(in_turn, key=tokens.__getitem__, default=None)


def add(controller, rank: int, requests) -> None:
    """Count texts that a scheduler is sent, until it says itself what it has."""
    budget = getattr(controller, "dp_budget", None)
    if budget is not None:
        budget.total_requests[rank] += len(requests)
        budget.total_tokens[rank] += sum(len(request.input_ids or ()) for request in requests)
