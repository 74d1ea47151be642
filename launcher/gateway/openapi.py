"""The description of the HTTP interface: OpenAPI 3.1, for the models that are served now.

Requests that it allows are answered, unless the server behind refuses them; others are refused.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from launcher import __version__
from launcher.gateway.identity import MOST_IDS
from launcher.gateway.problems import TYPES
from launcher.gateway.request import DROP, MOST_DIMENSIONS, OUTPUT_TYPES, TRUNCATIONS

Json = dict[str, Any]
PRIORITIES: Final = ("interactive", "bulk")


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What the description depends on."""

    names: tuple[str, ...]
    """Of all models, other names too."""
    one: bool
    """Whether there is one model: it need not be named."""
    prompts: tuple[str, ...]
    """Names of prompts that a model has."""
    checkpoints: bool
    """Whether of a model the checkpoint is known."""
    dimensions: int | None
    """The most that a model has; None: of one it is not known."""
    sizes: tuple[int, ...] | None
    """The only dimensions that may be asked for; None: any, up to the most."""
    guarded: bool
    """Whether fields that are not known are refused."""
    most_inputs: int
    keys: bool
    """Whether an API key is asked for."""


def document(served: Served) -> Json:
    """The whole description."""
    described: Json = {
        "openapi": "3.1.0",
        "info": {
            "title": "qlaunch gateway",
            "version": __version__,
            "description": "OpenAI's interface for embeddings, with a cache of vectors.",
        },
        "paths": {
            "/v1/embeddings": {"post": _embeddings()},
            "/v1/models": {"get": _page("models", "The models that are served.", _ref("Models"))},
            "/v1/models/{model}": {"get": _one_model()},
            "/health": {"get": _open("health", "Whether the gateway lives.", _STATUS)},
            "/ready": {"get": _ready()},
            "/metrics": {"get": _metrics()},
            "/openapi.json": {"get": _page("openapi", "This.", {"type": "object"})},
        },
        "components": {
            "schemas": {
                "EmbeddingRequest": _request(served),
                "EmbeddingAnswer": _ANSWER,
                "Model": _MODEL,
                "Models": _MODELS,
                "Error": _ERROR,
            },
        },
    }
    if served.keys:
        described["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        described["security"] = [{"key": []}]
    return described


def _request(served: Served) -> Json:
    ids = _array({"type": "integer", "minimum": 0, "maximum": MOST_IDS})
    many = {"maxItems": served.most_inputs}
    model: Json = {"type": ["string", "null"] if served.one else "string"}
    if served.names:
        model["enum"] = [*served.names, *((None,) if served.one else ())]
    cuts = [word for word, how in TRUNCATIONS.items() if served.checkpoints or how == "none"]
    most = served.dimensions or MOST_DIMENSIONS
    size: Json = {"type": ["integer", "null"], "minimum": 1, "maximum": most}
    if served.sizes is not None:
        size = {"enum": [*served.sizes, None]}
    more: Json = {"description": "Goes to the server, and into the cache's key."}
    if served.guarded:
        more = {"description": "Written out by clients that do not use it.", "type": "null"}
    drop: Json = {"description": "Changes nothing: LiteLLM's.", "type": ["boolean", "null"]}
    texts = [{"type": "string"}, _array({"type": "string"}) | many]
    named = {"properties": {"prompt_name": {"type": "string"}}, "required": ["prompt_name"]}
    return {
        "type": "object",
        "required": ["input"] if served.one else ["model", "input"],
        "properties": {
            "model": model,
            "input": {
                "description": "A text, texts, token ids of one input, or of several.",
                "anyOf": [*texts, ids, _array(ids) | many],
            },
            "encoding_format": {"enum": ["float", "base64", None]},
            "dimensions": size,
            "output_dtype": {"enum": [*OUTPUT_TYPES, None]},
            "truncate": {"enum": [*cuts, None]},
            "prompt_name": {"enum": [*served.prompts, None]},
            "priority": {"enum": [*PRIORITIES, None]},
            "user": {"description": "Goes to the server.", "type": ["string", "null"]},
            **({DROP: drop} if served.guarded else {}),
        },
        "additionalProperties": more,
        # A prompt cannot be put before token ids.
        "if": named,
        "then": {"properties": {"input": {"anyOf": texts}}},
    }


def _array(items: Json) -> Json:
    return {"type": "array", "items": items, "minItems": 1}


def _ref(name: str) -> Json:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(description: str, schema: Json, **more: Any) -> Json:
    return {"description": description, "content": {"application/json": {"schema": schema}}, **more}


def _header(description: str, schema: Json) -> Json:
    return {"description": description, "required": True, "schema": schema}


_BEARER: Final = _header("How a key is given.", {"const": "Bearer"})
_COUNT: Final[Json] = {"type": "integer", "minimum": 0}
_REQUEST_ID: Final = _header("The client's, or a new one.", {"type": "string"})
_TOO_MUCH: Final = "Too much at once, or more than the key may have."
_RETRY: Final = _header("Seconds until a request may be let in.", _COUNT)
_STATUS: Final[Json] = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"enum": ["ok", "ready", "waiting", "draining"]}},
    "additionalProperties": False,
}
_ERROR: Final[Json] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"enum": ["invalid_request_error", *TYPES.values(), "server_error"]},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_ITEM: Final[Json] = {
    "type": "object",
    "required": ["object", "index", "embedding"],
    "properties": {
        "object": {"const": "embedding"},
        "index": _COUNT,
        "embedding": {
            "description": "Numbers, or their little-endian bytes in base64.",
            "anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "string"}],
        },
        "scale": {"type": "number", "description": "Of int8: times this, they are float32."},
    },
    "additionalProperties": False,
}
_ANSWER: Final[Json] = {
    "type": "object",
    "required": ["object", "data", "model", "usage"],
    "properties": {
        "object": {"const": "list"},
        "data": {"type": "array", "items": _ITEM, "minItems": 1},
        "model": {"type": "string"},
        "usage": {
            "description": "What the server read for this request: 0 where all was in the cache.",
            "type": "object",
            "required": ["prompt_tokens", "total_tokens"],
            "properties": {"prompt_tokens": _COUNT, "total_tokens": _COUNT},
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}
_MODEL: Final[Json] = {
    "type": "object",
    "required": ["id", "object", "created", "owned_by", "root"],
    "properties": {
        "id": {"type": "string"},
        "object": {"const": "model"},
        "created": _COUNT,
        "owned_by": {"type": "string"},
        "root": {"description": "The model's first name.", "type": "string"},
        "max_model_len": {"description": "Most tokens of a text.", "type": "integer"},
    },
    "additionalProperties": False,
}
_MODELS: Final[Json] = {
    "type": "object",
    "required": ["object", "data"],
    "properties": {
        "object": {"const": "list"},
        "data": {
            "type": "array",
            "items": {"$ref": "#/components/schemas/Model"},
        },
    },
    "additionalProperties": False,
}


def _problem(description: str, **headers: Json) -> Json:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return _json(description, _ref("Error"), headers={"X-Request-Id": _REQUEST_ID} | more)


def _passed_on(description: str, **headers: Json) -> Json:
    """A refusal that may be the server's own, in a form of its own."""
    own = {"description": "As the server behind writes it.", "type": "object"}
    problem = _problem(description, **headers)
    problem["content"]["application/json"]["schema"] = {"anyOf": [_ref("Error"), own]}
    return problem


def _refusals() -> Json:
    return {
        "401": _problem("The API key is missing or wrong.", WWW_Authenticate=_BEARER),
        "403": _problem("`Host` names another machine."),
        "429": _problem(_TOO_MUCH, Retry_After=_RETRY),
        "500": _problem("The gateway failed unexpectedly."),
    }


def _embeddings() -> Json:
    counts = {
        "X-Cache-Hits": "Inputs that were in the cache.",
        "X-Cache-Shared": "Inputs that another request was already having made.",
        "X-Cache-Misses": "Inputs that the server made.",
        "X-Truncated-Inputs": "Inputs that were too long and were cut.",
    }
    headers = {name: _header(text, _COUNT) for name, text in counts.items()}
    return {
        "operationId": "embeddings",
        "summary": "The vectors of texts or token ids.",
        "parameters": [
            _parameter("X-Priority", {"enum": list(PRIORITIES)}),
            _parameter("X-Request-Id", {"type": "string"}),
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _ref("EmbeddingRequest")}},
        },
        "responses": {
            "200": _json(
                "One vector for each input, in order.",
                _ref("EmbeddingAnswer"),
                headers={"X-Request-Id": _REQUEST_ID} | headers,
            ),
            **_refusals(),
            "400": _passed_on("It is not such a request, or an input is refused."),
            "404": _passed_on("There is no such model."),
            "408": _passed_on("The body did not arrive in time."),
            "413": _passed_on("The body is too large."),
            "415": _passed_on("The body is not said to be JSON."),
            "429": _passed_on(_TOO_MUCH, Retry_After=_RETRY),
            "500": _passed_on("Failed unexpectedly."),
            "502": _passed_on("The server answered wrongly."),
            "503": _passed_on("No server of this model is running."),
            "504": _passed_on("The server did not answer in time."),
            "default": _passed_on("What else the server refused with."),
        },
    }


