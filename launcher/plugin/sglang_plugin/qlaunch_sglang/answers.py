"""Answers written to JSON in one go.

FastAPI walks over what a handler returns in Python, number by number: 0.32 ms for a vector of 384
numbers, 0.79 ms for 1024, while the front does nothing else. orjson writes the same document in
0.016 and 0.04 ms. What SGLang answers is not touched: its own response is taken as it comes.
"""

import multiprocessing

_TARGET = (
    "sglang.srt.entrypoints.openai.serving_embedding.OpenAIServingEmbedding"
    "._build_embedding_response"
)


def register() -> None:
    """Hook the place where the front makes the answer to a call, in the front alone."""
    if multiprocessing.parent_process() is not None:
        return  # A spawned scheduler would import the whole front for it.
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, *args, **kwargs):
    return written(original(*args, **kwargs))


def written(response):
    """An HTTP response with the JSON of `response`; anything but a pydantic model as it is."""
    dump = getattr(response, "model_dump", None)
    if dump is None:
        return response
    import orjson
    from starlette.responses import Response

    content = orjson.dumps(dump(mode="json", by_alias=True))
    return Response(content, media_type="application/json")
