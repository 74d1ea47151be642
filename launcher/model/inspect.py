"""Reading a checkpoint folder without torch: what the model is, and whether it is all there."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from launcher.errors import QlaunchError
from launcher.linux.files import absent
from launcher.model import encoders
from launcher.model.checkpoint import Checkpoint
from launcher.model.configtypes import check_keys, check_types
from launcher.model.decoders import (
    FAMILIES,
    UNNAMED,
    UNSAID,
    Decoder,
    Sizes,
    check_decoder,
    check_head,
)
from launcher.model.files import broken, check_link, missing, read_json_object, visible
from launcher.model.fingerprint import SMALL_FILES, fingerprint
from launcher.model.formats import check_format
from launcher.model.modules import PoolingHead, check_modules, read_head
from launcher.model.prompts import read_prompts
from launcher.model.safetensors import DTYPE_NAMES, Header, check_names, read_headers
from launcher.model.tokenizer import check_tokenizer
from launcher.model.values import check_finite
from launcher.paths import at_home
from launcher.units import counted
from launcher.yaml_reader import did_you_mean, shown

if TYPE_CHECKING:
    from collections.abc import Sequence

# Bidirectional transformers by `model_type`: each token sees those after it.
ENCODERS = frozenset({
    "albert", "bert", "camembert", "convbert", "deberta", "deberta-v2", "distilbert", "electra",
    "ernie", "eurobert", "flaubert", "mobilebert", "modernbert", "mpnet", "new", "nomic_bert",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xlm",
})  # fmt: skip
OFFSET_POSITIONS = frozenset(
    name for name, family in encoders.FAMILIES.items() if family.offset_positions
)
"""Position 0 is that of the padding token's index + 1: as many positions are never used."""
_OWN_CODE = ("AutoConfig", "AutoModel", "AutoTokenizer")
"""Keys of config.json's `auto_map` under which a checkpoint's own code decides its vectors."""
_ALIASES: dict[str, tuple[str, ...]] = {
    "hidden_size": ("hidden_size", "dim", "n_embd", "d_model"),
    "num_layers": ("num_hidden_layers", "n_layers", "n_layer", "num_layers"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head", "num_heads"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "n_inner", "d_ff"),
    "vocab_size": ("vocab_size",),
    "positions": ("max_position_embeddings", "n_positions"),
}
"""config.json spells these by family (DistilBERT, GPT-2, T5 differ from the rest)."""
_OF_DISTILBERT = {
    "hidden_size": ("hidden_size", "dim"),
    "num_layers": ("num_hidden_layers", "n_layers"),
    "num_attention_heads": ("num_attention_heads", "n_heads"),
    "intermediate_size": ("hidden_dim",),
}
"""Those that transformers reads for a DistilBERT; of other families that are served, the first of
`_ALIASES` alone."""
_FROM_HEAD = (
    "pooling", "pooling_source", "normalize", "normalize_source", "include_prompt", "dense_dims",
    "max_seq_length", "lower_case",
)  # fmt: skip
"""Fields that Checkpoint and Head share."""
_SCANNED = 128 * 1024 * 1024
"""Bytes of weights up to which every number is looked at (0.1 s); of larger ones the short tensors
alone."""
_LAYER = re.compile(r"(?:^|\.)(?:layers?|h)\.(\d{1,5})\.")
_SHORTER = ("max_sequence_length", "seq_length", "max_seq_len", "model_max_length")
"""Keys of config.json of which SGLang takes the first for the context before it looks at
`max_position_embeddings`; transformers reads none of them."""
_LEAST_POSITIONS = 3
"""A word between two tokens of the tokenizer's own."""
_WORD_EMBEDDING = ("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight")


def inspect(path: Path) -> Checkpoint:
    """Read what the model folder `path` says of itself: some milliseconds, no torch.

    Raises:
        QlaunchError: exit 2, naming the file: `model_not_found` (no such folder, or a file stands
            there), `model_incomplete` (config, weights, shards, tokenizer or a module absent or
            cut short), `model_corrupt` (files that contradict the format or each other),
            `model_unsupported` (no safetensors, modules or poolings that cannot be served).
    """
    try:
        return _inspect(path)
    except PermissionError as error:
        place = Path(error.filename) if isinstance(error.filename, str) else path
        fix = "let the user who runs qlaunch read that folder and what is in it"
        raise broken(place, "cannot be read: Permission denied", fix=fix) from error


def check_files(path: Path, *, whole: bool = True) -> None:
    """Refuse a folder by what it holds besides its weights, which need not be there yet.

    Args:
        path: of the folder.
        whole: every file but the weights is there; else config.json alone is looked at.

    Raises:
        QlaunchError: exit 2, as `inspect`.
    """
    folder = _folder(path)
    if whole:
        _read(folder, ())
        return
    _check_network(folder / "config.json", read_json_object(folder / "config.json"), ())


def _inspect(path: Path) -> Checkpoint:
    folder = _folder(path)
    check_files(folder, whole=False)  # what no weights would mend is said before them
    headers = read_headers(folder)
    facts, folders = _read(folder, headers)
    return Checkpoint(
        path=folder,
        **facts,
        **_weights(headers),
        fingerprint=fingerprint(folder, headers, folders),
    )


class _Network(NamedTuple):
    """What config.json says of the transformer, held to the weights."""

    sizes: dict[str, int]
    named: tuple[str, ...]
    served_as: str
    model_type: str
    encoder: bool
    kv_heads: int
    head_dim: int
    decoder: Decoder | None
    quantization: str | None


def _check_network(path: Path, config: dict[str, Any], headers: Sequence[Header]) -> _Network:
    """Hold config.json (at `path`) to what is served, and to the weights where they are there."""
    _check_own_code(path, config)
    check_keys(path, config)
    named = _architectures(path, config)
    model_type = str(config.get("model_type") or "unknown")
    names = [name for name in _ALIASES if name != "positions"]
    sizes = {name: _size(path, config, name, model_type) for name in names}
    _match(path, headers, sizes)
    quantization = _quantization(path, config)
    _check_positions(path, config)
    served_as = named[0] if named else UNNAMED.get(model_type, "")
    bidirectional = model_type in ENCODERS or served_as.startswith(encoders.CLASSES)
    encoder = bidirectional and served_as not in FAMILIES
    if encoder:
        served_as = encoders.check(path, config, headers, sizes, named).served_as
    if not served_as:
        near = did_you_mean(model_type, (*UNNAMED, *encoders.FAMILIES))
        raise broken(
            path,
            "does not say which class the model is (architectures), and models of model_type"
            f" {shown(model_type)} are not served{near}",
            fix="name the class in that file, or correct its model_type",
        )
    check_types(path, config, sizes["vocab_size"])
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    kv_heads, head_dim = _attention(path, config, model_type, width, heads)
    shape = Sizes(heads=heads, kv_heads=kv_heads, head_dim=head_dim, **_decoder_sizes(sizes))
    classes = named or (served_as,)
    decoder = None if encoder else check_decoder(path, config, classes, shape, headers)
    return _Network(
        sizes, named, served_as, model_type, encoder, kv_heads, head_dim, decoder, quantization
    )


def _read(folder: Path, headers: Sequence[Header]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Fields of Checkpoint that come of all files but the weights; the folders of modules.

    Args:
        folder: of the checkpoint.
        headers: of the weights; without any, nothing is held to them.
    """
    config = read_json_object(config_path := folder / "config.json")
    if headers:
        check_names(folder)
    network = _check_network(config_path, config, headers)
    sizes = network.sizes
    check_finite(headers, whole=sum(header.size for header in headers) <= _SCANNED)
    mended = check_tokenizer(
        folder, config, model_type=network.model_type, rows=sizes["vocab_size"]
    )
    decoder, architectures = network.decoder, network.named or (network.served_as,)
    causal = decoder is not None and not decoder.both_ways
    width = sizes["hidden_size"]
    head = read_head(folder, hidden_size=width, causal=causal, class_name=architectures[0])
    if decoder is not None:
        check_head(folder, head)
    context = _context(config_path, config, network.model_type, head)
    facts = dict(
        architectures=architectures,
        served_as=network.served_as,
        unnamed=not network.named,
        model_type=network.model_type,
        **sizes,
        **{name: getattr(head, name) for name in _FROM_HEAD},
        num_kv_heads=network.kv_heads,
        head_dim=network.head_dim,
        context_length=_bounded(context, decoder),
        dimensions=head.dense_dims[-1] if head.dense_dims else width,
        mended_tokenizer=mended,
        encoder=network.encoder,
        both_ways=not causal,
        sliding_window=decoder.window if decoder is not None else None,
        new_rotation=decoder is not None and decoder.new_rotation,
        quantization=network.quantization,
        prompts=read_prompts(folder),
    )
    return facts, head.folders


def _folder(path: Path) -> Path:
    """`path`, absolute, if it is a folder with a config.json in it."""
    path = at_home(path).absolute()
    if not path.exists():
        raise broken(path, absent(path), code="model_not_found", fix="check the path")
    if not path.is_dir():
        why = "is a file; a model is a folder"
        raise broken(path, why, code="model_not_found", fix=f"give a folder such as {path.parent}")
    _check_place(path)
    check_format(path)
    check_modules(path)
    if not (path / "config.json").exists():
        # A module's folder (1_Pooling) has a config.json of its own, which names no model_type.
        inside = [each.parent for each in visible(path, "*/config.json") if _names_a_model(each)]
        # A hub cache keeps the folder a user means two levels down.
        inside += [found.parent for found in visible(path, "snapshots/*/config.json")]
        files = "a model's folder holds config.json, its weights (*.safetensors) and its tokenizer"
        fix = f"did you mean {inside[0]}?" if inside else files
        raise missing(path, "is not a model folder: it has no config.json", fix=fix)
    return path


def _check_place(folder: Path) -> None:
    """Refuse a folder's name that SGLang takes for a file's, and files of it that are gone."""
    if folder.name.endswith(".json"):
        raise broken(
            folder,
            "is a folder whose name ends in .json, which SGLang takes for a tokenizer's file",
            code="model_unsupported",
            fix="give the folder another name, or a link to it",
        )
    # A search in a folder that cannot be read only comes out empty.
    with os.scandir(folder):
        pass
    for pattern in (*SMALL_FILES, "*.safetensors", "*.jinja", "1_Pooling"):
        for entry in visible(folder, pattern):
            check_link(entry)


def _names_a_model(config: Path) -> bool:
    try:
        return "model_type" in read_json_object(config)
    except QlaunchError:
        return False


def _optional(path: Path, config: dict[str, Any], *keys: str) -> int | None:
    """The first of `keys` that config.json gives, as a positive integer; None where it has none."""
    key = next((key for key in keys if config.get(key) is not None), keys[0])
    value = config.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 < value < 2**31:
        raise broken(path, f"gives {key} as {str(value)[:40]!r}, not as a positive integer")
    return value


def _size(path: Path, config: dict[str, Any], name: str, model_type: str) -> int:
    keys = _ALIASES[name]
    if model_type == "distilbert":
        keys = _OF_DISTILBERT.get(name, keys)
    elif model_type in encoders.FAMILIES or model_type in UNNAMED:
        keys = keys[:1]
    value = _optional(path, config, *keys)
    if value is not None:
        return value
    other = next((key for key in _ALIASES[name] if config.get(key) is not None), None)
    if other is None:
        raise broken(path, f"does not give {keys[0]}, so it describes no text model")
    raise broken(
        path,
        f"gives {other}, which transformers does not read for model_type {model_type}, and not"
        f" {keys[0]}",
        fix=f"write {keys[0]} for {other} in that file, if the weights are of that model",
    )


def _check_positions(path: Path, config: dict[str, Any]) -> None:
    """Refuse positions that are no number; an absent key has a default in transformers."""
    key = _ALIASES["positions"][0]
    if key in config and config[key] is None:
        fix = f"write the number of positions for {key} in that file, or remove the key"
        raise broken(path, f"gives {key} as null, which transformers does not read", fix=fix)
    _optional(path, config, *_ALIASES["positions"])


def _architectures(path: Path, config: dict[str, Any]) -> tuple[str, ...]:
    """The classes that config.json names; none where it names none, as transformers allows."""
    said = config.get("architectures")
    if said is None:
        return ()
    if said == []:
        fix = "name the class in that file, or remove the key"
        raise broken(
            path, "gives architectures as an empty list, which SGLang cannot read", fix=fix
        )
    if not isinstance(said, list) or not all(isinstance(name, str) and name for name in said):
        raise broken(path, "gives architectures as something other than a list of class names")
    return tuple(said)


def _check_own_code(path: Path, config: dict[str, Any]) -> None:
    """Refuse what only the checkpoint's own code defines: neither engine nor reference runs it."""
    said = config.get("auto_map")
    named = [key for key in _OWN_CODE if isinstance(said, dict) and said.get(key)]
    if not named:
        return
    code = said[named[0]] if isinstance(said, dict) else said
    raise broken(
        path,
        f"says that {named[0]} is {str(code)[:80]} (auto_map): code of the checkpoint's own, which"
        " qlaunch does not run",
        code="model_unsupported",
        fix="serve a model that transformers knows by itself, or a copy without auto_map if that"
        " code only repeats what transformers has",
    )


def _attention(
    path: Path, config: dict[str, Any], model_type: str, width: int, heads: int
) -> tuple[int, int]:
    """(key-value heads, size of a head), with what transformers' classes take where unsaid."""
    unsaid = UNSAID.get(model_type, {})
    usual = {"num_key_value_heads": heads, "head_dim": width // heads}
    # null is another thing than a key that is not there: a head's usual share.
    kv_heads, head_dim = (
        _optional(path, config, key) or (share if key in config else unsaid.get(key, share))
        for key, share in usual.items()
    )
    return kv_heads, head_dim


def _decoder_sizes(sizes: dict[str, int]) -> dict[str, int]:
    names = {"layers": "num_layers", "hidden": "hidden_size", "inner": "intermediate_size"}
    return {name: sizes[key] for name, key in (*names.items(), ("vocab", "vocab_size"))}


def _bounded(context: int, decoder: Decoder | None) -> int:
    """Within a sliding window every token is seen, so no engine's idea of windows matters."""
    return context if decoder is None or decoder.window is None else min(context, decoder.window)


def _match(path: Path, headers: Sequence[Header], sizes: dict[str, int]) -> None:
    """Hold config.json against the weights: a config copied from another model must not pass."""
    tensors = [tensor for header in headers for tensor in header.tensors]
    numbers = [int(found[1]) for t in tensors if (found := _LAYER.search(t.name))]
    layers = max(numbers, default=-1) + 1
    if numbers and layers < sizes["num_layers"]:
        said = sizes["num_layers"]
        raise missing(path, f"says {counted(said, 'layer')}, but the weights hold {layers}")
    for tensor in tensors:
        wide = len(tensor.shape) == 2 and tensor.name.endswith(_WORD_EMBEDDING)
        # Quantised embeddings are packed: their shape says nothing of the width.
        if wide and tensor.dtype in DTYPE_NAMES and tensor.shape[1] != sizes["hidden_size"]:
            raise broken(
                path,
                f"says hidden_size {sizes['hidden_size']}, but {tensor.name} is"
                f" {tensor.shape[0]} by {tensor.shape[1]}",
            )


def _context(path: Path, config: dict[str, Any], model_type: str, head: PoolingHead) -> int:
    """Positions a text can take: RoBERTa's padding index + 1 of them are never used."""
    positions = _optional(path, config, *_ALIASES["positions"])
    key = next((key for key in _SHORTER if config.get(key) is not None), None)
    if key is not None and (type(config[key]) not in (int, float) or config[key] < 1):
        raise broken(path, f"gives {key} as {str(config[key])[:40]!r}, not as a positive integer")
    if key is not None and positions is not None:
        positions = int(min(positions, config[key]))
    if positions is None:
        if head.max_seq_length is None:
            raise broken(path, "does not give max_position_embeddings")
        return head.max_seq_length
    if model_type in OFFSET_POSITIONS:
        padding = config.get("pad_token_id", 1)
        if type(padding) is not int or padding < 0:
            said = str(padding)[:40]
            raise broken(path, f"gives pad_token_id as {said}; positions are counted from it")
        positions -= padding + 1
    if positions < _LEAST_POSITIONS:
        raise broken(path, f"leaves {max(0, positions)} positions, too few for any text")
    return positions


class _Weights(TypedDict):
    """The fields of Checkpoint that the weights' headers give."""

    stored_dtype: str
    parameters: int
    weight_bytes: int
    weight_files: tuple[str, ...]


def _weights(headers: Sequence[Header]) -> _Weights:
    tensors = [tensor for header in headers for tensor in header.tensors]
    return {
        "stored_dtype": _stored_dtype(headers),
        "parameters": sum(tensor.elements for tensor in tensors),
        "weight_bytes": sum(tensor.end - tensor.begin for tensor in tensors),
        "weight_files": tuple(header.path.name for header in headers),
    }


def _stored_dtype(headers: Sequence[Header]) -> str:
    counts: Counter[str] = Counter()
    for header in headers:
        for tensor in header.tensors:
            counts[tensor.dtype] += tensor.elements
    most = counts.most_common(1)[0][0]
    return DTYPE_NAMES.get(most, most.lower())


def _check_stray_quantization(config_path: Path) -> None:
    """Refuse files by which SGLang alone takes weights for quantised."""
    for name in ("hf_quant_config.json", "quant_model_description.json"):
        stray = config_path.parent / name
        if stray.exists():
            raise broken(
                stray,
                "says how the weights are quantised, as SGLang reads it, and config.json gives no"
                " quantization_config",
                code="model_unsupported",
                fix="move that file away if the weights are not quantised; else take a copy whose"
                " config.json says how they are",
            )


def _quantization(path: Path, config: dict[str, Any]) -> str | None:
    kinds = (config.get("quantization_config"), config.get("compression_config"))
    said = next((each for each in kinds if each is not None), None)
    if said is None:
        _check_stray_quantization(path)
        return None
    if not isinstance(said, dict):
        raise broken(path, "gives quantization_config as something other than an object")
    method = said.get("quant_method") or said.get("quant_algo")
    if method is None:
        raise broken(
            path,
            "gives quantization_config without quant_method, as MLX writes it: weights that no"
            " engine here reads",
            code="model_unsupported",
            fix="take the model in a form for PyTorch; if its weights are not quantised, remove"
            " quantization_config from that file",
        )
    return str(method)
