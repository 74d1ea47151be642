"""Answers written to JSON in one go.

FastAPI walks over what a handler returns in Python, number by number: 0.32 ms for a vector of 384
numbers, 0.79 ms for 1024, while the front does nothing else. orjson writes the same document in
0.016 and 0.04 ms. What SGLang answers is taken as it comes, but for `model`: SGLang says where the
checkpoint lies on this machine, and clients know the model by the name that it is served under.

A header says how many tokens each input had. `usage` has their sum alone, and a gateway that joins
inputs of several clients in one call tells each of them its own.
"""

import math
import multiprocessing

_TARGET = (
    "sglang.srt.entrypoints.openai.serving_embedding.OpenAIServingEmbedding"
    "._build_embedding_response"
)
TOKENS = "X-Qlaunch-Tokens"
ODD = "X-Qlaunch-Odd"
"""The first input whose vector holds NaN or infinity, which JSON has no numbers for."""
_MOST_TOLD = 64
"""Inputs: more are not joined, and a header has 8 KB at most."""


def register() -> None:
    """Hook the place where the front makes the answer to a call, in the front alone."""
    if multiprocessing.parent_process() is not None:
        return  # A spawned scheduler would import the whole front for it.
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    HookRegistry.register(_TARGET, _around, HookType.AROUND)


def _around(original, *args, **kwargs):
    response = written(named(original(*args, **kwargs), *args))
    told = tokens(*args, **kwargs)
    headers = getattr(response, "headers", None)
    if told and headers is not None:
        headers[TOKENS] = told
    number = odd(*args, **kwargs)
    if number is not None and headers is not None:
        headers[ODD] = str(number)
    return response


def named(response, serving=None, *_args):
    """The response with the name that its model is served under."""
    name = getattr(getattr(serving, "tokenizer_manager", None), "served_model_name", None)
    if isinstance(name, str) and isinstance(getattr(response, "model", None), str):
        response.model = name
    return response


def odd(_serving, made=(), *_args, **_kwargs):
    """The first input whose vector is not finite, or None; the guard answers for it."""
    for number, item in enumerate(made if isinstance(made, list) else ()):
        vector = item.get("embedding") if isinstance(item, dict) else None
        try:
            if vector is not None and not math.isfinite(sum(vector)):
                return number
        except TypeError:
            continue  # not a list of numbers: whatever else SGLang makes
    return None


def tokens(_serving, made=(), *_args, **_kwargs):
    """The tokens of each input as a header has them; "" where SGLang does not tell all of them."""
    if not isinstance(made, list) or not 0 < len(made) <= _MOST_TOLD:
        return ""
    try:
        counts = [item["meta_info"]["prompt_tokens"] for item in made]
    except (KeyError, TypeError):
        return ""
    return ",".join(map(str, counts)) if all(type(one) is int for one in counts) else ""


def written(response):
    """An HTTP response with the JSON of `response`; anything but a pydantic model as it is."""
    dump = getattr(response, "model_dump", None)
    if dump is None:
        return response
    import orjson
    from starlette.responses import Response

    content = orjson.dumps(dump(mode="json", by_alias=True))
    return Response(content, media_type="application/json")
