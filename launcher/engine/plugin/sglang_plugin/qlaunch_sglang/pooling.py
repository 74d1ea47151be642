"""Pooling as the checkpoint says: `modules.json`, `1_Pooling/config.json`, Dense and Normalize.

SGLang's encoders pool by CLS (by the last token up to 0.5.8) whatever the model says. Here the
sentence-transformers files beside the weights decide. Everything after the transformer runs in
float32: the sums of a mean over bfloat16 states lose digits that a cosine shows.
"""

import json
import logging
import os
from pathlib import Path

import torch
from sglang.srt.layers.pooler import EmbeddingPoolerOutput
from torch import nn

logger = logging.getLogger(__name__)

_OLD_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}
_NEW_NAMES = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last", "last": "last"}


def pool(mode: str, states: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Pool the concatenated token states of a batch.

    Args:
        mode: cls, last, mean or max.
        states: [sum(lengths), width], requests one after the other, no padding.
        lengths: [batch], tokens of each request.

    Returns:
        [batch, width], float32.
    """
    lengths = lengths.to(states.device, torch.long)
    ends = torch.cumsum(lengths, dim=0)
    if mode == "cls":
        return states[ends - lengths].float()
    if mode == "last":
        return states[ends - 1].float()
    if mode == "max":
        return torch.stack([part.float().amax(dim=0) for part in states.split(lengths.tolist())])
    if mode != "mean":
        raise ValueError(f"unknown pooling mode {mode!r}")
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=states.device), lengths)
    sums = torch.zeros(len(lengths), states.shape[-1], dtype=torch.float32, device=states.device)
    return sums.index_add_(0, rows, states.float()) / lengths.unsqueeze(-1)


def read_modules(path: Path) -> dict:
    """What the sentence-transformers files in `path` say: pooling modes, dense folders, normalize.

    Raises:
        ValueError: a pooling this plugin cannot do; the message names the file.
    """
    plan = {"modes": ["cls"], "dense": [], "normalize": True, "source": "no modules.json"}
    listing = path / "modules.json"
    if not listing.is_file():
        return plan
    plan |= {"normalize": False, "source": str(listing)}
    for module in json.loads(listing.read_text("utf-8")):
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        folder = path / str(module.get("path", ""))
        if kind == "Pooling":
            plan["modes"] = _modes(folder / "config.json")
        elif kind == "Dense":
            plan["dense"].append(folder)
        elif kind == "Normalize":
            plan["normalize"] = True
    return plan


def _modes(file: Path) -> list[str]:
    config = json.loads(file.read_text("utf-8"))
    if "pooling_mode" in config:
        wanted = config["pooling_mode"]
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        modes = [_NEW_NAMES.get(name) for name in names]
    else:
        names = [key for key, on in config.items() if key.startswith("pooling_mode_") and on is True]
        modes = [_OLD_KEYS.get(key) for key in names]
    if not modes or None in modes:
        raise ValueError(f"{file}: pooling {', '.join(names) or 'none'} is not supported")
    return modes


class _Dense(nn.Module):
    """A sentence-transformers Dense module: a linear layer and its activation, in float32."""

    def __init__(self, folder: Path):
        super().__init__()
        config = json.loads((folder / "config.json").read_text("utf-8"))
        name = str(config.get("activation_function", "torch.nn.modules.linear.Identity"))
        self.activation = getattr(nn, name.rsplit(".", 1)[-1])()
        weights = _load(folder)
        self.register_buffer("weight", weights["linear.weight"].float(), persistent=False)
        bias = weights.get("linear.bias")
        self.register_buffer("bias", None if bias is None else bias.float(), persistent=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        weight = self.weight.to(vectors.device)
        bias = None if self.bias is None else self.bias.to(vectors.device)
        return self.activation(nn.functional.linear(vectors, weight, bias))


def _load(folder: Path) -> dict:
    file = folder / "model.safetensors"
    if file.is_file():
        from safetensors.torch import load_file

        return load_file(str(file), device="cpu")
    return torch.load(folder / "pytorch_model.bin", map_location="cpu", weights_only=True)


class CheckpointPooler(nn.Module):
    """Stands where SGLang's Pooler stood: same call, same answer type."""

    def __init__(self, modes: list[str], dense: list[Path], normalize: bool):
        super().__init__()
        self.modes = modes
        self.dense = nn.ModuleList(_Dense(folder) for folder in dense)
        self.normalize = normalize

    @classmethod
    def for_model(cls, config) -> "CheckpointPooler":
        """The pooler of the checkpoint that this engine serves."""
        path = os.environ.get("QLAUNCH_MODEL_PATH") or getattr(config, "_name_or_path", "")
        plan = read_modules(Path(path))
        logger.info(
            "qlaunch: pooling %s, normalize %s (%s)",
            "+".join(plan["modes"]),
            plan["normalize"],
            plan["source"],
        )
        return cls(plan["modes"], plan["dense"], plan["normalize"])

    def forward(self, hidden_states: torch.Tensor, forward_batch) -> EmbeddingPoolerOutput:
        lengths = forward_batch.extend_seq_lens
        vectors = torch.cat([pool(mode, hidden_states, lengths) for mode in self.modes], dim=-1)
        for dense in self.dense:
            vectors = dense(vectors)
        # Matryoshka: truncated before normalising, as SGLang's own pooler does. Older releases
        # know no `dimensions`.
        dimensions = getattr(forward_batch, "dimensions", None)
        if dimensions is not None and len(set(dimensions)) > 1:
            cut = [self._norm(v[:d]) for v, d in zip(vectors, dimensions, strict=True)]
            return EmbeddingPoolerOutput(embeddings=cut)
        if dimensions is not None:
            vectors = vectors[..., : dimensions[0]]
        return EmbeddingPoolerOutput(embeddings=self._norm(vectors))

    def _norm(self, vectors: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(vectors, p=2, dim=-1) if self.normalize else vectors
