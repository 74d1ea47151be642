"""What runs in a peer's Python: the least of a server, texts and pooling, without the peer."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from launcher.bench.load import Bounds, measure_level
from launcher.bench.peers import catalogue
from launcher.bench.target import Target
from launcher.documents.comparison import Level
from launcher.service import ports
from tests.bench.server import words
from tests.checkpoints.bert import make_bert
from tests.patience import PATIENCE_S, eventually


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(catalogue.WORKERS))


def module(name: str) -> ModuleType:
    import importlib

    return importlib.import_module(f"qlaunch_peers.{name}")


def test_the_least_of_a_server_answers_the_client_that_measures(workers: None) -> None:
    http_server = module("http_server")

    def encode(texts: list[str]) -> Any:
        counted = sum(len(text.split()) + 2 for text in texts)
        return http_server.Answer(np.ones((len(texts), 4), dtype=np.float32), counted)

    port = ports.pick_free("127.0.0.1")
    threading.Thread(target=http_server.serve, args=(port, encode), daemon=True).start()
    for encoding in ("base64", "float"):
        target = Target(
            mode="p", url=f"http://127.0.0.1:{port}/v1", model="m", dimensions=4, encoding=encoding
        )
        eventually(lambda: _listens(port))
        row = measure_level(target, Level(clients=40, batch=2, tokens=20), words(), Bounds(90))
        assert (row.requests, row.errors, row.tokens_counted) == (90, 0, 20)


def _listens(port: int) -> bool:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_texts_that_are_none_are_refused_and_the_server_lives_on(workers: None) -> None:
    import http.client
    import json

    http_server = module("http_server")

    def encode(texts: list[str]) -> Any:
        return http_server.Answer(np.ones((len(texts), 4), dtype=np.float32))

    port = ports.pick_free("127.0.0.1")
    threading.Thread(target=http_server.serve, args=(port, encode), daemon=True).start()
    eventually(lambda: _listens(port))
    for body, status in ((b"{", 400), (b'{"input": 3}', 400), (b'{"input": "a"}', 200)):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
        connection.request("POST", "/v1/embeddings", body)
        answer = connection.getresponse()
        assert answer.status == status
        document = json.loads(answer.read())
        connection.close()
    assert document["data"][0]["embedding"] == [1.0] * 4
    assert "usage" not in document  # what is not counted is not said


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_looks_at_a_text_s_own_tokens_only(workers: None, pooling: str) -> None:
    encoding, settings = module("encoding"), module("settings")
    asked = settings.read(["--model-path=x", f"--pooling={pooling}", "--normalize=no"])
    states = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    found = encoding.pooled(states, mask, asked)
    wanted = {
        "mean": [states[0, :2].mean(0), states[1].mean(0)],
        "cls": [states[0, 0], states[1, 0]],
        "last": [states[0, 1], states[1, 2]],
    }[pooling]
    assert np.allclose(found, wanted)
    asked.normalize = True
    assert np.allclose(np.linalg.norm(encoding.pooled(states, mask, asked), axis=1), 1)


def test_a_batch_is_padded_to_its_longest_and_long_texts_are_cut(
    workers: None, tmp_path: Path
) -> None:
    encoding, settings = module("encoding"), module("settings")
    make_bert(tmp_path)
    asked = settings.read(["--model-path=x", f"--export={tmp_path}", "--longest=6"])
    ids, mask = encoding.Texts(asked).batch(["the sun", "the sun the sun the sun the sun"])
    assert ids.shape == mask.shape == (2, 6)
    assert mask.sum(axis=1).tolist() == [4, 6]
    assert ids[0, 4:].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        ({"type": "BertPreTokenizer"}, "bert-bge"),
        ({"type": "ByteLevel", "use_regex": True}, "gpt-2"),
        ({"type": "ByteLevel", "use_regex": False}, None),
        ({"type": "Whitespace"}, None),
        (None, None),
    ],
)
def test_llama_cpp_s_converter_is_told_how_an_unknown_tokenizer_splits(
    workers: None, tokenizer: dict[str, Any] | None, name: str | None
) -> None:
    assert module("export_llama_cpp").splitting({"pre_tokenizer": tokenizer}) == name


def test_qwen_s_own_way_to_split_is_known(workers: None) -> None:
    export = module("export_llama_cpp")
    split = {"type": "Split", "pattern": {"Regex": export._QWEN2}}
    level = {"type": "ByteLevel", "use_regex": False}
    sequence = {"type": "Sequence", "pretokenizers": [split, level]}
    assert export.splitting({"pre_tokenizer": sequence}) == "qwen2"
    split["pattern"] = {"Regex": "."}
    assert export.splitting({"pre_tokenizer": sequence}) is None
