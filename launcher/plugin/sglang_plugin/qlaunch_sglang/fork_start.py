"""One import instead of two: the front forks its scheduler and detokenizer after importing once.

SGLang starts both with multiprocessing's `spawn`, so each imports everything again: on a CPU that
is half of the start and a third of the memory. Nothing forbids `fork` there, as long as the process
that forks has no CUDA context and no other thread. This module imports what the children will need
into the front, freezes the heap (so that the collector does not write to, and so copy, shared
pages), and turns the start method to fork, only where that is safe; otherwise spawn stays.

`QLAUNCH_START_METHOD` says what is wanted: `auto` (fork where safe), `spawn`, or `fork` (the same
as auto, but a refusal is logged as a warning).
"""

import ctypes
import gc
import importlib
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterable

logger = logging.getLogger(__name__)

_TARGET = "sglang.srt.entrypoints.engine._set_envs_and_config"
_MADV_DONTNEED = 4
_OWN_PAGES = {"Anonymous:", "Swap:"}
"""What a mapping of a file has of its own."""
_PRELOAD = (
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.detokenizer_manager",
    "sglang.srt.model_executor.model_runner",
    "sglang.srt.model_loader.loader",
    "sglang.srt.layers.attention.torch_native_backend",
)


def register() -> None:
    """Hook the place where the front sets multiprocessing's start method."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, server_args, *args, **kwargs):
    result = original(server_args, *args, **kwargs)
    began = time.perf_counter()
    device = getattr(server_args, "device", None)
    if wanted() == "spawn":
        refusal = "as asked"
    elif (refusal := why_not_fork(device)) is None:
        # What cannot fork need not import what only its children use.
        preload()
        refusal = why_not_fork(device)
    if refusal is None:
        gc.collect()
        gc.freeze()
        trim()
        multiprocessing.set_start_method("fork", force=True)
        logger.info(
            "qlaunch: children are forked; preloaded in %.1f s", time.perf_counter() - began
        )
    else:
        logger.log(
            logging.WARNING if wanted() == "fork" else logging.INFO,
            "qlaunch: children are spawned, not forked: %s",
            refusal,
        )
    return result


def wanted() -> str:
    """auto, fork or spawn."""
    return os.environ.get("QLAUNCH_START_METHOD", "auto")


def preload() -> None:
    """Import what the children need."""
    external = os.environ.get("SGLANG_EXTERNAL_MODEL_PACKAGE")
    for name in (*_PRELOAD, *((external,) if external else ())):
        try:
            importlib.import_module(name)
        except Exception as error:
            # The child will import it itself and say what is wrong; the front must not die of it.
            logger.info("qlaunch: %s is not preloaded: %s", name, error)


def trim() -> None:
    """Give back what was only needed to import; with one thread running.

    That is what was freed, and the pages of libraries that were read once: they stay in the page
    cache, and come back one by one where they are needed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    for begin, end in _unchanged():
        libc.madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _MADV_DONTNEED)


def _unchanged() -> list[tuple[int, int]]:
    """Mapped files that nobody has written to here: (begin, end) of each. None where /proc is mute.

    A library's relocated part has pages of its own, in memory or swapped out, which would be lost:
    it is left out.
    """
    try:
        with open("/proc/self/smaps", encoding="utf-8", errors="replace") as file:
            return unchanged(file)
    except OSError:
        return []


def unchanged(smaps: Iterable[str]) -> list[tuple[int, int]]:
    """The same of the lines of a process's smaps."""
    spans: list[tuple[int, int]] = []
    current: tuple[int, int] | None = None
    clean: set[str] = set()
    for line in smaps:
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            current, clean = _of_file(name, rest), set()
        elif name in _OWN_PAGES and rest.split() == ["0", "kB"]:
            clean.add(name)
            if current is not None and clean == _OWN_PAGES:
                spans.append(current)
    return spans


def _of_file(span: str, rest: str) -> tuple[int, int] | None:
    """The span of a mapping that is of a file and not writable; None of any other."""
    permissions, _offset, _device, inode = rest.split(maxsplit=4)[:4]
    if permissions not in {"r-xp", "r--p"} or inode == "0":
        return None
    begin, end = span.split("-")
    return int(begin, 16), int(end, 16)


def why_not_fork(device: str | None) -> str | None:
    """The reason why forking this process now would be unsafe, or None."""
    if device != "cpu":
        return f"the device is {device}, not cpu"
    import torch

    if torch.cuda.is_initialized():
        return "a CUDA context exists"
    others = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    if others:
        return f"other threads are running: {', '.join(others)}"
    return _native_threads()


def _native_threads() -> str | None:
    # Threads that libraries started by themselves (an OpenMP or BLAS pool) do not survive a fork,
    # and the child would wait for them for ever.
    try:
        count = len(os.listdir("/proc/self/task"))
    except OSError:
        return "this system does not show a process's threads"
    return None if count == 1 else f"{count - 1} native threads are running"
