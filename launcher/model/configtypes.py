"""Types of config.json's values: transformers 5 refuses some when the engine has started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from launcher.errors import QlaunchError
from launcher.model.files import broken


class _Kind(NamedTuple):
    """What a value may be, and its words."""

    types: frozenset[type]
    words: str


_FLOAT: Final = _Kind(frozenset({float}), "as a number with a point or an exponent")
_NUMBER: Final = _Kind(frozenset({int, float}), "as a number")
_WHOLE: Final = _Kind(frozenset({int}), "as a whole number")
_FLAG: Final = _Kind(frozenset({bool}), "as true or false")
_OBJECT: Final = _Kind(frozenset({dict}), "as an object")
_NOTHING: Final = frozenset({type(None)})
_KINDS: Final[Mapping[str, _Kind]] = MappingProxyType(
    dict.fromkeys(("layer_norm_eps", "rms_norm_eps", "initializer_range"), _FLOAT)
    | dict.fromkeys(
        (
            "attention_dropout", "attention_probs_dropout_prob", "classifier_dropout", "dropout",
            "hidden_dropout_prob", "qa_dropout", "seq_classif_dropout", "summary_last_dropout",
        ),
        _NUMBER,
    )
    | dict.fromkeys(
        (
            "bos_token_id", "chunk_size_feed_forward", "head_dim", "max_window_layers",
            "num_key_value_heads", "num_labels", "pretraining_tp", "sliding_window",
            "type_vocab_size",
        ),
        _WHOLE,
    )
    | dict.fromkeys(
        (
            "add_cross_attention", "attention_bias", "is_decoder", "is_encoder_decoder", "mlp_bias",
            "output_hidden_states", "return_dict", "sinusoidal_pos_embds", "tie_word_embeddings",
            "use_cache", "use_sliding_window",
        ),
        _FLAG,
    )
    | dict.fromkeys(("auto_map", "id2label"), _OBJECT)
)  # fmt: skip
_NAMES: Final = frozenset({
    "_encode_special_floats", "attribute_map", "dict_dtype_to_str", "get_text_config",
    "is_heterogeneous", "per_layer_attributes", "self", "sub_configs", "to_dict", "to_diff_dict",
    "to_json_string", "use_return_dict",
})  # fmt: skip
"""What transformers' class of settings has as a property without a setter, or calls."""
_NESTED: Final = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where SGLang looks for the settings that count, once a key is there."""
_MAY_BE_NULL: Final = frozenset({
    "auto_map", "bos_token_id", "classifier_dropout", "id2label", "num_labels",
    "output_hidden_states", "pretraining_tp", "return_dict", "sliding_window",
})  # fmt: skip
_NULL_FOR: Final[Mapping[str, str]] = MappingProxyType({"attention_dropout": "llama"})
_NOT_NULL_FOR: Final[Mapping[str, str]] = MappingProxyType({
    "head_dim": "qwen3",
    "num_key_value_heads": "mistral",
})  # fmt: skip
"""The one family each whose settings differ in that from the others'."""
_DTYPES: Final = frozenset({"float32", "float16", "bfloat16", "float64", "float", "half", "double"})


def check_keys(path: Path, config: Mapping[str, Any]) -> None:
    """Refuse keys that end transformers or SGLang, whatever their value, or nearly.

    Args:
        path: of config.json.
        config: its content.

    Raises:
        QlaunchError: `model_corrupt` or `model_unsupported`, exit 2.
    """
    own = next((key for key in config if key in _NAMES), None)
    if own is not None:
        raise broken(
            path,
            f"gives {own}, which is a name of transformers' own that no setting may have",
            fix=f"remove {own} from that file",
        )
    for key in _NESTED:
        if key in config and (config[key] is not None or key != "thinker_config"):
            raise _unsupported(
                path, key, "keeps settings under {}, as models of texts and images do"
            )
    if config.get("per_layer_config"):
        raise _unsupported(path, "per_layer_config", "gives {}: layers that differ are not served")


def _unsupported(path: Path, key: str, why: str) -> QlaunchError:
    fix = f"serve a model of texts alone, or remove {key} from that file if it is empty"
    return broken(path, why.format(key), code="model_unsupported", fix=fix)


def check_types(path: Path, config: Mapping[str, Any], rows: int) -> None:
    """Refuse values that transformers does not read.

    Args:
        path: of config.json.
        config: its content.
        rows: of the embedding table.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    for key, kind in _KINDS.items():
        if key not in config:
            continue
        allowed = kind.types | (_NOTHING if _may_be_null(key, config) else frozenset())
        if type(config[key]) not in allowed:
            raise _wrong(path, key, config[key], kind.words)
    for key in ("dtype", "torch_dtype"):
        said = config.get(key)
        if said is not None and (not isinstance(said, str) or said not in _DTYPES):
            raise _wrong(path, key, said, "as float32, bfloat16 or float16")
    labels = config.get("id2label") or {}
    if not all(key.strip().lstrip("+-").isdecimal() for key in labels):
        raise _wrong(path, "id2label", labels, "as labels by their numbers")
    _check_tokens(path, config, rows)


def _may_be_null(key: str, config: Mapping[str, Any]) -> bool:
    if key in _NULL_FOR:
        return config.get("model_type") == _NULL_FOR[key]
    if key in _NOT_NULL_FOR:
        return config.get("model_type") != _NOT_NULL_FOR[key]
    return key in _MAY_BE_NULL


def _check_tokens(path: Path, config: Mapping[str, Any], rows: int) -> None:
    padding, end = config.get("pad_token_id"), config.get("eos_token_id")
    if padding is not None and (type(padding) is not int or padding >= rows):
        raise _wrong(path, "pad_token_id", padding, f"as a token id below {rows}")
    ends = end if isinstance(end, list) else [end]
    if end is not None and any(type(each) is not int for each in ends):
        raise _wrong(path, "eos_token_id", end, "as token ids")


def _wrong(path: Path, key: str, said: object, wanted: str) -> QlaunchError:
    return broken(
        path,
        f"gives {key} as {str(said)[:40]!r}, not {wanted}",
        fix=f"correct {key} in that file; transformers does not read it as it is",
    )
