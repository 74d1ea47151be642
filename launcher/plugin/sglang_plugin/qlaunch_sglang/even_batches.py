"""Batches of clients that wait for their answers keep one size, on a CPU.

SGLang's scheduler computes all that waits. Where each client asks anew once it is answered, the
answers of a batch bring its successors: while those are on their way the scheduler begins with the
one or two that came meanwhile, and the rest is the next batch. Batches of 15 and of 1 then follow
each other for as long as the clients stay, and one text is computed by all threads together, with
products too small for them. Here a batch leaves as many behind as make the next one its equal:
the texts that were computed last are those that come next.
"""

from qlaunch_sglang.lean_imports import serves_on_cpu

_TARGET = "sglang.srt.managers.scheduler.Scheduler.get_next_batch_to_run"


def register() -> None:
    """Hook the place where a scheduler chooses its next batch."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if serves_on_cpu():
        HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, scheduler, *args, **kwargs):
    from torch import get_num_threads

    waiting, last = scheduler.waiting_queue, getattr(scheduler, "last_batch", None)
    computed = 0 if last is None else len(last.reqs)
    count = share(len(waiting), computed, get_num_threads())
    if count == len(waiting) or not _in_turn(scheduler):
        return original(scheduler, *args, **kwargs)
    later = waiting[count:]
    del waiting[count:]
    try:
        return original(scheduler, *args, **kwargs)
    finally:
        # SGLang puts another list in its place, of those that found no room.
        scheduler.waiting_queue.extend(later)


def share(waiting: int, last: int, threads: int) -> int:
    """How many of the texts that wait are computed now.

    Args:
        waiting: texts that wait.
        last: texts of the batch that has just been computed; 0: there was none.
        threads: a multiple of them leaves none idle, where half as many again make one.
    """
    if not last or waiting <= last:
        return waiting
    half = -(-(waiting + last) // 2)
    even = -(-half // threads) * threads
    return min(waiting, even if 2 * (even - half) <= half else half)


def _in_turn(scheduler) -> bool:
    """Whether texts are computed in the order in which they came: else SGLang sorts all of them."""
    asked = scheduler.server_args
    sorted_by = getattr(asked, "enable_priority_scheduling", False)
    return getattr(asked, "schedule_policy", "fcfs") == "fcfs" and not sorted_by
