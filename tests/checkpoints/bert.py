"""BERT and (XLM-)RoBERTa embedding checkpoints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from tests.checkpoints.head import Pooling, write_head
from tests.checkpoints.tokens import byte_level, save, wordpiece
from tests.checkpoints.weights import Dtype, Weight, write_json, write_weights


def make_bert(
    path: Path,
    *,
    pooling: Pooling = "cls",
    normalize: bool = True,
    dense: int | None = None,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    intermediate: int = 128,
    vocab: int = 512,
    max_position: int = 512,
    max_seq_length: int | None = 256,
    new_spelling: bool = False,
    shards: int = 1,
    dtype: Dtype = "float32",
    seed: int = 0,
) -> Path:
    """Write a BERT embedding model with random weights to the folder `path`; returns it.

    Args:
        dense: output width of a Dense module after the pooling; None leaves it out.
        max_seq_length: what sentence_bert_config.json says; None leaves the file out.
        new_spelling: of the pooling mode, as newer sentence-transformers write it.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = wordpiece(vocab)
    roles = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokens = {f"{role}_token": token for role, token in roles.items()}
    save(tokenizer, path, kind="BertTokenizer", max_length=max_position, **tokens)
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (path / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in words), encoding="utf-8")
    config = _config("BertModel", "bert", layers, hidden, heads, intermediate, vocab, dtype)
    config |= {"max_position_embeddings": max_position, "type_vocab_size": 2, "pad_token_id": 0}
    write_json(path / "config.json", {**config, "layer_norm_eps": 1e-12})
    weights = _weights(layers, hidden, intermediate, (vocab, max_position, 2))
    write_weights(path, weights, seed=seed, dtype=dtype, shards=shards)
    write_head(
        path,
        hidden=hidden,
        pooling=pooling,
        normalize=normalize,
        dense=dense,
        max_seq_length=max_seq_length,
        new_spelling=new_spelling,
        seed=seed,
    )
    return path


def make_roberta(
    path: Path,
    *,
    architecture: Literal["XLMRobertaModel", "RobertaModel"] = "XLMRobertaModel",
    pooling: Pooling = "cls",
    normalize: bool = True,
    dense: int | None = None,
    layers: int = 2,
    hidden: int = 64,
    heads: int = 4,
    intermediate: int = 128,
    vocab: int = 512,
    max_position: int = 512,
    shards: int = 1,
    dtype: Dtype = "float32",
    seed: int = 0,
) -> Path:
    """Write an (XLM-)RoBERTa embedding model with random weights to `path`; returns it.

    Its config gives `max_position + 2` positions: RoBERTa's begin after the padding index.

    Args:
        dense: output width of a Dense module after the pooling; None leaves it out.
    """
    path.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_level(vocab, ("<s>", "<pad>", "</s>", "<unk>", "<mask>"), "<s> $A </s>")
    roles = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>"}
    tokens = {f"{role}_token": token for role, token in roles.items()}
    save(tokenizer, path, kind="PreTrainedTokenizerFast", max_length=max_position, **tokens)
    model_type = "xlm-roberta" if architecture == "XLMRobertaModel" else "roberta"
    config = _config(architecture, model_type, layers, hidden, heads, intermediate, vocab, dtype)
    config |= {"max_position_embeddings": max_position + 2, "type_vocab_size": 1}
    config |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "layer_norm_eps": 1e-05}
    write_json(path / "config.json", config)
    weights = _weights(layers, hidden, intermediate, (vocab, max_position + 2, 1))
    write_weights(path, weights, seed=seed, dtype=dtype, shards=shards)
    write_head(path, hidden=hidden, pooling=pooling, normalize=normalize, dense=dense, seed=seed)
    return path


def _config(
    architecture: str,
    model_type: str,
    layers: int,
    hidden: int,
    heads: int,
    intermediate: int,
    vocab: int,
    dtype: Dtype,
) -> dict[str, Any]:
    return {
        "architectures": [architecture],
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "model_type": model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "position_embedding_type": "absolute",
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": vocab,
    }


def _weights(
    layers: int, hidden: int, intermediate: int, rows: tuple[int, int, int]
) -> Iterator[Weight]:
    """All tensors, BERT's unused pooler among them; `rows`: of words, positions, token types."""
    parts = ("word", 0.1), ("position", 0.02), ("token_type", 0.02)
    for (name, std), count in zip(parts, rows, strict=True):
        yield Weight(f"embeddings.{name}_embeddings.weight", (count, hidden), std=std)
    yield from _norm("embeddings", hidden)
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        for part in ("query", "key", "value"):
            yield from _linear(f"{layer}.attention.self.{part}", hidden, hidden)
        yield from _linear(f"{layer}.attention.output.dense", hidden, hidden)
        yield from _norm(f"{layer}.attention.output", hidden)
        yield from _linear(f"{layer}.intermediate.dense", intermediate, hidden)
        yield from _linear(f"{layer}.output.dense", hidden, intermediate)
        yield from _norm(f"{layer}.output", hidden)
    yield from _linear("pooler.dense", hidden, hidden)


def _linear(name: str, out: int, width: int) -> Iterator[Weight]:
    # Twice the scale that keeps a vector's length: with less, every text has nearly one vector.
    yield Weight(f"{name}.weight", (out, width), std=2 / math.sqrt(width))
    yield Weight(f"{name}.bias", (out,), std=0.02)


def _norm(name: str, width: int) -> Iterator[Weight]:
    yield Weight(f"{name}.LayerNorm.weight", (width,), "ones")
    yield Weight(f"{name}.LayerNorm.bias", (width,), "zeros")
