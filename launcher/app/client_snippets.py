"""Ready programs for clients of a service, in the forms people use. Pure.

What they get right, and hand-written ones often do not: queries and documents carry the prompts
that the model's own folder or its card names; LangChain must not cut texts into another model's
tokens; vectors are compared as the model means it. Prompts are any text: they stand in literals.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import Template
from typing import Final

from launcher.model.checkpoint import Prompts
from launcher.verify.instruction import DEFAULT_TASK, Wording

KEY_VARIABLE: Final = "EMBEDDINGS_API_KEY"
"""Environment variable the snippets read the key from: a key does not belong in a program."""


@dataclass(frozen=True)
class SnippetTarget:
    """What a client has to know."""

    endpoint: str
    """`http://host:port/v1`."""
    model: str
    dimensions: int
    instruction: str | None
    """The model card's template for queries, with `{task}` and `{query}`; None: it has none."""
    keyed: bool
    """Whether the service wants an API key."""
    prompts: Prompts | None = None
    """What the checkpoint's own files say of prompts."""
    normalize: bool = True
    """Whether the vectors have length 1."""

    @property
    def wording(self) -> Wording:
        """What goes before queries and documents."""
        if self.prompts is None:
            return Wording(self.instruction)
        return Wording(self.instruction, *self.prompts.pair)


_PLAIN: Final = "# Queries and documents go in as they are.\n"
_KNOWN: Final = ("query", "document", "passage", "corpus")
_FOLDER: Final = (
    "# The server adds nothing: prompts of the model's own files go before the texts.\n"
)
_DIFFER: Final = (
    f"{_FOLDER}# The model card has another instruction for queries; the model's files count.\n"
)
_DEFAULTS: Final = """\
# The model's files name a default prompt, which sentence-transformers puts before every text whose
# caller names no prompt. The server does not: it is in the prompts here where no other is named.
"""
_OTHERS: Final = "# The model's prompts for other tasks, by name: put one before each text.\n"
_ONLY_QUERIES: Final = "  # for queries only: documents go in as they are"
_TEMPLATE: Final = """

def instruct(query: str) -> str:
    return INSTRUCTION.replace("{task}", TASK).replace("{query}", query)
"""
_PROMPT: Final = """

def instruct(query: str) -> str:
    return QUERY_PROMPT + query
"""
_DOCUMENT: Final = """

def as_document(text: str) -> str:
    return DOCUMENT_PROMPT + text
"""

_PYTHON: Final = Template(
    """\
# pip install openai
${imports}from openai import OpenAI

client = OpenAI(base_url=$endpoint, api_key=$key)
$instruction

def embed(texts: list[str]) -> list[list[float]]:
    answer = client.embeddings.create(model=$model, input=texts)
    return [item.embedding for item in answer.data]  # $dimensions numbers each


documents = embed([$documents])
query = embed([$query])[0]
scores = [$score for document in documents]$compared
print(scores)
"""
)
_COSINE: Final = "sum(a * b for a, b in zip(query, document))"
_SCORES: Final[Mapping[str | None, tuple[str, str]]] = {
    "dot": (_COSINE, ""),
    "euclidean": ("-math.dist(query, document)", "math"),
    "manhattan": ("-sum(abs(a - b) for a, b in zip(query, document))", ""),
}
"""Expression of two vectors' likeness, greater being more alike, and the module it needs."""
_LENGTHS: Final = f"{_COSINE} / math.hypot(*query) / math.hypot(*document)", "math"

