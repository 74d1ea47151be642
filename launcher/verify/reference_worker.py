"""Compute a checkpoint's own vectors with transformers, in float32, on the CPU.

Executed by path with the Python of an engine environment, so it imports nothing of ours:

    python reference_worker.py PARENT_PID < request.json > answer.json

Request: `{"model_path", "texts": [str], "max_tokens": int, "threads": int | null,
"fallback_pooling": str}`. Answer: `{"dimensions", "vectors": [b64], "alternatives": {name: [b64]},
"tokens": [int], "ids": [[int]], "appended": [str], "declared_end": str | null, "pooling": [str],
"normalize": bool, "dense": int, "versions": {...}}`, a vector being base64 of little-endian
float32; or `{"error": str}` and exit status 1.

What is applied to the hidden states is what the checkpoint says: `modules.json`, the pooling
module's `config.json`, Dense and Normalize, as sentence-transformers reads them. The alternatives
are the other poolings of the same hidden states, so that a mismatch can name its suspect.
"""

from __future__ import annotations

import sys

if __name__ == "__main__" and sys.path and sys.path[0] == __file__.rpartition("/")[0]:
    # Run by path, this folder leads sys.path, where our `types.py` would shadow Python's own.
    del sys.path[0]

import base64
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PR_SET_PDEATHSIG = 1

# sentence-transformers' names, old flags first: their order is the order of concatenation.
OLD_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weighted_mean",
    "pooling_mode_lasttoken": "last",
}
NEW_NAMES = {
    "cls": "cls",
    "max": "max",
    "mean": "mean",
    "mean_sqrt_len_tokens": "mean_sqrt_len",
    "weightedmean": "weighted_mean",
    "lasttoken": "last",
}
MODULES = ("models", "base.modules", "sentence_transformer.modules")
"""Packages of sentence-transformers 2 to 6 whose modules are computed here, by their class."""
SETTINGS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
DECODERS = ("qwen2", "qwen3", "llama", "mistral", "gemma")
PROBE = "hello"
"""Any text will do to see what a tokenizer puts around it."""
ENCODERS = ("bert", "roberta", "xlm-roberta", "distilbert", "camembert", "mpnet", "electra")
OTHER_POOLINGS = ("cls", "mean", "last", "max")
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


class UnsupportedError(Exception):
    """The checkpoint asks for something this reference does not compute; the message says what."""


class Recipe(NamedTuple):
    """What turns hidden states into the served vector."""

    transformer: Path
    poolings: tuple[str, ...]
    steps: tuple[tuple[str, Path], ...]
    """After pooling, in order: ("dense", folder) or ("normalize", folder)."""
    lower_case: bool = False


class Dense(NamedTuple):
    """A linear layer: weight (out, in), bias (out) or None, and the name of its activation."""

    weight: Any
    bias: Any
    activation: str


# --- what the checkpoint says ---------------------------------------------------------------------


def read_json(path: Path) -> Any:
    """The document in `path`, or None where there is no such file."""
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise UnsupportedError(f"{path.name} is not readable JSON") from error


def pooling_modes(config: dict[str, Any]) -> tuple[str, ...]:
    """Pooling modes of a pooling `config.json`, new key or old flags, in order of concatenation.

    Without any the mode is mean, sentence-transformers' own default.
    """
    new = config.get("pooling_mode")
    if new is not None:
        names = [new] if isinstance(new, str) else list(new)
        unknown = [name for name in names if name not in NEW_NAMES]
        if unknown or not names:
            raise UnsupportedError(f"the pooling config names an unknown mode: {new!r}")
        return tuple(NEW_NAMES[name] for name in names)
    # As sentence-transformers 6 reads flags; what 5 reads otherwise is refused before a plan.
    return tuple(mode for flag, mode in OLD_FLAGS.items() if config.get(flag) is True) or ("mean",)


def default_poolings(model_type: str, fallback: str) -> tuple[str, ...]:
    """Pooling of a checkpoint that says nothing of it."""
    if model_type.startswith(DECODERS):
        return ("last",)
    if model_type in ENCODERS:
        return ("cls",)
    return (fallback,)


def module_class(said: str) -> str:
    """Class of a module of sentence-transformers' own; what other code computes is not guessed."""
    package, _, kind = said.rpartition(".")
    for place in MODULES:
        known = f"sentence_transformers.{place}"
        if package == known or package.rpartition(".")[0] == known:
            return kind
    raise UnsupportedError(f"modules.json names {said}, code that the reference does not run")


