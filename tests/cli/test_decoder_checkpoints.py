"""Decoders and adapters as the field has them: named faults, and what the matrix cannot say.

The rows of tests/checkpoints/decoder_rows.py and folder_rows.py hold the kinds themselves.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.engine import command
from launcher.errors import ExitCode, QlaunchError
from launcher.model.decoders import FAMILIES, appended
from launcher.model.inspect import inspect
from launcher.plan import precision
from tests.checkpoints import make_qwen3
from tests.checkpoints.decoder_edits import emptied, head, lora, post_processor
from tests.checkpoints.edit import GONE, config, edited, setting, without
from tests.checkpoints.tokenizer_rows import vocabulary_files
from tests.cli.commandline import Run


def refusal(folder: Path) -> QlaunchError:
    with pytest.raises(QlaunchError) as caught:
        inspect(folder)
    assert caught.value.exit_code == ExitCode.USAGE
    return caught.value


def test_case_8_a_qwen3_that_is_not_causal_is_planned_for_whole_texts(
    run: Run, ready: Path, tmp_path: Path
) -> None:
    """sglang#35531; its vectors: tests/engine_real/test_checkpoint_matrix.py."""
    model = edited(make_qwen3, config(is_causal=False))(tmp_path / "checkpoint")
    plan = run("plan", "cpu-qwen3-0.6b", "--model", str(model), "--json")
    assert plan.code == 0
    argv = plan.data["engine"]["argv"]
    assert "--disable-radix-cache" in argv
    assert argv[argv.index("--chunked-prefill-size") + 1] == "-1"
    package = plan.data["engine"]["env"]["SGLANG_EXTERNAL_MODEL_PACKAGE"]
    assert package == "qlaunch_sglang.decoders"
    found = inspect(model)
    assert (found.encoder, found.both_ways, found.whole_texts) == (False, True, True)


def test_case_8_a_causal_qwen3_keeps_its_prefix_cache(
    run: Run, ready: Path, tmp_path: Path
) -> None:
    model = edited(make_qwen3, config(is_causal=True))(tmp_path / "checkpoint")
    plan = run("plan", "t4-fp16", "--gpu", "T4", "--model", str(model), "--json")
    assert "--disable-radix-cache" not in plan.data["engine"]["argv"]


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("settings", [True, False])
def test_case_10_a_lora_adapter_is_to_be_merged_first(
    weights: bool, settings: bool, tmp_path: Path
) -> None:
    """sentence-transformers#2979."""
    model = edited(make_qwen3 if settings else emptied, lora)(tmp_path / "checkpoint")
    if settings:
        (model / "model.safetensors").unlink()
    if not weights:
        (model / "adapter_model.safetensors").unlink()
    found = refusal(model)
    assert found.code == "model_unsupported"
    said = "is a LoRA adapter of Qwen/Qwen3-Embedding-0.6B: merge it first"
    assert found.message == f"{model} {said}"


def test_an_old_engine_does_not_take_the_rotation_that_transformers_5_writes(
    tmp_path: Path,
) -> None:
    new = {"rope_type": "default", "rope_theta": 1000000.0}
    make = edited(make_qwen3, config(rope_theta=GONE, rope_parameters=new))
    found = inspect(make(tmp_path / "checkpoint"))
    with pytest.raises(QlaunchError, match="rope_parameters, as transformers 5 does") as caught:
        precision.check_rotation(found, "0.5.1.post2")
    assert caught.value.exit_code == ExitCode.USAGE
    precision.check_rotation(found, "0.5.23")
    precision.check_rotation(inspect(make_qwen3(tmp_path / "old")), "0.5.1.post2")


def test_the_classes_that_are_served_are_those_the_plugin_offers() -> None:
    ours = {k for k, package in command.EXTERNAL_PACKAGES.items() if package.endswith("decoders")}
    assert set(FAMILIES) == ours


