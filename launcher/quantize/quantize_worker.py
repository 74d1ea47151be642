"""Quantise a checkpoint on the CPU, then compute its vectors from the bytes that were written.

Executed by path with the Python of the quantiser's environment, so it imports nothing of ours:

    python -P quantize_worker.py PARENT_PID REFERENCE_WORKER < request.json > answer.json

REFERENCE_WORKER is the path of the program that computes a checkpoint's own vectors; what it says
of pooling and normalising holds for both sides here.

Request: `{"source", "target", "to": "int8" | "int4" | "fp8", "group_size": int, "calibration":
[str], "texts": [str], "max_tokens": int, "fallback_pooling": str, "threads": int}`. In the folder
`target` it leaves `model.safetensors` and `config.json`. Answer: `{"reference": [b64], "vectors":
[b64], "matrices": int, "seconds": {step: s}, "versions": {...}}`, a vector being base64 of
little-endian float32; or `{"error": str}` and exit status 1. Lines on stderr that begin with
`step: ` say how far it is.

int8: SmoothQuant, then one scale a row of the weights and one a token of the activations
(llm-compressor, stored as compressed-tensors). fp8: the same without smoothing, e4m3. int4: weights
alone, with a scale and a zero point a group (AutoRound's rounding, stored as AWQ).
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Column, of every eight, that is in the n-th four bits of an AWQ word."""
SMOOTHING = 0.8
"""How much of the activations' outliers moves into the weights (SmoothQuant's alpha)."""
INT8_MAX = 127.0
FP8_MAX = 448.0
ARGS = ("num_bits", "type", "strategy", "symmetric", "dynamic", "group_size")
"""What of a scheme is written: the fields that every release of compressed-tensors knows."""


class RefusedError(Exception):
    """The checkpoint cannot be quantised; the message says why."""


def step(words: str) -> None:
    """Say on stderr what begins."""
    sys.stderr.write(f"step: {words}\n")
    sys.stderr.flush()


# --- quantising -----------------------------------------------------------------------------------


def batches(tokenizer: Any, texts: list[str], most: int) -> Any:
    """A loader of one text a batch, for calibration."""
    from torch.utils.data import DataLoader

    rows = [tokenizer(t, truncation=True, max_length=most, return_tensors="pt") for t in texts]
    wanted = [{k: row[k] for k in ("input_ids", "attention_mask")} for row in rows]
    return DataLoader(wanted, batch_size=None)


def eight_bits(model: Any, tokenizer: Any, request: dict[str, Any], out: str) -> None:
    """W8A8 by llm-compressor: int8 with smoothed activations, or fp8."""
    from llmcompressor import oneshot  # type: ignore[import-not-found]
    from llmcompressor.modifiers.quantization import (  # type: ignore[import-not-found]
        QuantizationModifier,
    )
    from llmcompressor.modifiers.transform.smoothquant import (  # type: ignore[import-not-found]
        SmoothQuantModifier,
    )

    if request["to"] == "fp8":
        scheme = QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"])
        oneshot(model=model, recipe=[scheme])
    else:
        loader = batches(tokenizer, request["calibration"], int(request["max_tokens"]))
        scheme = QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"])
        recipe = [SmoothQuantModifier(smoothing_strength=SMOOTHING), scheme]
        oneshot(
            model=model,
            recipe=recipe,
            dataset=loader,
            num_calibration_samples=len(loader),
            pipeline="basic",
        )
    model.save_pretrained(out, save_compressed=True)


def four_bits(model: Any, tokenizer: Any, request: dict[str, Any], out: str) -> None:
    """W4A16 with zero points by AutoRound's rounding, in AWQ's layout."""
    from auto_round import AutoRound  # type: ignore[import-not-found]

    rounding = AutoRound(
        model,
        tokenizer,
        bits=4,
        group_size=int(request["group_size"]),
        sym=False,
        iters=0,
        disable_opt_rtn=True,
        device_map="cpu",
        enable_torch_compile=False,
    )
    rounding.quantize_and_save(out, format="auto_awq")


