"""Ready programs for clients of a service, in the forms people use. Pure.

What they get right, and hand-written ones often do not: queries carry the model card's instruction
and documents do not; LangChain must not cut texts into another model's tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import Template
from typing import Final

from launcher.verify.instruction import DEFAULT_TASK, instruct

KEY_VARIABLE: Final = "EMBEDDINGS_API_KEY"
"""Environment variable the snippets read the key from: a key does not belong in a program."""


@dataclass(frozen=True)
class Target:
    """What a client has to know."""

    endpoint: str
    """`http://host:port/v1`."""
    model: str
    dimensions: int
    instruction: str | None
    """Template for queries, with `{task}` and `{query}`; None where they go in as they are."""
    keyed: bool
    """Whether the service wants an API key."""


_PLAIN: Final = "# Queries and documents go in as they are.\n"
_INSTRUCT: Final = Template(
    """\
TASK = $task
INSTRUCTION = $template  # for queries only: documents go in as they are


def instruct(query: str) -> str:
    return INSTRUCTION.replace("{task}", TASK).replace("{query}", query)
"""
)

_PYTHON: Final = Template(
    """\
# pip install openai
${imports}from openai import OpenAI

client = OpenAI(base_url=$endpoint, api_key=$key)
$instruction

def embed(texts: list[str]) -> list[list[float]]:
    answer = client.embeddings.create(model=$model, input=texts)
    return [item.embedding for item in answer.data]  # $dimensions numbers each


documents = embed(["The ferry leaves at seven.", "Bread rises overnight."])
query = embed([$query])[0]
scores = [sum(a * b for a, b in zip(query, document)) for document in documents]
print(scores)
"""
)

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

_CURL: Final = Template(
    """\
# A document, as it is:
curl -s $endpoint/embeddings \\
  -H 'Content-Type: application/json' \\
${header}  -d $document

# A query$how:
curl -s $endpoint/embeddings \\
  -H 'Content-Type: application/json' \\
${header}  -d $query
"""
)


def python(target: Target) -> str:
    """The `openai` client."""
    question = '"when does the ferry leave"'
    query = question if target.instruction is None else f"instruct({question})"
    return _PYTHON.substitute(_common(target), instruction=_instruction(target), query=query)


def langchain(target: Target) -> str:
    """LangChain's OpenAI embeddings."""
    return _with_class(_LANGCHAIN, target, _LANGCHAIN_CLASS, "OpenAIEmbeddings")


def llamaindex(target: Target) -> str:
    """LlamaIndex's embeddings for servers that speak OpenAI's API."""
    return _with_class(_LLAMAINDEX, target, _LLAMAINDEX_CLASS, "OpenAILikeEmbedding")


def curl(target: Target) -> str:
    """Two calls for a shell."""
    asked = "when does the ferry leave"
    header = f'  -H "Authorization: Bearer ${KEY_VARIABLE}" \\\n' if target.keyed else ""
    return _CURL.substitute(
        endpoint=target.endpoint,
        header=header,
        document=_body(target, "The ferry leaves at seven."),
        how=", as it is" if target.instruction is None else ", with the model's instruction",
        query=_body(target, instruct(target.instruction, asked)),
    )


SNIPPETS: Final[Mapping[str, Callable[[Target], str]]] = {
    "python": python,
    "curl": curl,
    "langchain": langchain,
    "llamaindex": llamaindex,
}
"""By the word `--language` takes."""


def _with_class(form: Template, target: Target, own: str, theirs: str) -> str:
    """`form` with a class of its own where queries need an instruction, else with the library's."""
    if target.instruction is None:
        return form.substitute(_common(target), definition=_PLAIN, name=theirs)
    ours = own.partition("class ")[2].partition("(")[0]
    return form.substitute(_common(target), definition=_instruction(target) + own, name=ours)


def _common(target: Target) -> dict[str, str]:
    return {
        "imports": "import os\n\n" if target.keyed else "",
        "endpoint": json.dumps(target.endpoint),
        "key": f'os.environ["{KEY_VARIABLE}"]' if target.keyed else '"none"',
        "model": json.dumps(target.model, ensure_ascii=False),
        "dimensions": str(target.dimensions),
    }


def _instruction(target: Target) -> str:
    if target.instruction is None:
        return _PLAIN
    template = json.dumps(target.instruction, ensure_ascii=False)
    return _INSTRUCT.substitute(task=json.dumps(DEFAULT_TASK), template=template)


def _body(target: Target, text: str) -> str:
    """A request body in single quotes for a shell."""
    document = json.dumps({"model": target.model, "input": [text]}, ensure_ascii=False)
    return "'" + document.replace("'", "'\\''") + "'"
