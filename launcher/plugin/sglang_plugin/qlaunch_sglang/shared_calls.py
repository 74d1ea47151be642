"""A call whose texts several schedulers share: each gets its part in one message.

SGLang's data parallel controller receives the texts of a call in one message and hands them out one
by one. Each scheduler then computes the first that reaches it alone, while the others arrive.
"""

import copy

from qlaunch_sglang import least_loaded

_TARGET = (
    "sglang.srt.managers.data_parallel_controller.DataParallelController.dispatch_batch_embedding"
)


def register() -> None:
    """Hook the place where the controller hands out the texts of a call."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, controller, call, *args, **kwargs):
    workers = controller.workers
    kept = controller.workers = [worker and Kept(worker) for worker in workers]
    try:
        return original(controller, call, *args, **kwargs)
    finally:
        controller.workers = workers
        for rank, each in enumerate(kept):
            if each:
                least_loaded.add(controller, rank, each.requests)
                each.deliver(type(call))


class Kept:
    """A scheduler's socket: requests that are sent through it wait for their message."""

    def __init__(self, socket):
        self._socket = socket
        self.requests = []

    def send_pyobj(self, request, *_args, **_kwargs):
        """Keep a request as it is now: the controller goes on writing on its own."""
        self.requests.append(copy.copy(request))

    def deliver(self, kind):
        """Send what was kept, in a message of `kind` where it is more than one request."""
        if len(self.requests) == 1:
            self._socket.send_pyobj(*self.requests)
        elif self.requests:
            self._socket.send_pyobj(kind(batch=self.requests))

    def __getattr__(self, name):
        # An SGLang that packs its messages by itself sends bytes, which go at once.
        return getattr(self._socket, name)
