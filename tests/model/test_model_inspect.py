"""What a checkpoint says of itself, and every way it can be incomplete or wrong."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import ExitCode, QlaunchError
from launcher.model.checkpoint import Source
from launcher.model.fetch import locate
from launcher.model.inspect import inspect
from tests.checkpoints import make_bert, make_qwen3, make_roberta
from tests.checkpoints.edit import edited, setting
from tests.checkpoints.head import Pooling
from tests.checkpoints.matrix import rows


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    make_bert(folder / "bert", pooling="mean")
    make_qwen3(folder / "qwen3", shards=3)
    return folder


@pytest.fixture
def bert(models: Path, tmp_path: Path) -> Path:
    return shutil.copytree(models / "bert", tmp_path / "bert")


@pytest.fixture
def qwen3(models: Path, tmp_path: Path) -> Path:
    return shutil.copytree(models / "qwen3", tmp_path / "qwen3")


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Replace the JSON in `path` by what `change` makes of it (None: it changed it in place)."""
    value = json.loads(path.read_text(encoding="utf-8"))
    changed = change(value)
    path.write_text(json.dumps(value if changed is None else changed), encoding="utf-8")


def refused(path: Path, code: str, *said: str) -> QlaunchError:
    """The refusal of `path`: one sentence with exit 2, this code, and these words in it."""
    with pytest.raises(QlaunchError) as caught:
        inspect(path)
    error = caught.value
    assert error.code == code, error.message
    assert error.exit_code == ExitCode.USAGE
    for words in said:
        assert words in error.message
    assert "\n" not in error.message
    return error


# --- right checkpoints ---------------------------------------------------------------------------


def test_a_bert_checkpoint_is_described(bert: Path) -> None:
    found = inspect(bert)
    assert (found.architectures, found.model_type, found.encoder) == (("BertModel",), "bert", True)
    assert (found.hidden_size, found.num_layers, found.num_attention_heads) == (64, 2, 4)
    assert (found.num_kv_heads, found.head_dim, found.vocab_size) == (4, 16, 512)
    assert (found.context_length, found.max_seq_length, found.dimensions) == (512, 256, 64)
    assert (found.pooling, found.pooling_source) == ("mean", "1_Pooling/config.json")
    assert (found.normalize, found.include_prompt, found.quantization) == (True, True, None)
    assert (found.stored_dtype, found.weight_files) == ("float32", ("model.safetensors",))
    assert found.weight_bytes == found.parameters * 4


def test_a_sharded_qwen3_checkpoint_is_described(qwen3: Path) -> None:
    found = inspect(qwen3)
    assert (found.encoder, found.pooling, found.normalize) == (False, "last", True)
    assert (found.num_kv_heads, found.head_dim, found.context_length) == (2, 32, 2048)
    assert (found.stored_dtype, len(found.weight_files)) == ("bfloat16", 3)
    assert found.weight_bytes == found.parameters * 2
    assert found.kv_bytes_per_token == 2 * 2 * 2 * 32 * 2


def test_roberta_positions_begin_after_the_padding_index(tmp_path: Path) -> None:
    found = inspect(make_roberta(tmp_path / "m", max_position=128))
    assert (found.context_length, found.encoder) == (128, True)


@pytest.mark.parametrize("new_spelling", [False, True])
@pytest.mark.parametrize("pooling", ["cls", "mean", "max", "last"])
def test_pooling_is_read_in_both_spellings(
    tmp_path: Path, pooling: Pooling, new_spelling: bool
) -> None:
    found = inspect(make_bert(tmp_path / "m", pooling=pooling, new_spelling=new_spelling))
    assert found.pooling == pooling


def test_a_dense_module_sets_the_width_of_the_vectors(tmp_path: Path) -> None:
    found = inspect(make_bert(tmp_path / "m", dense=24, normalize=False))
    assert (found.dense_dims, found.dimensions, found.normalize) == ((24,), 24, False)
    assert found.normalize_source == "modules.json has no Normalize"