def lower_cased(folder: Path) -> bool:
    """Whether sentence-transformers puts texts in lower case before the tokenizer sees them."""
    found = [said for name in SETTINGS if (said := read_json(folder / name))]
    return bool(found and found[0].get("do_lower_case"))


def refuse_what_transformers_passes_over(folder: Path) -> None:
    """Raise for a network that transformers would silently compute as another one."""
    config = read_json(folder / "config.json") or {}
    own = config.get("auto_map")
    if isinstance(own, dict) and {"AutoConfig", "AutoModel", "AutoTokenizer"} & set(own):
        raise UnsupportedError("config.json names the checkpoint's own code (auto_map)")
    if config.get("position_embedding_type") not in (None, "absolute"):
        said = config["position_embedding_type"]
        raise UnsupportedError(f"transformers does not compute {said} positions")


def read_recipe(model: Path, fallback: str) -> Recipe:
    """What `model` says of its own vectors; bare checkpoints end normalised, as engines do."""
    modules = read_json(model / "modules.json")
    lower = lower_cased(model)
    if modules is None:
        config = read_json(model / "1_Pooling" / "config.json")
        model_type = str((read_json(model / "config.json") or {}).get("model_type", ""))
        said = default_poolings(model_type, fallback) if config is None else pooling_modes(config)
        return Recipe(model, said, (("normalize", model),), lower)
    transformer = model
    poolings: tuple[str, ...] | None = None
    steps: list[tuple[str, Path]] = []
    for module in modules:
        kind, folder = module_class(str(module["type"])), model / module.get("path", "")
        if kind == "Transformer":
            transformer = folder
            lower = lower_cased(folder)
        elif kind == "Pooling":
            poolings = pooling_modes(read_json(folder / "config.json") or {})
        elif kind in ("Dense", "Normalize"):
            steps.append((kind.lower(), folder))
        elif kind != "Dropout":
            raise UnsupportedError(
                f"modules.json asks for {kind}, which the reference does not compute"
            )
    if poolings is None:
        raise UnsupportedError("modules.json has no Pooling module")
    return Recipe(transformer, poolings, tuple(steps), lower)


# --- pooling, in numpy: a text alone has no padding, so every token counts ------------------------


def pool(hidden: Any, mode: str) -> Any:
    """One pooling of `hidden` (tokens, width) → (width)."""
    import numpy as np

    tokens = len(hidden)
    if mode == "cls":
        return hidden[0]
    if mode == "last":
        return hidden[-1]
    if mode == "last_but_one":
        return hidden[max(tokens - 2, 0)]
    if mode == "max":
        return hidden.max(axis=0)
    if mode == "mean":
        return hidden.mean(axis=0)
    if mode == "mean_sqrt_len":
        return hidden.sum(axis=0) / np.sqrt(tokens)
    if mode == "weighted_mean":
        weights = np.arange(1, tokens + 1, dtype=hidden.dtype)
        return weights @ hidden / weights.sum()
    raise UnsupportedError(f"pooling {mode!r} is unknown")


def activate(name: str, values: Any) -> Any:
    """A Dense module's activation, by the last part of its class name, as torch defaults it."""
    import numpy as np

    above, below = np.maximum(values, 0), np.expm1(np.minimum(values, 0))
    softplus, log_sigmoid = np.logaddexp(0, values), -np.logaddexp(0, -values)
    kinds: dict[str, Callable[[], Any]] = {
        "Identity": lambda: values,
        "Tanh": lambda: np.tanh(values),
        "Tanhshrink": lambda: values - np.tanh(values),
        "Hardtanh": lambda: np.clip(values, -1, 1),
        "ReLU": lambda: above,
        "ReLU6": lambda: np.clip(values, 0, 6),
        "LeakyReLU": lambda: np.where(values > 0, values, values / 100),
        "ELU": lambda: above + below,
        "CELU": lambda: above + below,
        "SELU": lambda: SELU_SCALE * (above + SELU_ALPHA * below),
        "GELU": lambda: values * (1 + np.vectorize(math.erf)(values / math.sqrt(2))) / 2,
        "SiLU": lambda: values * np.exp(log_sigmoid),
        "Mish": lambda: values * np.tanh(softplus),
        "Hardswish": lambda: values * np.clip(values + 3, 0, 6) / 6,
        "Sigmoid": lambda: np.exp(log_sigmoid),
        "LogSigmoid": lambda: log_sigmoid,
        "Hardsigmoid": lambda: np.clip(values + 3, 0, 6) / 6,
        "Softplus": lambda: softplus,
        "Softsign": lambda: values / (1 + np.abs(values)),
        "Softshrink": lambda: values - np.clip(values, -0.5, 0.5),
        "Hardshrink": lambda: np.where(np.abs(values) > 0.5, values, 0),
        "Softmax": lambda: np.exp(values - np.logaddexp.reduce(values)),
        "Softmin": lambda: np.exp(-values - np.logaddexp.reduce(-values)),
        "LogSoftmax": lambda: values - np.logaddexp.reduce(values),
    }
    kind = kinds.get(name.rpartition(".")[2])
    if kind is None:
        raise UnsupportedError(f"the reference lacks a Dense module's activation {name}")
    return kind()


