"""Decoders: which are served, and what of their config and tensors must agree for that.

The engine and transformers read the same files in different ways. What both read alike is served;
what they would not, or what nothing defines, is refused here, before anything starts: a decoder
that attends, rotates or cuts otherwise than it was trained answers with vectors of the right shape.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn

from launcher.model.files import broken, check_no_adapter, missing, read_json_object
from launcher.model.safetensors import DTYPE_NAMES
from launcher.model.special_tokens import marks_of
from launcher.units import counted
from launcher.yaml_reader import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from launcher.errors import QlaunchError
    from launcher.model.modules import PoolingHead
    from launcher.model.safetensors import Header, Tensor

FAMILIES = {
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3Model": "qwen3",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen2Model": "qwen2",
    "LlamaForCausalLM": "llama",
    "LlamaModel": "llama",
    "MistralForCausalLM": "mistral",
    "MistralModel": "mistral",
}
"""`model_type` by the class: what the plugin serves (qlaunch_sglang.decoders)."""
UNNAMED = {family: name for name, family in FAMILIES.items() if name.endswith("Model")}
"""The class that transformers takes by `model_type` where config.json names none."""
_SCORES = ("ForSequenceClassification", "ForRewardModel", "ForTokenClassification", "RewardModel")
_BOTH_WAYS = ("use_bidirectional_attention", "bidirectional", "is_bidirectional")
"""Keys by which some tools mark attention in both directions; transformers reads none of them for
these families, but `is_causal`."""
_HARMLESS = ("rotary_emb.inv_freq", "lm_head.weight", "lm_head.bias")
_ROPE: Mapping[str, frozenset[str]] = {
    "default": frozenset(),
    "linear": frozenset({"factor"}),
    "llama3": frozenset({
        "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings",
    }),
    "yarn": frozenset({"factor", "original_max_position_embeddings"}),
}  # fmt: skip
"""What each rotation needs. Others, and other settings of these, the engine and transformers read
differently: its `dynamic` stretches short texts too, its `yarn` knows no `attention_factor`."""
_APPEND = (
    "write it into a copy's tokenizer.json, where transformers 5 is installed:"
    " AutoTokenizer.from_pretrained(FOLDER, add_bos_token=True, add_eos_token=True)"
    ".save_pretrained(FOLDER)"
)
_MOST_POSITIONS = 1 << 24
"""Rows of a rotation's table, which are all computed at the start; models have 10 million."""
_ROPE_ALWAYS = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})


UNSAID: Mapping[str, Mapping[str, int]] = {
    "qwen3": {"num_key_value_heads": 32, "head_dim": 128},
    "qwen2": {"num_key_value_heads": 32},
    "mistral": {"num_key_value_heads": 8},
}
"""What transformers' classes take where config.json says nothing, if not a head's usual share."""


_WINDOW_UNSAID = 4096
"""`sliding_window` where a Mistral's, Qwen2's or Qwen3's config.json does not have the key."""


