"""Larger changes to an encoder's files."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.checkpoints import make_bert
from tests.checkpoints.edit import (
    GONE,
    Change,
    Stored,
    config,
    dropped,
    read_tensors,
    renamed,
    tensors,
    write_tensors,
)

_DISTIL = {
    "encoder.layer": "transformer.layer",
    "attention.self.query": "attention.q_lin",
    "attention.self.key": "attention.k_lin",
    "attention.self.value": "attention.v_lin",
    "attention.output.dense": "attention.out_lin",
    "attention.output.LayerNorm": "sa_layer_norm",
    "intermediate.dense": "ffn.lin1",
    "output.dense": "ffn.lin2",
    "output.LayerNorm": "output_layer_norm",
}


def to_distilbert(folder: Path) -> None:
    """Turn a BERT into a DistilBERT: other names and settings, no token types, no pooler."""

    def rename(name: str) -> str:
        for theirs, ours in _DISTIL.items():
            name = name.replace(theirs, ours)
        return name

    dropped("token_type_embeddings.weight", "pooler.dense.weight", "pooler.dense.bias")(folder)
    renamed(rename)(folder)
    config(
        architectures=["DistilBertModel"],
        model_type="distilbert",
        dim=64,
        n_heads=4,
        n_layers=2,
        hidden_dim=128,
        activation="gelu",
        hidden_size=GONE,
        num_attention_heads=GONE,
        num_hidden_layers=GONE,
        intermediate_size=GONE,
        hidden_act=GONE,
        layer_norm_eps=GONE,
        type_vocab_size=GONE,
    )(folder)


def hub_cache(path: Path) -> Path:
    """A snapshot folder of the hub's cache: every file is a link into `blobs`."""
    real = make_bert(path.parent / "real", pooling="mean")
    blobs = path.parent / "blobs"
    blobs.mkdir()
    for number, file in enumerate(sorted(found for found in real.rglob("*") if found.is_file())):
        blob = blobs / f"{number:064x}"
        file.rename(blob)
        link = path / file.relative_to(real)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)
    return path


def word_rows(rows: int) -> Change:
    """Cut or repeat the rows of the word embeddings."""

    def change(found: dict[str, Stored]) -> dict[str, Stored]:
        name = "embeddings.word_embeddings.weight"
        dtype, (had, width), data = found[name]
        row = len(data) // had
        return found | {name: (dtype, (rows, width), (data + data)[: rows * row])}

    return tensors(change)


def nan(folder: Path) -> None:
    """What a training that diverged leaves: NaN in every weight."""
    file = folder / "model.safetensors"
    bad = np.float32("nan").tobytes()
    found = read_tensors(file)
    write_tensors(file, {n: (d, s, bad * (len(b) // 4)) for n, (d, s, b) in found.items()})
