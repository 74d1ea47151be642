"""Which release serves which checkpoint, and what it is told."""

from __future__ import annotations

import json

import pytest

from launcher.engine import support
from launcher.engine.releases import release, releases
from launcher.errors import ExitCode, QlaunchError
from tests.plan.inputs import checkpoint


@pytest.mark.parametrize("version", sorted({each.version for each in releases().values()}))
def test_every_release_s_classes_are_recorded(version: str) -> None:
    found = support.classes(version)
    assert found is not None
    assert {"BertModel", "XLMRobertaModel", "Qwen3ForCausalLM"} <= found
    assert "MPNetModel" not in found


def test_a_class_of_the_plugin_needs_the_plugin() -> None:
    distil = checkpoint(architectures=("DistilBertModel",), served_as="DistilBertModel")
    cpu = release("cpu")
    support.require(distil, cpu, cpu.version, plugin=True)
    with pytest.raises(QlaunchError, match=r"that SGLang 0\.5\.23 does not have") as raised:
        support.require(distil, cpu, cpu.version, plugin=False)
    assert raised.value.exit_code == ExitCode.USAGE


def test_a_class_of_newer_releases_is_refused_on_an_older_one() -> None:
    gemma = checkpoint(architectures=("EmbeddingGemma2Model",))
    new, old = release("cuda13"), release("turing")
    support.require(gemma, new, new.version, plugin=True)
    with pytest.raises(QlaunchError, match=r"SGLang 0\.5\.1\.post2 does not have"):
        support.require(gemma, old, old.version, plugin=True)


def test_an_unrecorded_sglang_of_the_user_s_own_is_believed() -> None:
    model = checkpoint(architectures=("EmbeddingGemma2Model",))
    support.require(model, release("cpu"), "0.9.9", plugin=True)


def test_lower_case_needs_the_front_s_hook() -> None:
    model = checkpoint(lower_case=True)
    cpu, turing = release("cpu"), release("turing")
    support.require(model, cpu, cpu.version, plugin=True)
    for where, plugin in ((turing, True), (cpu, False)):
        with pytest.raises(QlaunchError, match="do_lower_case"):
            support.require(model, where, where.version, plugin=plugin)


def test_a_tokenizer_that_sglang_changes_needs_the_plugin() -> None:
    model = checkpoint(mended_tokenizer=True)
    # transformers 4, as Turing's release has it, builds nothing anew that SGLang would change.
    for name in ("cpu", "cuda13", "turing"):
        support.require(model, release(name), release(name).version, plugin=True)
    for name, plugin in (("cuda12", True), ("cpu", False)):
        with pytest.raises(QlaunchError, match="other tokens than transformers"):
            support.require(model, release(name), release(name).version, plugin=plugin)


def test_the_engine_is_told_the_base_class() -> None:
    assert support.overrides(checkpoint()) == {}
    head = checkpoint(architectures=("BertForMaskedLM",), served_as="BertModel")
    assert support.overrides(head) == {"architectures": ["BertModel"]}
    unnamed = checkpoint(served_as="BertModel", unnamed=True)
    assert support.overrides(unnamed) == {"architectures": ["BertModel"]}


def test_what_the_user_lays_over_the_config_wins() -> None:
    more = {"architectures": ["BertModel"], "is_matryoshka": False}
    assert json.loads(support.merged(None, more)) == more
    merged = json.loads(support.merged('{"is_matryoshka": true}', more))
    assert merged == {"architectures": ["BertModel"], "is_matryoshka": True}
    assert support.merged("{broken", more) == "{broken"
