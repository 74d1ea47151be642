"""The pooling mathematics and the reading of checkpoints, without torch."""

from __future__ import annotations

import ast
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.model.settings import ACTIVATIONS
from launcher.verify import reference_worker as worker
from launcher.verify.reference_worker import Dense, Recipe, UnsupportedError

PLUGIN = Path(worker.__file__).parents[1] / "plugin/sglang_plugin/qlaunch_sglang/pooling.py"
HIDDEN = np.array([[1.0, 2.0], [3.0, -4.0], [5.0, 8.0]])


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("cls", [1, 2]),
        ("last", [5, 8]),
        ("last_but_one", [3, -4]),
        ("max", [5, 8]),
        ("mean", [3, 2]),
        ("mean_sqrt_len", [9 / math.sqrt(3), 6 / math.sqrt(3)]),
        ("weighted_mean", [(1 + 6 + 15) / 6, (2 - 8 + 24) / 6]),
    ],
)
def test_each_pooling_by_hand(mode: str, expected: list[float]) -> None:
    assert worker.pool(HIDDEN, mode) == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["cls", "last", "last_but_one", "max", "mean"])
def test_every_pooling_of_one_token_is_that_token(mode: str) -> None:
    assert worker.pool(HIDDEN[:1], mode) == pytest.approx([1, 2])


def test_an_unknown_pooling_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="median"):
        worker.pool(HIDDEN, "median")


def test_poolings_stand_side_by_side_and_steps_follow_in_order() -> None:
    swap = Dense(np.array([[0.0, 0, 1, 0], [1, 0, 0, 0]]), np.array([0.0, 1.0]), "x.Identity")
    assert worker.served_vector(HIDDEN, ("cls", "mean"), []) == pytest.approx([1, 2, 3, 2])
    assert worker.served_vector(HIDDEN, ("cls", "mean"), [swap]) == pytest.approx([3, 2])
    length = math.hypot(3, 2)
    both = worker.served_vector(HIDDEN, ("cls", "mean"), [swap, None])
    assert both == pytest.approx([3 / length, 2 / length])


def test_a_zero_vector_survives_normalising() -> None:
    assert worker.normalize(np.zeros(3)) == pytest.approx([0, 0, 0])


@pytest.mark.parametrize(
    ("name", "expected"),  # at 1, 0 and -2
    [
        ("Identity", [1, 0, -2]),
        ("Tanh", [math.tanh(1), 0, -math.tanh(2)]),
        ("Tanhshrink", [1 - math.tanh(1), 0, math.tanh(2) - 2]),
        ("Hardtanh", [1, 0, -1]),
        ("ReLU", [1, 0, 0]),
        ("ReLU6", [1, 0, 0]),
        ("LeakyReLU", [1, 0, -0.02]),
        ("ELU", [1, 0, math.exp(-2) - 1]),
        ("CELU", [1, 0, math.exp(-2) - 1]),
        ("SELU", [1.0507009873554805, 0, -1.5201664]),
        ("GELU", [0.8413447460685429, 0, -0.0455003]),
        ("SiLU", [1 / (1 + math.exp(-1)), 0, -2 / (1 + math.exp(2))]),
        ("Mish", [0.8650983882673103, 0, -0.2525015]),
        ("Hardswish", [2 / 3, 0, -1 / 3]),
        ("Sigmoid", [1 / (1 + math.exp(-1)), 0.5, 1 / (1 + math.exp(2))]),
        ("LogSigmoid", [-math.log(1 + math.exp(-1)), -math.log(2), -math.log(1 + math.exp(2))]),
        ("Hardsigmoid", [2 / 3, 0.5, 1 / 6]),
        ("Softplus", [math.log(1 + math.e), math.log(2), math.log(1 + math.exp(-2))]),
        ("Softsign", [0.5, 0, -2 / 3]),
        ("Softshrink", [0.5, 0, -1.5]),
        ("Hardshrink", [1, 0, -2]),
        ("Softmax", [0.7053845, 0.2594964, 0.0351191]),
        ("Softmin", [0.0420101, 0.1141952, 0.8437947]),
        ("LogSoftmax", [-0.3490122, -1.3490122, -3.3490122]),
    ],
)
def test_activations_by_hand(name: str, expected: list[float]) -> None:
    found = worker.activate(f"torch.nn.modules.activation.{name}", np.array([1.0, 0.0, -2.0]))
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_that_is_let_through_has_a_reference_at_any_size(name: str) -> None:
    assert np.isfinite(worker.activate(f"torch.nn.{name}", np.array([1e4, 0, -1e4]))).all()


def test_the_plugin_has_the_activations_that_are_let_through() -> None:
    tree = ast.parse(PLUGIN.read_text("utf-8"))
    given = next(
        each.value
        for each in tree.body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == "_ACTIVATIONS"
    )
    assert isinstance(given, ast.Call)
    assert ast.literal_eval(given.args[0]) == ACTIVATIONS


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Mystery"):
        worker.activate("some.Mystery", np.array([1.0]))


def test_others_are_the_poolings_the_checkpoint_does_not_say() -> None:
    assert set(worker.other_vectors(HIDDEN, ("mean",), [None])) == {"cls", "last", "max"}
    assert set(worker.other_vectors(HIDDEN, ("last",), [])) == {
        "cls",
        "mean",
        "max",
        "last_but_one",
    }
    assert "mean" in worker.other_vectors(HIDDEN, ("cls", "mean"), [])