_LANGCHAIN: Final = Template(
    """\
# pip install langchain-openai
${imports}from langchain_openai import OpenAIEmbeddings

$definition
embeddings = $name(
    base_url=$endpoint,
    api_key=$key,
    model=$model,
    # Else LangChain sends token ids of an OpenAI model, which stand for other words in this one:
    # the vectors would be wrong without an error.
    check_embedding_ctx_length=False,
    # Else it sends 1000 texts a call, which may be more than the service takes in one.
    chunk_size=32,
)
documents = embeddings.embed_documents(["The ferry leaves at seven.", "Bread rises overnight."])
query = embeddings.embed_query("when does the ferry leave")
print(len(query))  # $dimensions
"""
)
_LANGCHAIN_CLASS: Final = """

class Embeddings(OpenAIEmbeddings):
    def embed_query(self, text: str, **kwargs) -> list[float]:
        return super().embed_query(instruct(text), **kwargs)

    async def aembed_query(self, text: str, **kwargs) -> list[float]:
        return await super().aembed_query(instruct(text), **kwargs)

"""
_LANGCHAIN_BOTH: Final = """

class Embeddings(OpenAIEmbeddings):
    def embed_documents(self, texts: list[str], *args, **kwargs) -> list[list[float]]:
        return super().embed_documents([as_document(text) for text in texts], *args, **kwargs)

    async def aembed_documents(self, texts: list[str], *args, **kwargs) -> list[list[float]]:
        texts = [as_document(text) for text in texts]
        return await super().aembed_documents(texts, *args, **kwargs)

    # The library's own would ask for a query as for a document, through the methods above.
    def embed_query(self, text: str, **kwargs) -> list[float]:
        return super().embed_documents([instruct(text)], **kwargs)[0]

    async def aembed_query(self, text: str, **kwargs) -> list[float]:
        return (await super().aembed_documents([instruct(text)], **kwargs))[0]

"""

_LLAMAINDEX: Final = Template(
    """\
# pip install llama-index-embeddings-openai-like
${imports}from llama_index.embeddings.openai_like import OpenAILikeEmbedding

$definition
embedding = $name(
    model_name=$model,
    api_base=$endpoint,
    api_key=$key,
    embed_batch_size=32,
)
documents = embedding.get_text_embedding_batch(["The ferry leaves at seven."])
query = embedding.get_query_embedding("when does the ferry leave")
print(len(query))  # $dimensions
"""
)
_LLAMAINDEX_CLASS: Final = """

class Embedding(OpenAILikeEmbedding):
    def _get_query_embedding(self, query: str) -> list[float]:
        return super()._get_query_embedding(instruct(query))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await super()._aget_query_embedding(instruct(query))

"""
_LLAMAINDEX_BOTH: Final = """
    def _get_text_embedding(self, text: str) -> list[float]:
        return super()._get_text_embedding(as_document(text))

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await super()._aget_text_embedding(as_document(text))

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return super()._get_text_embeddings([as_document(text) for text in texts])

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await super()._aget_text_embeddings([as_document(text) for text in texts])

"""

_CURL: Final = Template(
    """\
# A document$doc_how:
curl -s $endpoint/embeddings \\
  -H 'Content-Type: application/json' \\
${header}  -d $document

# A query$how:
curl -s $endpoint/embeddings \\
  -H 'Content-Type: application/json' \\
${header}  -d $query
"""
)


def python(target: SnippetTarget) -> str:
    """The `openai` client."""
    texts = ['"The ferry leaves at seven."', '"Bread rises overnight."']
    if target.wording.document_prompt:
        texts = [f"as_document({text})" for text in texts]
    question = '"when does the ferry leave"'
    similarity = target.prompts.similarity if target.prompts else None
    score, module = _SCORES.get(similarity, (_COSINE, "") if target.normalize else _LENGTHS)
    return _PYTHON.substitute(
        _common(target, module),
        instruction=_definition(target),
        documents=", ".join(texts),
        query=question if target.wording.query("") == "" else f"instruct({question})",
        score=score,
        compared=f"  # {similarity}, as the model's files say" if similarity else "",
    )


def langchain(target: SnippetTarget) -> str:
    """LangChain's OpenAI embeddings."""
    own = _LANGCHAIN_BOTH if target.wording.document_prompt else _LANGCHAIN_CLASS
    return _with_class(_LANGCHAIN, target, own, "OpenAIEmbeddings")


