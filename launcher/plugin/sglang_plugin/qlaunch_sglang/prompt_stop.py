"""SIGTERM is heard at once: SGLang's front looks every five seconds whether it was told to end.

What it does then stays its own: open requests are answered, the scheduler gives up what it holds,
and the front ends.
"""

import asyncio
import pkgutil

_TARGET = "sglang.srt.managers.tokenizer_manager.TokenizerManager.sigterm_watchdog"
LOOK_S = 0.1


def register() -> None:
    """Hook the loop in which the front waits for SIGTERM."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    try:
        pkgutil.resolve_name(_TARGET)
    except (ImportError, AttributeError):
        return  # an SGLang that waits elsewhere goes on so
    HookRegistry.register(_TARGET, around, HookType.AROUND)


async def around(original, manager, *args, **kwargs):
    """Wait until the front shall end and has answered what is open; then its own loop ends too."""
    # The front sets a flag, and nothing that could be waited for.
    while not manager.gracefully_exit:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    while manager.rid_to_state and _is_well(manager):  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    return await original(manager, *args, **kwargs)


def _is_well(manager):
    """False where the front would not wait for what is open: its health check failed."""
    return getattr(manager.server_status, "name", "") != "UnHealthy"