def test_without_modules_a_decoder_takes_its_last_token_and_an_encoder_nothing(
    bert: Path, qwen3: Path
) -> None:
    for folder in (bert, qwen3):
        (folder / "modules.json").unlink()
        shutil.rmtree(folder / "1_Pooling")
    found = inspect(qwen3)
    assert (found.pooling, found.normalize) == ("last", True)
    assert "default for decoders" in found.pooling_source
    assert "default" in found.normalize_source
    # The first token of a Contriever was proved right, which wants the mean of all.
    refused(bert, "model_unsupported", "nothing says how a text's tokens become one vector")


def test_a_mistral_without_the_key_of_its_window_has_transformers_own(tmp_path: Path) -> None:
    row = next(row for row, _ in rows(served=True) if row.name == "mistral-window-unsaid")
    assert inspect(row.make(tmp_path / "m")).context_length == 4096


@pytest.mark.parametrize("key", ["seq_length", "max_seq_len", "model_max_length"])
def test_a_context_that_the_engine_finds_elsewhere_is_kept_to(
    bert: Path, qwen3: Path, key: str
) -> None:
    for folder, positions in ((bert, 512), (qwen3, 2048)):
        setting("config.json", **{key: 64})(folder)
        assert inspect(folder).context_length == 64
        setting("config.json", **{key: 1e30})(folder)
        assert inspect(folder).context_length == positions


def test_what_the_refusal_of_a_bare_encoder_says_to_write_serves_it(bert: Path) -> None:
    (bert / "modules.json").unlink()
    shutil.rmtree(bert / "1_Pooling")
    with pytest.raises(QlaunchError) as caught:
        inspect(bert)
    said = re.search(r"\{.*?\}", str(caught.value.fix))
    assert said is not None
    (bert / "1_Pooling").mkdir()
    (bert / "1_Pooling/config.json").write_text(said[0], encoding="utf-8")
    assert inspect(bert).pooling == "mean"


def test_a_pooling_folder_without_modules_still_counts(bert: Path) -> None:
    (bert / "modules.json").unlink()
    assert inspect(bert).pooling_source == "1_Pooling/config.json"


def test_prompts_left_out_of_the_pooling_are_noticed(bert: Path) -> None:
    path = bert / "1_Pooling/config.json"
    edit(path, lambda c: c.update(include_prompt=False))
    refused(bert, "model_unsupported", "include_prompt: false")
    # sentence-transformers 6 takes the first token after the prompt, 5 took the text's first.
    edit(path, lambda c: c.update(pooling_mode_mean_tokens=False, pooling_mode_cls_token=True))
    refused(bert, "model_unsupported", "include_prompt: false")


