"""Encoders in 8-bit integers on a CPU: twice the products a second where it has VNNI or AMX.

Asked for with `QLAUNCH_DTYPE=int8`; then the engine serves so or not at all. All linear layers are
computed as unsigned 8-bit activations times signed 8-bit weights into 32-bit sums, by oneDNN, or
by FBGEMM where that is faster; attention stays in the engine's dtype, LayerNorm and the
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
import warnings
from pathlib import Path
from types import SimpleNamespace

import torch
from torch import nn

from qlaunch_sglang.trimming import give_back

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
    """Levels of a weight on each side of 0, by what oneDNN's product makes of 255 × 127 here.

    Without VNNI and AMX two products are summed in 16 bits, which saturate; a weight of 7 bits
    leaves them room, and activations keep their 8.
    """
    return _levels(OneDnnProduct)


@functools.cache
def _levels(product) -> int:
    length, channels = 64, 16
    whole = torch.full((channels, length), _WHOLE, dtype=torch.int8)
    ones = torch.ones(channels, dtype=torch.float32)  # not the model's own dtype
    even = torch.ones(length, dtype=torch.float32)
    found = product(whole, ones, None, (1.0, 0), even)(torch.full((1, length), float(_STEPS)))
    exact = float(found.min()) == float(found.max()) == length * _STEPS * _WHOLE
    return _WHOLE if exact else _SATURATING


LEAST_ROW = 1e-35
"""A weight's row whose numbers are all smaller is taken for one of this size: a step of it is still
a normal number of float32."""


class OneDnnWeight:
    """A weight of 8-bit integers, laid out for oneDNN.

    Args:
        whole: its steps, [out, in], int8.
        steps: what a step of each output column is worth, [out], float32.
    """

    def __init__(self, whole, steps):
        self._weight = torch.ops.onednn.qlinear_prepack(whole, None)
        self._steps = steps
        self._zeros = torch.zeros(len(steps), dtype=torch.int64)

    def product(self, x, taken, bias=None, activation: str = "none", into=(1.0, 0, torch.float32)):
        """[tokens, in] in unsigned steps by `taken` (scale, zero) → [tokens, out] by `into`: scale,
        zero and dtype."""
        return torch.ops.onednn.qlinear_pointwise(
            *(x, *taken, self._weight, self._steps, self._zeros, bias),
            *(*into, activation, [], "none"),
        )


class OneDnnProduct:
    """`x W + b` of 8-bit integers by oneDNN: AMX, VNNI, or two products in 16 bits.

    Args:
        whole: the weight's steps, [out, in], int8.
        steps: what a step of each output column is worth, [out], float32.
        bias: [out], float32, or None.
        taken: scale and zero of the activations' unsigned steps.
        even: what activations are divided by before, [in], float32.
    """

    def __init__(self, whole, steps, bias, taken: tuple[float, int], even):
        self._weight, self._bias = OneDnnWeight(whole, steps), bias
        self.scale, self.zero = taken
        # An input channel's factor, and the half that makes cutting the fraction off a rounding.
        self._factor = 1 / (even * self.scale)
        self._zero = torch.full_like(self._factor, self.zero + 0.5)

    def __call__(self, x, dtype=torch.float32):
        """[tokens, in] in float32 or bfloat16 → [tokens, out] in `dtype`."""
        return self.of_steps(self.in_steps(x), into=(1.0, 0, dtype))

    def before_gelu(self, x, then: "OneDnnProduct"):
        """GELU of the same, as `then.rest` takes it: in its steps."""
        return self.of_steps(self.in_steps(x), "gelu", (then.scale, then.zero, torch.uint8))

    def rest(self, between):
        """What `before_gelu` gives → [tokens, out] in float32."""
        return self.of_steps(between)

    def in_steps(self, x):
        """The same in unsigned 8-bit steps."""
        found = torch.addcmul(self._zero, x.float(), self._factor)
        # By way of int32: PyTorch has no vector code from float32 to uint8. Half the time on Zen 5.
        return found.clamp_(0, _STEPS).to(torch.int32).to(torch.uint8)

    def of_steps(self, steps, activation: str = "none", into=(1.0, 0, torch.float32)):
        """[tokens, in] in steps → [tokens, out] by `into`: scale, zero and dtype."""
        taken = (self.scale, self.zero)
        return self._weight.product(steps, taken, self._bias, activation, into)


class FbgemmProduct:
    """The same by FBGEMM, PyTorch's other library of 8-bit products on x86-64.

    It puts activations into steps while it gathers them, and compiles nothing for a number of
    tokens, which oneDNN does for each that it has not seen lately.
    """

    def __init__(self, whole, steps, bias, taken: tuple[float, int], even):
        zeros = torch.zeros(len(steps), dtype=torch.int64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the type, not the product, is to be removed one day
            weight = torch._make_per_channel_quantized_tensor(whole, steps, zeros, 0)
        self._packed, self._taken = torch.ops.quantized.linear_prepack(weight, bias), taken
        self._factor = 1 / even

    def __call__(self, x, dtype=torch.float32):
        """[tokens, in] in float32 or bfloat16 → [tokens, out] in `dtype`."""
        return self.rest(x.float() * self._factor).to(dtype)

    def before_gelu(self, x, _then: "FbgemmProduct"):
        """GELU of the same, as `rest` takes it: in float32."""
        return torch.ops.aten.gelu_(self(x))

    def rest(self, between):
        """What `before_gelu` gives → [tokens, out] in float32."""
        operator = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
        return operator(between, *self._taken, self._packed)


@functools.cache
def product_here():
    """Which of the two is the faster one on this processor: see docs/decisions.md."""
    fbgemm = "fbgemm" in torch.backends.quantized.supported_engines
    operator = hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
    exact = levels() == _WHOLE
    return FbgemmProduct if fbgemm and operator and not exact else OneDnnProduct


class Int8Linear(nn.Module):
    """`x W + b` by 8-bit products.

    Args:
        dense: the layer, with its weight in place; it is let go.
        seen: what came into it while calibrating.
        without: input channels that are computed elsewhere.
        smooth: whether channels are evened out between activations and weights.
    """

    def __init__(self, dense, seen: "Seen", *, without=None, smooth: bool = True):
        super().__init__()
        weight, make = dense.weight.data.float(), product_here()
        even = seen.evening(weight) if smooth else torch.ones(weight.shape[1], dtype=weight.dtype)
        if without is not None:
            weight[:, without] = 0
        weight = weight * even
        steps = weight.abs().amax(dim=1).clamp(min=LEAST_ROW) / _levels(make)
        whole = torch.round(weight / steps.unsqueeze(1)).to(torch.int8)
        taken = quantiser(seen.within(even, without))
        self.product = make(whole, steps, dense.bias.data.float(), taken, even)
        dense.weight.data = dense.weight.data.new_empty(0)

    def forward(self, x):
        """[tokens, in] → [tokens, out] in float32."""
        return self.product(x)


class Int8Projection(Int8Linear):
    """Queries, keys and values; answers as SGLang's linear layers do, with no bias left to add."""

    def __init__(self, dense, seen: "Seen"):
        super().__init__(dense, seen)
        self._dtype = dense.weight.dtype

    def forward(self, x):
        """[tokens, in] → ([tokens, out] in the engine's dtype, None)."""
        return self.product(x, self._dtype), None