def apply_dense(vector: Any, layer: Dense) -> Any:
    """`activation(W x + b)`."""
    values = layer.weight @ vector
    return activate(layer.activation, values if layer.bias is None else values + layer.bias)


def normalize(vector: Any) -> Any:
    """`vector` at length 1; a zero vector stays, as in torch's `normalize`."""
    import numpy as np

    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def served_vector(hidden: Any, poolings: tuple[str, ...], steps: list[Dense | None]) -> Any:
    """The vector to be served: poolings side by side, then each step (None: normalise)."""
    import numpy as np

    vector = np.concatenate([pool(hidden, mode) for mode in poolings])
    for layer in steps:
        vector = normalize(vector) if layer is None else apply_dense(vector, layer)
    return vector


def other_vectors(
    hidden: Any, poolings: tuple[str, ...], steps: list[Dense | None]
) -> dict[str, Any]:
    """What an engine would serve that errs in one thing: another pooling, or no Dense head.

    Names: `cls`, `mean`, `last`, `max`, `last_but_one` (the end token missing, for causal models)
    each followed by the checkpoint's own steps; `no_dense` for the right pooling without them.
    """
    dense = [layer for layer in steps if layer is not None]
    modes = [mode for mode in OTHER_POOLINGS if (mode,) != poolings]
    if poolings == ("last",):
        modes.append("last_but_one")
    found = {}
    for mode in modes:
        if not dense or dense[0].weight.shape[1] == hidden.shape[1]:
            found[mode] = served_vector(hidden, (mode,), steps)
        if dense:
            found[f"{mode}_no_dense"] = pool(hidden, mode)
    if dense:
        found["no_dense"] = served_vector(hidden, poolings, [])
    return found


# --- torch and transformers -----------------------------------------------------------------------


def load_dense(folder: Path) -> Dense:
    """The Dense module in `folder`, from safetensors or a torch file (weights only)."""
    import torch

    config = read_json(folder / "config.json") or {}
    if (folder / "model.safetensors").exists():
        from safetensors.torch import load_file  # type: ignore[import-not-found]

        tensors = load_file(str(folder / "model.safetensors"))
    else:
        file = folder / "pytorch_model.bin"
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    bias = tensors.get("linear.bias")
    activation = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    return Dense(
        tensors["linear.weight"].double().numpy(),
        None if bias is None else bias.double().numpy(),
        str(activation),
    )


def computable(config: Any) -> Any:
    """`config` with settings of how to compute, and not what, as this machine can follow them."""
    config.return_dict = True
    # In pieces a feed-forward block gives the same, but only for lengths that it divides.
    config.chunk_size_feed_forward = 0
    if getattr(config, "_attn_implementation", None) not in (None, "eager", "sdpa"):
        config._attn_implementation = "eager"  # noqa: SLF001 - it has no public name
    return config


