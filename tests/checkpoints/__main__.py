"""`python -m tests.checkpoints KIND FOLDER`: make a checkpoint with random weights."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.checkpoints import make_bert, make_qwen3, make_qwen3_06b_shape, make_roberta


def main() -> None:
    """Parse the command line, make the checkpoint, print its folder."""
    parser = argparse.ArgumentParser(prog="python -m tests.checkpoints", description=__doc__)
    parser.add_argument("kind", choices=["qwen3", "qwen3-0.6b", "bert", "roberta", "xlm-roberta"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--shards", type=int, default=1, help="weight files")
    parser.add_argument("--pooling", choices=["cls", "mean", "max", "last"], default="mean")
    parser.add_argument("--dense", type=int, help="output width of a Dense module")
    asked = parser.parse_args()
    if asked.kind == "qwen3-0.6b":
        made = make_qwen3_06b_shape(asked.folder, seed=asked.seed)
    elif asked.kind == "qwen3":
        made = make_qwen3(asked.folder, layers=asked.layers, shards=asked.shards, seed=asked.seed)
    elif asked.kind == "bert":
        made = make_bert(
            asked.folder,
            layers=asked.layers,
            shards=asked.shards,
            pooling=asked.pooling,
            dense=asked.dense,
            seed=asked.seed,
        )
    else:
        made = make_roberta(
            asked.folder,
            architecture="RobertaModel" if asked.kind == "roberta" else "XLMRobertaModel",
            layers=asked.layers,
            shards=asked.shards,
            pooling=asked.pooling,
            dense=asked.dense,
            seed=asked.seed,
        )
    print(made)


if __name__ == "__main__":
    main()