def test_sizes_unsaid_are_those_of_transformers_and_quantisation_is_named(qwen3: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        del config["head_dim"], config["num_key_value_heads"]
        config["quantization_config"] = {"quant_method": "awq", "bits": 4}

    edit(qwen3 / "config.json", change)
    found = inspect(qwen3)
    assert (found.head_dim, found.num_kv_heads, found.quantization) == (128, 32, "awq")


def test_newer_class_paths_of_the_modules_are_known(bert: Path) -> None:
    names = ["base.modules.transformer.Transformer", "sentence_transformer.modules.pooling.Pooling"]

    def change(modules: list[dict[str, str]]) -> None:
        for module, name in zip(modules, names, strict=False):
            module["type"] = f"sentence_transformers.{name}"

    edit(bert / "modules.json", change)
    assert inspect(bert).pooling == "mean"


def test_links_are_followed_as_hub_caches_have_them(bert: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    for path in bert.rglob("*"):
        if path.is_file():
            link = snapshot / path.relative_to(bert)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(path)
    assert inspect(snapshot).fingerprint == inspect(bert).fingerprint


# --- folders that are none -----------------------------------------------------------------------


def test_an_absent_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere", "model_not_found", "does not exist")


def test_a_file_where_a_folder_belongs(bert: Path) -> None:
    error = refused(bert / "model.safetensors", "model_not_found", "is a file")
    assert str(bert) in str(error.fix)


def test_the_folder_above_the_model_points_to_the_model(bert: Path) -> None:
    error = refused(bert.parent, "model_incomplete", "no config.json")
    assert error.fix == f"did you mean {bert}?"


def test_a_model_without_its_config_does_not_point_to_its_pooling(bert: Path) -> None:
    (bert / "config.json").unlink()
    assert (bert / "1_Pooling" / "config.json").exists()
    error = refused(bert, "model_incomplete", "no config.json")
    assert "did you mean" not in str(error.fix)


def test_a_hub_cache_folder_points_to_its_snapshot(bert: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "models--acme--tiny" / "snapshots" / "0123"
    snapshot.parent.mkdir(parents=True)
    bert.rename(snapshot)
    assert str(snapshot) in str(refused(snapshot.parent.parent, "model_incomplete").fix)


# --- configuration -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("", "model_incomplete", "empty"),
        ('{"hidden_size": 64', "model_corrupt", "JSON"),
        ("[1]", "model_corrupt", "object"),
        ("\x80\x81", "model_corrupt", "JSON"),
        ("[" * 100_000, "model_corrupt", "JSON"),
    ],
)
def test_a_config_that_is_no_json_object(bert: Path, text: str, code: str, said: str) -> None:
    (bert / "config.json").write_bytes(text.encode("latin-1"))
    refused(bert, code, "config.json", said)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("hidden_size", None, "hidden_size"),
        ("hidden_size", "64", "positive integer"),
        ("hidden_size", -1, "positive integer"),
        ("num_attention_heads", 0, "positive integer"),
        ("num_hidden_layers", True, "positive integer"),
        ("vocab_size", 1.5, "positive integer"),
        ("max_position_embeddings", 10**30, "max_position_embeddings"),
        ("architectures", ["", "BertModel"], "architectures"),
        ("architectures", "BertModel", "architectures"),
        ("quantization_config", "awq", "quantization_config"),
        ("hidden_size", 128, "hidden_size 128, but"),
    ],
)
def test_config_values_that_make_no_sense(bert: Path, key: str, value: object, said: str) -> None:
    edit(bert / "config.json", lambda c: c.update({key: value}))
    refused(bert, "model_corrupt", "config.json", said)


def test_more_layers_promised_than_stored(bert: Path) -> None:
    edit(bert / "config.json", lambda c: c.update(num_hidden_layers=12))
    refused(bert, "model_incomplete", "12 layers, but the weights hold 2")


def test_positions_from_the_sentence_config_where_that_is_the_only_limit(bert: Path) -> None:
    edit(bert / "config.json", lambda c: c.pop("max_position_embeddings") and None)
    assert inspect(bert).context_length == 256
    (bert / "sentence_bert_config.json").unlink()
    refused(bert, "model_corrupt", "max_position_embeddings")


# --- pooling and modules -------------------------------------------------------------------------


def test_several_pooling_modes_are_not_supported_and_named(bert: Path) -> None:
    edit(bert / "1_Pooling/config.json", lambda c: c.update(pooling_mode_cls_token=True))
    refused(bert, "model_unsupported", "pooling_mode_cls_token and pooling_mode_mean_tokens")


@pytest.mark.parametrize(
    ("config", "code"),
    [
        ({"pooling_mode": ["cls", "mean"]}, "model_unsupported"),
        ({"pooling_mode": "weightedmean"}, "model_unsupported"),
        ({"pooling_mode": 3}, "model_unsupported"),
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "model_unsupported"),
        ({"pooling_mode_mean_tokens": False}, "model_corrupt"),
        ({"pooling_mode_mean_tokens": True, "word_embedding_dimension": 32}, "model_corrupt"),
    ],
)
def test_poolings_that_cannot_be_served(bert: Path, config: dict[str, Any], code: str) -> None:
    said = {"word_embedding_dimension": 64} | config
    (bert / "1_Pooling/config.json").write_text(json.dumps(said), encoding="utf-8")
    refused(bert, code, "1_Pooling/config.json")


