"""Texts in lower case before the tokenizer sees them, where the checkpoint says so.

`do_lower_case` of sentence_bert_config.json is not the tokenizer's: sentence-transformers 2 to 5
call Python's `str.lower` on every text; the front's tokenizer does the same here.
"""

import os


def register() -> None:
    """Hook the place where the front makes its tokenizer, if the launcher asks for it."""
    if os.environ.get("QLAUNCH_LOWER_CASE") != "1":
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(
        "sglang.srt.managers.tokenizer_manager.get_tokenizer", _around, HookType.AROUND
    )


def _around(original, *args, **kwargs):
    return lowered(original(*args, **kwargs))


def lowered(tokenizer):
    """`tokenizer`, which from now on puts texts in lower case first; token ids are left alone."""
    kind = type(tokenizer)

    def call(self, text=None, *args, **kwargs):
        return kind.__call__(self, _lower(text), *args, **kwargs)

    def encode(self, text, *args, **kwargs):
        return kind.encode(self, _lower(text), *args, **kwargs)

    # The name stays: SGLang and transformers look at it.
    tokenizer.__class__ = type(kind.__name__, (kind,), {"__call__": call, "encode": encode})
    return tokenizer


def _lower(text):
    if isinstance(text, str):
        return text.lower()
    return [_lower(each) for each in text] if isinstance(text, (list, tuple)) else text
