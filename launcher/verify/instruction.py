"""The instruction that some models expect before a query: the client's to add, not the engine's."""

from __future__ import annotations

import re

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
