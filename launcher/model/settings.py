"""Settings beside the modules: `sentence_bert_config.json`, Dense and Normalize, the kind of model.

What sentence-transformers 2 to 6 write there. Whatever would change a vector and is not computed
is refused by name; what only says how to load the model is passed over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from launcher.errors import QlaunchError
from launcher.model.files import broken, missing, read_json_object
from launcher.model.safetensors import DTYPE_NAMES, Tensor, read_header
from launcher.model.torch_file import read_torch_file
from launcher.model.values import check_finite
from launcher.yaml_reader import shown

_FILES: Final = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""In the order in which sentence-transformers looks for them; the first that is there counts."""
_ARGUMENTS: Final = ("model_args", "model_kwargs", "tokenizer_args", "processor_kwargs",
                     "config_args", "config_kwargs")  # fmt: skip
_READ: Final = frozenset({
    *_ARGUMENTS, "backend", "cache_dir", "do_lower_case", "document_length", "max_seq_length",
    "modality_config", "module_output_name", "processing_kwargs", "query_expansion",
    "query_length", "tokenizer_name_or_path", "transformer_task", "unpad_inputs",
})  # fmt: skip
"""Keys that sentence-transformers 6 reads; it ends at any other."""
_HARMLESS: Final = frozenset({
    "add_pooling_layer", "attn_implementation", "cache_dir", "device_map", "dtype",
    "local_files_only", "low_cpu_mem_usage", "model_max_length", "padding_side", "revision",
    "token", "torch_dtype", "trust_remote_code", "truncation_side", "use_fast", "use_safetensors",
})  # fmt: skip
"""Arguments that say how a model is loaded and not what it computes."""
ACTIVATIONS: Final = frozenset({
    "CELU", "ELU", "GELU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh", "Identity",
    "LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "ReLU", "ReLU6", "SELU", "SiLU", "Sigmoid",
    "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh", "Tanhshrink",
})  # fmt: skip
"""Of a Dense module: what the plugin and the reference compute. A config.json names a class of
torch.nn and none of its arguments, so each is the function that its defaults make of it."""
_NO_FUNCTIONS: Final = MappingProxyType(
    {
        "GLU": "halves the vector, which would be shorter than its out_features",
        "MultiheadAttention": "is made with arguments, which that file cannot give",
        "PReLU": "has weights of its own, which are learned",
        "RReLU": "is random in training, and another function in use",
        "Softmax2d": "is for images",
        "Threshold": "is made with arguments, which that file cannot give",
    }
)
"""The other activations of torch.nn, and why a vector does not go through them."""
_PACKAGES: Final = frozenset({
    "torch.nn", "torch.nn.modules", "torch.nn.modules.activation", "torch.nn.modules.linear",
})  # fmt: skip
"""Where those classes are found."""
_EMBEDDING: Final = "sentence_embedding"


@dataclass(frozen=True)
class Settings:
    """What `sentence_bert_config.json` says."""

    max_seq_length: int | None = None
    lower_case: bool = False


def check_kind(folder: Path) -> None:
    """Refuse a folder of another kind of model than one whole vector a text.

    Raises:
        QlaunchError: `model_unsupported`, exit 2.
    """
    path = folder / "config_sentence_transformers.json"
    if not path.exists():
        return
    said = read_json_object(path)
    kind, columns = said.get("model_type"), said.get("truncate_dim")
    if kind not in (None, "SentenceTransformer"):
        raise _unsupported(path, f"says that this is a {shown(str(kind))}, not one vector a text")
    if columns is not None:
        raise broken(
            path,
            f"says truncate_dim {shown(str(columns))}: sentence-transformers 6 returns so many"
            " columns of each vector, and an engine all",
            code="model_unsupported",
            fix="remove truncate_dim from that file to serve whole vectors, whose first columns are"
            " the ones it asks for",
        )


def read_settings(folder: Path) -> Settings:
    """What the transformer's own settings say.

    Raises:
        QlaunchError: `model_unsupported` for what would change vectors and is not computed.
    """
    path = next((folder / name for name in _FILES if (folder / name).exists()), None)
    if path is None:
        return Settings()
    said = read_json_object(path)
    check_read(path, said, _READ)
    if said.get("tokenizer_name_or_path") is not None:
        raise _unsupported(path, "names another tokenizer (tokenizer_name_or_path)")
    if said.get("transformer_task", "feature-extraction") != "feature-extraction":
        raise _unsupported(path, f"says transformer_task {shown(str(said['transformer_task']))}")
    if said.get("module_output_name", "token_embeddings") != "token_embeddings":
        raise _unsupported(path, f"gives {shown(str(said['module_output_name']))} as its output")
    _check_modality(path, said.get("modality_config"))
    for key in ("query_length", "document_length", "query_expansion", "processing_kwargs"):
        if said.get(key):
            raise _unsupported(path, f"sets {key}, which a server of embeddings does not do")
    _check_arguments(path, said)
    limit, lower = said.get("max_seq_length"), said.get("do_lower_case")
    if lower is not None and not isinstance(lower, bool):
        raise _wrong(path, "do_lower_case", lower, "as true or false")
    if limit is not None and (type(limit) is not int or limit < 1):
        raise _wrong(path, "max_seq_length", limit, "as a positive integer")
    return Settings(limit, lower is True)


