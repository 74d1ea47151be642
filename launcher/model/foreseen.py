"""A model as a hub's own metadata describe it, before its weights are here: small files that the
hub's client has cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal

from launcher.errors import QlaunchError
from launcher.model.checkpoint import ModelCard, Pooling, Shape, Source
from launcher.model.files import read_json_object
from launcher.model.hub import locate_hub
from launcher.model.inspect import ENCODERS
from launcher.model.modules import read_head
from launcher.model.shape import DTYPE_BYTES, parameters_of

_NEEDED: Final = {
    "layers": "num_hidden_layers",
    "hidden_size": "hidden_size",
    "heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
}


def from_cache(source: Source) -> ModelCard | None:
    """A card of what the cached config.json of a hub's repository says; None where there is none,
    or where it does not give the sizes. Touches no network."""
    if source.kind not in {"hf", "modelscope"}:
        return None
    folder = locate_hub(source)
    if folder is None or not (folder / "config.json").is_file():
        return None
    try:
        return _from_folder(folder, source)
    except QlaunchError:
        return None  # what is cached is broken: fetching again says more


def _from_folder(folder: Path, source: Source) -> ModelCard | None:
    raw = read_json_object(folder / "config.json")
    sizes = {field: raw.get(key) for field, key in _NEEDED.items()}
    if not all(type(value) is int and value > 0 for value in sizes.values()):
        return None
    numbers: dict[str, Any] = sizes
    context = numbers.pop("context")
    heads, hidden = numbers["heads"], numbers["hidden_size"]
    encoder = raw.get("model_type") in ENCODERS
    classes = [each for each in raw.get("architectures") or () if isinstance(each, str)]
    if not classes:
        return None
    shape = Shape(
        **numbers,
        kv_heads=raw.get("num_key_value_heads") or heads,
        head_dim=raw.get("head_dim") or hidden // heads,
        stored_dtype=_dtype(raw),
        encoder=encoder,
    )
    pooling, normalize, dense = _head(folder, hidden, classes[0], encoder=encoder)
    name = source.location.rpartition("/")[2]
    return ModelCard(
        name=name,
        title=name,
        sources=(source,),
        architecture=classes[0],
        parameters=_parameters(folder, shape),
        pooling=pooling,
        normalize=normalize,
        dimensions=dense[-1] if dense else hidden,
        context_length=context,
        licence="unverified",
        shape=shape,
    )


def _head(
    folder: Path, hidden: int, class_name: str, *, encoder: bool
) -> tuple[Pooling, bool, tuple[int, ...]]:
    """Pooling, normalisation and widths of Dense modules; the defaults where only some of the files
    that say so are cached."""
    try:
        head = read_head(folder, hidden_size=hidden, causal=not encoder, class_name=class_name)
    except QlaunchError:
        return ("cls" if encoder else "last"), True, ()
    return head.pooling, head.normalize, head.dense_dims


def _dtype(raw: dict[str, Any]) -> Literal["float32", "bfloat16", "float16"]:
    said = raw.get("torch_dtype") or raw.get("dtype")
    return said if said in ("bfloat16", "float16") else "float32"


def _parameters(folder: Path, shape: Shape) -> int:
    """Elements by the index of the weights, where it is cached; else by the layers' sizes."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        total = (read_json_object(index).get("metadata") or {}).get("total_size")
        if type(total) is int and total > 0:
            return total // DTYPE_BYTES[shape.stored_dtype]
    return parameters_of(shape)
