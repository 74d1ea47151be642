"""The makers of checkpoints: the same files every time, and the formats they claim."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from launcher.model.cards import load_card
from launcher.model.inspect import inspect
from launcher.model.safetensors import read_header
from tests.checkpoints import make_bert, make_qwen3, make_roberta
from tests.checkpoints import qwen3 as qwen3_maker
from tests.checkpoints.weights import Source, Weight, encode, write_safetensors


@pytest.mark.parametrize("make", [make_qwen3, make_bert, make_roberta])
def test_the_same_seed_makes_the_same_checkpoint(make: object, tmp_path: Path) -> None:
    assert callable(make)
    first, again, other = (
        inspect(make(tmp_path / str(number), seed=seed)).fingerprint
        for number, seed in enumerate((0, 0, 1))
    )
    assert first == again != other


def test_the_qwen3_tokenizer_appends_its_end_token(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(make_qwen3(tmp_path / "m") / "tokenizer.json"))
    assert tokenizer.encode("Hello, 世界 🙂").tokens[-1] == "<|endoftext|>"
    assert tokenizer.decode(tokenizer.encode("Hello, 世界 🙂").ids) == "Hello, 世界 🙂"
    assert tokenizer.encode("").tokens == ["<|endoftext|>"]


def test_the_bert_tokenizers_wrap_their_texts(tmp_path: Path) -> None:
    bert = Tokenizer.from_file(str(make_bert(tmp_path / "b") / "tokenizer.json"))
    assert bert.encode("The sun shines!").tokens == ["[CLS]", "the", "sun", "shines", "!", "[SEP]"]
    assert "[UNK]" not in bert.encode("Unknown words & digits: 42").tokens
    roberta = Tokenizer.from_file(str(make_roberta(tmp_path / "r") / "tokenizer.json"))
    assert roberta.encode("x").tokens == ["<s>", "x", "</s>"]
    assert roberta.token_to_id("<pad>") == 1


def test_tensor_names_follow_the_architecture(tmp_path: Path) -> None:
    make_qwen3(tmp_path / "causal")
    make_qwen3(tmp_path / "bare", architecture="Qwen3Model")
    causal = {t.name for t in read_header(tmp_path / "causal" / "model.safetensors").tensors}
    bare = {t.name for t in read_header(tmp_path / "bare" / "model.safetensors").tensors}
    assert causal == {f"model.{name}" for name in bare}
    assert "layers.1.self_attn.q_norm.weight" in bare
    assert "lm_head.weight" not in causal


def test_the_06b_shape_has_as_many_weights_as_the_real_model() -> None:
    weights = qwen3_maker._weights("model.", 28, 1024, (2048, 1024, 128), 3072, 151669, 0.02)
    assert sum(w.elements for w in weights) == load_card("qwen3-embedding-0.6b", None).parameters


def test_bfloat16_rounds_to_nearest_even() -> None:
    # 1 + 2^-8 lies half way between two bfloat16 numbers, 1 + 3 * 2^-8 too: both go to even.
    numbers = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-12, -2.5], dtype=np.float32)
    back = np.frombuffer(encode(numbers, "bfloat16"), dtype="<u2").astype(np.uint32) << 16
    expected = [1.0, 1.0, 1 + 2**-6, 1 + 2**-7, -2.5]
    assert back.view(np.float32).tolist() == expected


def test_large_tensors_are_random_and_differ_from_one_another(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    weights = [Weight("a", (3000, 1000), std=0.02), Weight("b", (3000, 1000), std=0.02)]
    write_safetensors(path, weights, Source(0, "float32"))
    header = read_header(path)
    data = np.fromfile(path, dtype="<f4", offset=header.data_start).reshape(2, 3000, 1000)
    assert abs(float(data.std()) - 0.02) < 1e-4
    assert len(np.unique(data[0, :, 0])) == 3000
    assert abs(float(np.corrcoef(data[0].ravel()[:50_000], data[1].ravel()[:50_000])[0, 1])) < 0.02


def test_the_command_line_makes_one(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    argv = [sys.executable, "-m", "tests.checkpoints", "bert", str(tmp_path / "m"), "--dense", "8"]
    done = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(tmp_path / "m")
    assert inspect(tmp_path / "m").dimensions == 8
