"""Encoders in 8-bit integers on a CPU: twice the products a second where it has VNNI or AMX.

Asked for with `QLAUNCH_DTYPE=int8`; then the engine serves so or not at all. All linear layers are
computed as unsigned 8-bit activations times signed 8-bit weights into 32-bit sums, by the oneDNN
operator that PyTorch's own compiler uses; attention stays in the engine's dtype, LayerNorm and the
sums between layers are in float32. What keeps the vectors near the model's own:

- weights have a scale an output column;
- activations have one scale a layer, measured while loading on texts of many scripts, so that a
  text gives the same vector in any company;
- what varies by input channel is evened out between activation and weight (SmoothQuant, Xiao et
  al. 2022, equation 4 with alpha 0.5);
- the few channels of a feed-forward block that are twenty times the others (in MiniLM and its like
  a handful a layer) are computed apart, in float32.
"""

import functools
import logging
import os
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

logger = logging.getLogger(__name__)

ALPHA = 0.5
"""How much of a channel's spread the weights take over: half, as the paper finds best."""
APART = 8
"""Channels of a feed-forward block computed apart. Worst cosine of MiniLM over 77 texts with 0, 8,
16 and 64 of them: 0.975, 0.996, 0.996, 0.996."""
MARGIN = 1.1
"""Room above the largest activation that was seen."""
_GELU_LEAST = -0.17
"""No GELU gives less (its minimum is -0.16997)."""
_STEPS = 255
_WHOLE = 127
"""Levels of a weight on each side of 0 where products are summed in 32 bits."""
_SATURATING = 64
"""The same where two products are summed in 16 bits first: 2 × 255 × 64 still fits into them."""


def wanted() -> bool:
    """Whether the launcher asked for it."""
    return os.environ.get("QLAUNCH_DTYPE") == "int8"


@functools.cache
def levels() -> int:
    """Levels of a weight on each side of 0, by what this processor's product makes of 255 × 127.

    Without VNNI and AMX two products are summed in 16 bits, which saturate; a weight of 7 bits
    leaves them room, and activations keep their 8.
    """
    length, channels = 64, 16
    steps = torch.full((1, length), _STEPS, dtype=torch.uint8)
    weight = torch.full((channels, length), _WHOLE, dtype=torch.int8)
    found = torch.ops.onednn.qlinear_pointwise(
        steps,
        1.0,
        0,
        torch.ops.onednn.qlinear_prepack(weight, None),
        torch.ones(channels, dtype=torch.float32),  # not the model's own dtype
        torch.zeros(channels, dtype=torch.int64),
        None,
        1.0,
        0,
        torch.float32,
        "none",
        [],
        "none",
    )
    exact = float(found.min()) == float(found.max()) == length * _STEPS * _WHOLE
    return _WHOLE if exact else _SATURATING


class Int8Linear(nn.Module):
    """`activation(x W + b)` by 8-bit products.

    Args:
        dense: the layer, with its weight in place; it is let go.
        seen: what came into it while calibrating.
        without: input channels that are computed elsewhere.
    """

    dtype = torch.float32
    """What it answers in."""

    def __init__(self, dense, seen: "Seen", *, without=None, smooth: bool = True):
        super().__init__()
        weight = dense.weight.data.float()
        even = seen.evening(weight) if smooth else torch.ones(weight.shape[1], dtype=weight.dtype)
        if without is not None:
            weight[:, without] = 0
        self.scale, self.zero = quantiser(seen.within(even, without))
        weight = weight * even
        steps = weight.abs().amax(dim=1).clamp(min=1e-8) / levels()
        whole = torch.round(weight / steps.unsqueeze(1)).to(torch.int8)
        self._weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self._steps, self._zeros = steps, torch.zeros(len(steps), dtype=torch.int64)
        self._bias = dense.bias.data.float()
        # An input channel's factor, and the half that makes cutting the fraction off a rounding.
        self._factor = 1 / (even * self.scale)
        self._zero = torch.full_like(self._factor, self.zero + 0.5)
        dense.weight.data = dense.weight.data.new_empty(0)

    def quantised(self, x):
        """[tokens, in] in float32 or bfloat16 → the same in unsigned 8-bit steps."""
        found = torch.addcmul(self._zero, x.float(), self._factor)
        # By way of int32: PyTorch has no vector code from float32 to uint8. Half the time on Zen 5.
        return found.clamp_(0, _STEPS).to(torch.int32).to(torch.uint8)

    def product(self, steps, activation: str = "none", into: "Int8Linear | None" = None):
        """[tokens, in] in steps → [tokens, out]: in `dtype`, or as `into` takes it."""
        scale, zero, dtype = (
            (1.0, 0, self.dtype) if into is None else (into.scale, into.zero, torch.uint8)
        )
        return torch.ops.onednn.qlinear_pointwise(
            steps,
            self.scale,
            self.zero,
            self._weight,
            self._steps,
            self._zeros,
            self._bias,
            scale,
            zero,
            dtype,
            activation,
            [],
            "none",
        )


