"""Encoders that can be computed exactly, and what their files must hold for that.

transformers chooses the network by `model_type` and takes from the weights what has its names, with
or without the prefix of a model with a head; a name it misses it fills with random numbers. So what
is served here is what transformers would load completely, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from launcher.errors import QlaunchError
from launcher.model.files import broken, check_no_adapter, missing
from launcher.model.safetensors import Header, Tensor
from launcher.yaml_messages import did_you_mean
from launcher.yaml_reader import shown


@dataclass(frozen=True)
class Family:
    """Checkpoints of one `model_type`."""

    served_as: str
    """Class in the engine that computes their hidden states."""
    prefix: str
    """What stands before tensor names where the checkpoint was saved with a head."""
    title: str
    offset_positions: bool = False
    """Positions are counted from behind the padding token's index."""


FAMILIES: Final[Mapping[str, Family]] = MappingProxyType({
    "bert": Family("BertModel", "bert.", "BERT"),
    "ernie": Family("BertModel", "ernie.", "ERNIE"),
    "electra": Family("BertModel", "electra.", "ELECTRA"),
    "distilbert": Family("DistilBertModel", "distilbert.", "DistilBERT"),
    "roberta": Family("RobertaModel", "roberta.", "RoBERTa", offset_positions=True),
    "camembert": Family("RobertaModel", "roberta.", "CamemBERT", offset_positions=True),
    "xlm-roberta": Family("XLMRobertaModel", "roberta.", "XLM-RoBERTa", offset_positions=True),
})  # fmt: skip
CLASSES: Final = ("Bert", "Contriever", "DistilBert", "Roberta", "XLMRoberta")
"""How the names of encoders' classes begin, whatever `model_type` says."""
ACTIVATIONS: Final = frozenset({
    "gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu_python", "quick_gelu", "relu",
    "silu", "swish", "tanh",
})  # fmt: skip
"""What transformers and the plugin compute alike (transformers' own ACT2FN)."""
_STEMS: Final[Mapping[str, str]] = MappingProxyType({
    "bert": "BERT", "ernie": "BERT", "electra": "BERT", "roberta": "RoBERTa",
    "xlmroberta": "RoBERTa", "camembert": "RoBERTa", "distilbert": "DistilBERT", "mpnet": "MPNet",
    "albert": "ALBERT", "modernbert": "ModernBERT", "deberta": "DeBERTa", "nomicbert": "NomicBERT",
    "jinabert": "JinaBERT", "mobilebert": "MobileBERT", "xlnet": "XLNet",
})  # fmt: skip
"""How class names of a network begin, in small letters, and the network."""
_ELECTRA_EMBEDDING: Final = 128
"""`embedding_size` where an ELECTRA's config.json says nothing, as transformers has it."""
_BODY: Final = ("embeddings.", "encoder.", "transformer.")
_NOT_READ: Final = ("position_ids", "token_type_ids", "task_type_embeddings.weight")
"""Buffers, and what an ERNIE has for tasks that are not asked for."""
# DistilBERT's names for BERT's parts.
_DISTIL = {
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def check(
    path: Path,
    config: Mapping[str, Any],
    headers: Sequence[Header],
    sizes: Mapping[str, int],
    architectures: Sequence[str],
) -> Family:
    """The family of an encoder's checkpoint, everything about it being computable exactly.

    Args:
        path: of config.json.
        config: its content.
        headers: of the weights; none: they are not there yet.
        sizes: hidden_size, num_layers, num_attention_heads, intermediate_size, vocab_size.
        architectures: as config.json gives them; may be empty.

    Raises:
        QlaunchError: `model_unsupported`, `model_incomplete` or `model_corrupt`; exit 2.
    """
    model_type = config.get("model_type")
    family = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if family is None:
        name = architectures[0] if architectures else "an encoder"
        named = _of_class(name)
        right = next((t for t in named if name.lower().startswith(t.replace("-", ""))), None)
        raise _unsupported(
            path,
            f"describes {shown(name)} (model_type {shown(str(model_type))}), an encoder that no"
            f" engine release here computes; {_listed()} are served"
            f"{did_you_mean(str(model_type), named)}",
            f'write "model_type": "{right}" into that file, if the weights are of that class'
            if right
            else None,
        )
    _check_class(path, str(model_type), architectures)
    _check_config(path, config, sizes, family)
    if headers:
        _check_weights(path, config, headers, sizes, family)
    return family


def _of_class(name: str) -> list[str]:
    """Each `model_type` of the network that a class names: DeBERTa's is no slip for `roberta`."""
    named = _network(name)
    return [] if named is None else [each for each in FAMILIES if _plain_network(each) == named]


def _plain_network(model_type: str) -> str | None:
    return _network(model_type.replace("-", "").replace("_", ""))


def _check_class(path: Path, model_type: str, architectures: Sequence[str]) -> None:
    """Refuse files that name two networks; a name that is no known network's says nothing."""
    named = _network(architectures[0]) if architectures else None
    if named is not None and named != _plain_network(model_type):
        raise _unsupported(
            path,
            f"says both {shown(architectures[0])} and model_type {model_type}, which are different"
            " networks",
        )


def _network(name: str) -> str | None:
    """The network of a class name or a model_type, or None."""
    stems = [stem for stem in _STEMS if name.casefold().startswith(stem)]
    return _STEMS[stems[0]] if stems else None


def _listed() -> str:
    titles = [family.title for family in FAMILIES.values()]
    return f"{', '.join(titles[:-1])} and {titles[-1]}"


def _check_config(
    path: Path, config: Mapping[str, Any], sizes: Mapping[str, int], family: Family
) -> None:
    """Refuse settings under which the network is another one than the engine's."""
    for key in ("is_decoder", "add_cross_attention", "is_causal"):
        if config.get(key) is True:
            raise _unsupported(path, f"says {key}: true: its tokens do not see those after them")
    for key in ("rope_scaling", "rope_parameters"):
        if config.get(key) is not None:
            raise _unsupported(path, f"gives {key}, a rotation that {family.title} does not have")
    kinds, whole = config.get("layer_types"), ["full_attention"] * sizes["num_layers"]
    if kinds not in (None, whole):
        raise _unsupported(path, "gives layer_types, and not full_attention for each of its layers")
    positions = config.get("position_embedding_type")
    if positions not in (None, "absolute"):
        raise _unsupported(
            path,
            f"says position_embedding_type {shown(str(positions))}; engines and transformers 5"
            " compute absolute positions only",
        )
    activation = config.get("activation" if family.title == "DistilBERT" else "hidden_act", "gelu")
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise _unsupported(path, f"says hidden_act {shown(str(activation))}, which is not computed")
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    if width % heads:
        raise broken(path, f"says hidden_size {width}, which {heads} attention heads do not divide")
    embedding = config.get("embedding_size", _ELECTRA_EMBEDDING)
    if family.title == "ELECTRA" and embedding != width:
        raise _unsupported(
            path,
            f"says embedding_size {embedding} and hidden_size {width}; embeddings of another width"
            " than the layers are not computed",
        )
    if config.get("use_task_id") is True:
        raise _unsupported(path, "says use_task_id: true; embeddings of tasks are not computed")
    if config.get("quantization_config") is not None:
        raise _unsupported(path, "gives a quantization_config; encoders are served unquantised")


def _check_weights(
    path: Path,
    config: Mapping[str, Any],
    headers: Sequence[Header],
    sizes: Mapping[str, int],
    family: Family,
) -> None:
    """Every tensor of the network is stored, under a name that transformers reads, in its shape."""
    found = {tensor.name: (header, tensor) for header in headers for tensor in header.tensors}
    prefix = _prefix(path, found, family)
    left = {name for name in found if _of_network(name)}
    for names, shape in _wanted(config, sizes, family):
        name = next((prefix + each for each in names if prefix + each in found), None)
        if name is None:
            check_no_adapter(headers[0].path, found)
            raise missing(
                headers[0].path,
                f"lacks the tensor {prefix}{names[0]}, which a {family.title} model has",
            )
        header, tensor = found[name]
        left.discard(name)
        if tensor.shape != shape:
            raise broken(
                header.path,
                f"holds {name} as {_by(tensor.shape)}, but by config.json it is {_by(shape)}",
            )
        if tensor.dtype not in ("F32", "F16", "BF16", "F64"):
            raise _unsupported(header.path, f"stores {name} as {tensor.dtype}: it is quantised")

    if left:
        raise broken(
            path,
            f"does not account for the tensor {shown(min(left))} that the weights hold",
            fix="take config.json and weights from the same model, saved as one of these kinds",
        )
    _check_pooler(found, prefix, sizes["hidden_size"])


def _of_network(name: str) -> bool:
    """Whether a tensor is a part of what gives the hidden states."""
    prefix = next((f.prefix for f in FAMILIES.values() if name.startswith(f.prefix)), "")
    part = name.removeprefix(prefix)
    return part.startswith(_BODY) and not part.endswith(_NOT_READ)


def _check_pooler(found: Mapping[str, tuple[Header, Tensor]], prefix: str, width: int) -> None:
    """A pooler need not be there and is not computed, but transformers loads it."""
    shapes = {"pooler.dense.weight": (width, width), "pooler.dense.bias": (width,)}
    for name, shape in shapes.items():
        header, tensor = found.get(prefix + name, (None, None))
        if header is not None and tensor is not None and tensor.shape != shape:
            raise broken(
                header.path,
                f"holds {tensor.name} as {_by(tensor.shape)}, not as {_by(shape)}",
            )


def _by(shape: Sequence[int]) -> str:
    return " by ".join(str(size) for size in shape) or "a number"


def _prefix(path: Path, found: Mapping[str, tuple[Header, Tensor]], family: Family) -> str:
    """What stands before the network's tensor names: nothing, or the head's prefix."""
    word = "embeddings.word_embeddings.weight"
    prefixes = [name.removesuffix(word) for name in found if name.endswith(word)]
    known = [prefix for prefix in prefixes if prefix in ("", family.prefix)]
    if len(known) == 1:
        return known[0]
    if not prefixes:
        raise missing(path, f"describes a {family.title} model, but no weights file holds {word}")
    listed = " and ".join(shown(prefix + word) for prefix in sorted(prefixes)[:2])
    raise _unsupported(
        next(header.path for header, _ in found.values()),
        f"names its tensors {listed}; transformers reads a {family.title} model's without a prefix"
        f" or with {family.prefix!r} before them",
    )


def _wanted(
    config: Mapping[str, Any], sizes: Mapping[str, int], family: Family
) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """(names that a tensor may have, shape) of the whole network without its pooler."""
    width, inner = sizes["hidden_size"], sizes["intermediate_size"]
    distil = family.title == "DistilBERT"
    tables = {"word": sizes["vocab_size"], "position": config.get("max_position_embeddings", 512)}
    if not distil:
        tables["token_type"] = config.get("type_vocab_size", 2)
    for name, rows in tables.items():
        yield (f"embeddings.{name}_embeddings.weight",), (rows, width)
    yield from _norm("embeddings.LayerNorm", width)
    parts = {
        "attention.self.query": (width, width),
        "attention.self.key": (width, width),
        "attention.self.value": (width, width),
        "attention.output.dense": (width, width),
        "attention.output.LayerNorm": (width,),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
        "output.LayerNorm": (width,),
    }
    for number in range(sizes["num_layers"]):
        layer = f"transformer.layer.{number}" if distil else f"encoder.layer.{number}"
        for part, shape in parts.items():
            name = f"{layer}.{_DISTIL[part] if distil else part}"
            if len(shape) == 1:
                yield from _norm(name, width)
                continue
            yield (f"{name}.weight",), shape
            yield (f"{name}.bias",), shape[:1]


def _norm(name: str, width: int) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """A LayerNorm's two tensors; checkpoints that came from TensorFlow call them gamma and beta."""
    yield (f"{name}.weight", f"{name}.gamma"), (width,)
    yield (f"{name}.bias", f"{name}.beta"), (width,)


def _unsupported(path: Path, why: str, fix: str | None = None) -> QlaunchError:
    usual = "serve another model, or a copy saved by transformers as a model of these kinds"
    return broken(path, why, code="model_unsupported", fix=fix or usual)
