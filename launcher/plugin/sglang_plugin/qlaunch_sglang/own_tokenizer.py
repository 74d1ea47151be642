"""The tokenizer as transformers makes it of the checkpoint's files, and nothing put back.

SGLang mends what transformers 5 made for chat models: it takes a pre-tokenizer of another kind from
tokenizer.json again, but not the normalizer that goes with it (a lone Metaspace of an XLM-RoBERTa:
every doubled blank became a token), loads a generic tokenizer anew by the class of
tokenizer_config.json, and leaves out the end token that tokenizer.json appends. An embedding is of
the tokens that the model's own library makes: sentence-transformers has transformers' tokenizer.
"""

_HOME = "sglang.srt.utils.hf_transformers.tokenizer"
_MENDING = (
    "_fix_v5_add_bos_eos_token",
    "_fix_v5_tokenizer_components",
    "_load_tokenizer_by_declared_class",
)


def register() -> None:
    """Have SGLang change nothing."""
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    for name in _MENDING:
        HookRegistry.register(f"{_HOME}.{name}", _nothing, HookType.REPLACE)


def _nothing(*_args, **_kwargs):
    return None