class Int8Projection(Int8Linear):
    """Queries, keys and values; answers as SGLang's linear layers do, with no bias left to add."""

    def __init__(self, dense, seen: "Seen"):
        super().__init__(dense, seen)
        self.dtype = dense.weight.dtype

    def forward(self, x):
        """[tokens, in] → ([tokens, out] in the engine's dtype, None)."""
        return self.product(self.quantised(x)), None


class Int8Output(nn.Module):
    """`LayerNorm(x W + b + input)` at the end of an attention."""

    def __init__(self, block, seen: "Seen"):
        super().__init__()
        self._linear = Int8Linear(block.dense, seen)
        self.LayerNorm = block.LayerNorm.float()

    def forward(self, x, added):
        """[tokens, in], [tokens, out] → [tokens, out]."""
        linear = self._linear
        return self.LayerNorm(linear.product(linear.quantised(x)).add_(added))


class Int8FeedForward(nn.Module):
    """A feed-forward block up to its activation: what is between stays in 8 bits."""

    def __init__(self, block, output, seen: "Seen", seen_output: "Seen"):
        super().__init__()
        apart = seen_output.largest(APART)
        rows = block.dense.weight.data[apart].float()
        self._rows = torch.ops.mkldnn._reorder_linear_weight(rows)
        self._bias = block.dense.bias.data[apart].float()
        self._linear = Int8Linear(block.dense, seen)
        self.output = Int8FeedForwardOutput(output, seen_output, apart)

    def forward(self, x):
        """[tokens, width] → steps of all channels, and those that are computed apart."""
        apart = torch.ops.mkldnn._linear_pointwise(x, self._rows, self._bias, "gelu", [], "none")
        linear = self._linear
        return linear.product(linear.quantised(x), "gelu", self.output.linear), apart


class Int8FeedForwardOutput(nn.Module):
    """The rest of it: `LayerNorm(x W + b + input)`."""

    def __init__(self, block, seen: "Seen", apart):
        super().__init__()
        self._columns = block.dense.weight.data[:, apart].t().float().contiguous()
        self.linear = Int8Linear(block.dense, seen, without=apart, smooth=False)
        self.LayerNorm = block.LayerNorm.float()

    def forward(self, between, added):
        """What Int8FeedForward gives, and [tokens, width] → [tokens, width]."""
        steps, apart = between
        found = self.linear.product(steps).addmm_(apart, self._columns)
        return self.LayerNorm(found.add_(added))