@pytest.mark.parametrize(
    ("changes", "window"),
    [
        ({"sliding_window": 256}, None),
        ({"sliding_window": 256, "use_sliding_window": False}, None),
        ({"sliding_window": 256, "use_sliding_window": True}, None),
        ({"sliding_window": 256, "use_sliding_window": True, "max_window_layers": 0}, 256),
        ({"sliding_window": 256, "layer_types": ["full_attention"] * 2}, None),
        (
            {
                "sliding_window": 256,
                "use_sliding_window": True,
                "layer_types": ["full_attention", "sliding_attention"],
            },
            256,
        ),
        (
            {
                "sliding_window": 4096,
                "use_sliding_window": True,
                "layer_types": ["sliding_attention"] * 2,
            },
            4096,
        ),
    ],
)
def test_the_context_ends_with_the_sliding_window(
    changes: dict[str, Any], window: int | None, tmp_path: Path
) -> None:
    found = inspect(edited(make_qwen3, config(**changes))(tmp_path / "checkpoint"))
    assert found.sliding_window == window
    assert found.context_length == min(2048, window or 2048)


@pytest.mark.parametrize(
    "changes", [{"sliding_window": None}, {"sliding_window": 256, "use_sliding_window": False}]
)
def test_sliding_layers_without_a_window_are_refused(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    """transformers forgets a window that is not used, and then cannot compute such layers."""
    made = edited(make_qwen3, config(layer_types=["sliding_attention"] * 2, **changes))
    with pytest.raises(QlaunchError, match="sliding_attention in layer_types and no") as caught:
        inspect(made(tmp_path / "checkpoint"))
    assert caught.value.code == "model_corrupt"


@pytest.mark.parametrize(
    ("processor", "end"),
    [
        (None, False),
        ({"type": "ByteLevel", "trim_offsets": True}, False),
        ({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}]}, False),
        (
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}],
            },
            False,
        ),
        (
            {
                "type": "Sequence",
                "processors": [
                    {"type": "ByteLevel"},
                    {
                        "type": "TemplateProcessing",
                        "single": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}],
                    },
                ],
            },
            True,
        ),
        ({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}, True),
    ],
)
def test_whether_a_tokenizer_appends_a_token(processor: Any, end: bool, tmp_path: Path) -> None:
    model = edited(make_qwen3, post_processor(processor))(tmp_path / "checkpoint")
    assert appended(model) is end
    # Beside a tokenizer.json, transformers 5 drops it.
    setting("tokenizer_config.json", add_eos_token=True)(model)
    assert appended(model) is end


def test_without_tokenizer_json_a_setting_says_what_is_appended(tmp_path: Path) -> None:
    model = make_qwen3(tmp_path / "checkpoint")
    vocabulary_files(model)
    setting("tokenizer_config.json", tokenizer_class="Qwen2Tokenizer")(model)
    assert appended(model) is False
    assert "appends no end token" in refusal(model).message
    setting("tokenizer_config.json", add_eos_token=True)(model)
    assert appended(model) is True
    assert inspect(model).pooling == "last"


def test_a_card_of_another_shape_is_named(tmp_path: Path) -> None:
    model = edited(make_qwen3, config(num_key_value_heads=4))(tmp_path / "checkpoint")
    found = refusal(model)
    assert found.code == "model_corrupt"
    assert "k_proj.weight 128 by 64, but the weights hold 64 by 64" in found.message


def test_a_decoder_pooled_by_its_mean_may_end_with_anything(tmp_path: Path) -> None:
    make = edited(make_qwen3, head(pooling="mean"), post_processor(None))
    found = inspect(make(tmp_path / "checkpoint"))
    assert (found.pooling, found.whole_texts) == ("mean", True)


def test_an_adapter_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    model = edited(make_qwen3, without("config.json"))(tmp_path / "checkpoint")
    (model / "adapter_config.json").write_text("{", encoding="utf-8")
    assert "adapter_config.json is not valid JSON" in refusal(model).message
    (model / "adapter_config.json").write_text(json.dumps({"peft_type": 7}), encoding="utf-8")
    assert "an adapter" in refusal(model).message
