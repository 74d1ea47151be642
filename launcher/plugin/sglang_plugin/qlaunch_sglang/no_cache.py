"""No cache of keys and values where every layer attends over whole texts.

SGLang makes the cache for what it generates; an embedding reads none of it. What the scheduler
counts with stays: how many tokens the cache would hold bounds how many are admitted. SGLang has a
cache without memory for the same purpose (`--prefill-only-disable-kv-cache`), which it offers to
FlashAttention on CUDA alone; writing to it or reading from it raises, so misuse is an error, not a
wrong vector.

The launcher asks for it (`QLAUNCH_KV_CACHE=none`) and predicts the memory accordingly.
"""

import logging
import os

logger = logging.getLogger(__name__)

VARIABLE = "QLAUNCH_KV_CACHE"
_TARGET = "sglang.srt.mem_cache.kv_cache_configurator.KVCacheConfigurator._build_mha_kv_pool"
_MODEL = {"reads": True}
"""Whether a layer of this process's model reads the cache."""


def register() -> None:
    """Hook the place where the scheduler makes its cache, where the launcher asks for none."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    if os.environ.get(VARIABLE) == "none":
        HookRegistry.register(_TARGET, _around, HookType.AROUND)


def leave_out() -> None:
    """Say that no layer of the model reads the cache."""
    _MODEL["reads"] = False


def _around(original, *args, **kwargs):
    if not _MODEL["reads"]:
        from sglang.srt.mem_cache.memory_pool import NoOpMHATokenToKVPool

        kwargs["mha_pool_class"] = NoOpMHATokenToKVPool
    else:
        logger.warning("qlaunch: the cache of keys and values stays: a layer reads it")
    return original(*args, **kwargs)