def test_others_tell_the_dense_head_apart() -> None:
    layer = Dense(np.array([[2.0, 0.0]]), None, "Identity")
    others = worker.other_vectors(HIDDEN, ("mean",), [layer, None])
    assert others["no_dense"] == pytest.approx([3, 2])
    assert others["cls_no_dense"] == pytest.approx([1, 2])
    assert others["cls"] == pytest.approx([1])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, ("mean",)),
        ({"pooling_mode_cls_token": True}, ("cls",)),
        ({"pooling_mode_lasttoken": True}, ("last",)),
        ({"pooling_mode_max_tokens": True}, ("max",)),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, ("cls", "mean")),
        ({"pooling_mode": "lasttoken", "pooling_mode_mean_tokens": True}, ("last",)),
        ({"pooling_mode": ["mean", "max"]}, ("mean", "max")),
        ({"pooling_mode": "weightedmean"}, ("weighted_mean",)),
        ({"pooling_mode_mean_tokens": False}, ("mean",)),
        ({}, ("mean",)),
    ],
)
def test_pooling_configs_old_and_new(config: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert worker.pooling_modes(config) == expected


@pytest.mark.parametrize("mode", ["median", ["mean", "median"], []])
def test_an_unknown_pooling_mode_in_the_config_is_refused(mode: Any) -> None:
    with pytest.raises(UnsupportedError, match="unknown"):
        worker.pooling_modes({"pooling_mode": mode})


def write(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def modules(*kinds: tuple[str, str]) -> list[dict[str, str]]:
    return [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds]


def test_modules_decide(tmp_path: Path) -> None:
    kinds = [
        ("Transformer", "0_Transformer"),
        ("Pooling", "1_Pooling"),
        ("Dense", "2_Dense"),
        ("Normalize", "3_Normalize"),
    ]
    write(tmp_path / "modules.json", modules(*kinds))
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    write(tmp_path / "0_Transformer" / "sentence_bert_config.json", {"do_lower_case": True})
    steps = (("dense", tmp_path / "2_Dense"), ("normalize", tmp_path / "3_Normalize"))
    assert worker.read_recipe(tmp_path, "max") == Recipe(
        tmp_path / "0_Transformer", ("cls",), steps, True
    )


def test_modules_without_normalize_do_not_normalise(tmp_path: Path) -> None:
    write(tmp_path / "modules.json", modules(("Transformer", ""), ("Pooling", "1_Pooling")))
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "cls"})
    assert worker.read_recipe(tmp_path, "max") == Recipe(tmp_path, ("cls",), ())


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [("qwen3", "last"), ("bert", "cls"), ("xlm-roberta", "cls"), ("unheard-of", "max")],
)
def test_a_bare_checkpoint_takes_its_family_s_pooling(
    tmp_path: Path, model_type: str, expected: str
) -> None:
    write(tmp_path / "config.json", {"model_type": model_type})
    recipe = worker.read_recipe(tmp_path, "max")
    assert recipe.poolings == (expected,)
    assert [kind for kind, _ in recipe.steps] == ["normalize"]


def test_a_pooling_config_without_modules_is_heard(tmp_path: Path) -> None:
    write(tmp_path / "config.json", {"model_type": "bert"})
    write(tmp_path / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    assert worker.read_recipe(tmp_path, "max").poolings == ("mean",)


def test_a_module_we_do_not_compute_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "modules.json", modules(("Transformer", ""), ("LSTM", "1_LSTM")))
    with pytest.raises(UnsupportedError, match="LSTM"):
        worker.read_recipe(tmp_path, "mean")


def test_modules_without_pooling_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "modules.json", modules(("Transformer", "")))
    with pytest.raises(UnsupportedError, match="no Pooling"):
        worker.read_recipe(tmp_path, "mean")


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[{")
    with pytest.raises(UnsupportedError, match=r"modules\.json"):
        worker.read_recipe(tmp_path, "mean")


# --- the end of a text ----------------------------------------------------------------------------


class Tokenizer:
    """Letters as tokens, with marks around a text."""

    def __init__(self, before: str, after: str) -> None:
        self.before, self.after = before, after

    def __call__(self, text: str, *, add_special_tokens: bool = True) -> dict[str, list[int]]:
        whole = self.before + text + self.after if add_special_tokens else text
        return {"input_ids": [ord(char) for char in whole]}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
        return [chr(each) for each in ids]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [("", "", []), ("^", "", []), ("", "$", ["$"]), ("^", "/$", ["/", "$"]), ("h", "o", ["o"])],
)
def test_what_a_tokenizer_appends_is_found(before: str, after: str, expected: list[str]) -> None:
    assert worker.appended_tokens(Tokenizer(before, after)) == expected


END = "<|endoftext|>"
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": END}}],
}


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (None, None),
        ({"type": "ByteLevel"}, None),
        (TEMPLATE, END),
        ({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}, None),
        ({"type": "BertProcessing", "sep": ["[SEP]", 102], "cls": ["[CLS]", 101]}, "[SEP]"),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE]}, END),
    ],
)
def test_what_tokenizer_json_declares_is_read(
    tmp_path: Path, processor: Any, expected: str | None
) -> None:
    write(tmp_path / "tokenizer.json", {"post_processor": processor})
    assert worker.declared_end(tmp_path) == expected


@pytest.mark.parametrize("token", ["</s>", {"content": "</s>", "special": True}])
def test_what_tokenizer_config_declares_is_read(tmp_path: Path, token: Any) -> None:
    write(tmp_path / "tokenizer_config.json", {"add_eos_token": True, "eos_token": token})
    assert worker.declared_end(tmp_path) == "</s>"
    write(tmp_path / "tokenizer_config.json", {"add_eos_token": False, "eos_token": token})
    assert worker.declared_end(tmp_path) is None