def quantise(folder: Path, request: dict[str, Any], out: str) -> None:
    """Write what the library makes of the transformer in `folder` to `out`."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=torch.float32, local_files_only=True, trust_remote_code=False
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )
    model.config.use_cache = False
    (four_bits if request["to"] == "int4" else eight_bits)(model.eval(), tokenizer, request, out)


# --- what is kept of it ---------------------------------------------------------------------------


def kept_config(source: dict[str, Any], written: dict[str, Any]) -> dict[str, Any]:
    """The checkpoint's own config.json with `quantization_config`, as older engines read it too.

    The library's own would name fields that the engines' older transformers and compressed-tensors
    do not know, and refuse.
    """
    made = written.get("quantization_config")
    if not isinstance(made, dict):
        raise RefusedError("the library wrote no quantization_config")
    if made.get("quant_method") == "awq":
        names = ("quant_method", "bits", "group_size", "zero_point", "modules_to_not_convert")
        quantization = {name: made[name] for name in names if name in made} | {"version": "gemm"}
    else:
        groups = {name: kept_group(group) for name, group in made["config_groups"].items()}
        quantization = {
            "quant_method": "compressed-tensors",
            "format": made["format"],
            "quantization_status": "compressed",
            "config_groups": groups,
            "ignore": made["ignore"],
        }
    config = {**source, "quantization_config": quantization}
    architecture = str((source.get("architectures") or [""])[0])
    if architecture.endswith("Model"):  # the tensors are named as the causal class names them
        config["architectures"] = [architecture.removesuffix("Model") + "ForCausalLM"]
    return config


def kept_group(group: dict[str, Any]) -> dict[str, Any]:
    """One config group without the fields that only the newest library knows."""
    kept: dict[str, Any] = {"targets": group["targets"]}
    for side in ("weights", "input_activations"):
        given = group.get(side)
        if given is not None:
            kept[side] = {name: given[name] for name in ARGS if given.get(name) is not None}
    return kept


def written_in(out: Path) -> Path:
    """The folder below `out` that the library wrote to: AutoRound adds one of its own naming."""
    folders = [path.parent for path in sorted(out.rglob("config.json"))]
    if len(folders) != 1:
        raise RefusedError(f"the library wrote {len(folders)} checkpoints")
    return folders[0]


def stored(out: Path) -> Iterator[tuple[str, Any]]:
    """Names and tensors of what the library wrote; an output head is no part of an embedding."""
    from safetensors import safe_open  # type: ignore[import-not-found]

    for path in sorted(out.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - the file is no dictionary
                if not name.startswith("lm_head."):
                    yield name, file.get_tensor(name)


def keep(out: Path, target: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Write `target`'s two files; returns the tensors as stored, by name."""
    import torch
    from safetensors.torch import save_file  # type: ignore[import-not-found]

    said = str(config.get("dtype") or config.get("torch_dtype") or "bfloat16")
    rest = torch.float16 if said == "float16" else torch.bfloat16
    tensors = {}
    for name, tensor in stored(out):
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
            raise RefusedError(f"{name} became infinite or not a number")
        scale = name.endswith(("scale", "scales"))
        whole = tensor.dtype in (torch.float32, torch.bfloat16, torch.float16)
        tensors[name] = tensor.to(rest).contiguous() if whole and not scale else tensor.contiguous()
    target.mkdir(parents=True, exist_ok=True)
    save_file(tensors, str(target / "model.safetensors"), metadata={"format": "pt"})
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = str(rest).removeprefix("torch.")
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return tensors


# --- computing with it, as the engines' kernels do ------------------------------------------------


def unpacked(words: Any) -> Any:
    """AWQ's words (rows, columns / 8) as numbers of 0 to 15, (rows, columns)."""
    import torch

    columns = torch.empty(words.shape[0], words.shape[1], 8, dtype=torch.float32)
    for place, column in enumerate(AWQ_ORDER):
        columns[:, :, column] = ((words >> (4 * place)) & 15).float()
    return columns.reshape(words.shape[0], -1)


def awq_weight(words: Any, zeros: Any, scales: Any) -> Any:
    """Matrix (out, in) in float32 of AWQ's three tensors, which store it transposed."""
    numbers, size = unpacked(words), words.shape[0] // scales.shape[0]
    zero = unpacked(zeros).repeat_interleave(size, 0)
    return ((numbers - zero) * scales.float().repeat_interleave(size, 0)).T


def per_token(kind: str, values: Any) -> Any:
    """Activations as a kernel of that kind sees them: one scale a token, rounded."""
    import torch

    most = INT8_MAX if kind == "int8" else FP8_MAX
    scale = values.abs().amax(-1, keepdim=True).clamp(min=1e-10) / most
    if kind == "int8":
        return (values / scale).round().clamp(-128, 127) * scale
    return (values / scale).clamp(-most, most).to(torch.float8_e4m3fn).float() * scale


