"""Special tokens around a text, as tokenizer.json says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.model.special_tokens import count_of

CLS, SEP, TEXT = ({"SpecialToken": {"id": "x", "type_id": 0}},) * 2 + (
    {"Sequence": {"id": "A", "type_id": 0}},
)
TEMPLATE = {"type": "TemplateProcessing", "single": [CLS, TEXT, SEP], "pair": [CLS, TEXT]}
LAST = {"type": "TemplateProcessing", "single": [TEXT, SEP]}


@pytest.mark.parametrize(
    ("processor", "count"),
    [
        (None, 0),
        (TEMPLATE, 2),
        ({"type": "BertProcessing"}, 2),
        ({"type": "RobertaProcessing"}, 2),
        ({"type": "ByteLevel"}, 0),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, LAST]}, 1),
        ([], 0),
    ],
)
def test_by_the_post_processor(tmp_path: Path, processor: Any, count: int) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps({"post_processor": processor}))
    assert count_of(tmp_path) == count


def test_without_a_tokenizer_json_none_are_known(tmp_path: Path) -> None:
    assert count_of(tmp_path) == 0
    (tmp_path / "tokenizer.json").write_text("{")
    assert count_of(tmp_path) == 0


def test_a_link_is_followed_as_a_hubs_cache_has_them(tmp_path: Path) -> None:
    (tmp_path / "blob").write_text(json.dumps({"post_processor": TEMPLATE}))
    (tmp_path / "tokenizer.json").symlink_to("blob")
    assert count_of(tmp_path) == 2
