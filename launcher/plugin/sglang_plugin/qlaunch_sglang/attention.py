"""Attention by PyTorch's kernels, straight over the texts of a batch: on a CPU, and on Turing.

SGLang's torch_native backend writes keys and values to its cache, gathers them from there text by
text, and copies queries and results once more each. For an embedding that is a detour: a text's
keys are all in the batch, and nobody reads them again. Measured on two Zen 5 cores, 16 texts of 128
tokens through MiniLM in bfloat16: 36 % of the scheduler's time went into those copies. And the
cache itself takes memory that nobody reads: `no_cache` leaves it out.

On a GPU it is for servers that are started with `--attention-backend torch_native`: those of the
release without compiled kernels, and Turing's, where the Triton of its release compiles products in
float16 to FMA, without the tensor cores. torch_native hands PyTorch fewer keys than queries, for
which no fused kernel of PyTorch is made, so that scores are computed in float32. Here keys are
repeated for each head, and PyTorch's fused kernels take them; for sm75 the wheel has the
memory-efficient ones. The cache stays there.

Only where every text is whole in its batch: no prefix cache, no chunks. Elsewhere the stock way is
kept, wrong vectors of encoders and all, for the smoke to find.
"""

import functools
import logging
import math
from pathlib import Path

import torch
from sglang.srt.layers.radix_attention import AttentionType, RadixAttention
from torch.nn.functional import pad, scaled_dot_product_attention

from qlaunch_sglang import no_cache
from qlaunch_sglang.lean_imports import serves_on_cpu
from qlaunch_sglang.pooling import by_text, lengths_of

logger = logging.getLogger(__name__)

TOKENS = 2048
"""Tokens that causal attention takes at a time: its keys and values are repeated for each head."""
SCORES = 1 << 20
"""Scores computed at a time: 2 MiB in bfloat16 stay near the processor."""
STEP = 32
"""In 16 bits on a CPU a text is computed with tokens of zeros up to a multiple of this, if it has
more: products are compiled for a length, and PyTorch's kernel keeps what it has compiled for good,
in each thread (decision 160)."""
SHORT = 64
"""Tokens of a text up to which powers in float32 are faster than PyTorch's kernel."""
LOG2_E = math.log2(math.e)
FAR = 2.0**90
"""Sums of powers beyond this or its inverse are not trusted; bfloat16 and float32 reach from 2^-126
to 2^127, and a row's products with the values need some room."""


