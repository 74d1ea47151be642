"""transformers with accelerate's offload, layer by layer, behind the least of a server.

`ram`: weights wait in memory and every layer fetches its own before it computes (`cpu_offload`).
`disk`: the layers' weights stay in the checkpoint's file (`device_map`), and are read each time.
"""

from __future__ import annotations

import tempfile
import threading
from typing import Any

from qlaunch_peers import settings
from qlaunch_peers.http_server import Answer, serve
from qlaunch_peers.settings import Settings


def loaded(asked: Settings, spare: str) -> Any:
    """The model with its hooks."""
    import torch
    from accelerate import cpu_offload
    from transformers import AutoModel

    kind = getattr(torch, asked.dtype)
    if asked.variant == "ram":
        model = AutoModel.from_pretrained(asked.model_path, dtype=kind).eval()
        return cpu_offload(model, execution_device=torch.device("cpu"))
    layout = _layout(asked)
    return AutoModel.from_pretrained(
        asked.model_path, dtype=kind, device_map=layout, offload_folder=spare
    ).eval()


def _layout(asked: Settings) -> dict[str, str]:
    """Where each part of the model lies: what repeats on disk, the rest in memory."""
    import torch
    from transformers import AutoConfig, AutoModel

    with torch.device("meta"):
        empty = AutoModel.from_config(AutoConfig.from_pretrained(asked.model_path))
    layout = {}
    for name, part in empty.named_children():
        repeated = [
            f"{name}.{inner}" if inner else name
            for inner, module in part.named_modules()
            if isinstance(module, torch.nn.ModuleList)
        ]
        if not repeated:
            layout[name] = "cpu"
        for each in repeated[:1]:
            count = len(part if each == name else part.get_submodule(each[len(name) + 1 :]))
            layout |= {f"{each}.{number}": "disk" for number in range(count)}
    return layout


def pooled(states: Any, mask: Any, asked: Settings) -> Any:
    """Text vectors of token vectors, in torch."""
    import torch

    states = states.float()
    if asked.pooling == "cls":
        vectors = states[:, 0]
    elif asked.pooling == "last":
        vectors = states[torch.arange(len(states)), mask.sum(dim=1) - 1]
    else:
        kept = mask[:, :, None].float()
        vectors = (states * kept).sum(dim=1) / kept.sum(dim=1)
    return torch.nn.functional.normalize(vectors, dim=1) if asked.normalize else vectors


def main() -> None:
    """Load the model and serve until the process is ended."""
    asked = settings.read()
    import torch
    from transformers import AutoTokenizer

    torch.set_num_threads(asked.threads)
    tokenizer = AutoTokenizer.from_pretrained(asked.model_path, padding_side="right")
    one_at_a_time = threading.Lock()

    with tempfile.TemporaryDirectory() as spare:
        model = loaded(asked, spare)

        def encode(texts: list[str]) -> Answer:
            words = [text.lower() for text in texts] if asked.lower_case else texts
            batch = tokenizer(
                words, padding=True, truncation=True, max_length=asked.longest, return_tensors="pt"
            )
            with one_at_a_time, torch.inference_mode():
                states = model(
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
                ).last_hidden_state
            vectors = pooled(states, batch["attention_mask"], asked)
            return Answer(vectors.numpy(), int(batch["attention_mask"].sum()))

        encode(["warm-up"])
        serve(asked.port, encode)


if __name__ == "__main__":
    main()