def take_weights(model: Any, tensors: dict[str, Any], kind: str) -> int:
    """Give a float32 model the stored weights; returns how many matrices are quantised.

    Raises:
        RefusedError: a weight is missing, or is nobody's.
    """
    import torch

    left = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    matrices = 0
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            base = name.removesuffix(".weight")
            if f"{base}.qweight" in left:
                parts = [left.pop(f"{base}.{part}") for part in ("qweight", "qzeros", "scales")]
                parameter.copy_(awq_weight(*parts))
                matrices += 1
            elif name in left:
                value = left.pop(name).float()
                scale = left.pop(f"{base}.weight_scale", None)
                parameter.copy_(value if scale is None else value * scale.float())
                if scale is not None:
                    matrices += 1
                    see_rounded(model.get_submodule(base), kind)
            else:
                raise RefusedError(f"the quantised checkpoint lacks {name}")
    if left:
        raise RefusedError(f"the quantised checkpoint has {min(left)}, which the model lacks")
    if not matrices:
        raise RefusedError("no matrix was quantised")
    return matrices


def see_rounded(layer: Any, kind: str) -> None:
    """Have a layer see its input as the kernel does."""
    layer.register_forward_pre_hook(lambda _layer, inputs: (per_token(kind, inputs[0]),))


def vectors(
    worker: ModuleType, recipe: Any, loaded: tuple[Any, Any], request: dict[str, Any]
) -> list[str]:
    """The checkpoint's vectors of the request's texts, by the reference's own pooling."""
    model, tokenizer = loaded
    heads = [worker.load_dense(p) if kind == "dense" else None for kind, p in recipe.steps]
    made = []
    for text in request["texts"]:
        text = text.lower() if recipe.lower_case else text
        hidden, _ = worker.hidden_states(model, tokenizer, text, int(request["max_tokens"]))
        made.append(worker.encode(worker.served_vector(hidden, recipe.poolings, heads)))
    return made


# --- the process ----------------------------------------------------------------------------------


def reference_worker(path: str) -> ModuleType:
    """The program that computes a checkpoint's own vectors, as a module."""
    spec = importlib.util.spec_from_file_location("reference_worker", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def answer(worker: ModuleType, request: dict[str, Any]) -> dict[str, Any]:
    """Do what the request asks."""
    import torch
    import transformers

    torch.set_num_threads(int(request["threads"]))
    source, target = Path(request["source"]), Path(request["target"])
    recipe = worker.read_recipe(source, str(request["fallback_pooling"]))
    times, began = {}, time.monotonic()
    step(f"quantising to {request['to']}")
    with tempfile.TemporaryDirectory(dir=target.parent) as out:
        quantise(recipe.transformer, request, out)
        config = worker.read_json(recipe.transformer / "config.json")
        made = written_in(Path(out))
        written = worker.read_json(made / "config.json") or {}
        place = target / recipe.transformer.relative_to(source)
        tensors = keep(made, place, kept_config(config, written))
    times["quantise"] = time.monotonic() - began
    step(f"{len(request['texts'])} texts in float32")
    loaded = worker.load_model(recipe.transformer)
    reference = vectors(worker, recipe, loaded, request)
    step(f"the same texts with the {request['to']} weights, as they are stored")
    matrices = take_weights(loaded[0], tensors, request["to"])
    quantised = vectors(worker, recipe, loaded, request)
    times["check"] = time.monotonic() - began - times["quantise"]
    return {
        "reference": reference,
        "vectors": quantised,
        "matrices": matrices,
        "seconds": {name: round(value, 2) for name, value in times.items()},
        "versions": {
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            **versions("llmcompressor", "compressed-tensors", "auto-round"),
        },
    }


def versions(*names: str) -> dict[str, str]:
    """Versions of packages, by name."""
    from importlib import metadata

    return {name: metadata.version(name) for name in names}


def main() -> int:
    """Read a request, write an answer; everything libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", encoding="ascii")
    os.dup2(2, 1)
    worker = reference_worker(sys.argv[2])
    worker.die_with_parent(int(sys.argv[1]))
    worker.first_victim()
    try:
        done = answer(worker, json.load(sys.stdin.buffer))
    except (RefusedError, worker.UnsupportedError) as error:
        done = {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - any library's failure becomes one line for people
        done = {"error": f"{type(error).__name__}: {error}"[:400]}
    with answers:
        json.dump(done, answers)
    return 1 if "error" in done else 0


if __name__ == "__main__":
    sys.exit(main())
