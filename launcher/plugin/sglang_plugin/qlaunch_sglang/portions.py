"""An encoder's layers over a batch in portions of whole texts, one compute thread each.

With all threads at every product a batch of 2048 tokens writes intermediate results of 12 MB, which
come from memory again for the next product, and at the end of each product the threads wait for the
slowest: on a machine whose cores also serve HTTP, for the one that was interrupted. Texts have
nothing to do with each other, so here each thread takes a portion of the texts through all layers,
with products of its own, and then the next portion. What comes before and after the layers belongs
to it, where the model allows that: a portion's states are near the core then. A batch that is too
small for portions is computed by all threads together.
"""

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch

from qlaunch_sglang.attention import WholeTextAttention
from qlaunch_sglang.pooling import CheckpointPooler, by_text, lengths_of

logger = logging.getLogger(__name__)

MOST = 512
"""Tokens of a portion, if it has more than one text."""
LEAST = 128
"""Tokens for each thread below which a batch is not divided."""
STEPS = ((16, 1), (128, 16), (256, 32), (1 << 62, 64))
"""Up to how many tokens which multiple of them is computed: oneDNN compiles its products for every
number that it has not seen lately."""
EVEN = 0.9
"""Share of the threads' time that must be work; else all of them do better together."""


class Portions:
    """What stands for a BertEncoder's `forward`.

    Args:
        layers: of the encoder.
        round_up: whether products are compiled for a number of tokens: then tokens of zeros are
            added up to a number that is soon seen again.
    """

    def __init__(self, layers, *, round_up: bool):
        self._layers = layers
        self._round_up = round_up
        self._workers = None

    def __call__(self, hidden_states, forward_batch):
        """[tokens, width] of a batch → the same after all layers."""
        lengths = self._whole_lengths(forward_batch, len(hidden_states))
        if lengths is None:
            return self._through(hidden_states, forward_batch)
        portions = portions_of(lengths, torch.get_num_threads())
        if not portions:
            return self._of_texts(hidden_states, lengths)
        out = torch.empty_like(hidden_states)

        def compute(start, end, texts):
            out[start:end] = self._of_texts(hidden_states[start:end], texts)

        self._by_threads(compute, portions)
        return out

    def pooled(self, count, forward_batch, embed, pool):
        """The batch's texts from their tokens to their vectors, or None where it is not divided.

        Args:
            count: tokens of the batch.
            embed: (first token, end, lengths) of neighbouring texts → their states before the
                layers, [tokens, width].
            pool: states after the layers and lengths → what is kept of each text, [texts, any].
        """
        lengths = self._whole_lengths(forward_batch, count)
        portions = lengths and portions_of(lengths, torch.get_num_threads())
        if not portions:
            return None

        def compute(start, end, texts):
            return pool(self._of_texts(embed(start, end, texts), texts), texts)

        return torch.cat(self._by_threads(compute, portions))

    @staticmethod
    def _whole_lengths(forward_batch, count):
        """Tokens of each text; None where one was begun before, or there are more tokens."""
        lengths = lengths_of(forward_batch)
        odd = any(by_text(forward_batch, "extend_prefix_lens")) or sum(lengths) != count
        return None if odd else lengths

    def _of_texts(self, states, lengths):
        count = len(states)
        more = rounded_up(count) - count if self._round_up else 0
        if not more:
            return self._through(states, whole(lengths))
        padded = states.new_zeros(count + more, states.shape[1])
        padded[:count] = states
        return self._through(padded, whole(lengths, more))[:count]

    def _through(self, states, forward_batch):
        for layer in self._layers:
            states = layer(states, forward_batch)
        return states

    def _by_threads(self, compute, portions):
        """What `compute` gives for each of the portions, which the threads take in their order."""
        if self._workers is None:
            self._workers = workers(torch.get_num_threads())
        inference = torch.is_inference_mode_enabled()

        def computed(portion):
            with torch.inference_mode(inference), torch.no_grad():
                return compute(*portion)

        return list(self._workers.map(computed, portions))


