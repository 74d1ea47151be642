"""The plugin against what each catalogued SGLang offers, as recorded from its own source.

The records are written by tools/plugin_surface.py. Nothing of the plugin can run here: it imports
torch and SGLang. What it expects of them is stated once, below, and held against every release.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from launcher.engine import command
from launcher.engine.release import Release
from launcher.engine.releases import releases

RECORDS = Path(__file__).parent / "plugin_surface"
PLUGIN = command.PLUGIN / "qlaunch_sglang"
EVERY = list(releases().values())


def record(release: Release) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDS / f"{release.version}.json").read_bytes())
    return found


def entry_classes(package: str) -> set[str]:
    """Names of the classes that the modules of one of our packages offer to the registry."""
    folder = command.PLUGIN / package.replace(".", "/")
    found: set[str] = set()
    for file in folder.glob("*.py"):
        for node in ast.parse(file.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EntryClass":
                values = node.value.elts if isinstance(node.value, ast.List) else [node.value]
                found |= {ast.unparse(value).rpartition(".")[2] for value in values}
    return found


def test_every_architecture_is_offered_by_the_package_it_is_sent_to() -> None:
    for architecture, package in command.EXTERNAL_PACKAGES.items():
        assert architecture in entry_classes(package)


@pytest.mark.parametrize("release", EVERY, ids=lambda r: r.name)
def test_the_way_in_exists(release: Release) -> None:
    said = record(release)
    if release.plugin == "framework":
        assert said["plugin_framework"]
        assert said["external_model_package"]
        # fork_start hooks this function; the start method must be set there and nowhere else.
        assert said["start_method_set_in"] == ["_set_envs_and_config"]
    elif release.plugin == "external-package":
        assert said["external_model_package"]
    else:
        assert said["registry_models_dict"]
        assert said["launch_server_module"]
        assert release.start[-2:] == ("-m", "sglang.launch_server")
        assert release.plugin_start[-2:] == ("-m", "qlaunch_sglang.launch")
        assert (PLUGIN / "launch.py").is_file()


@pytest.mark.parametrize("release", EVERY, ids=lambda r: r.name)
def test_a_newer_way_in_is_not_passed_over(release: Release) -> None:
    said = record(release)
    if said["plugin_framework"]:
        assert release.plugin == "framework"
    elif said["external_model_package"]:
        assert release.plugin == "external-package"


@pytest.mark.parametrize("release", EVERY, ids=lambda r: r.name)
def test_model_classes_have_the_shape_the_plugin_replaces(release: Release) -> None:
    said = record(release)
    for name in ("BertModel", "XLMRobertaModel"):
        model = said["models"][name]
        assert "config" in model["constructor"]
        assert "pooler" in model["sets"]
        # As CheckpointPooler takes it.
        assert model["pooler_calls"] == ["self.pooler(hidden_states, forward_batch)"]
    assert "use_bert_pooler" in said["models"]["BertModel"]["sets"]
    assert {"config", "quant_config"} <= set(said["loader_passes"])
    assert set(said["loader_passes"]) <= {
        "config",
        *said["models"]["XLMRobertaModel"]["constructor"],
    }


@pytest.mark.parametrize("release", EVERY, ids=lambda r: r.name)
def test_batches_and_answers_have_the_fields_the_pooler_uses(release: Release) -> None:
    said = record(release)
    assert said["pooler_output"][0] == "embeddings"
    # `dimensions` is younger than the oldest release: the pooler asks whether it is there.
    assert {"extend_seq_lens", "extend_seq_lens_cpu"} <= set(said["batch_fields"])


@pytest.mark.parametrize("release", EVERY, ids=lambda r: r.name)
def test_weights_come_one_after_the_other(release: Release) -> None:
    for model in record(release)["models"].values():
        assert model["load_weights"][0] == "weights"
        assert len(model["load_weights"]) == 1


@pytest.mark.parametrize("release", EVERY, ids=lambda r: r.name)
def test_attention_layers_are_where_the_plugin_replaces_them(release: Release) -> None:
    said = record(release)
    # encoder.layer[…].attention.self_attn.attn, below BertModel and XLMRobertaModel.roberta.
    assert len(said["attention_path"]) == 7
    built_with = {"num_heads", "head_dim", "scaling", "num_kv_heads", "layer_id", "attn_type"}
    assert built_with <= set(said["radix_attention"])
    assert said["radix_attention_forward"][:5] == ["q", "k", "v", "forward_batch", "save_kv_cache"]
    assert {"extend_prefix_lens", "extend_prefix_lens_cpu"} <= set(said["batch_fields"])
    # Where a release does not say how it was started, its own attention stays.
    assert said["server_args_at_hand"] or release.device != "cpu"


@pytest.mark.parametrize("release", EVERY, ids=lambda r: r.name)
def test_activations_are_put_where_the_plugin_puts_them(release: Release) -> None:
    said = record(release)
    # encoder.layer[…].intermediate.intermediate_act_fn, built as "gelu" and replaced after that.
    assert said["layer_activation"]
    assert said["knows_gelu"]


@pytest.mark.parametrize(
    "release", [r for r in EVERY if r.plugin == "framework"], ids=lambda r: r.name
)
def test_the_front_makes_its_tokenizer_where_the_plugin_hooks_it(release: Release) -> None:
    assert record(release)["front_tokenizer"]


@pytest.mark.parametrize(
    "release", [r for r in EVERY if r.plugin == "framework"], ids=lambda r: r.name
)
def test_vectors_and_answers_are_made_where_the_plugin_hooks_them(release: Release) -> None:
    said = record(release)
    assert said["answer_is_built_in"] == ["_build_embedding_response"]
    assert said["channels"] == ["send_to_tokenizer", "send_to_detokenizer"]
