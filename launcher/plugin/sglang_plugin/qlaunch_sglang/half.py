"""float16 without overflow: a decoder's residual stream and norms in float32.

Cards of the Turing generation have no bfloat16, and float16 ends at 65504. A residual stream adds
up over all layers, and single channels of trained decoders grow to thousands and more; past the end
they are infinite, the norm makes NaN of them, and the server answers 200 with it. Here what a layer
adds is added in float32, and norms read float32 and give float16 to the products, which stay as
they were. What a feed-forward block gives is computed at a power of two below its size and put back
in float32, so that it may reach 64 times further than float16.

Only for one card and one stage; elsewhere SGLang's own way is kept, for the smoke to judge.
"""

import logging
import types

import torch

logger = logging.getLogger(__name__)

DOWN = 2.0**-6
"""Exact in float16 above 2^-8; what is lost of smaller numbers is 2^-19 of the sum's unit."""


def keep_float32(model) -> None:
    """Let a float16 decoder's `forward` carry its residual stream in float32."""
    if model.embed_tokens.weight.dtype != torch.float16:
        return
    why_not = _why_not(model)
    logger.info("qlaunch: residual stream in float32: %s", why_not or "yes")
    if not why_not:
        model.forward = types.MethodType(forward, model)


def _why_not(model) -> str | None:
    """What keeps the layers from being called one part at a time; None where nothing does."""
    layers = list(model.layers)
    if getattr(model, "start_layer", 0) != 0 or getattr(model, "end_layer", len(layers)) != len(
        layers
    ):
        return "no, the layers are spread over stages"
    parts = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
    for layer in layers:
        absent = [name for name in parts if not hasattr(layer, name)]
        absent += [
            name
            for name in ("gate_up_proj", "act_fn", "down_proj")
            if not hasattr(getattr(layer, "mlp", None), name)
        ]
        if absent:
            return f"no, a layer has no {absent[0]}"
        if getattr(layer.mlp.down_proj, "tp_size", 1) != 1:
            return "no, the layers are spread over cards"
    return None


def forward(model, input_ids, positions, forward_batch, input_embeds=None, **_kwargs):
    """What SGLang's decoders compute, with sums and norms in float32.

    Args:
        input_ids, positions: [tokens].
        input_embeds: [tokens, width] in the place of `input_ids`, or None.

    Returns:
        [tokens, width], float32, after the last norm.
    """
    embedded = model.embed_tokens(input_ids) if input_embeds is None else input_embeds
    stream = embedded.float()
    for layer in model.layers:
        states = normed(layer.input_layernorm, stream).to(embedded.dtype)
        if states.shape[0]:
            states = layer.self_attn(
                positions=positions, hidden_states=states, forward_batch=forward_batch
            )
        stream = stream + states
        states = normed(layer.post_attention_layernorm, stream).to(embedded.dtype)
        stream = torch.add(stream, fed_forward(layer.mlp, states).float(), alpha=1 / DOWN)
    return normed(model.norm, stream)


def normed(norm, stream):
    """RMSNorm of [tokens, width] in float32, with the weight of SGLang's layer."""
    scale = torch.rsqrt(stream.square().mean(dim=-1, keepdim=True) + norm.variance_epsilon)
    return stream * scale * norm.weight.float()


def fed_forward(mlp, states):
    """The gated feed-forward block of [tokens, width], `DOWN` times as large."""
    both, _ = mlp.gate_up_proj(states)
    both[..., both.shape[-1] // 2 :].mul_(DOWN)
    out, _ = mlp.down_proj(mlp.act_fn(both))
    return out
