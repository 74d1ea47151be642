"""What goes before a text: a prompt or an instruction, the client's to add, never the engine's.

Two things may say so. The checkpoint's own `config_sentence_transformers.json` has prompts, literal
texts; the model card has an instruction for queries, a template that takes a task. The folder is
what sentence-transformers follows, so its prompt counts where the two differ; the card's template
counts where the folder says nothing, says the same, or a task is given.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from launcher.documents.smoke import VerifyRequest

DEFAULT_TASK = "Given a web search query, retrieve relevant passages that answer the query"
"""The task that Qwen3-Embedding's own examples give for search."""


def instruct(template: str | None, query: str, task: str | None = None) -> str:
    """`query` as a model with this template wants it; as it is where there is none.

    Args:
        template: the model card's, with `{task}` and `{query}`; documents take none.
        task: what the query is for, in a sentence; None is search (`DEFAULT_TASK`).
    """
    if template is None:
        return query
    # One pass: braces in a query or a task are text.
    parts = {"{task}": task or DEFAULT_TASK, "{query}": query}
    return re.sub(r"\{task\}|\{query\}", lambda found: parts[found[0]], template)


@dataclass(frozen=True)
class Wording:
    """How queries and documents are sent."""

    template: str | None = None
    """The model card's, with `{task}` and `{query}`."""
    query_prompt: str = ""
    """The checkpoint's own, literal; empty where it says nothing."""
    document_prompt: str = ""

    @property
    def differ(self) -> bool:
        """Whether card and folder both say something of queries, and not the same."""
        if self.template is None or not self.query_prompt:
            return False
        return instruct(self.template, "") != self.query_prompt

    @property
    def by_template(self) -> bool:
        """Whether the card's template is what queries take, no task being given."""
        return self.template is not None and not self.differ

    @property
    def as_they_are(self) -> bool:
        """Whether all texts go in as they are."""
        return self.template is None and not self.query_prompt and not self.document_prompt

    def query(self, text: str, task: str | None = None) -> str:
        """A query as it is to be sent; `task` counts only where the card has a template."""
        if self.template is not None and (task is not None or self.by_template):
            return instruct(self.template, text, task)
        return self.query_prompt + text

    def document(self, text: str) -> str:
        """A document as it is to be sent."""
        return self.document_prompt + text


def wording(request: VerifyRequest) -> Wording:
    """What the request's model wants before its texts."""
    template = request.card.instruction if request.card is not None else None
    return Wording(template, request.query_prompt, request.document_prompt)
