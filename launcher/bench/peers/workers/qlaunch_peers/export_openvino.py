"""A checkpoint as an OpenVINO graph; for int8 by NNCF, with static scales of activations."""

from __future__ import annotations

import runpy
from typing import Any, Final

from qlaunch_peers import settings
from qlaunch_peers.encoding import Texts, save_tokenizer
from qlaunch_peers.settings import Settings

GRAPH: Final = "model.xml"


def main() -> None:
    """Write graph and tokenizer into the folder of the export."""
    asked = settings.read()
    save_tokenizer(asked.checkpoint, asked.folder)
    import openvino

    graph = _traced(asked)
    if asked.variant == "int8":
        graph = _quantised(graph, asked)
    openvino.save_model(graph, str(asked.folder / GRAPH), compress_to_fp16=False)


def _traced(asked: Settings) -> Any:
    import openvino
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(asked.model_path, dtype=torch.float32).eval()

    class States(torch.nn.Module):  # type: ignore[misc]  # torch is in the peer's environment only
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: Any, mask: Any) -> Any:
            """Vectors of all tokens."""
            return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    ids = torch.ones(2, 16, dtype=torch.long)
    mask = ids.clone()
    mask[1, 8:] = 0  # a trace without padding would leave the mask out
    graph = openvino.convert_model(States(), example_input=(ids, mask))
    for place, name in enumerate(("ids", "mask")):
        graph.inputs[place].get_tensor().set_names({name})
    graph.reshape({each: openvino.PartialShape([-1, -1]) for each in graph.inputs})
    return graph


def _quantised(graph: Any, asked: Settings) -> Any:
    import nncf
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        OverflowFix,
    )

    texts_of = Texts(asked)
    texts = runpy.run_path(asked.texts)["TEXTS"]
    samples = [dict(zip(("ids", "mask"), texts_of.batch([text]), strict=True)) for text in texts]
    fix = OverflowFix.ENABLE if asked.seven_bits else OverflowFix.DISABLE
    return nncf.quantize(
        graph,
        nncf.Dataset(samples),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=AdvancedQuantizationParameters(overflow_fix=fix),
    )


if __name__ == "__main__":
    main()
