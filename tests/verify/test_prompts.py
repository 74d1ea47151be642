"""Prompts of a checkpoint's own files: read, told, and carried by all that asks for users."""

from __future__ import annotations

import asyncio
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from launcher import embed
from launcher.app.client_snippets import SNIPPETS
from launcher.cli.main import main
from launcher.errors import ExitCode, QlaunchError
from launcher.model.checkpoint import Prompts
from launcher.model.inspect import inspect
from launcher.verify import quality, suite
from launcher.verify.instruction import DEFAULT_TASK, Wording
from tests.checkpoints import make_qwen3
from tests.checkpoints.weights import write_json
from tests.verify.fakes import FakeEngine, serving
from tests.verify.running import plan, pretend
from tests.verify.test_clients import module, run, target

TEMPLATE = "Instruct: {task}\nQuery:{query}"
QUERY, TEXT = "when does the ferry leave", "The ferry leaves at seven."
NASTY = (
    "{query} %s {{task}} $model ${endpoint}\n\t'single' \"double\" '''three''' \"\"\"six\"\"\" "
    "back\\slash \\n `tick` $(id) 为这个句子生成表示: \u2028 é # */ </script> "
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    return tmp_path


def folder(tmp_path: Path, **config: Any) -> Path:
    made = make_qwen3(tmp_path / "model")
    write_json(made / "config_sentence_transformers.json", config)
    return made


def prompts(default: str | None = None, **named: str) -> Prompts:
    return Prompts(named=named, default=default)


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "query", "document", "plain"),
    [
        (prompts(), "", "", ""),
        (prompts(query="Q: "), "Q: ", "", ""),
        (prompts(query="Q: ", document=""), "Q: ", "", ""),
        (prompts(query="Q: ", passage="P: "), "Q: ", "P: ", "P: "),
        # sentence-transformers 5 writes the empty one by itself when it saves such a model.
        (prompts(query="Q: ", document="", passage="P: "), "Q: ", "P: ", "P: "),
        (prompts(query="Q: ", document="D: ", passage="P: "), "Q: ", "D: ", "D: "),
        (prompts(corpus="C: "), "", "C: ", "C: "),
        (prompts(STS="S: "), "", "", ""),
        # Who says query or document never gets the default prompt: sentence-transformers 6's
        # encode_query and encode_document take an empty prompt before they would fall back to it.
        (prompts("STS", STS="S: "), "", "", "S: "),
        (prompts("STS", query="", document="", STS="S: "), "", "", "S: "),
        (prompts("query", query="Q: "), "Q: ", "", "Q: "),
        (prompts("query", query="Q: ", document=""), "Q: ", "", "Q: "),
        (prompts("document", query="Q: ", document="D: "), "Q: ", "D: ", "D: "),
        (prompts("query"), "", "", ""),
    ],
)
def test_which_prompt_goes_before_what(
    said: Prompts, query: str, document: str, plain: str
) -> None:
    assert (said.query, said.document, said.plain) == (query, document, plain)


def test_prompts_are_read_as_they_are(tmp_path: Path) -> None:
    made = folder(
        tmp_path,
        prompts={"query": NASTY, "STS": None},
        default_prompt_name="STS",
        similarity_fn_name="euclidean",
    )
    found = inspect(made).prompts
    assert found == Prompts(
        named={"query": NASTY, "STS": ""}, default="STS", similarity="euclidean"
    )
    (made / "config_sentence_transformers.json").unlink()
    assert inspect(made).prompts is None


@pytest.mark.parametrize(
    ("config", "code", "reason"),
    [
        ({"prompts": ["query: "]}, "model_corrupt", "something other than an object"),
        ({"prompts": {"query": 7}}, "model_corrupt", "gives the prompt 'query' as something other"),
        (
            {"prompts": {"query": "Q"}, "default_prompt_name": "absent"},
            "model_corrupt",
            "names the default prompt 'absent', but has no prompt of that name",
        ),
        ({"prompts": None, "default_prompt_name": 3}, "model_corrupt", "its prompts: none"),
        ({"model_type": "CrossEncoder"}, "model_unsupported", "is a CrossEncoder"),
        ({"model_type": "SparseEncoder"}, "model_unsupported", "is a SparseEncoder"),
    ],
)
def test_files_that_sentence_transformers_would_refuse(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    config: dict[str, Any],
    code: str,
    reason: str,
) -> None:
    made = folder(tmp_path, **config)
    with pytest.raises(QlaunchError, match=reason) as caught:
        inspect(made)
    assert (caught.value.code, caught.value.exit_code) == (code, ExitCode.USAGE)
    assert "config_sentence_transformers.json" in caught.value.message
    assert main(["model", "inspect", str(made)]) == ExitCode.USAGE
    assert reason in capsys.readouterr().err


