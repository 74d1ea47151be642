"""A checkpoint as an ONNX graph, fused by ONNX Runtime's own optimiser; quantised for int8.

The graph is traced with `eager` attention: the optimiser knows that one (one Attention node a
layer, BiasGelu, SkipLayerNormalization) and not the one that transformers takes by itself.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from qlaunch_peers import settings
from qlaunch_peers.encoding import save_tokenizer

GRAPH = "model.onnx"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OUTPUT = "last_hidden_state"


def main() -> None:
    """Write graph and tokenizer into the folder of the export."""
    asked = settings.read()
    traced = asked.folder / "traced.onnx"
    config = trace(asked.model_path, traced)
    fused = asked.folder / ("fused.onnx" if asked.variant == "int8" else GRAPH)
    fuse(traced, fused, config)
    traced.unlink()
    if asked.variant == "int8":
        quantise(fused, asked.folder / GRAPH, seven_bits=asked.seven_bits)
        fused.unlink()
    save_tokenizer(asked.checkpoint, asked.folder)


def trace(model_path: str, path: Path) -> Any:
    """Write the graph to `path`; returns the model's configuration."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        model_path, attn_implementation="eager", dtype=torch.float32
    ).eval()

    class States(torch.nn.Module):  # type: ignore[misc]  # torch is in the peer's environment only
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            """Vectors of all tokens."""
            found = self.model(input_ids=ids, attention_mask=mask, token_type_ids=types)
            return found.last_hidden_state

    ids = torch.ones(2, 16, dtype=torch.long)
    axes = {name: {0: "texts", 1: "tokens"} for name in (*INPUTS, OUTPUT)}
    torch.onnx.export(
        States(),
        (ids, ids, ids * 0),
        str(path),
        input_names=list(INPUTS),
        output_names=[OUTPUT],
        opset_version=17,
        dynamo=False,
        dynamic_axes=axes,
    )
    return model.config


def fuse(traced: Path, fused: Path, config: Any) -> None:
    """Write the graph as ONNX Runtime's optimiser has it; exits where that left a layer out."""
    from onnxruntime.transformers import optimizer

    found = optimizer.optimize_model(
        str(traced),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,
    )
    counts = found.get_fused_operator_statistics()
    if counts.get("Attention", 0) != config.num_hidden_layers:
        sys.exit(
            f"ONNX Runtime's optimiser fused {counts.get('Attention', 0)} of"
            f" {config.num_hidden_layers} attention layers: this graph would not be its best"
        )
    found.save_model_to_file(str(fused))


def quantise(fused: Path, path: Path, *, seven_bits: bool) -> None:
    """Dynamic int8, one scale a channel, as ONNX Runtime's guide has it for transformers."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        str(fused),
        str(path),
        per_channel=True,
        weight_type=QuantType.QInt8,
        reduce_range=seven_bits,
        # Fused nodes are of ONNX Runtime's own domain, through which no types are inferred.
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


if __name__ == "__main__":
    main()
