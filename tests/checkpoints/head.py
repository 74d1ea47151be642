"""The files of sentence-transformers: modules, pooling, Dense, normalisation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tests.checkpoints.weights import Weight, write_json, write_weights

Pooling = Literal["cls", "mean", "max", "last"]
_OLD_KEYS: dict[str, Pooling | None] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": None,
    "pooling_mode_weightedmean_tokens": None,
    "pooling_mode_lasttoken": "last",
}


def write_head(
    folder: Path,
    *,
    hidden: int,
    pooling: Pooling,
    normalize: bool,
    dense: int | None = None,
    max_seq_length: int | None = None,
    new_spelling: bool = False,
    seed: int = 0,
) -> None:
    """Write modules.json and what it names.

    Args:
        dense: output width of a Dense module with tanh; None leaves it out.
        new_spelling: `pooling_mode: "mean"` as newer releases write it, not one key a mode.
    """
    modules = [("", "Transformer"), ("1_Pooling", "Pooling")]
    if new_spelling:
        mode = "lasttoken" if pooling == "last" else pooling
        config: dict[str, object] = {"embedding_dimension": hidden, "pooling_mode": mode}
    else:
        modes = {key: value == pooling for key, value in _OLD_KEYS.items()}
        config = {"word_embedding_dimension": hidden, **modes}
    write_json(folder / "1_Pooling" / "config.json", {**config, "include_prompt": True})
    if dense is not None:
        modules.append(("2_Dense", "Dense"))
        _write_dense(folder / "2_Dense", hidden, dense, seed)
    if normalize:
        modules.append((f"{len(modules)}_Normalize", "Normalize"))
    entries = [
        {"idx": at, "name": str(at), "path": place, "type": f"sentence_transformers.models.{kind}"}
        for at, (place, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", entries)
    if max_seq_length is not None:
        limits = {"max_seq_length": max_seq_length, "do_lower_case": False}
        write_json(folder / "sentence_bert_config.json", limits)


def _write_dense(folder: Path, width: int, out: int, seed: int) -> None:
    write_json(
        folder / "config.json",
        {
            "in_features": width,
            "out_features": out,
            "bias": True,
            "activation_function": "torch.nn.modules.activation.Tanh",
        },
    )
    weights = [Weight("linear.weight", (out, width), std=0.2), Weight("linear.bias", (out,))]
    write_weights(folder, weights, seed=seed + 1, dtype="float32")
