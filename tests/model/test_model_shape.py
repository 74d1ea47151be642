"""Checkpoints as their cards describe them."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from launcher.model.cards import list_cards, load_card
from launcher.model.checkpoint import Shape
from launcher.model.inspect import inspect
from launcher.model.shape import from_card
from tests.checkpoints.bert import make_bert


def test_every_shipped_card_has_a_shape_that_makes_its_parameters() -> None:
    for card in list_cards(None):
        shape = card.shape
        assert shape is not None, card.name
        table = shape.vocab_size * shape.hidden_size
        if shape.encoder:
            layer = 4 * shape.hidden_size**2 + 2 * shape.hidden_size * shape.intermediate_size
        else:
            queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
            layer = shape.hidden_size * (2 * queries + 2 * keys + 3 * shape.intermediate_size)
        # What is left are norms, biases, positions and BERT's pooler.
        assert 1 <= card.parameters / (table + shape.layers * layer) < 1.04, card.name


def test_keys_and_values_of_the_large_model_take_112_kib_a_token() -> None:
    found = from_card(load_card("qwen3-embedding-0.6b", None))
    assert found is not None
    assert found.kv_bytes_per_token == 112 * 1024
    assert found.weight_bytes == 2 * 595_776_512
    assert (found.encoder, found.dimensions, found.context_length) == (False, 1024, 32768)


@pytest.mark.parametrize(("method", "low", "high"), [("w8a8_int8", 700, 730), ("gptq", 505, 530)])
def test_a_quantised_copy_keeps_its_embeddings(method: str, low: int, high: int) -> None:
    found = from_card(load_card("qwen3-embedding-0.6b", None), quantization=method)
    assert found is not None
    assert low < found.weight_bytes / 2**20 < high
    assert found.quantization == method


def test_a_real_checkpoint_is_what_its_card_would_say(tmp_path: Path) -> None:
    found = inspect(make_bert(tmp_path / "model"))
    shape = Shape(
        layers=found.num_layers,
        hidden_size=found.hidden_size,
        heads=found.num_attention_heads,
        kv_heads=found.num_kv_heads,
        head_dim=found.head_dim,
        intermediate_size=found.intermediate_size,
        vocab_size=found.vocab_size,
        stored_dtype="float32",
        encoder=found.encoder,
    )
    card = msgspec.structs.replace(
        load_card("gte-tiny", None), shape=shape, parameters=found.parameters
    )
    foreseen = from_card(card)
    assert foreseen is not None
    assert foreseen.weight_bytes == found.weight_bytes
    assert foreseen.kv_bytes_per_token == found.kv_bytes_per_token


def test_a_card_without_a_shape_says_nothing() -> None:
    card = msgspec.structs.replace(load_card("gte-tiny", None), shape=None)
    assert from_card(card) is None