def llamaindex(target: SnippetTarget) -> str:
    """LlamaIndex's embeddings for servers that speak OpenAI's API."""
    more = _LLAMAINDEX_BOTH if target.wording.document_prompt else ""
    return _with_class(_LLAMAINDEX, target, _LLAMAINDEX_CLASS + more, "OpenAILikeEmbedding")


def curl(target: SnippetTarget) -> str:
    """Two calls for a shell."""
    wording = target.wording
    query, document = "when does the ferry leave", "The ferry leaves at seven."
    header = f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n' if target.keyed else ""
    return _CURL.substitute(
        endpoint=target.endpoint,
        header=header,
        document=_body(target, wording.document(document)),
        doc_how=", with the model's prompt" if wording.document_prompt else ", as it is",
        how=_how(wording),
        query=_body(target, wording.query(query)),
    )


SNIPPETS: Final[Mapping[str, Callable[[SnippetTarget], str]]] = {
    "python": python,
    "curl": curl,
    "langchain": langchain,
    "llamaindex": llamaindex,
}
"""By the word `--language` takes."""


def _with_class(form: Template, target: SnippetTarget, own: str, theirs: str) -> str:
    """`form` with a class of its own where texts need a prompt, else with the library's."""
    definition = _definition(target)
    if target.wording.as_they_are:
        return form.substitute(_common(target), definition=definition, name=theirs)
    ours = own.partition("class ")[2].partition("(")[0]
    return form.substitute(_common(target), definition=definition + own, name=ours)


def _common(target: SnippetTarget, module: str = "") -> dict[str, str]:
    modules = [name for name in (module, "os" if target.keyed else "") if name]
    return {
        "imports": "".join(f"import {name}\n" for name in modules) + ("\n" if modules else ""),
        "endpoint": json.dumps(target.endpoint),
        "key": f'os.environ["{KEY_VARIABLE}"]' if target.keyed else '"none"',
        "model": json.dumps(target.model, ensure_ascii=False),
        "dimensions": str(target.dimensions),
    }


def _definition(target: SnippetTarget) -> str:
    """What stands before a program's calls: the prompts, and functions that put them in place."""
    wording, own = target.wording, target.prompts
    others = {} if own is None else {n: p for n, p in own.named.items() if p and n not in _KNOWN}
    told = _DEFAULTS if own is not None and own.named.get(own.default or "") else ""
    told += f"{_OTHERS}PROMPTS = {_literal(others)}\n" if others else ""
    if wording.as_they_are:
        return told + _PLAIN
    only = "" if wording.document_prompt else _ONLY_QUERIES
    if wording.by_template:
        lines = f"TASK = {_literal(DEFAULT_TASK)}\n"
        lines += f"INSTRUCTION = {_literal(wording.template)}{only}\n"
        function = _TEMPLATE
    else:
        lines = _DIFFER if wording.differ else _FOLDER
        lines += f"QUERY_PROMPT = {_literal(wording.query_prompt)}{only}\n"
        function = _PROMPT
    if wording.document_prompt:
        lines += f"DOCUMENT_PROMPT = {_literal(wording.document_prompt)}\n"
        function += _DOCUMENT
    return told + lines + function


def _literal(value: object) -> str:
    """A literal that JSON and Python read alike: text, or an object of texts."""
    return json.dumps(value, ensure_ascii=False)


def _how(wording: Wording) -> str:
    if not wording.query(""):
        return ", as it is"
    return ", with the model's instruction" if wording.by_template else ", with the model's prompt"


def _body(target: SnippetTarget, text: str) -> str:
    """A request body in single quotes for a shell."""
    document = json.dumps({"model": target.model, "input": [text]}, ensure_ascii=False)
    return "'" + document.replace("'", "'\\''") + "'"