def load_model(folder: Path) -> tuple[Any, Any]:
    """Model (float32, eval) and tokenizer; never remote code, never the network.

    Raises:
        UnsupportedError: weights are missing, which transformers would fill with random numbers.
    """
    refuse_what_transformers_passes_over(folder)
    # Text models need no torchvision, and one that does not match torch ends the import.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    release = tuple(int(part) for part in transformers.__version__.split(".")[:2])
    dtype = {"dtype" if release >= (4, 56) else "torch_dtype": torch.float32}
    config = transformers.AutoConfig.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    model, info = transformers.AutoModel.from_pretrained(
        str(folder),
        local_files_only=True,
        trust_remote_code=False,
        output_loading_info=True,
        config=computable(config),
        **dtype,
    )
    # An encoder's own `pooler` head and position buffers are no part of its hidden states.
    harmless = ("position_ids", "token_type_ids")
    missing = sorted(
        key
        for key in map(str, info["missing_keys"])
        if "pooler." not in key and not key.endswith(harmless)
    )
    missing += sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing:
        raise UnsupportedError(f"the checkpoint lacks {len(missing)} weights, such as {missing[0]}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    model.config.use_cache = False
    return model.eval(), tokenizer


def hidden_states(model: Any, tokenizer: Any, text: str, max_tokens: int) -> tuple[Any, list[int]]:
    """Last hidden states of one text alone, (tokens, width) in float64, and its token ids."""
    import torch

    inputs = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")
    if getattr(model.config, "is_causal", None) is False:
        # Every release of transformers takes a mask of four dimensions as it is; only newer ones
        # read the setting themselves.
        tokens = inputs["input_ids"].shape[1]
        inputs["attention_mask"] = torch.zeros(1, 1, tokens, tokens)
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state[0].double().numpy()
    return hidden, [int(each) for each in inputs["input_ids"][0].tolist()]


def appended_tokens(tokenizer: Any) -> list[str]:
    """Tokens the tokenizer puts after a text, by name; none where it adds none.

    Found by comparing a text with and without them, so that it holds for every kind of tokenizer.
    """
    plain = list(tokenizer(PROBE, add_special_tokens=False)["input_ids"])
    full = list(tokenizer(PROBE)["input_ids"])
    for start in range(len(full) - len(plain) + 1):
        if full[start : start + len(plain)] == plain:
            after = full[start + len(plain) :]
            return [str(each) for each in tokenizer.convert_ids_to_tokens(after)]
    return []


def declared_end(folder: Path) -> str | None:
    """Token that `tokenizer.json` or `tokenizer_config.json` says ends every text; None: unsaid."""
    config = read_json(folder / "tokenizer_config.json") or {}
    if config.get("add_eos_token") is True:
        end = config.get("eos_token")
        return end.get("content") if isinstance(end, dict) else end
    processor = (read_json(folder / "tokenizer.json") or {}).get("post_processor") or {}
    ends = [_template_end(each) for each in processor.get("processors") or [processor]]
    return next((end for end in reversed(ends) if end), None)


def _template_end(processor: dict[str, Any]) -> str | None:
    """The special token a tokenizers post-processor puts last."""
    if isinstance(processor.get("sep"), list):  # BertProcessing, RobertaProcessing
        return str(processor["sep"][0])
    single = processor.get("single") or [{}]
    return (single[-1].get("SpecialToken") or {}).get("id")


def encode(vector: Any) -> str:
    """Base64 of `vector` as little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def compute(request: dict[str, Any]) -> dict[str, Any]:
    """The answer to `request`."""
    recipe = read_recipe(Path(request["model_path"]), str(request.get("fallback_pooling", "mean")))
    model, tokenizer = load_model(recipe.transformer)
    import torch
    import transformers

    if request.get("threads"):
        torch.set_num_threads(int(request["threads"]))
    steps = [load_dense(folder) if kind == "dense" else None for kind, folder in recipe.steps]
    vectors: list[str] = []
    others: dict[str, list[str]] = {}
    ids: list[list[int]] = []
    for text in request["texts"]:
        text = text.lower() if recipe.lower_case else text
        hidden, found = hidden_states(model, tokenizer, text, int(request["max_tokens"]))
        served = served_vector(hidden, recipe.poolings, steps)
        vectors.append(encode(served))
        ids.append(found)
        for name, vector in other_vectors(hidden, recipe.poolings, steps).items():
            others.setdefault(name, []).append(encode(vector))
    return {
        "dimensions": len(served),
        "vectors": vectors,
        "alternatives": others,
        "tokens": [len(each) for each in ids],
        "ids": ids,
        "appended": appended_tokens(tokenizer),
        "declared_end": declared_end(recipe.transformer),
        "pooling": list(recipe.poolings),
        "normalize": bool(recipe.steps) and recipe.steps[-1][0] == "normalize",
        "dense": sum(kind == "dense" for kind, _ in recipe.steps),
        "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
    }


# --- the process ----------------------------------------------------------------------------------


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` ends, and end now if it already has."""
    import ctypes

    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def first_victim() -> None:
    """Tell the kernel to sacrifice this process before the engine when memory runs out."""
    try:
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        return


def main() -> int:
    """Read a request, write an answer; everything libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    die_with_parent(int(sys.argv[1]))
    first_victim()
    try:
        answer = compute(json.load(sys.stdin.buffer))  # UTF-8, whatever the locale says
    except UnsupportedError as error:
        answer = {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - any library's failure becomes one line for people
        answer = {"error": f"{type(error).__name__}: {error}"[:400]}
    with answers:
        json.dump(answer, answers)
    return 1 if "error" in answer else 0


if __name__ == "__main__":
    sys.exit(main())