def _parameter(name: str, schema: Json) -> Json:
    return {"name": name, "in": "header", "required": False, "schema": schema}


def _page(name: str, summary: str, schema: Json) -> Json:
    done = _json(summary, schema, headers={"X-Request-Id": _REQUEST_ID})
    return {"operationId": name, "summary": summary, "responses": {"200": done, **_refusals()}}


def _one_model() -> Json:
    page = _page("model", "Whether a model is served.", _ref("Model"))
    page["responses"] |= {
        "404": _problem("There is no such model."),
        "503": _problem("No server has been reached yet.", Retry_After=_RETRY),
    }
    named = {"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}
    return page | {"parameters": [named]}


def _open(name: str, summary: str, schema: Json) -> Json:
    """A page that asks for no key."""
    page = _page(name, summary, schema)
    del page["responses"]["401"], page["responses"]["429"]
    return page | {"security": []}


def _ready() -> Json:
    page = _open("ready", "Whether every model has a server.", _STATUS)
    page["responses"]["503"] = _json("Not yet, or no longer.", _STATUS)
    return page


def _metrics() -> Json:
    page = _page("metrics", "Counts and times, in Prometheus' form.", {})
    page["responses"]["200"]["content"] = {"text/plain": {"schema": {"type": "string"}}}
    return page
