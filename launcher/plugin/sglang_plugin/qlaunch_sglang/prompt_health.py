"""`/health` answers when the scheduler has, and not a second later.

SGLang sends a token through the scheduler, sleeps for a second, and looks then whether anything
came back: a second of every start, and a fourth of a restart. The sleep ends here as soon as
something has come.
"""

import sys
import time

_TARGET = "sglang.srt.entrypoints.engine._set_envs_and_config"
_SERVER = "sglang.srt.entrypoints.http_server"
LOOK_S = 0.01


def register() -> None:
    """Hook the place where the front sets itself up, with its server imported."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, *args, **kwargs):
    server = sys.modules.get(_SERVER)
    if server is not None and hasattr(server, "asyncio"):
        server.asyncio = _Asyncio(server)
    return original(*args, **kwargs)


class _Asyncio:
    """asyncio for the server's module, whose only sleep is that of `/health`."""

    def __init__(self, server):
        self._server, self._real = server, server.asyncio

    def __getattr__(self, name):
        return getattr(self._real, name)

    async def sleep(self, delay, result=None):
        """As asyncio's; over as soon as the scheduler has answered anything."""
        began, end = time.time(), time.monotonic() + delay
        while (left := end - time.monotonic()) > 0:
            await self._real.sleep(min(LOOK_S, left))
            if self._heard() > began:
                break
        return result

    def _heard(self):
        """When something last came from the scheduler (seconds of the clock); 0 if unknown."""
        state = getattr(self._server, "_global_state", None)
        return getattr(getattr(state, "tokenizer_manager", None), "last_receive_tstamp", 0.0)