class WholeTextAttention(RadixAttention):
    """SGLang's attention layer; its forward reads no cache and writes none."""

    def forward(self, q, k, v, forward_batch, save_kv_cache=True, **kwargs):
        """Attend within each text.

        Args:
            q: [tokens, heads × head size], the batch's texts one after the other, and then as many
                tokens of none as the batch has `padding`: nothing is computed for them.
            k, v: [tokens, key heads × head size].

        Returns:
            [tokens, heads × head size].
        """
        lengths, padding = lengths_of(forward_batch), getattr(forward_batch, "padding", 0)
        tokens = sum(lengths)
        if any(by_text(forward_batch, "extend_prefix_lens")) or tokens + padding != len(q):
            return super().forward(q, k, v, forward_batch, save_kv_cache, **kwargs)
        parts = [x.view(len(q), -1, self.head_dim) for x in (q, k, v)]
        alike = list(_alike(lengths))
        if not padding and len(alike) == 1 and alike[0][1] <= self._at_once(alike[0][0]):
            length, count = alike[0]
            texts = self._attend(*(x.view(count, length, *x.shape[1:]) for x in parts))
            return texts.reshape(len(q), -1)
        out = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
        if padding:
            out[tokens:].zero_()
        start = 0
        for length, count in alike:
            end = start + length * count
            # [count, length, heads, head size], views of what the projection gave.
            group = [part[start:end].view(count, length, *part.shape[1:]) for part in parts]
            step = self._at_once(length)
            for at in range(0, count, step):
                some = [part[at : at + step] for part in group]
                texts = out[start + at * length : start + min(at + step, count) * length]
                texts.view(some[0].shape).copy_(self._attend(*some))
            start = end
        return out.view(len(q), -1)

    @property
    def _causal(self) -> bool:
        return self.attn_type == AttentionType.DECODER

    def _at_once(self, length: int) -> int:
        """Texts of that length that are computed together."""
        if self._causal:
            return max(1, TOKENS // length)
        return max(1, SCORES // (self.tp_q_head_num * length * length))

    def _attend(self, query, key, value):
        group = self.tp_q_head_num // self.tp_k_head_num
        if group > 1:
            # PyTorch's own way for fewer keys than queries keeps all scores of a text in memory.
            key, value = (x.repeat_interleave(group, dim=2) for x in (key, value))
        if self._causal:
            return attend_before(query, key, value, self.scaling)
        return attend(query, key, value, self.scaling)


def attend_before(query, key, value, scale: float):
    """Attention of each token to itself and those before it, by PyTorch's kernel.

    Its memory grows with the length, not with its square.

    Args:
        query, key, value: [texts, length, heads, head size].

    Returns:
        [texts, length, heads, head size].
    """
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    return fused(q, k, v, scale, causal=True).transpose(1, 2)


def fused(query, key, value, scale: float, *, causal: bool = False, grouped: bool = False):
    """Attention within each of some texts of one length by PyTorch's kernel.

    Args:
        query, key, value: [texts, heads, length, head size], in any layout.
        causal: whether a token sees none of those after it.
        grouped: whether there are fewer heads of keys than of queries.

    Returns:
        [texts, heads, length, head size].
    """
    length, mask = query.shape[2], None
    more = rounding(query, length)
    if more:
        query, key, value = (pad(x, (0, 0, 0, more)) for x in (query, key, value))
        if not causal:  # else the last tokens are seen by none of the text's own
            mask = query.new_zeros(1, 1, 1, length + more)
            mask[..., length:] = -torch.inf
    found = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=scale, is_causal=causal, enable_gqa=grouped
    )
    return found[:, :, :length]


def rounding(query, length: int) -> int:
    """Tokens that are added to a text of `length`, for products that were compiled before."""
    compiled = query.device.type == "cpu" and query.dtype in (torch.bfloat16, torch.float16)
    return -length % STEP if compiled and length > STEP else 0


def attend(query, key, value, scale: float):
    """Attention within each of some texts of one length.

    In bfloat16 on a CPU by two products with powers of two between them: a third of the time of
    PyTorch's kernel at every length up to 512 tokens, on Zen 5. Softmax is the same whatever is
    subtracted from a row and whatever its base, so the greatest score is not looked for, and the
    division comes last, where a row has as many numbers as a head, not as a text has tokens. Where
    sums of powers come near the ends of the numbers' range, PyTorch's softmax is taken. Scores are
    rounded, which PyTorch's kernel keeps in float32. In float32 that kernel is the faster one for
    longer texts, and always where there is no room for powers; on an Intel processor, where MKL
    computes what it multiplies, in both dtypes (decision 127).

    Args:
        query, key, value: [texts, length, heads, head size].

    Returns:
        [texts, length, heads, head size].
    """
    texts, length, heads, size = query.shape
    if not _by_powers(query, length):
        q, k, v = (x.transpose(1, 2) for x in (query, key, value))
        return fused(q, k, v, scale).transpose(1, 2)
    more = rounding(query, length)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    if more:  # by nothing, PyTorch would copy once more
        q, k, v = (pad(x, (0, 0, 0, more)) for x in (q, k, v))
    q, k, v = (x.reshape(texts * heads, length + more, size) for x in (q, k, v))
    powers = _scores(q, k, scale * LOG2_E).exp2_()
    powers[:, :, length:] = 0
    # Added up in float32 and then rounded; asked for in float32, PyTorch copies all powers first.
    sums = powers.sum(dim=-1, keepdim=True)
    least, greatest = sums.aminmax()
    if least > 1 / FAR and greatest < FAR:
        found = torch.bmm(powers, v).div_(sums)
    else:
        scores = _scores(q, k, scale)
        scores[:, :, length:] = -torch.inf
        found = torch.bmm(torch.softmax(scores, dim=-1), v)
    return found.view(texts, heads, length + more, size)[:, :, :length].transpose(1, 2)


@functools.cache
def intel() -> bool:
    """Whether this processor is one of Intel's, as Linux tells it."""
    try:
        return "GenuineIntel" in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False


def _by_powers(query, length: int) -> bool:
    """Whether two products are faster than PyTorch's kernel: on a card never."""
    if query.device.type != "cpu" or intel():
        return False
    return query.dtype == torch.bfloat16 or (query.dtype == torch.float32 and length <= SHORT)


def _scores(q, k, scale: float):
    """[n, length, size] twice → `scale * q k^T`, [n, length, length], in one pass."""
    texts, length, _ = q.shape
    return q.new_empty(texts, length, length).baddbmm_(q, k.transpose(1, 2), beta=0, alpha=scale)


def whole_texts(owners) -> None:
    """Give the modules that hold an `attn` this attention, where settings and layers allow it.

    Args:
        owners: the self-attention modules of all layers of the model.
    """
    owners = list(owners)
    # The server's `device` is None on a card that nobody named; offloaded weights lie in RAM.
    device = "cpu" if serves_on_cpu() else "cuda"
    why_not = _why_not(device) or next(filter(None, map(_odd, owners)), None)
    logger.info("qlaunch: attention over whole texts: %s", why_not or "yes")
    if why_not:
        return
    for owner in owners:
        stock = owner.attn
        owner.attn = WholeTextAttention(
            num_heads=stock.tp_q_head_num,
            head_dim=stock.head_dim,
            scaling=stock.scaling,
            num_kv_heads=stock.tp_k_head_num,
            layer_id=stock.layer_id,
            attn_type=stock.attn_type,
        )
    if device == "cpu":
        no_cache.leave_out()


def _odd(owner) -> str | None:
    """What a layer's attention has that this one has not; None where that is nothing."""
    stock = owner.attn
    if type(stock) is not RadixAttention or getattr(stock, "quant_method", None) is not None:
        return f"no, a layer attends by {type(stock).__name__}"
    if stock.is_cross_attention or stock.v_head_dim != stock.head_dim:
        return "no, a layer's keys and values differ in size or in source"
    if stock.logit_cap or stock.sliding_window_size > 0:
        return "no, a layer caps its scores or looks through a window"
    return None


def _why_not(device: str) -> str | None:
    """What keeps a text from being whole in its batch; None where nothing does."""
    try:
        backend, no_radix, chunk = _settings()
    except (ImportError, AttributeError, KeyError) as error:
        return f"no, this SGLang does not say how it was started ({error})"
    if backend != "torch_native":
        return f"no, {backend} on {device} has an attention of its own"
    if not no_radix:
        return "no, the prefix cache is on"
    if chunk is not None and chunk > 0:
        return f"no, texts are cut into chunks of {chunk}"
    return None


def _settings():
    """How the server was started: attention backend, no prefix cache, size of chunks.

    Raises:
        ImportError, AttributeError, KeyError: this SGLang keeps them elsewhere.
    """
    names = ("attention_backend", "disable_radix_cache", "chunked_prefill_size")
    try:
        from sglang.srt.runtime_context import get_server_args
    except ImportError:  # 0.5.1.post2
        from sglang.srt.managers.schedule_batch import global_server_args_dict as kept

        return tuple(kept[name] for name in names)
    args = get_server_args()
    return tuple(getattr(args, name) for name in names)


def _alike(lengths: list[int]):
    """(length, count) of neighbours of one length: they are computed together."""
    at = 0
    while at < len(lengths):
        end = at + 1
        while end < len(lengths) and lengths[end] == lengths[at]:
            end += 1
        yield lengths[at], end - at
        at = end