def test_modules_that_name_an_absent_pooling(bert: Path) -> None:
    (bert / "1_Pooling/config.json").unlink()
    refused(bert, "model_incomplete", "1_Pooling/config.json is missing")


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        (lambda m: m.pop(1) and None, "model_unsupported", "Normalize module where"),
        (lambda m: m[:1], "model_unsupported", "no Pooling"),
        (lambda m: [m[0], m[1], {**m[2], "type": "x.LSTM"}], "model_unsupported", "LSTM"),
        (lambda m: [*m, {**m[1], "name": "3"}], "model_unsupported", "after Normalize"),
        (lambda m: [m[1], m[0]], "model_unsupported", "Transformer comes first"),
        (
            lambda m: [{**m[0], "path": "0_Transformer"}, *m[1:]],
            "model_unsupported",
            "0_Transformer",
        ),
        (lambda m: [m[0], {**m[1], "path": "../1_Pooling"}], "model_corrupt", "outside"),
        (lambda m: [m[0], {"idx": 1}], "model_corrupt", "without type or path"),
        (lambda _: {"a": 1}, "model_corrupt", "list of modules"),
        (lambda _: [], "model_corrupt", "lists no modules"),
    ],
)
def test_module_lists_that_cannot_be_served(
    bert: Path, change: Callable[[Any], Any], code: str, said: str
) -> None:
    edit(bert / "modules.json", change)
    refused(bert, code, "modules.json", said)


@pytest.mark.parametrize(
    ("break_it", "code", "said"),
    [
        (lambda d: (d / "config.json").unlink(), "model_incomplete", "missing"),
        (lambda d: (d / "model.safetensors").unlink(), "model_incomplete", "no weights"),
        (
            lambda d: edit(d / "config.json", lambda c: c.update(in_features=1)),
            "model_corrupt",
            "64",
        ),
        (
            lambda d: edit(d / "config.json", lambda c: c.update(out_features="x")),
            "model_corrupt",
            "out_features",
        ),
    ],
)
def test_dense_modules_that_do_not_fit(
    tmp_path: Path, break_it: Callable[[Path], Any], code: str, said: str
) -> None:
    folder = make_bert(tmp_path / "m", dense=24)
    break_it(folder / "2_Dense")
    refused(folder, code, "2_Dense", said)


# --- tokenizer -----------------------------------------------------------------------------------


def test_no_tokenizer_at_all(bert: Path) -> None:
    (bert / "tokenizer.json").unlink()
    assert inspect(bert).vocab_size == 512  # vocab.txt is enough
    (bert / "vocab.txt").unlink()
    refused(bert, "model_incomplete", "no tokenizer")


@pytest.mark.parametrize(
    "content", [b"", b'{"version": "1.0", "model": {"vo', b"<html>nope</html>"]
)
def test_a_tokenizer_that_was_not_copied_whole(bert: Path, content: bytes) -> None:
    (bert / "tokenizer.json").write_bytes(content)
    refused(bert, "model_incomplete", "tokenizer.json")


# --- fingerprint ---------------------------------------------------------------------------------


def _flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0xFF]))


def test_a_copy_has_the_same_fingerprint_whenever_it_was_made(bert: Path, models: Path) -> None:
    for path in bert.rglob("*"):
        os.utime(path, (1, 1))
    assert inspect(bert).fingerprint == inspect(models / "bert").fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda m: edit(m / "1_Pooling/config.json", lambda c: c.update(include_prompt=True)),
        lambda m: edit(m / "config.json", lambda c: c.update(layer_norm_eps=1e-5)),
        lambda m: edit(m / "tokenizer.json", lambda c: c["model"]["vocab"].update(zebra=400)),
        lambda m: edit(m / "modules.json", lambda c: c[:2]),
        lambda m: (m / "vocab.txt").unlink(),
        lambda m: _flip(m / "model.safetensors", -1),
        lambda m: _flip(m / "model.safetensors", 300_000),
    ],
)
def test_what_changes_vectors_changes_the_fingerprint(
    bert: Path, change: Callable[[Path], Any]
) -> None:
    before = inspect(bert).fingerprint
    change(bert)
    assert inspect(bert).fingerprint != before