def workers(count: int) -> ThreadPoolExecutor:
    """Threads that compute with one thread each; this one keeps its own."""
    ready = threading.Barrier(count + 1)

    def alone():
        # A thread takes over the figure of all when it is first asked for its own: that is done
        # before, else it would compute with as many threads as this one, all of them at once.
        torch.get_num_threads()
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, "portion", initializer=alone)
    for _ in range(count):
        pool.submit(int)
    ready.wait()
    # The figure last set is also the one that later threads begin with.
    torch.set_num_threads(count)
    return pool


def portions_of(lengths: list[int], threads: int) -> list[tuple[int, int, list[int]]]:
    """Portions that keep `threads` threads at work; none where the batch is better left whole."""
    each = sum(lengths) // threads
    if len(lengths) < 2 or each < LEAST:
        return []
    sizes = [max(LEAST, min(MOST, size)) for size in (each, each // 2)]
    ways = [list(divided(lengths, size)) for size in sizes]
    best = max(ways, key=lambda way: share_of_work(way, threads))
    return best if share_of_work(best, threads) >= EVEN else []


def share_of_work(portions: list[tuple[int, int, list[int]]], threads: int) -> float:
    """How much of the threads' time is work, when each takes the next portion as it is done."""
    busy = [0] * threads
    for start, end, _ in portions:
        first = busy.index(min(busy))
        busy[first] += end - start
    return sum(busy) / (threads * max(busy))


def divided(lengths: list[int], size: int):
    """(first token, end, lengths) of neighbouring texts that have `size` tokens or fewer together;
    a longer text stands alone.
    """
    start = end = 0
    texts: list[int] = []
    for length in lengths:
        if texts and end - start + length > size:
            yield start, end, texts
            start, texts = end, []
        texts.append(length)
        end += length
    if texts:
        yield start, end, texts


def rounded_up(tokens: int) -> int:
    """The number of tokens that as many are computed as."""
    step = next(step for most, step in STEPS if tokens <= most)
    return -(-tokens // step) * step


def whole(lengths: list[int], padding: int = 0) -> SimpleNamespace:
    """What attention reads of a batch, of texts that are whole in it, and of tokens after them."""
    none = [0] * len(lengths)
    return SimpleNamespace(
        extend_seq_lens_cpu=lengths, extend_prefix_lens_cpu=none, padding=padding
    )


@torch.no_grad()
def by_portions(encoder, pooler, count, forward_batch, embed):
    """What a BERT or RoBERTa answers for a batch that is computed in portions; None for others.

    Args:
        encoder: a BertEncoder; it may have been left as it was.
        pooler: of the model; only a CheckpointPooler pools a part of a batch.
        count, embed: see `Portions.pooled`.
    """
    portions = encoder.forward
    if not (isinstance(portions, Portions) and isinstance(pooler, CheckpointPooler)):
        return None
    pooled = portions.pooled(count, forward_batch, embed, pooler.pooled)
    return None if pooled is None else pooler.finished(pooled, forward_batch)


def token_types(forward_batch, start: int, end: int) -> SimpleNamespace:
    """What a model's embeddings read of a batch, of the tokens from `start` to `end`."""
    types = forward_batch.token_type_ids
    return SimpleNamespace(token_type_ids=None if types is None else types[start:end])


def divide(encoder, *, round_up: bool) -> None:
    """Let a BertEncoder compute its batches in portions, where its attention allows it."""
    why_not = _why_not(encoder)
    logger.info("qlaunch: batches in portions, one thread each: %s", why_not or "yes")
    if why_not is None:
        encoder.forward = Portions(encoder.layer, round_up=round_up)


def _why_not(encoder) -> str | None:
    if any(
        type(layer.attention.self_attn.attn) is not WholeTextAttention for layer in encoder.layer
    ):
        return "no, texts are not computed whole"
    device = next(iter(encoder.parameters())).device.type
    return None if device == "cpu" else f"no, the model is on {device}"
