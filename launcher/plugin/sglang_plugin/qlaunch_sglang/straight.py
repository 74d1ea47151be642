"""Vectors go from the scheduler straight to the front.

SGLang sends every result by way of its detokenizer, a process of its own. It hands embeddings on as
they are: each is unpacked and packed again there, and waits for one more process to wake up beside
those that compute. Everything else still takes that way.
"""

import dataclasses

EMBEDDINGS = "BatchEmbeddingOutput"
_TARGET = "sglang.srt.managers.scheduler_components.ipc_channels.SchedulerIpcChannels.create"


def register() -> None:
    """Hook the place where a scheduler opens its sockets."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, *args, **kwargs):
    channels = original(*args, **kwargs)
    sender = Straight(channels.send_to_tokenizer, channels.send_to_detokenizer)
    return dataclasses.replace(channels, send_to_detokenizer=sender)


class Straight:
    """SGLang's sender to the detokenizer; embeddings go to the front, which is who asked."""

    def __init__(self, front, detokenizer):
        self._front = front
        self._detokenizer = detokenizer

    def send_output(self, output, recv_obj=None):
        """Send one result on its way."""
        straight = type(output).__name__ == EMBEDDINGS
        # Several fronts share the detokenizer's knowledge of who asked.
        if straight and not any(output.http_worker_ipcs or ()):
            self._front.send_output(output, recv_obj)
        else:
            self._detokenizer.send_output(output, recv_obj)

    def __getattr__(self, name):
        return getattr(self._detokenizer, name)
