"""The process that hands requests to several schedulers, waiting for them instead of asking.

SGLang's data parallel controller asks its socket for requests without a pause, which keeps a whole
core busy: on a machine whose cores are the compute, that is one of them. Here it sleeps until
something has come.
"""

import logging

logger = logging.getLogger(__name__)

WAIT_MS = 1000
"""How long it sleeps at most, so that its watchdog hears of it."""
_TARGET = "sglang.srt.managers.data_parallel_controller.DataParallelController.event_loop"


def register() -> None:
    """Hook the controller's loop."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, controller, *args, **kwargs):
    socket = getattr(controller, "recv_from_tokenizer", None)
    watchdog = getattr(controller, "soft_watchdog", None)
    if hasattr(socket, "poll") and hasattr(watchdog, "feed"):
        controller.soft_watchdog = Waiting(watchdog, socket)
        logger.info("qlaunch: the controller sleeps between requests")
    else:
        logger.info("qlaunch: the controller spins: this SGLang's is another")
    return original(controller, *args, **kwargs)


class Waiting:
    """The controller's watchdog, fed before each look at the socket: the place to wait."""

    def __init__(self, watchdog, socket):
        self._watchdog = watchdog
        self._socket = socket

    def feed(self):
        """Feed the watchdog, and return when there is something to receive, or in a second."""
        self._watchdog.feed()
        self._socket.poll(WAIT_MS)

    def __getattr__(self, name):
        return getattr(self._watchdog, name)
