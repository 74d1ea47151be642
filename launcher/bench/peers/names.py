"""What `compare --peer` takes: names of the catalogue, with the number format where there are
several. Here and not only in the catalogue, so that `--help` does not read YAML."""

from __future__ import annotations

from typing import Final

SPECS: Final = (
    "infinity",
    "sentence-transformers",
    "onnxruntime",
    "onnxruntime:int8",
    "openvino",
    "openvino:bfloat16",
    "openvino:int8",
    "llama.cpp",
    "llama.cpp:Q4_K_M",
    "accelerate",
    "accelerate:disk",
)
