"""What the quantising program keeps of a library's config, and what is copied beside it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import QlaunchError
from launcher.model.inspect import inspect
from launcher.quantize import make, quantize_worker
from launcher.quantize.formats import FORMATS
from tests.checkpoints import make_bert, make_qwen3

FULL: dict[str, Any] = {
    "actorder": None, "block_structure": None, "dynamic": False, "group_size": None, "num_bits": 8,
    "observer": "memoryless_minmax", "observer_kwargs": {}, "scale_dtype": None,
    "strategy": "channel", "symmetric": True, "type": "int", "zp_dtype": None,
}  # fmt: skip


def test_a_config_keeps_the_model_s_words_and_only_fields_that_every_release_knows() -> None:
    source = {
        "architectures": ["Qwen3ForCausalLM"],
        "rope_theta": 1000000,
        "torch_dtype": "bfloat16",
    }
    group = {"targets": ["Linear"], "weights": FULL, "input_activations": {**FULL, "dynamic": True},
             "output_activations": None, "format": "int-quantized"}  # fmt: skip
    written = {
        "rope_parameters": {"rope_type": "default"},
        "quantization_config": {
            "quant_method": "compressed-tensors", "format": "int-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": group}, "version": "0.19.0", "transform_config": {},
        },
    }  # fmt: skip
    kept = quantize_worker.kept_config(source, written)
    made = kept.pop("quantization_config")
    assert kept == source
    assert set(made) == {
        "quant_method", "format", "quantization_status", "config_groups", "ignore"
    }  # fmt: skip
    assert made["config_groups"]["group_0"] == {
        "targets": ["Linear"],
        "weights": {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True,
                    "dynamic": False},
        "input_activations": {"num_bits": 8, "type": "int", "strategy": "channel",
                              "symmetric": True, "dynamic": True},
    }  # fmt: skip


def test_awq_and_a_bare_class() -> None:
    made = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "sym": False,
            "modules_to_not_convert": [], "autoround_version": "0"}  # fmt: skip
    kept = quantize_worker.kept_config(
        {"architectures": ["Qwen3Model"]}, {"quantization_config": made}
    )
    assert kept["architectures"] == ["Qwen3ForCausalLM"]
    assert kept["quantization_config"] == {
        "quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True,
        "modules_to_not_convert": [], "version": "gemm",
    }  # fmt: skip


def test_a_library_that_quantised_nothing_is_no_success() -> None:
    with pytest.raises(quantize_worker.RefusedError, match="no quantization_config"):
        quantize_worker.kept_config({}, {})


def test_a_library_may_write_into_a_folder_of_its_own_naming(tmp_path: Path) -> None:
    """AutoRound made `OUT/model-w4g32/`, and the copy was refused as not quantised."""
    folder = tmp_path / "model-w4g32"
    folder.mkdir()
    with pytest.raises(quantize_worker.RefusedError, match="wrote 0 checkpoints"):
        quantize_worker.written_in(tmp_path)
    (folder / "config.json").touch()
    assert quantize_worker.written_in(tmp_path) == folder


def test_all_but_the_transformer_s_weights_is_copied_as_it_is(tmp_path: Path) -> None:
    source = make_qwen3(tmp_path / "source", shards=2)
    (source / "onnx").mkdir()
    (source / ".cache").mkdir()
    make.copy_others(source, tmp_path / "copy")
    names = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    copied = {
        path.relative_to(tmp_path / "copy").as_posix()
        for path in (tmp_path / "copy").rglob("*")
        if path.is_file()
    }
    assert names - copied == {name for name in names if "safetensors" in name}
    assert (tmp_path / "copy" / "tokenizer.json").read_bytes() == (
        source / "tokenizer.json"
    ).read_bytes()
    assert not (tmp_path / "copy" / "onnx").exists()


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(QlaunchError, match="is an encoder") as error:
        make.check(inspect(make_bert(tmp_path / "bert")), FORMATS["int8"])
    assert error.value.exit_code == 2


@pytest.mark.parametrize(
    ("sizes", "says"),
    [
        ({"hidden": 72}, "72 columns (hidden_size)"),
        ({"intermediate": 100}, "100 columns (intermediate_size)"),
        ({"heads": 3, "kv_heads": 1, "head_dim": 8}, "24 columns (num_attention_heads x head_dim)"),
        ({"heads": 8, "kv_heads": 1, "head_dim": 4}, "4 rows (num_key_value_heads x head_dim)"),
    ],
    ids=["hidden", "intermediate", "heads", "kv-heads"],
)
def test_widths_that_groups_of_int4_do_not_divide_are_refused(
    tmp_path: Path, sizes: dict[str, int], says: str
) -> None:
    model = inspect(make_qwen3(tmp_path / "model", **sizes))  # type: ignore[arg-type]  # widths
    with pytest.raises(QlaunchError, match=re.escape(says)) as error:
        make.check(model, FORMATS["int4"])
    assert (error.value.code, error.value.exit_code) == ("checkpoint_unsuitable", 2)
    make.check(model, FORMATS["int8"])
    make.check(inspect(make_qwen3(tmp_path / "even")), FORMATS["int4"])


def test_links_to_nowhere_and_pipes_of_a_checkpoint_are_left(tmp_path: Path) -> None:
    """The folder that was written to was blamed: `cannot write`, and the name of the source's."""
    source = make_qwen3(tmp_path / "source")
    (source / "module").mkdir()
    for folder in (source, source / "module"):
        (folder / "dangling").symlink_to("/nowhere")
        os.mkfifo(folder / "pipe")
    (source / "module" / "config.json").write_text("{}")
    make.copy_others(source, tmp_path / "copy")
    assert (tmp_path / "copy" / "module" / "config.json").exists()
    assert not list((tmp_path / "copy").rglob("dangling"))
    assert not list((tmp_path / "copy").rglob("pipe"))
