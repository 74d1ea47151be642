"""Clients as they are: what they were recorded to send, byte for byte, and what they get.

LangChain's and LlamaIndex's classes are large and need OpenAI's vocabulary, so their requests were
recorded once; `recordings/clients.json` says of which versions. The `openai` client is used itself
in test_server.py and test_output_types.py.
"""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer

from launcher.gateway.inputs import Checkpoint, InputRules
from launcher.gateway.openai_vocabulary import OpenAIVocabulary
from tests.checkpoints import tokens
from tests.gateway.harness import Bench, Memory, Running, numbers
from tests.gateway.scripted_server import truth
from tests.patience import PATIENCE_S

FOLDER = Path(__file__).parent / "recordings"
PART = FOLDER / "part_of_cl100k_base.tiktoken"
"""Of OpenAI's vocabulary, the tokens that were recorded."""


class Recorded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request of a client."""

    client: str
    origin: str
    headers: dict[str, str]
    body: str
    texts: list[str]
    """That the client was asked to embed."""
    dimensions: int | None


class _File(msgspec.Struct):
    requests: list[Recorded]


REQUESTS = msgspec.json.decode((FOLDER / "clients.json").read_bytes(), type=_File).requests
FOREIGN = [one for one in REQUESTS if one.client == "langchain"]


def identified(requests: list[Recorded]) -> Any:
    return [pytest.param(one, id=f"{one.client}-{n}") for n, one in enumerate(requests)]


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A BERT with a vocabulary so large that all recorded ids are tokens of it too."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = tokens.wordpiece(400)
    tokenizer.add_tokens([f"more{n}" for n in range(101_000)])
    tokenizer.save(str(folder / "tokenizer.json"))
    return Checkpoint(folder=str(folder), longest=64, prompts={"query": "q: "}, of_service=True)


def send(bench: Bench, recorded: Recorded) -> tuple[int, dict[str, Any]]:
    """Exactly these bytes."""
    address = bench.url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(address, timeout=PATIENCE_S)
    try:
        body = recorded.body.encode()
        connection.request("POST", "/v1/embeddings", body, recorded.headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def as_read(recorded: Recorded, answer: dict[str, Any]) -> list[list[float]]:
    """As clients read it: by the format that they asked for, in the order of the answer."""
    packed = '"encoding_format":"base64"' in recorded.body
    assert all(isinstance(item["embedding"], str) == packed for item in answer["data"])
    assert answer["usage"]["total_tokens"] >= 0
    assert answer["model"] == "m"
    return [numbers(item["embedding"]) for item in answer["data"]]


@pytest.mark.parametrize("recorded", identified(REQUESTS))
def test_a_client_gets_the_vectors_of_its_texts(recorded: Recorded, known: Checkpoint) -> None:
    rules = InputRules(openai=OpenAIVocabulary(PART))
    bench = Bench(Memory(), checkpoint=known, rules=rules)
    with Running(bench):
        for _ in range(2):  # made, and from the cache
            status, answer = send(bench, recorded)
            assert status == 200, answer
            wanted = [truth(text, recorded.dimensions or 16) for text in recorded.texts]
            assert as_read(recorded, answer) == wanted


@pytest.mark.parametrize("recorded", identified(FOREIGN))
def test_langchains_ids_are_never_embedded_as_other_words(
    recorded: Recorded, known: Checkpoint
) -> None:
    """Every recorded id is a token of this model too, so only their ends tell them apart."""
    vocabulary = Tokenizer.from_file(f"{known.folder}/tokenizer.json").get_vocab_size()
    ids = json.loads(recorded.body)["input"]
    assert max(map(max, ids)) < vocabulary
    bench = Bench(Memory(), checkpoint=known)
    with Running(bench):
        status, answer = send(bench, recorded)
        assert (status, answer["error"]["code"]) == (400, "foreign_token_ids")
        assert "check_embedding_ctx_length=False" in answer["error"]["message"]
        assert "--openai-vocabulary" in answer["error"]["message"]
        assert bench.server.calls == []
