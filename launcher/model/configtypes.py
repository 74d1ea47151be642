"""Types of config.json's values: transformers 5 refuses some when the engine has started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from launcher.errors import QlaunchError
from launcher.model.files import broken

_FLOATS: Final = ("layer_norm_eps", "rms_norm_eps", "initializer_range")
_FLAGS: Final = (
    "add_cross_attention", "attention_bias", "is_decoder", "mlp_bias", "sinusoidal_pos_embds",
    "tie_word_embeddings", "use_cache", "use_sliding_window",
)  # fmt: skip
_DTYPES: Final = frozenset({"float32", "float16", "bfloat16", "float64", "float", "half", "double"})


def check_types(path: Path, config: Mapping[str, Any], rows: int) -> None:
    """Refuse values that transformers does not read.

    Args:
        path: of config.json.
        config: its content.
        rows: of the embedding table.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    for key in _FLOATS:
        if key in config and type(config[key]) is not float:
            raise _wrong(path, key, config[key], "as a number with a point or an exponent")
    for key in _FLAGS:
        if key in config and type(config[key]) is not bool:
            raise _wrong(path, key, config[key], "as true or false")
    for key in ("dtype", "torch_dtype"):
        said = config.get(key)
        if said is not None and (not isinstance(said, str) or said not in _DTYPES):
            raise _wrong(path, key, said, "as float32, bfloat16 or float16")
    padding = config.get("pad_token_id")
    if padding is not None and (type(padding) is not int or padding >= rows):
        raise _wrong(path, "pad_token_id", padding, f"as a token id below {rows}")


def _wrong(path: Path, key: str, said: object, wanted: str) -> QlaunchError:
    return broken(
        path,
        f"gives {key} as {str(said)[:40]!r}, not {wanted}",
        fix=f"correct {key} in that file; transformers does not read it as it is",
    )
