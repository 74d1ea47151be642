"""Whether tokenizer.json by itself makes the engine's tokens, by which a gateway cuts texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.model.tokenizer import is_read_alike
from tests.checkpoints import make_bert, make_qwen3, make_roberta
from tests.checkpoints.edit import Change, edited, setting
from tests.checkpoints.matrix import Make
from tests.checkpoints.tokenizer_rows import lone_metaspace, sentencepiece

CONFIG = "tokenizer_config.json"
AS_WRITTEN = setting(CONFIG, tokenizer_class="PreTrainedTokenizerFast")


@pytest.mark.parametrize("make", [make_bert, make_roberta, make_qwen3])
def test_the_usual_ones_are_read_alike(tmp_path: Path, make: Make) -> None:
    assert is_read_alike(make(tmp_path / "model"))


@pytest.mark.parametrize(
    "change",
    [
        setting(CONFIG, do_lower_case=False),
        setting(CONFIG, strip_accents=False),
        setting(CONFIG, tokenize_chinese_chars=False),
        setting("sentence_bert_config.json", do_lower_case=True),
    ],
)
def test_options_that_count_over_the_file_are_seen(tmp_path: Path, change: Change) -> None:
    assert not is_read_alike(edited(make_bert, change)(tmp_path / "model"))


@pytest.mark.parametrize("make", [make_bert, make_qwen3])
@pytest.mark.parametrize(
    "change",
    [
        setting(CONFIG, additional_special_tokens=["<new>"]),
        setting(CONFIG, extra_special_tokens={"image": "<new>"}),
        setting(CONFIG, image_token="<new>"),
        setting(CONFIG, added_tokens_decoder={"600": {"content": "<new>", "special": True}}),
        setting("special_tokens_map.json", additional_special_tokens=[{"content": "<new>"}]),
        setting("added_tokens.json", **{"<new>": 600}),
    ],
    ids=["additional", "extra", "role", "decoder", "map", "file"],
)
def test_tokens_that_the_options_add_are_seen(tmp_path: Path, make: Make, change: Change) -> None:
    assert not is_read_alike(edited(make, change)(tmp_path / "model"))


def test_a_lone_metaspace_of_xlm_roberta_is_seen(tmp_path: Path) -> None:
    make = edited(make_bert, sentencepiece("XLMRobertaTokenizer"))
    assert is_read_alike(make(tmp_path / "whole"))
    assert not is_read_alike(edited(make, lone_metaspace)(tmp_path / "lone"))


def test_a_file_that_is_taken_as_it_stands_is_read_alike(tmp_path: Path) -> None:
    make = edited(make_bert, setting(CONFIG, do_lower_case=False), AS_WRITTEN)
    assert is_read_alike(make(tmp_path / "model"))


def test_a_space_before_the_first_word_counts(tmp_path: Path) -> None:
    named = setting(CONFIG, tokenizer_class="RobertaTokenizer", add_prefix_space=True)
    assert not is_read_alike(edited(make_roberta, named)(tmp_path / "model"))


def test_without_files_nothing_is_known(tmp_path: Path) -> None:
    assert not is_read_alike(tmp_path)