def check_read(path: Path, said: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse a module's key that sentence-transformers 6 does not know: it ends at it.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    other = min(said.keys() - known, default=None)
    if other is not None:
        raise broken(
            path,
            f"gives {shown(other)}, a key that sentence-transformers 6 does not know",
            fix="remove that key, if it is of no effect where the model was made",
        )


def _check_arguments(path: Path, said: Mapping[str, Any]) -> None:
    """Refuse arguments that change what the transformer computes."""
    for key in _ARGUMENTS:
        found = said.get(key, {})
        if not isinstance(found, dict):
            raise _wrong(path, key, found, "as an object")
        changed = min(found.keys() - _HARMLESS, default=None)
        if changed is not None:
            raise _unsupported(path, f"sets {shown(changed)} in {key}, which is not passed on")


def _wrong(path: Path, key: str, said: object, wanted: str) -> QlaunchError:
    return broken(
        path,
        f"gives {key} as {str(said)[:40]!r}, not {wanted}",
        fix=f"correct {key} in that file; sentence-transformers does not read it as it is",
    )


def _check_modality(path: Path, said: Any) -> None:
    """Refuse a transformer whose texts go in as anything but texts."""
    if said is None:
        return
    text = said.get("text") if isinstance(said, dict) else None
    if not isinstance(text, dict) or "message" in said:
        raise _unsupported(path, "takes something other than plain texts (modality_config)")
    wanted = {"method": "forward", "method_output_name": "last_hidden_state"}
    for key, value in wanted.items():
        if text.get(key, value) != value:
            raise _unsupported(path, f"says {key} {shown(str(text[key]))} for texts")


def check_input(path: Path) -> None:
    """Refuse a module that works on something else than the vector of the text.

    Args:
        path: its config.json, which need not be there.
    """
    if path.exists():
        _check_names(path, read_json_object(path))


def _check_names(path: Path, config: dict[str, Any]) -> None:
    for key in ("module_input_name", "module_output_name"):
        if config.get(key) not in (None, _EMBEDDING):
            raise _unsupported(path, f"says {key} {shown(str(config[key]))}")


def dense_width(folder: Path, width: int) -> int:
    """Output width of the Dense module in `folder`, whose input must be `width`.

    Raises:
        QlaunchError: `model_incomplete`, `model_corrupt` or `model_unsupported`; exit 2.
    """
    path = folder / "config.json"
    config = read_json_object(path)
    wide, out = config.get("in_features"), config.get("out_features")
    if wide != width:
        raise broken(path, f"takes vectors of {wide!r}, but the module before it gives {width}")
    if type(out) is not int or out < 1:
        raise broken(path, "gives no out_features")
    _check_names(path, config)
    for key in ("use_residual", "bias"):
        if not isinstance(config.get(key, False), bool):
            raise _wrong(path, key, config[key], "as true or false")
    if config.get("use_residual") is True:
        raise _unsupported(path, "says use_residual: true, which is not computed")
    _check_activation(path, config.get("activation_function", "torch.nn.modules.activation.Tanh"))
    _check_dense_weights(folder, (out, wide), bias=config.get("bias", True) is not False)
    return out


def _check_activation(path: Path, said: object) -> None:
    """Refuse what stands behind a Dense module's matrix and is no function of the vector alone."""
    package, _, name = str(said).rpartition(".")
    is_torchs = package in _PACKAGES
    if is_torchs and name in ACTIVATIONS:
        return
    why = _NO_FUNCTIONS.get(name) if is_torchs else None
    why = f"; it {why}" if why else ", which is not computed"
    raise _unsupported(path, f"has the activation {shown(str(said))}{why}")


def _check_dense_weights(folder: Path, shape: tuple[int, int], *, bias: bool) -> None:
    """Refuse weights that are not those of config.json: sentence-transformers ends at them, and
    engine and reference would both take what is stored."""
    wanted = {"linear.weight": shape} | ({"linear.bias": shape[:1]} if bias else {})
    file, found = _dense_tensors(folder)
    other = min(found.keys() - wanted.keys(), default=None)
    if other is not None:
        raise _unaccounted(file, other)
    for name, size in wanted.items():
        if name not in found or found[name].shape != size:
            raise broken(file, f"does not hold {name} in the shape {size} of its config.json")
        if found[name].dtype not in DTYPE_NAMES:
            raise _unsupported(file, f"stores {name} as {found[name].dtype}: it is quantised")


def _dense_tensors(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The weights' file and what it holds, by name; its numbers are looked at."""
    file, other = folder / "model.safetensors", folder / "pytorch_model.bin"
    if file.exists():
        header = read_header(file)
        check_finite([header], whole=True)
        return file, {tensor.name: tensor for tensor in header.tensors}
    if not other.exists():
        raise missing(folder, "holds no weights of this Dense module")
    return other, read_torch_file(other)


def _unaccounted(file: Path, name: str) -> QlaunchError:
    fix = "write bias: true into that config.json if the module was trained with one"
    return broken(
        file,
        f"holds {shown(name)}, which its config.json says nothing of",
        fix=fix if name == "linear.bias" else None,
    )


def _unsupported(path: Path, why: str) -> QlaunchError:
    return broken(
        path,
        why,
        code="model_unsupported",
        fix="serve a model that sentence-transformers makes one vector a text with",
    )