def test_model_inspect_says_that_the_server_adds_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = folder(tmp_path, prompts={"query": "Q:\n", "STS": "S"}, default_prompt_name="STS")
    assert main(["model", "inspect", str(made), "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    shown = dict(line.split(maxsplit=1) for line in lines)
    assert shown["query_prompt"] == r'"Q:\n"'  # on one line
    assert (shown["architectures"], shown["sliding_window"]) == ("Qwen3ForCausalLM", "-")
    said = lines[-1]
    assert r'queries with "Q:\n"' in said
    assert 'by default every text with "S" (STS)' in said
    assert "the server adds none" in said
    assert main(["model", "inspect", str(made), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert (data["query_prompt"], data["default_prompt"]) == ("Q:\n", "STS")
    assert data["prompts"] == {"query": "Q:\n", "STS": "S"}


# --- case 15, and what clients get ----------------------------------------------------------------


def test_case_15_a_folder_with_a_query_prompt_is_not_served_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """text-embeddings-inference#244: `make_qwen3` has a query prompt, and no model card."""
    own = inspect(make_qwen3(tmp_path / "model")).prompts
    assert own is not None
    engine = FakeEngine()
    with serving(engine):
        pretend(monkeypatch, engine.url, expectation={"card": None, "prompts": own})
        assert main(["client", "s"]) == 0
        snippet = capsys.readouterr().out
        run(snippet, monkeypatch)
        embed([QUERY], service="s", kind="query")
        embed([TEXT], service="s")
    assert "Queries and documents go in as they are." not in snippet
    asked = [call.inputs for call in engine.calls]
    wanted = f"Instruct: Given a question, retrieve passages that answer it\nQuery:{QUERY}"
    assert asked == [[TEXT, "Bread rises overnight."], [wanted], [wanted], [TEXT]]


BOTH = prompts(query=NASTY, passage=f"passage {NASTY}")
QUERY_SENT, TEXT_SENT = NASTY + QUERY, f"passage {NASTY}{TEXT}"


def test_the_python_program_carries_any_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    with serving(engine):
        made = target(endpoint=engine.url, instruction=None, prompts=BOTH)
        run(SNIPPETS["python"](made), monkeypatch)
    documents, query = (call.inputs for call in engine.calls)
    assert (documents[0], query) == (TEXT_SENT, [QUERY_SENT])


def test_the_curl_commands_carry_any_prompt() -> None:
    snippet = SNIPPETS["curl"](target(instruction=None, prompts=BOTH))
    words = shlex.split(snippet, comments=True)
    bodies = [json.loads(words[at + 1]) for at, word in enumerate(words) if word == "-d"]
    assert [body["input"] for body in bodies] == [[TEXT_SENT], [QUERY_SENT]]


class LangChain:
    """As langchain-openai is built: a query is asked for as a document."""

    sent: list[str]

    def __init__(self, **_given: Any) -> None:
        return

    def embed_documents(self, texts: list[str], chunk_size: int | None = None) -> list[list[float]]:
        del chunk_size
        self.sent.extend(texts)
        return [[0.0]] * len(texts)

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]

    async def aembed_documents(
        self, texts: list[str], chunk_size: int | None = None
    ) -> list[list[float]]:
        return LangChain.embed_documents(self, texts, chunk_size)

    async def aembed_query(self, text: str) -> list[float]:
        return (await self.aembed_documents([text]))[0]


@pytest.mark.parametrize(
    ("own", "document", "query"),
    [(BOTH, TEXT_SENT, QUERY_SENT), (prompts(query=NASTY), TEXT, QUERY_SENT)],
)
def test_the_langchain_program_puts_one_prompt_before_a_text(
    own: Prompts, document: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    snippet = SNIPPETS["langchain"](target(instruction=None, prompts=own))
    snippet += f"import asyncio\nasyncio.run(embeddings.aembed_documents([{TEXT!r}]))\n"
    snippet += f"asyncio.run(embeddings.aembed_query({QUERY!r}))\n"
    seen: list[str] = []

    class Library(LangChain):
        sent = seen

    made = module("langchain_openai", OpenAIEmbeddings=Library)
    run(snippet, monkeypatch, langchain_openai=made)
    assert [t for t in seen if "Bread" not in t] == [document, query, document, query]


class LlamaIndex:
    """As llama-index's OpenAI embeddings are built."""

    sent: list[str]

    def __init__(self, **_given: Any) -> None:
        type(self).sent = []

    def _get_text_embedding(self, text: str) -> list[float]:
        self.sent.append(text)
        return [0.0]

    _get_query_embedding = _get_text_embedding

    async def _aget_text_embedding(self, text: str) -> list[float]:
        self.sent.append(text)
        return [0.0]

    _aget_query_embedding = _aget_text_embedding

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self.sent.extend(texts)
        return [[0.0]] * len(texts)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        self.sent.extend(texts)
        return [[0.0]] * len(texts)

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        return self._get_text_embeddings(texts)

    def get_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)


def test_the_llamaindex_program_puts_a_prompt_before_every_kind_of_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[Any] = []

    class Library(LlamaIndex):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            seen.append(self)

    run(
        SNIPPETS["llamaindex"](target(instruction=None, prompts=BOTH)),
        monkeypatch,
        llama_index=module("llama_index"),
        llama_index__embeddings=module("llama_index.embeddings"),
        llama_index__embeddings__openai_like=module("openai_like", OpenAILikeEmbedding=Library),
    )
    (made,) = seen
    made._get_text_embedding(TEXT)
    asyncio.run(made._aget_text_embedding(TEXT))
    asyncio.run(made._aget_text_embeddings([TEXT]))
    asyncio.run(made._aget_query_embedding(QUERY))
    assert made.sent == [TEXT_SENT, QUERY_SENT, TEXT_SENT, TEXT_SENT, TEXT_SENT, QUERY_SENT]


@pytest.mark.parametrize("language", sorted(SNIPPETS))
@pytest.mark.parametrize("default", [None, "STS"])
def test_a_default_prompt_is_named_where_one_is(language: str, default: str | None) -> None:
    own = prompts(default, STS="S: ")
    snippet = SNIPPETS[language](target(instruction=None, prompts=own))
    assert ("S: when does" in snippet or 'QUERY_PROMPT = "S: "' in snippet) is bool(default)
    if language != "curl":
        assert ("default prompt" in snippet) is bool(default)
        assert 'PROMPTS = {"STS": "S: "}' in snippet


@pytest.mark.parametrize(
    ("similarity", "normalize", "score"),
    [
        (None, True, 11.0),
        ("cosine", True, 11.0),
        ("cosine", False, 11 / (5**0.5 * 25**0.5)),
        (None, False, 11 / (5**0.5 * 25**0.5)),
        ("dot", False, 11.0),
        ("euclidean", False, -(8**0.5)),
        ("manhattan", False, -4.0),
    ],
)
def test_the_program_compares_vectors_as_the_model_means_it(
    similarity: Any, normalize: bool, score: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Prompts(similarity=similarity)
    snippet = SNIPPETS["python"](target(instruction=None, prompts=own, normalize=normalize))
    line = next(line for line in snippet.splitlines() if line.startswith("scores = "))
    imports = "\n".join(line for line in snippet.splitlines() if line.startswith("import "))
    names: dict[str, Any] = {"query": [1.0, 2.0], "documents": [[3.0, 4.0]]}
    exec(f"{imports}\n{line}", names)
    assert names["scores"] == [pytest.approx(score)]


# --- the folder's prompt and the card's instruction -----------------------------------------------


@pytest.mark.parametrize(
    ("wording", "task", "sent"),
    [
        (Wording(), None, "x"),
        (Wording(), "t", "x"),
        (Wording(TEMPLATE), None, f"Instruct: {DEFAULT_TASK}\nQuery:x"),
        (Wording(TEMPLATE), "t", "Instruct: t\nQuery:x"),
        (Wording(None, "{query}"), "t", "{query}x"),
        (Wording(TEMPLATE, "Other: "), None, "Other: x"),
        (Wording(TEMPLATE, "Other: "), "t", "Instruct: t\nQuery:x"),
        (Wording(TEMPLATE, f"Instruct: {DEFAULT_TASK}\nQuery:"), "t", "Instruct: t\nQuery:x"),
    ],
)
def test_the_folder_counts_where_card_and_folder_differ(
    wording: Wording, task: str | None, sent: str
) -> None:
    assert wording.query("x", task) == sent


def test_both_are_told_where_they_differ() -> None:
    own = prompts(query="Other: ")
    snippet = SNIPPETS["python"](target(instruction=TEMPLATE, prompts=own))
    assert 'QUERY_PROMPT = "Other: "' in snippet
    assert "The model card has another instruction" in snippet
    same = prompts(query=f"Instruct: {DEFAULT_TASK}\nQuery:")
    snippet = SNIPPETS["python"](target(instruction=TEMPLATE, prompts=same))
    assert "TASK = " in snippet
    assert "another instruction" not in snippet


# --- embed() and verify ---------------------------------------------------------------------------


def test_embed_puts_the_prompt_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    own = prompts("STS", query="Q: ", document="D: ", STS="S: ")
    engine = FakeEngine()
    with serving(engine):
        pretend(monkeypatch, engine.url, expectation={"card": None, "prompts": own})
        embed(["x"], service="s")
        embed(["x"], service="s", kind="query")
        embed(["x"], service="s", kind="document")
        embed(["x"], service="s", prompt="STS")
        with pytest.raises(QlaunchError, match="no prompt named 'absent'") as caught:
            embed(["x"], service="s", prompt="absent")
    assert [call.inputs[0] for call in engine.calls] == ["S: x", "Q: x", "D: x", "S: x"]
    assert caught.value.exit_code == ExitCode.USAGE
    assert "query, document, STS" in str(caught.value.fix)


def test_verify_asks_with_the_folders_prompts() -> None:
    from launcher.service.supervisor.smoke_process import verify_request

    own = prompts(query="Q: ", passage="P: ")
    made = verify_request(plan(expectation={"card": None, "prompts": own}), "http://127.0.0.1:9/v1")
    assert {each.text[:3] for each in suite.instructed(made)} == {"Q: "}
    found = quality.load_set()
    asked = {each.name: each.text for each in quality.texts_of(found, made)}
    assert asked[found.queries[0].id] == f"Q: {found.queries[0].text}"
    assert asked[found.documents[0].id] == f"P: {found.documents[0].text}"