class Int8Output(nn.Module):
    """`LayerNorm(x W + b + input)` at the end of an attention."""

    def __init__(self, block, seen: "Seen"):
        super().__init__()
        self._linear = Int8Linear(block.dense, seen)
        self.LayerNorm = block.LayerNorm.float()

    def forward(self, x, added):
        """[tokens, in], [tokens, out] → [tokens, out]."""
        return self.LayerNorm(self._linear(x).add_(added))


class Int8FeedForward(nn.Module):
    """A feed-forward block up to its activation: what is between stays in 8 bits."""

    def __init__(self, block, output, seen: "Seen", seen_output: "Seen"):
        super().__init__()
        apart = seen_output.largest(APART)
        self._rows = block.dense.weight.data[apart].t().float().contiguous()
        self._bias = block.dense.bias.data[apart].float()
        self._linear = Int8Linear(block.dense, seen)
        self.output = Int8FeedForwardOutput(output, seen_output, apart)

    def forward(self, x):
        """[tokens, width] → what is between, and the channels of it that are computed apart."""
        apart = torch.ops.aten.gelu_(torch.addmm(self._bias, x, self._rows))
        between = self._linear.product.before_gelu(x, self.output.linear.product)
        return between, apart


class Int8FeedForwardOutput(nn.Module):
    """The rest of it: `LayerNorm(x W + b + input)`."""

    def __init__(self, block, seen: "Seen", apart):
        super().__init__()
        self._columns = block.dense.weight.data[:, apart].t().float().contiguous()
        self.linear = Int8Linear(block.dense, seen, without=apart, smooth=False)
        self.LayerNorm = block.LayerNorm.float()

    def forward(self, between, added):
        """What Int8FeedForward gives, and [tokens, width] → [tokens, width]."""
        between, apart = between
        found = self.linear.product.rest(between).addmm_(apart, self._columns)
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
    give_back()
    for layer, (qkv, output, between, down) in zip(encoder.layer, seen, strict=True):
        attention = layer.attention.self_attn
        attention.qkv_proj = Int8Projection(attention.qkv_proj, qkv)
        layer.attention.output = Int8Output(layer.attention.output, output)
        layer.intermediate = Int8FeedForward(layer.intermediate, layer.output, between, down)
        layer.output = layer.intermediate.output
        give_back()
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
    operators = ("qlinear_prepack", "qlinear_pointwise")
    if not all(hasattr(torch.ops.onednn, name) for name in operators):
        return f"PyTorch {torch.__version__} does not have the operators"
    return None
