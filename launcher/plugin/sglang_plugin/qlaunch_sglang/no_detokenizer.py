"""No process for detokenizing where nothing is generated.

Every vector goes from the scheduler through the detokenizer, which hands it on as it came: a
process and a hop for nothing. SGLang has the short way itself (its `--skip-tokenizer-init` sends
the scheduler's answers straight to the front), but ties it to a front that cannot read texts. Here
both ends take it: the scheduler sends to the front, and the front starts no detokenizer.

The launcher asks for it (`QLAUNCH_DETOKENIZER=none`) where one front serves embeddings alone.
"""

import inspect
import logging
import os
import pkgutil

logger = logging.getLogger(__name__)

VARIABLE = "QLAUNCH_DETOKENIZER"
_SENDER = "sglang.srt.managers.scheduler_components.ipc_channels.SchedulerIpcChannels.create"
_STARTER = "sglang.srt.entrypoints.engine.Engine._launch_detokenizer_subprocesses"


def register() -> bool:
    """Hook the scheduler's sockets and the front's children, where the launcher asks for it.

    False where everything stays as it is.
    """
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if os.environ.get(VARIABLE) != "none" or not _has_short_way():
        return False
    HookRegistry.register(_SENDER, _send_to_front, HookType.AROUND)
    HookRegistry.register(_STARTER, _start_none, HookType.AROUND)
    return True


def _has_short_way() -> bool:
    """Whether this SGLang has both ends, as they are known: one alone would answer nothing."""
    try:
        create = pkgutil.resolve_name(_SENDER)
        pkgutil.resolve_name(_STARTER)
    except (ImportError, AttributeError):
        return False
    return "skip_tokenizer_init" in inspect.signature(create).parameters


def _send_to_front(original, *args, **kwargs):
    kwargs["skip_tokenizer_init"] = True
    return original(*args, **kwargs)


def _start_none(_original, *_args, **_kwargs):
    logger.info("qlaunch: no detokenizer: the scheduler sends vectors to the front")
    return [], []
