"""Qwen3 embedding checkpoints: last-token pooling, a tokenizer that appends its end token."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tests.checkpoints.head import write_head
from tests.checkpoints.tokens import byte_level, save
from tests.checkpoints.weights import Dtype, Weight, write_json, write_weights

END = "<|endoftext|>"
_CONFIG = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "model_type": "qwen3",
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_sliding_window": False,
}
"""What all sizes of the family have in common."""
_PROMPTS = {
    "prompts": {
        "query": "Instruct: Given a question, retrieve passages that answer it\nQuery:",
        "document": "",
    },
    "similarity_fn_name": "cosine",
}
_SPECIALS = (END, "<|im_start|>", "<|im_end|>")


def make_qwen3(
    path: Path,
    *,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    intermediate: int = 128,
    vocab: int = 512,
    shards: int = 1,
    seed: int = 0,
    architecture: Literal["Qwen3ForCausalLM", "Qwen3Model"] = "Qwen3ForCausalLM",
    max_position: int = 2048,
    dtype: Dtype = "bfloat16",
    std: float = 0.05,
) -> Path:
    """Write a Qwen3 embedding model with random weights to the folder `path`; returns it.

    Tensor names are those of the architecture: with `model.` before them for the causal class (its
    head is tied to the embedding and not stored), without for the bare one.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level(min(vocab, 512), _SPECIALS, f"$A {END}")
    # transformers rebuilds Qwen2Tokenizer by itself and would drop the end token's template.
    save(
        tokenizer,
        path,
        kind="PreTrainedTokenizerFast",
        max_length=max_position,
        pad_token=END,
        eos_token=END,
    )
    attention = heads * head_dim, kv_heads * head_dim, head_dim
    config = {
        "architectures": [architecture],
        "head_dim": head_dim,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "max_position_embeddings": max_position,
        "max_window_layers": layers,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "num_key_value_heads": kv_heads,
        "torch_dtype": dtype,
        "vocab_size": vocab,
    }
    write_json(path / "config.json", {**_CONFIG, **config})
    prefix = "model." if architecture == "Qwen3ForCausalLM" else ""
    weights = _weights(prefix, layers, hidden, attention, intermediate, vocab, std)
    write_weights(path, weights, seed=seed, dtype=dtype, shards=shards)
    write_head(path, hidden=hidden, pooling="last", normalize=True)
    write_json(path / "config_sentence_transformers.json", _PROMPTS)
    return path


def make_qwen3_06b_shape(path: Path, *, seed: int = 0) -> Path:
    """Qwen3-Embedding-0.6B's shape, 595,776,512 random bfloat16 weights (1.19 GB); returns `path`.

    The tokenizer is the small one: its texts cost more tokens than the real model's.
    """
    return make_qwen3(
        path,
        layers=28,
        hidden=1024,
        heads=16,
        kv_heads=8,
        head_dim=128,
        intermediate=3072,
        vocab=151669,
        max_position=32768,
        seed=seed,
        std=0.02,
    )


def _weights(
    prefix: str,
    layers: int,
    hidden: int,
    attention: tuple[int, int, int],
    intermediate: int,
    vocab: int,
    std: float,
) -> Iterator[Weight]:
    """All tensors; `attention`: width of the queries, of the keys, of one head."""
    queries, keys, head = attention
    yield Weight(f"{prefix}embed_tokens.weight", (vocab, hidden), std=std)
    for number in range(layers):
        layer = f"{prefix}layers.{number}"
        yield Weight(f"{layer}.input_layernorm.weight", (hidden,), "ones")
        yield Weight(f"{layer}.self_attn.q_proj.weight", (queries, hidden), std=std)
        yield Weight(f"{layer}.self_attn.k_proj.weight", (keys, hidden), std=std)
        yield Weight(f"{layer}.self_attn.v_proj.weight", (keys, hidden), std=std)
        yield Weight(f"{layer}.self_attn.o_proj.weight", (hidden, queries), std=std)
        yield Weight(f"{layer}.self_attn.q_norm.weight", (head,), "ones")
        yield Weight(f"{layer}.self_attn.k_norm.weight", (head,), "ones")
        yield Weight(f"{layer}.post_attention_layernorm.weight", (hidden,), "ones")
        yield Weight(f"{layer}.mlp.gate_proj.weight", (intermediate, hidden), std=std)
        yield Weight(f"{layer}.mlp.up_proj.weight", (intermediate, hidden), std=std)
        yield Weight(f"{layer}.mlp.down_proj.weight", (hidden, intermediate), std=std)
    yield Weight(f"{prefix}norm.weight", (hidden,), "ones")
