"""What every decoder class of ours shares: names, pooling and attention as the checkpoint says.

SGLang's decoders pool the last token and normalise, attend causally, and read tensors by the names
that the causal class saves. A checkpoint may want another pooling, no Normalize, a Dense head, or
attention in both directions (`is_causal: false`, as transformers 5 reads it), and the bare class
saves its tensors without `model.` before them.
"""

import logging

import torch
from sglang.srt.layers.radix_attention import AttentionType

from qlaunch_sglang import decoder_layers
from qlaunch_sglang.attention import whole_texts
from qlaunch_sglang.half import keep_float32
from qlaunch_sglang.loading import released
from qlaunch_sglang.pooling import CheckpointPooler

logger = logging.getLogger(__name__)

BARE = ("layers.", "embed_tokens.", "norm.")
"""How tensors of the bare class begin; the causal class puts `model.` before them."""
HEAD = "lm_head."


def named(weights):
    """The same tensors by the causal class's names, without its head: no text is generated."""
    for name, tensor in weights:
        if not name.startswith(HEAD):
            yield (f"model.{name}" if name.startswith(BARE) else name), tensor


class Embedding:
    """Goes before a causal class of SGLang's in the list of bases."""

    def __init__(self, config, **kwargs):
        float_factors(config)
        # The head shares the embedding's weights: else it would take memory for nothing.
        config.tie_word_embeddings = True
        super().__init__(config=config, **kwargs)
        self.pooler = CheckpointPooler.for_model(config, default="last")
        whole_texts(layer.self_attn for layer in self.model.layers)
        if getattr(config, "is_causal", None) is False:
            attend_both_ways(self.model)
        keep_float32(self.model)
        self._own = decoder_layers.own_layers(self.model, pooled=self.pooler.modes == ["last"])
        if self._own is not None:
            self.forward = self._by_own_layers

    def load_weights(self, weights):
        """Load as SGLang does; the checkpoint's pages are given back on the way.

        Layers of our own take each layer's weights as soon as they are there.
        """
        weights = named(weights)
        if self._own is not None:
            weights = decoder_layers.by_layer(weights, self._own)
        return super().load_weights(released(weights))

    @torch.no_grad()
    def _by_own_layers(self, input_ids, _positions, forward_batch, input_embeds=None, **_kwargs):
        """Tokens of a batch → one vector a text, in the place of SGLang's `forward`."""
        states = self._own(input_ids, forward_batch, input_embeds)
        if self._own.pooled:
            return self.pooler.finished(states, forward_batch)
        return self.pooler(states, forward_batch)


def float_factors(config) -> None:
    """Write a rotation's factor as SGLang's linear one needs it: it takes a whole number for a list
    of factors, and ends."""
    for name in ("rope_parameters", "rope_scaling"):
        found = getattr(config, name, None)
        if isinstance(found, dict) and type(found.get("factor")) is int:
            found["factor"] = float(found["factor"])


def attend_both_ways(model) -> None:
    """Let every token see those after it, in each layer of `model`."""
    logger.info("qlaunch: attention in both directions: is_causal is false")
    for layer in model.layers:
        layer.self_attn.attn.attn_type = AttentionType.ENCODER_ONLY
