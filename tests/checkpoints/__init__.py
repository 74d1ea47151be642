"""Makers of small checkpoints with random weights: real formats, no torch, no network.

`python -m tests.checkpoints qwen3 FOLDER` makes one from the command line.
"""

from tests.checkpoints.bert import make_bert, make_roberta
from tests.checkpoints.qwen3 import make_qwen3, make_qwen3_06b_shape
from tests.checkpoints.weights import Weight, write_safetensors, write_weights

__all__ = [
    "Weight",
    "make_bert",
    "make_qwen3",
    "make_qwen3_06b_shape",
    "make_roberta",
    "write_safetensors",
    "write_weights",
]