@dataclass(frozen=True)
class Sizes:
    """Of the config, in elements."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    vocab: int


@dataclass(frozen=True)
class Decoder:
    """What the rest of qlaunch must know of a decoder."""

    both_ways: bool
    """Every token sees those after it (`is_causal: false`)."""
    window: int | None
    """Tokens a token sees at most where layers have a sliding window; None where none has."""
    new_rotation: bool
    """`rope_theta` stands in `rope_parameters` only."""


def check_decoder(
    path: Path,
    raw: Mapping[str, Any],
    architectures: Sequence[str],
    sizes: Sizes,
    headers: Sequence[Header],
) -> Decoder:
    """Hold config.json (at `path`) and the tensors of a decoder to what is served right.

    Without `headers` the weights are not there yet.

    Raises:
        QlaunchError: exit 2: `model_unsupported` (a class, attention, rotation or activation that
            is not served), `model_corrupt` (tensors that are not the config's).
    """
    family = _family(path, raw, architectures[0])
    both_ways = _both_ways(path, raw, family)
    _check_keys(path, raw, family)
    _check_rope(path, raw, family)
    _check_layer_types(path, raw, sizes.layers)
    act = raw.get("hidden_act", "silu")
    if act != "silu":
        _unsupported(path, f"gives hidden_act {shown(str(act))}; the engine computes silu only")
    plain = raw.get("quantization_config") is None and raw.get("compression_config") is None
    if headers and plain:
        _check_tensors(path, _expected(family, raw, sizes), headers)
    new = bool(raw.get("rope_parameters")) and raw.get("rope_theta") is None
    return Decoder(both_ways=both_ways, window=_window(path, raw, family), new_rotation=new)


def check_head(folder: Path, head: PoolingHead) -> None:
    """Refuse a decoder whose last token is any word.

    Raises:
        QlaunchError: exit 2, `model_incomplete`.
    """
    if head.pooling != "last" or appended(folder):
        return
    path = folder / "tokenizer_config.json"
    asked = path.exists() and read_json_object(path).get("add_eos_token") is True
    also = ", though tokenizer_config.json says add_eos_token, which transformers 5 does not read"
    raise missing(
        folder / "tokenizer.json",
        f"appends no end token{also if asked else ''}; the model pools the last token: whatever a"
        " text ends with would decide",
        fix=_APPEND
        if asked
        else "fetch the tokenizer again: one saved again may have lost its post_processor",
    )


def appended(folder: Path) -> bool:
    """Whether the tokenizer appends a token to each text.

    `add_eos_token` counts without a tokenizer.json only: beside one, transformers 5 drops it.
    """
    if (folder / "tokenizer.json").exists():
        return marks_of(folder)[-1] is not None
    path = folder / "tokenizer_config.json"
    return path.exists() and read_json_object(path).get("add_eos_token") is True


def _family(path: Path, raw: Mapping[str, Any], name: str) -> str:
    if name.endswith(_SCORES):
        why = "a classifier or reranker, which gives scores and no vectors"
        _unsupported(path, f"names the class {shown(name)}: {why}")
    family = FAMILIES.get(name)
    if family is None:
        listed = ", ".join(dict.fromkeys(FAMILIES.values()))
        own = UNNAMED.get(str(raw.get("model_type")))
        raise broken(
            path,
            f"names the class {shown(name)}, a decoder that qlaunch cannot serve as an embedding"
            " model",
            code="model_unsupported",
            fix=f"decoders that are served: {listed}, without code of their own"
            + (
                f"; if it is such a one under another name, write {own} for it there" if own else ""
            ),
        )
    if raw.get("model_type") != family:
        raise _other_family(path, name, family, raw.get("model_type"))
    return family


def _other_family(path: Path, name: str, family: str, said: object) -> QlaunchError:
    """The error for a class and a `model_type` that are not of one network.

    transformers chooses the network by the latter, and knows none under a name that is misspelt.
    """
    what = "no model_type" if said is None else f"model_type {shown(str(said))}"
    other = UNNAMED.get(str(said))
    or_else = f", or {other} for the class if they are of that" if other else ""
    return broken(
        path,
        f"names the class {name}, but {what}, not {family}",
        fix=f'write "model_type": "{family}" into that file if the weights are of that class'
        f"{or_else}",
    )


def _both_ways(path: Path, raw: Mapping[str, Any], family: str) -> bool:
    causal = raw.get("is_causal")
    if causal is not None and not isinstance(causal, bool):
        raise broken(path, f"gives is_causal as {str(causal)[:40]!r}, not as true or false")
    for key in _BOTH_WAYS:
        if raw.get(key) is True and causal is not False:
            _unsupported(
                path,
                f"says {key}: true, which transformers does not read for {family}: which way its"
                " tokens attend, nothing defines",
                fix="set is_causal to false in config.json if they attend in both directions",
            )
    return causal is False


_ENGINE_ONLY: Mapping[str, tuple[str, ...]] = {
    "llama": ("bias",),
    "mistral": ("bias",),
    "qwen2": ("dual_chunk_attention_config",),
}
"""Keys that, given and not false, change what the engine computes, and not transformers."""


def _check_keys(path: Path, raw: Mapping[str, Any], family: str) -> None:
    """Refuse keys of config.json that only one of engine and transformers reads."""
    odd = [key for key in _ENGINE_ONLY.get(family, ()) if raw.get(key) not in (None, False)]
    odd += [key for key in ("is_hybrid_swa", "use_ngram_embedding") if raw.get(key)]
    if raw.get("rope_is_neox_style", True) is not True:
        odd.append("rope_is_neox_style")
    if raw.get("transformers_weights") is not None:
        odd.append("transformers_weights")
    if odd:
        why = f"gives {odd[0]}, which of engine and transformers only one reads"
        _unsupported(path, why, fix=f"remove {odd[0]} from that file if the weights do not need it")


def _check_layer_types(path: Path, raw: Mapping[str, Any], layers: int) -> None:
    """Refuse kinds of layers that transformers does not read, or that the engine has not."""
    kinds = raw.get("layer_types")
    if kinds is None:
        return
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise broken(path, f"gives layer_types as something other than {layers} kinds of layers")
    odd = next((k for k in kinds if k not in ("full_attention", "sliding_attention")), None)
    if odd is not None:
        _unsupported(path, f"has a layer of the kind {shown(str(odd))} in layer_types")
    window = raw.get("sliding_window", _WINDOW_UNSAID)
    off = raw.get("use_sliding_window", True) is False or window is None
    if "sliding_attention" in kinds and off:
        raise broken(path, "has sliding_attention in layer_types and no sliding window")


def _check_rope(path: Path, raw: Mapping[str, Any], family: str) -> None:
    """Rotations that the engine computes as transformers does (tests/checkpoints)."""
    for key in ("rope_parameters", "rope_scaling"):
        if raw.get(key) is not None and not isinstance(raw[key], dict):
            raise broken(path, f"gives {key} as something other than an object")
    new, old = raw.get("rope_parameters") or {}, raw.get("rope_scaling") or {}
    if new and old and _kind(new) != _kind(old):
        raise broken(path, "gives rope_parameters and rope_scaling, which differ")
    thetas = {where["rope_theta"] for where in (raw, new, old) if _number(where, "rope_theta")}
    for where in (raw, new, old):
        theta = where.get("rope_theta", 1)
        if (theta is None and not thetas) or (theta is not None and not _positive(theta)):
            raise broken(path, f"gives rope_theta as {str(theta)[:40]!r}, not as a positive number")
    if len(thetas) > 1:
        raise broken(path, "gives rope_theta twice, with different values")
    for where in (raw, new, old):
        share = where.get("partial_rotary_factor")
        if share not in (None, 1, 1.0):
            _unsupported(
                path,
                f"rotates {shown(str(share))} of each head only (partial_rotary_factor), which"
                f" the engine does not for {family}",
            )
    for key, where in (("rope_parameters", new), ("rope_scaling", old)):
        if where:
            _check_scaling(path, key, where, raw.get("max_position_embeddings"))


def _check_scaling(path: Path, key: str, where: Mapping[str, Any], positions: object) -> None:
    kind = _kind(where)
    if kind not in _ROPE:
        _unsupported(path, f"asks for the rotation {shown(str(kind))} in {key}")
    more = sorted(where.keys() - _ROPE[kind] - _ROPE_ALWAYS)
    if more:
        _unsupported(
            path,
            f"gives {shown(more[0])} in {key}, which the engine does not read for the rotation"
            f" {kind}",
        )
    absent = sorted(name for name in _ROPE[kind] if not _number(where, name))
    if absent:
        raise broken(path, f"asks for the rotation {kind} in {key} without {absent[0]}")
    _check_factors(path, key, where, positions)
    if kind == "yarn" and isinstance(positions, int):
        reach = where["factor"] * where["original_max_position_embeddings"]
        if reach < positions:
            _unsupported(
                path,
                f"has {positions} positions, but its rotation (yarn in {key}) is for"
                f" {reach:.0f}, and a longer text would end the engine",
            )


def _check_factors(path: Path, key: str, where: Mapping[str, Any], positions: object) -> None:
    """Refuse numbers by which a rotation is none, or its table larger than any memory."""
    factor, before = where.get("factor", 1), where.get("original_max_position_embeddings", 1)
    if "factor" in _ROPE[_kind(where)] and not 1 <= factor < math.inf:
        raise broken(path, f"gives factor as {factor} in {key}, which must be 1 at least")
    if "original_max_position_embeddings" in _ROPE[_kind(where)] and not _is_whole(before):
        raise broken(path, f"gives original_max_position_embeddings as {before} in {key}")
    low, high = where.get("low_freq_factor", 1), where.get("high_freq_factor", 4)
    if _kind(where) == "llama3" and not 0 < low < high:
        raise broken(path, f"gives low_freq_factor {low} and high_freq_factor {high} in {key}")
    reach = factor * max(before, positions if isinstance(positions, int) else 1)
    if reach > _MOST_POSITIONS:
        raise broken(path, f"stretches its rotation in {key} over {reach:.0f} positions")


def _positive(value: object) -> bool:
    return type(value) in (int, float) and value > 0  # type: ignore[operator]  # a number by now


def _is_whole(value: object) -> bool:
    return type(value) is int and value > 0


def _kind(where: Mapping[str, Any]) -> str:
    return str(where.get("rope_type", where.get("type", "default")))


def _number(where: Mapping[str, Any], name: str) -> bool:
    return type(where.get(name)) in (int, float)


def _window(path: Path, raw: Mapping[str, Any], family: str) -> int | None:
    """The sliding window that layers have, as transformers reads it."""
    window = raw.get("sliding_window", _WINDOW_UNSAID)
    if type(window) is not int:
        return None
    if window < 1:
        raise broken(path, f"gives sliding_window as {window}, not as a positive integer")
    kinds = raw.get("layer_types")
    if isinstance(kinds, list):
        return window if "sliding_attention" in kinds else None
    if family == "mistral":
        return window
    if family.startswith("qwen") and raw.get("use_sliding_window") is True:
        first = raw.get("max_window_layers", 28)
        layers = raw.get("num_hidden_layers", 0)
        return window if type(first) is int and first < layers else None
    return None


def _expected(family: str, raw: Mapping[str, Any], sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor by its name, without the causal class's `model.`."""
    found: dict[str, tuple[int, ...]] = {
        "embed_tokens.weight": (sizes.vocab, sizes.hidden),
        "norm.weight": (sizes.hidden,),
    }
    for number in range(sizes.layers):
        found |= {f"layers.{number}.{n}": s for n, s in _layer(family, raw, sizes)}
    return found


def _layer(
    family: str, raw: Mapping[str, Any], sizes: Sizes
) -> Iterator[tuple[str, tuple[int, ...]]]:
    queries, keys = sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
    bias = family in ("qwen3", "llama") and raw.get("attention_bias") is True
    for name, rows in (("q", queries), ("k", keys), ("v", keys)):
        yield f"self_attn.{name}_proj.weight", (rows, sizes.hidden)
        if bias or family == "qwen2":
            yield f"self_attn.{name}_proj.bias", (rows,)
    yield "self_attn.o_proj.weight", (sizes.hidden, queries)
    if bias:
        yield "self_attn.o_proj.bias", (sizes.hidden,)
    if family == "qwen3":
        yield "self_attn.q_norm.weight", (sizes.head_dim,)
        yield "self_attn.k_norm.weight", (sizes.head_dim,)
    shapes = {
        "gate": (sizes.inner, sizes.hidden),
        "up": (sizes.inner, sizes.hidden),
        "down": (sizes.hidden, sizes.inner),
    }
    for name, shape in shapes.items():
        yield f"mlp.{name}_proj.weight", shape
        if family == "llama" and raw.get("mlp_bias") is True:
            yield f"mlp.{name}_proj.bias", shape[:1]
    yield "input_layernorm.weight", (sizes.hidden,)
    yield "post_attention_layernorm.weight", (sizes.hidden,)


def _check_tensors(
    path: Path, expected: Mapping[str, tuple[int, ...]], headers: Iterable[Header]
) -> None:
    found: dict[str, Tensor] = {}
    for header in headers:
        for tensor in header.tensors:
            if tensor.name.endswith(_HARMLESS):
                continue
            name = tensor.name.removeprefix("model.")
            if name in found:
                raise _twice(header.path, name)
            found[name] = tensor
    absent = [name for name in expected if name not in found]
    if absent:
        check_no_adapter(path, found)
        _check_prefix(path, found)
        raise broken(
            path,
            f"describes {counted(len(expected), 'tensor')}, of which the weights lack"
            f" {len(absent)}, such as {absent[0]}",
        )
    more = list(islice((t.name for n, t in found.items() if n not in expected), 1))
    if more:
        raise broken(
            path,
            f"does not account for the tensor {shown(more[0])} that the weights hold",
            fix="take config.json and weights from the same model; a head of another task can be"
            " left out: AutoModel.from_pretrained(FOLDER).save_pretrained(COPY)",
        )
    for name, shape in expected.items():
        tensor = found[name]
        if tensor.shape != shape:
            said = " by ".join(map(str, shape))
            held = " by ".join(map(str, tensor.shape))
            raise broken(path, f"makes {tensor.name} {said}, but the weights hold {held}")
        if tensor.dtype not in DTYPE_NAMES:
            raise broken(
                path,
                f"names no quantisation, but {tensor.name} is stored as {tensor.dtype}",
                code="model_unsupported",
            )


def _twice(path: Path, name: str) -> QlaunchError:
    """The error for a tensor of which engine and transformers may take another one each."""
    return broken(
        path,
        f"holds {shown(name)} twice, once with model. before it and once without: engine and"
        " transformers may each take another one",
        fix="save the model again (save_pretrained), and serve that folder",
    )


def _check_prefix(path: Path, found: Iterable[str]) -> None:
    """Refuse names that a trainer's wrapper put before the model's own."""
    word = "embed_tokens.weight"
    other = next((name for name in found if name.endswith(f".{word}")), None)
    if other is not None:
        _unsupported(
            path,
            f"describes a model whose tensors the weights call {shown(other)}; transformers reads"
            " them without a prefix or with 'model.' before them",
            fix="save the model itself (unwrapped, save_pretrained), and serve that folder",
        )


def _unsupported(path: Path, why: str, fix: str | None = None) -> NoReturn:
    listed = ", ".join(dict.fromkeys(FAMILIES.values()))
    raise broken(
        path,
        why,
        code="model_unsupported",
        fix=fix or f"decoders that are served: {listed}, without code of their own",
    )
