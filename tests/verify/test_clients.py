"""What clients get: ready programs, and `from launcher import embed`."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import launcher
from launcher import api, embed
from launcher.api import Service
from launcher.app.client_snippets import SNIPPETS, SnippetTarget
from launcher.cli.main import main
from launcher.errors import ExitCode, QlaunchError
from launcher.verify.instruction import DEFAULT_TASK
from tests.verify.fakes import WIDTH, Call, FakeEngine, serving, vector_of
from tests.verify.running import pretend

TEMPLATE = "Instruct: {task}\nQuery:{query}"
ASKED = f"Instruct: {DEFAULT_TASK}\nQuery:when does the ferry leave"
ENDPOINT = "http://127.0.0.1:9/v1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    return tmp_path


def target(**changes: Any) -> SnippetTarget:
    values: dict[str, Any] = {
        "endpoint": ENDPOINT,
        "model": "known",
        "dimensions": WIDTH,
        "instruction": TEMPLATE,
        "keyed": False,
    }
    return SnippetTarget(**{**values, **changes})


def module(name: str, **names: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    vars(made).update(names)
    return made


def run(snippet: str, monkeypatch: pytest.MonkeyPatch, **modules: types.ModuleType) -> None:
    for name, made in modules.items():
        monkeypatch.setitem(sys.modules, name.replace("__", "."), made)
    exec(compile(snippet, "snippet", "exec"), {"__name__": "snippet"})


# --- snippets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("instruction", [None, TEMPLATE])
def test_the_python_program_runs_and_asks_rightly(
    keyed: bool, instruction: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDINGS_API_KEY", "canary")
    engine = FakeEngine()
    with serving(engine):
        snippet = SNIPPETS["python"](
            target(endpoint=engine.url, instruction=instruction, keyed=keyed)
        )
        run(snippet, monkeypatch)
    documents, query = (call.inputs for call in engine.calls)
    assert len(documents) == 2
    assert not any("Instruct" in text for text in documents)
    assert query == [ASKED if instruction else "when does the ferry leave"]
    assert {call.key for call in engine.calls} == {f"Bearer {'canary' if keyed else 'none'}"}
    assert "canary" not in snippet


@pytest.mark.parametrize("instruction", [None, TEMPLATE])
def test_the_langchain_program_keeps_texts_as_texts(
    instruction: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class OpenAIEmbeddings:
        def __init__(self, **given: Any) -> None:
            seen["given"] = given

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            seen.setdefault("documents", texts)
            return [[0.0]] * len(texts)

        def embed_query(self, text: str) -> list[float]:
            seen["query"] = text
            return self.embed_documents([text])[0]

    made = module("langchain_openai", OpenAIEmbeddings=OpenAIEmbeddings)
    run(SNIPPETS["langchain"](target(instruction=instruction)), monkeypatch, langchain_openai=made)
    assert seen["given"]["check_embedding_ctx_length"] is False
    assert seen["given"]["chunk_size"] == 32  # by itself it sends 1000 texts a call
    assert (seen["given"]["base_url"], seen["given"]["model"]) == (ENDPOINT, "known")
    assert seen["query"] == (ASKED if instruction else "when does the ferry leave")
    assert not any("Instruct" in text for text in seen["documents"])


@pytest.mark.parametrize("instruction", [None, TEMPLATE])
def test_the_llamaindex_program_instructs_queries_only(
    instruction: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    class OpenAILikeEmbedding:
        def __init__(self, **given: Any) -> None:
            seen["given"] = given

        def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
            seen["documents"] = texts
            return [[0.0]] * len(texts)

        def get_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

        def _get_query_embedding(self, query: str) -> list[float]:
            seen["query"] = query
            return [0.0]

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_query_embedding(query)

    run(
        SNIPPETS["llamaindex"](target(instruction=instruction)),
        monkeypatch,
        llama_index=module("llama_index"),
        llama_index__embeddings=module("llama_index.embeddings"),
        llama_index__embeddings__openai_like=module(
            "openai_like", OpenAILikeEmbedding=OpenAILikeEmbedding
        ),
    )
    assert seen["given"]["model_name"] == "known"
    assert seen["query"] == (ASKED if instruction else "when does the ferry leave")
    assert not any("Instruct" in text for text in seen["documents"])


@pytest.mark.parametrize("model", ["known", 'it\'s "odd" $HOME `x`'])
def test_the_curl_commands_are_json_after_the_shell(model: str) -> None:
    snippet = SNIPPETS["curl"](target(model=model, keyed=True))
    commands = [part for part in snippet.split("\n\n") if part.strip()]
    assert len(commands) == 2
    bodies = []
    for command in commands:
        words = shlex.split(command, comments=True)
        assert words[:3] == ["curl", "-s", f"{ENDPOINT}/embeddings"]
        assert "Authorization: Bearer $EMBEDDINGS_API_KEY" in words
        bodies.append(json.loads(words[words.index("-d") + 1]))
    assert [body["model"] for body in bodies] == [model] * 2
    assert bodies[1]["input"] == [ASKED]
    assert "Authorization" not in SNIPPETS["curl"](target())


@pytest.mark.parametrize("language", sorted(SNIPPETS))
def test_qlaunch_client_prints_one(
    language: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch, ENDPOINT)
    assert main(["client", "s", "--language", language]) == 0
    plain = capsys.readouterr().out
    assert ENDPOINT in plain
    assert main(["client", "s", "-l", language, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["data"]
    assert data["snippet"].rstrip("\n") == plain.rstrip("\n")
    assert (data["model"], data["dimensions"]) == ("known", WIDTH)
    assert data["instruction"] == TEMPLATE
    assert data["api_key_variable"] is None


def test_qlaunch_client_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["client", "absent"]) == ExitCode.NOT_RUNNING
    assert "absent" in capsys.readouterr().err
    assert main(["client", "s", "--language", "cobol"]) == ExitCode.USAGE


# --- from launcher import embed -------------------------------------------------------------------


def service(url: str, **changes: Any) -> Service:
    values: dict[str, Any] = {
        "endpoint": url,
        "model": "known",
        "key": None,
        "dimensions": WIDTH,
        "instruction": TEMPLATE,
    }
    return Service(**{**values, **changes})


def test_embed_is_a_function_however_it_is_imported() -> None:
    program = (
        "import launcher, launcher.api\n"
        "from launcher import embed\n"
        "assert embed is launcher.embed is launcher.api.embed and callable(embed)\n"
    )
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)
    with pytest.raises(AttributeError, match="embeddings"):
        getattr(launcher, "embeddings")  # noqa: B009 - the name is absent on purpose


def test_importing_the_package_imports_no_more_than_before() -> None:
    program = "import sys, launcher; assert 'launcher.api' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=True)


def test_vectors_come_in_the_order_of_the_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "later")
    engine = FakeEngine(edit=lambda _call, data: data[::-1])
    texts = [f"text {number}" for number in range(150)]
    with serving(engine):
        pretend(monkeypatch, engine.url)
        found = embed(texts, service="s")
    assert isinstance(found, np.ndarray)
    assert found.shape == (150, WIDTH)
    assert found.dtype == np.dtype("float32")
    for text, vector in zip(texts, found, strict=True):
        assert vector == pytest.approx(vector_of(text), abs=1e-6)
    assert [len(call.inputs) for call in engine.calls] == [64, 64, 22]


def test_queries_are_instructed_and_documents_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = FakeEngine()
    with serving(engine):
        pretend(monkeypatch, engine.url)
        embed(["a {query}"], service="s")
        embed(["a {query}"], service="s", kind="query")
        embed(["a"], service="s", kind="query", task="Find {query}")
    assert [call.inputs for call in engine.calls] == [
        ["a {query}"],
        [f"Instruct: {DEFAULT_TASK}\nQuery:a {{query}}"],
        ["Instruct: Find {query}\nQuery:a"],
    ]


def test_no_texts_are_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, ENDPOINT)
    found = embed([], service="s")
    assert isinstance(found, np.ndarray)
    assert found.shape == (0, WIDTH)


def test_lists_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "find_spec", lambda _name: None)
    with serving(FakeEngine()) as engine:
        pretend(monkeypatch, engine.url)
        found = embed(["a"], service="s")
    assert isinstance(found, list)
    assert found[0] == pytest.approx(vector_of("a"), abs=1e-6)


def test_one_text_is_no_list_of_texts() -> None:
    with pytest.raises(TypeError, match="list of texts"):
        embed("hello", service="s")


@pytest.mark.parametrize(
    ("texts", "kind", "error", "says"),
    [
        (["a", 1], None, TypeError, r"texts\[1\] is of type int"),
        (["a", None], "query", TypeError, r"texts\[1\] is of type NoneType"),
        (["a\ud800"], None, ValueError, r"texts\[0\] is not valid Unicode.* at 1"),
        (["a"], "querry", ValueError, "kind is 'querry'"),
    ],
)
def test_what_no_service_can_embed_is_refused_before_one_is_looked_for(
    texts: list[Any], kind: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        embed(texts, service="absent", kind=kind)


def test_long_texts_go_in_calls_that_the_service_takes() -> None:
    texts = ["ä" * 30, "b" * 40, "c", "d" * 101, "e"]  # 60, 40, 1, 101 and 1 bytes
    with serving(FakeEngine()) as engine:
        found = api.ask(service(engine.url, call_bytes=100), texts)
    assert [call.inputs for call in engine.calls] == [texts[:2], texts[2:3], texts[3:4], texts[4:]]
    for text, vector in zip(texts, found, strict=True):
        assert vector == pytest.approx(vector_of(text), abs=1e-6)


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(400, ExitCode.USAGE), (413, ExitCode.USAGE), (401, ExitCode.UNEXPECTED)],
)
def test_a_text_that_is_refused_is_the_callers_to_change(status: int, exit_code: ExitCode) -> None:
    engine = FakeEngine(raw=lambda _c: (status, "text/plain", b"no"))
    with serving(engine), pytest.raises(QlaunchError, match=f"1 text: HTTP {status}: no") as caught:
        api.ask(service(engine.url), ["a"])
    assert caught.value.exit_code == exit_code
    assert ("change that text" in str(caught.value.fix)) is (exit_code == ExitCode.USAGE)


def test_a_service_that_is_absent_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(QlaunchError) as caught:
        embed(["a"], service="absent", start=False)
    assert caught.value.exit_code == ExitCode.NOT_RUNNING
    with pytest.raises(QlaunchError) as caught:
        embed(["a"], service="absent")  # and no profile either
    assert caught.value.exit_code == ExitCode.USAGE
    assert "absent" in caught.value.message


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (FakeEngine(raw=lambda _c: (500, "text/plain", b"boom")), "HTTP 500: boom"),
        (FakeEngine(edit=lambda _c, data: data[1:]), "one whole vector"),
        (FakeEngine(vector=lambda _c, _t: [1.0]), "one whole vector"),
    ],
)
def test_a_server_that_fails_is_quoted(engine: FakeEngine, reason: str) -> None:
    with serving(engine), pytest.raises(QlaunchError, match=reason) as caught:
        api.ask(service(engine.url), ["a", "b"])
    assert caught.value.code == "embed_failed"


def test_the_key_is_sent_and_not_told() -> None:
    def echo(call: Call) -> tuple[int, str, bytes]:
        return 500, "text/plain", str(call.key).encode()

    engine = FakeEngine(raw=echo)
    with serving(engine), pytest.raises(QlaunchError) as caught:
        api.ask(service(engine.url, key="canary-77"), ["a"])
    assert engine.calls[0].key == "Bearer canary-77"
    assert "canary-77" not in str(caught.value)


# --- the notebook ---------------------------------------------------------------------------------


def test_the_notebook_is_whole_and_holds_nothing_of_a_machine() -> None:
    """It is executed in tests/engine_real/test_notebook.py."""
    file = Path(__file__).parents[2] / "docs" / "examples" / "embeddings.ipynb"
    document = json.loads(file.read_text("utf-8"))
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    code = [cell for cell in document["cells"] if cell["cell_type"] == "code"]
    assert len(code) >= 4
    for cell in code:
        compile("".join(cell["source"]), "cell", "exec")
        (output,) = cell["outputs"]
        assert output["output_type"] == "stream"
        text = "".join(output["text"])
        assert text.strip()
        assert "/" not in text
        assert "127.0.0.1" not in text
    assert "Embedding dimension: 384" in "".join(code[1]["outputs"][0]["text"])