def test_notes_beside_the_model_do_not_change_the_fingerprint(bert: Path) -> None:
    before = inspect(bert).fingerprint
    (bert / "README.md").write_text("hello", encoding="utf-8")
    (bert / ".qlaunch.json").write_text("{}", encoding="utf-8")
    assert inspect(bert).fingerprint == before


def test_dense_weights_count(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "m", dense=24)
    before = inspect(folder).fingerprint
    _flip(folder / "2_Dense" / "model.safetensors", -1)
    assert inspect(folder).fingerprint != before


def test_large_files_are_sampled_in_every_tensor_and_at_both_ends(tmp_path: Path) -> None:
    folder = make_bert(tmp_path / "m", vocab=40_000, layers=1)  # 10 MB: above the whole-file limit
    before = inspect(folder)
    weights = folder / "model.safetensors"
    start = 8 + int.from_bytes(weights.read_bytes()[:8], "little")
    seen: set[str] = {before.fingerprint}
    for offset in (start, start + 40_000 * 64 * 4 // 2 + 5, -1):
        _flip(weights, offset)
        seen.add(inspect(folder).fingerprint)
    assert len(seen) == 4


@pytest.mark.parametrize("value", [None, "x", -1, 0, 3, 1.5, True, [], {}, [None], {"a": {}}])
def test_any_config_value_gives_a_checkpoint_or_one_refusal(bert: Path, value: object) -> None:
    original = json.loads((bert / "config.json").read_text(encoding="utf-8"))
    for key in original:
        (bert / "config.json").write_text(json.dumps({**original, key: value}), encoding="utf-8")
        code = "ok"
        try:
            inspect(bert)
        except QlaunchError as error:
            code = error.code
        assert code in {"ok", "model_corrupt", "model_incomplete", "model_unsupported"}


@pytest.mark.parametrize(
    ("file", "key", "value", "says"),
    [
        ("config_sentence_transformers.json", "default_prompt_name", ["x"], "default prompt"),
        ("tokenizer.json", "post_processor", {"cls": [], "sep": []}, "post_processor"),
    ],
)
def test_a_value_of_a_wrong_type_is_a_sentence(
    file: str, key: str, value: object, says: str, tmp_path: Path
) -> None:
    model = edited(make_bert, setting(file, **{key: value}))(tmp_path / "checkpoint")
    with pytest.raises(QlaunchError, match=says) as caught:
        inspect(model)
    assert caught.value.exit_code == ExitCode.USAGE


def test_a_similarity_of_a_wrong_type_is_none(tmp_path: Path) -> None:
    said = setting("config_sentence_transformers.json", similarity_fn_name=["x"])
    prompts = inspect(edited(make_bert, said)(tmp_path / "checkpoint")).prompts
    assert prompts is not None
    assert prompts.similarity is None


def test_a_folder_that_may_not_be_read_is_named(
    bert: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(QlaunchError, match="cannot be read: Permission denied") as caught:
        inspect(bert)
    assert (caught.value.code, caught.value.exit_code) == ("model_corrupt", 2)
    assert str(caught.value).startswith(str(bert))


def test_a_folder_inside_one_that_may_not_be_entered_is_named(
    bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    source = Source(kind="path", location=str(bert))
    monkeypatch.setattr(Path, "stat", refused)
    assert locate([source], models_dir=tmp_path) == bert
    with pytest.raises(QlaunchError, match="cannot be read: Permission denied"):
        inspect(bert)


def test_a_folder_called_as_a_tokenizers_file_is_refused(bert: Path) -> None:
    named = bert.rename(bert.with_name("model.json"))
    with pytest.raises(QlaunchError, match=r"name ends in [.]json") as caught:
        inspect(named)
    assert caught.value.code == "model_unsupported"
