"""The texts of a call are read in slices, where they go to the scheduler together.

SGLang's front hands all texts of a call to the tokenizer at once, with
`--enable-tokenizer-batch-encode`. That takes hundreds of bytes for every token until the last text
is read, the front answers nobody meanwhile, and a text that is too long is refused after all of
them. A slice at a time takes what a slice takes; others are answered between two; and the first
text that is refused ends it.
"""

import asyncio
import contextlib
import multiprocessing

_TARGET = "sglang.srt.managers.tokenizer_manager.TokenizerManager._batch_tokenize_and_process"
TEXTS = 64
NUMBER = "qlaunch_number"


def register() -> None:
    """Hook the place where the front reads the texts of a call, in the front alone."""
    if multiprocessing.parent_process() is not None:
        return  # A spawned scheduler would import the whole front for it.
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


async def _around(original, manager, count, call, *args, **kwargs):
    read = []
    for begin in range(0, count, TEXTS):
        if begin:
            await asyncio.sleep(0)
        part = min(TEXTS, count - begin)
        read += await original(manager, part, Slice(call, begin), *args, **kwargs)
    return read


class Slice:
    """A call from one of its texts on: SGLang asks for each by its number, which it keeps.

    By it the guard's refusal of one text says which (qlaunch_guard/tokens.py).
    """

    def __init__(self, call, begin):
        self._call, self._begin = call, begin

    def __getitem__(self, number):
        one = self._call[self._begin + number]
        with contextlib.suppress(AttributeError):  # where SGLang makes it of a class with slots
            setattr(one, NUMBER, self._begin + number)
        return one
