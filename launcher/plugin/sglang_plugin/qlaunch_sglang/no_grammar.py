"""No grammar backend in a scheduler that generates nothing.

SGLang makes one for every model with a tokenizer: tables over its vocabulary, for constraining what
is generated. An embedding has no such thing; a scheduler without a tokenizer has no backend either.
"""

import pkgutil

_TARGET = "sglang.srt.constrained.grammar_manager.create_grammar_backend"


def register() -> None:
    """Hook the place where the scheduler makes its grammar backend."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    try:
        pkgutil.resolve_name(_TARGET)
    except (ImportError, AttributeError):
        return  # an SGLang that makes it elsewhere keeps it
    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, server_args, *args, **kwargs):
    if getattr(server_args, "is_embedding", False):
        return None
    return original(server_args, *args, **kwargs)