class Seen:
    """The activations that came into a layer: least and greatest of every channel."""

    def __init__(self):
        self._least = self._greatest = None

    def add(self, x):
        """Take a batch's, [tokens, channels]."""
        least, greatest = x.float().aminmax(dim=0)
        if self._least is not None:
            least = torch.minimum(least, self._least)
            greatest = torch.maximum(greatest, self._greatest)
        self._least, self._greatest = least, greatest

    @property
    def _size(self):
        return torch.maximum(self._least.abs(), self._greatest.abs())

    def evening(self, weight):
        """A divisor for every channel, which the weight's column is multiplied by."""
        size, columns = self._size.clamp(min=1e-3), weight.abs().amax(dim=0).clamp(min=1e-5)
        found = size**ALPHA / columns ** (1 - ALPHA)
        return found / found.mean()

    def within(self, even, without) -> tuple[float, float]:
        """The range of all channels once evened out, with a margin."""
        least, greatest = self._least / even, self._greatest / even
        if without is not None:
            keep = torch.ones(len(even), dtype=torch.bool)
            keep[without] = False
            least, greatest = least[keep], greatest[keep]
        return min(least.min().item() * MARGIN, 0.0), max(greatest.max().item() * MARGIN, 0.0)

    def largest(self, count: int):
        """The channels that reach furthest."""
        return self._size.topk(min(count, len(self._size) // 2)).indices


def quantiser(limits: tuple[float, float]) -> tuple[float, int]:
    """Scale and zero point of unsigned 8-bit steps over a range that holds 0."""
    least, greatest = limits
    scale = max(greatest - least, 1e-6) / _STEPS
    return scale, round(-least / scale)


def quantise(model, encoder, activation: str) -> None:
    """Replace the linear layers of a BertEncoder whose weights are loaded.

    Raises:
        RuntimeError: this model, PyTorch or processor cannot be served so.
    """
    why_not = _why_not(encoder, activation)
    if why_not:
        raise RuntimeError(f"qlaunch: int8 was asked for, and cannot be had: {why_not}")
    seen = calibrate(model, encoder)
    for layer, (qkv, output, between, down) in zip(encoder.layer, seen, strict=True):
        attention = layer.attention.self_attn
        attention.qkv_proj = Int8Projection(attention.qkv_proj, qkv)
        layer.attention.output = Int8Output(layer.attention.output, output)
        layer.intermediate = Int8FeedForward(layer.intermediate, layer.output, between, down)
        layer.output = layer.intermediate.output
    logger.info("qlaunch: linear layers are computed in int8")


def linears(layer):
    """The linear layers of a BertLayer, in the order of their work."""
    attention = layer.attention
    return (
        attention.self_attn.qkv_proj,
        attention.output.dense,
        layer.intermediate.dense,
        layer.output.dense,
    )


def calibrate(model, encoder) -> list[list[Seen]]:
    """Run texts through the model as it is; what came into every linear layer, layer by layer."""
    seen = [[Seen() for _ in linears(layer)] for layer in encoder.layer]
    hooks = [
        linear.register_forward_pre_hook(lambda _, given, one=one: one.add(given[0]))
        for layer, row in zip(encoder.layer, seen, strict=True)
        for linear, one in zip(linears(layer), row, strict=True)
    ]
    try:
        with torch.no_grad():
            texts = tokenized(Path(os.environ["QLAUNCH_MODEL_PATH"]))
            model(*batch_of(texts), get_embedding=True)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def tokenized(path: Path) -> list[list[int]]:
    """The calibration texts alone, and all of them joined, as the model's tokenizer cuts them."""
    from transformers import AutoTokenizer

    from qlaunch_sglang.calibration_texts import TEXTS

    tokenizer = AutoTokenizer.from_pretrained(str(path))
    limit = min(tokenizer.model_max_length, 256)
    given = [*TEXTS, " ".join(TEXTS), " ".join(reversed(TEXTS))]
    return tokenizer(given, truncation=True, max_length=limit)["input_ids"]


def batch_of(texts: list[list[int]]):
    """(input ids, positions, forward batch) as SGLang's model runner would give them."""
    lengths = [len(text) for text in texts]
    none = [0] * len(texts)
    batch = SimpleNamespace(
        token_type_ids=None,
        dimensions=None,
        seq_lens=torch.tensor(lengths),
        extend_seq_lens=torch.tensor(lengths),
        extend_seq_lens_cpu=lengths,
        extend_prefix_lens=torch.tensor(none),
        extend_prefix_lens_cpu=none,
    )
    ids = torch.tensor([token for text in texts for token in text])
    return ids, torch.cat([torch.arange(length) for length in lengths]), batch


def _why_not(encoder, activation: str) -> str | None:
    from qlaunch_sglang.attention import WholeTextAttention

    first = encoder.layer[0]
    if first.intermediate.dense.weight.device.type != "cpu":
        return "the model is not on a CPU"
    if activation != "gelu":
        return f"its activation is {activation}, not gelu"
    if getattr(encoder, "quant_config", None) is not None:
        return "its weights are quantised already"
    if not isinstance(first.attention.self_attn.attn, WholeTextAttention):
        return "texts are not computed whole (prefix cache or chunks)"
    operators = (
        (torch.ops.onednn, "qlinear_prepack"),
        (torch.ops.onednn, "qlinear_pointwise"),
        (torch.ops.mkldnn, "_reorder_linear_weight"),
        (torch.ops.mkldnn, "_linear_pointwise"),
    )
    if not all(hasattr(library, name) for library, name in operators):
        return f"PyTorch {torch.__version__} does not have the operators"
    return None
