"""The HTTP interface: OpenAI's for embeddings, and what load balancers and Prometheus ask for."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from launcher.gateway import sending
from launcher.gateway.access import Keys, OneKey, host_allowed
from launcher.gateway.answer import render
from launcher.gateway.bypass import HEADER as CACHE_CONTROL
from launcher.gateway.bypass import goes_past
from launcher.gateway.compressed import inflated
from launcher.gateway.connections import answering
from launcher.gateway.ending import UnderWay
from launcher.gateway.metrics import Metrics
from launcher.gateway.openapi import Served, document
from launcher.gateway.origins import origin_rules
from launcher.gateway.pool import Group
from launcher.gateway.problems import RequestError, too_large
from launcher.gateway.rates import Allowance, Client, Rates
from launcher.gateway.request import EmbeddingCall, Priority, read_call
from launcher.gateway.resolver import Outcome, Resolver
from launcher.gateway.store import Store
from launcher.gateway.tracing import MODEL, Tracing

if TYPE_CHECKING:
    from aiohttp import web

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_LOG: Final = logging.getLogger("qlaunch.gateway")
_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_LINE: Final = "request %s model %s status %d inputs %d hits %d %.2f ms"
_REQUEST_ID: Final = ContextVar("request_id", default="")
_CLIENT: Final[ContextVar[Client]] = ContextVar("client")
_PRIORITY_HEADER: Final = "X-Priority"
_INFLATED: Final = ContextVar("inflated", default=0)
"""Bytes of the body beyond those that came."""
_NOTHING: Final = (
    "there is nothing at this path: embeddings are at /v1/embeddings, a base URL ends with /v1"
)
_UNSERVED: Final = {
    404: ("unknown_path", _NOTHING),
    405: ("method_not_allowed", "{} takes {} only"),
}
"""Code and sentence of what is no route, as the guard has them."""
_OPEN: Final = frozenset({"/health", "/ready"})
"""Asked by load balancers, which have no key; they tell nothing."""


_HEADER_BYTES: Final = 64 << 10
"""Of a request's path, and of each header: engines read such, as identity providers make them."""
_NUMBER_BYTES: Final[Mapping[str, int]] = {"float": 30, "base64": 6}
"""Of a number of a vector in an answer, measured in this process while many are sent at once."""
_DIMENSIONS: Final = 1024
"""Of a vector where nobody knows."""


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What a request may be."""

    most_inputs: int = 2048
    most_bytes: int = 8 << 20
    """Of a body."""
    most_open: int = 1024
    """Requests at once; beyond, they are refused with 429."""
    most_open_bytes: int = 256 << 20
    """Of the bodies of requests at once; beyond, they are refused with 429."""
    most_answer_bytes: int = 256 << 20
    """Of their answers, until they are sent; beyond, they are refused with 429. One alone always
    is answered."""
    allowance: Allowance = Allowance()
    """Of each API key that has no bound of its own; without keys, of all clients together."""
    aliases: Mapping[str, str] = {}
    """Further names of models, for models."""
    body_s: float = 30.0
    """For a body to arrive."""
    header_s: float = 20.0
    """For a header to arrive, from its first byte."""
    take_s: float = 60.0
    """For a client to take a part of its answer, which others have no room for meanwhile."""
    idle_s: float = 75.0
    """A connection without a request is kept for; longer than by proxies before it, which are the
    ones to end it (60 s is usual)."""
    host_names: frozenset[str] | None = None
    """Further names that `Host` may have; None: it is not looked at (not on loopback)."""
    origins: frozenset[str] | None = None
    """Whose pages may ask, `*` for all; None: it is not looked at."""
    origins_named_by: str = "cors_origins in its profile"
    log_requests: bool = False


class Gateway:
    """Handlers of one gateway, and what they share."""

    def __init__(
        self,
        groups: dict[str, Group],
        resolver: Resolver,
        store: Store | None,
        keys: Keys | OneKey | None,
        settings: ServerSettings,
        tracing: Tracing | None = None,
    ) -> None:
        """`groups` by every name and alias; it may grow while the gateway runs."""
        self.groups = groups
        self.store = store
        self.metrics = Metrics()
        self.metrics.watch(store, groups)
        self.draining = False
        self.under_way = UnderWay()
        self.unlisted: set[tuple[str, ...]] = set()
        """Servers, by their URLs, whose models' names are not known yet."""
        self._open = 0
        self._open_bytes = 0
        self._answer_bytes = 0
        self._rates = Rates(settings.allowance)
        self._resolver = resolver
        self._keys = keys
        self._tracing = tracing
        self._settings = settings

    def application(self) -> web.Application:
        """All routes."""
        from aiohttp import web

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await answering(request, self._guard(request, handler))

        known = self._settings
        before = [] if self._tracing is None else [self._tracing.middleware()]
        rules = [*before, *origin_rules(known.origins, known.origins_named_by), guard]
        app = web.Application(
            client_max_size=known.most_bytes,
            middlewares=rules,
            handler_args={
                "auto_decompress": False,
                "keepalive_timeout": known.idle_s,
                "max_line_size": _HEADER_BYTES,
                "max_field_size": _HEADER_BYTES,
            },
        )
        app.router.add_post("/v1/embeddings", self._embeddings, expect_handler=_later)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/v1/models/{model:.+}", self._model)
        app.router.add_get("/health", self._health)
        app.router.add_get("/ready", self._ready)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/openapi.json", self._openapi)
        return app

    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Access, the request's id, and one form for every error."""
        from aiohttp import web

        unserved = request.match_info.http_exception
        given = request.headers.get("X-Request-Id", "")
        request_id = given if _ID.fullmatch(given) else secrets.token_hex(8)
        _REQUEST_ID.set(request_id)
        self._open += 1
        try:
            if unserved is not None:
                raise unserved
            _CLIENT.set(self._admit(request))
            response = await self.under_way.answered(handler(request))
        except RequestError as problem:
            self.metrics.refused.labels(problem.code).inc()
            response = _problem(problem)
        except web.HTTPException as refusal:
            allowed = refusal.headers.get("Allow", "").replace(",", ", ")
            code, text = _UNSERVED.get(
                refusal.status, ("not_served", f"{refusal.status} {refusal.reason}")
            )
            response = _problem(
                RequestError(refusal.status, code, text.format(request.path[:80], allowed))
            )
            if "Allow" in refusal.headers:
                response.headers["Allow"] = refusal.headers["Allow"]
        except Exception as error:  # noqa: BLE001 - the last resort: an answer
            # The type alone: a traceback may hold texts of users.
            _LOG.error("request %s: unexpected %s", request_id, type(error).__name__)
            response = _problem(RequestError(500, "unexpected", "the gateway failed unexpectedly"))
        finally:
            self._open -= 1
        response.headers["X-Request-Id"] = request_id
        return response

    def _admit(self, request: web.Request) -> Client:
        names = self._settings.host_names
        if names is not None and not host_allowed(request.headers.get("Host"), names):
            raise RequestError(403, "host", "Host names another machine than this one")
        if request.path in _OPEN:
            return Client()
        if self._open > self._settings.most_open:
            raise RequestError(429, "busy", "too many requests at once", retry_after=1)
        if self._keys is None:
            return Client()
        problem = self._keys.reload()
        if problem is not None:
            _LOG.warning("%s; the keys before stay", problem)
        client = self._keys.client(request.headers.get("Authorization"))
        if client is None:
            raise RequestError(401, "invalid_api_key", "the API key is missing or wrong")
        return client

    async def _embeddings(self, request: web.Request) -> web.Response:
        # Of a length that is not said, the longest is reserved.
        length = min(request.content_length or self._settings.most_bytes, self._settings.most_bytes)
        self._hold(length)
        try:
            return await self._answer(request)
        finally:
            self._open_bytes -= length + _INFLATED.get()

    def _hold(self, more: int) -> None:
        """Count bytes of a body.

        Raises:
            RequestError: 429: others have too many.
        """
        if self._open_bytes and self._open_bytes + more > self._settings.most_open_bytes:
            raise RequestError(429, "busy", "too many bytes of requests at once", retry_after=1)
        self._open_bytes += more

    async def _answer(self, request: web.Request) -> web.Response:
        begun = time.perf_counter()
        model = "unknown"
        outcome = None
        status = 500
        weight = 0
        try:
            call = read_call(await self._body(request), most_inputs=self._settings.most_inputs)
            _check_reader(request, call)
            group = self._group(call.model)
            model = group.name
            MODEL.set(model)
            weight = self._weigh(group, call)
            client = _CLIENT.get()
            priority = _priority(request, call, client)
            call = msgspec.structs.replace(call, model=call.model or model, priority=priority)
            self._rates.admit(client, len(call.inputs))
            past = goes_past(request.headers.getall(CACHE_CONTROL, ()))
            outcome = await self._resolver.resolve(group, call, _REQUEST_ID.get(), past=past)
            self._rates.charge(client, outcome.tokens)
            body = render(outcome.vectors, call, outcome.tokens)
            # It is sent after this returns.
            response = sending.answer(body, _counts(outcome), partial(self._sent, weight))
            weight = 0
            status = 200
        except RequestError as problem:
            status = problem.status
            raise
        else:
            return response
        finally:
            self._sent(weight)
            self._count(model, status, outcome, time.perf_counter() - begun)

    def _weigh(self, group: Group, call: EmbeddingCall) -> int:
        """Reserve the bytes of an answer, until it is sent.

        Raises:
            RequestError: 429: too many are on their way.
        """
        identity = group.identity()
        whole = None if identity is None else identity.dimensions
        numbers = len(call.inputs) * (call.dimensions or whole or _DIMENSIONS)
        weight = numbers * _NUMBER_BYTES[call.encoding]
        if self._answer_bytes and self._answer_bytes + weight > self._settings.most_answer_bytes:
            raise RequestError(429, "busy", "too many bytes of answers at once", retry_after=1)
        self._answer_bytes += weight
        return weight

    def _sent(self, weight: int) -> None:
        self._answer_bytes -= weight

    async def _body(self, request: web.Request) -> bytes:
        """The body, whole.

        Raises:
            RequestError: 400, 408, 413, 415, 417: it cannot be decompressed or will not come whole,
                is late, is too long, is not said to be JSON, waits for what is not known.
        """
        from aiohttp import web

        most = self._settings.most_bytes
        if (request.content_length or 0) > most:
            raise too_large(most)
        kind = request.headers.get("Content-Type", "").partition(";")[0]
        if kind.strip().lower() != "application/json":
            text = "the body must be JSON: send the header Content-Type: application/json"
            raise RequestError(415, "bad_content_type", text)
        try:
            async with asyncio.timeout(self._settings.body_s):
                if "Expect" in request.headers:
                    await _wanted(request)
                body = await request.read()
        except TimeoutError:
            text = f"the body did not arrive within {self._settings.body_s:g} s"
            raise RequestError(408, "body_too_slow", text) from None
        except web.HTTPRequestEntityTooLarge:
            raise too_large(most) from None
        except web.RequestPayloadError:
            text = "the body cannot be read: its length is not what it says"
            raise RequestError(400, "bad_body", text) from None
        except ConnectionError:
            # Nobody hears of it: whoever looks at the metrics sees that the gateway did not fail.
            raise RequestError(400, "client_gone", "the client closed the connection") from None
        encoding = request.headers.get("Content-Encoding")
        if encoding is None:
            return body
        whole = inflated(body, encoding, most)
        self._hold(len(whole))
        _INFLATED.set(len(whole))
        return whole

    def _count(self, model: str, status: int, outcome: Outcome | None, took: float) -> None:
        self.metrics.requests.labels(model, status).inc()
        inputs = 0
        if outcome is not None:
            inputs = len(outcome.vectors)
            kind = "miss" if not outcome.hits else "hit" if outcome.hits == inputs else "part"
            self.metrics.seconds.labels(model, kind).observe(took)
            self.metrics.batch.labels(model).observe(inputs)
            if outcome.cut:
                self.metrics.truncated.labels(model).inc(outcome.cut)
            counts = (("cache", outcome.hits), ("shared", outcome.shared), ("server", outcome.made))
            for source, count in counts:
                if count:
                    self.metrics.inputs.labels(model, source).inc(count)
        if self._settings.log_requests:
            hits = outcome.hits if outcome else 0
            _LOG.info(_LINE, _REQUEST_ID.get(), model, status, inputs, hits, took * 1000)

    def _group(self, name: str | None) -> Group:
        """The servers of a model; of the only one, where no name is given."""
        if name is None:
            group = self._only()
        else:
            group = self.groups.get(name) or self.groups.get(self._settings.aliases.get(name, ""))
        if group is None and (self.unlisted or not self.groups):
            text = "this model is not known yet: a server has not told its models"
            raise RequestError(503, "upstream_down", text, retry_after=2)
        if group is None:
            served = ", ".join(self._names())
            what = "`model` is missing" if name is None else "no such model"
            status, code = (400, "bad_model") if name is None else (404, "model_not_found")
            raise RequestError(status, code, f"{what}; there are: {served}", param="model")
        return group

    def _only(self) -> Group | None:
        groups = list(self.groups.values())
        return groups[0] if groups and all(one is groups[0] for one in groups) else None

    def _names(self) -> list[str]:
        """Of all models that are served now, other names too."""
        aliases = {alias for alias, name in self._settings.aliases.items() if name in self.groups}
        return sorted(self.groups.keys() | aliases)

    async def _models(self, _request: web.Request) -> web.Response:
        models = [_listed(name, self._group(name)) for name in self._names()]
        return _json(200, msgspec.json.encode({"object": "list", "data": models}))

    async def _model(self, request: web.Request) -> web.Response:
        name = request.match_info["model"]
        return _json(200, msgspec.json.encode(_listed(name, self._group(name))))

    async def _health(self, _request: web.Request) -> web.Response:
        return _json(200, b'{"status":"ok"}')

    async def _ready(self, _request: web.Request) -> web.Response:
        waiting = sorted(name for name, group in self.groups.items() if not group.ready())
        if self.draining or waiting or self.unlisted or not self.groups:
            return _json(
                503, b'{"status":"draining"}' if self.draining else b'{"status":"waiting"}'
            )
        return _json(200, b'{"status":"ready"}')

    async def _openapi(self, _request: web.Request) -> web.Response:
        groups = list(self.groups.values())
        checkpoints = [known for group in groups if (known := group.checkpoint()) is not None]
        dimensions = [
            identity.dimensions if (identity := group.identity()) else None for group in groups
        ]
        whole = [size for size in dimensions if size is not None]
        sizes = [found for group in groups if (found := group.sizes()) is not None]
        all_sized = len(sizes) == len(groups) > 0
        served = Served(
            names=tuple(self._names()),
            one=self._only() is not None,
            prompts=tuple(sorted({name for known in checkpoints for name in known.prompts})),
            checkpoints=bool(checkpoints),
            dimensions=max(whole) if len(whole) == len(groups) > 0 else None,
            sizes=tuple(sorted(frozenset().union(*sizes))) if all_sized else None,
            guarded=bool(groups) and all(group.guarded() for group in groups),
            most_inputs=self._settings.most_inputs,
            keys=self._keys is not None,
        )
        return _json(200, msgspec.json.encode(document(served)))

    async def _metrics(self, _request: web.Request) -> web.Response:
        from aiohttp import web

        kind = {"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        return web.Response(body=self.metrics.text(), headers=kind)


async def _later(_request: web.Request) -> None:
    """Say nothing to `Expect` yet: key and announced length are looked at first."""


async def _wanted(request: web.Request) -> None:
    """Tell a client that waits with its body to send it.

    Raises:
        RequestError: 417: it waits for something else.
    """
    from aiohttp import HttpVersion11

    if request.headers["Expect"].lower() != "100-continue":
        raise RequestError(417, "bad_expect", 'Expect must be "100-continue"')
    if request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0


def _priority(request: web.Request, call: EmbeddingCall, client: Client) -> Priority:
    """`bulk` where the key, the body or the header says so; the body counts before the header."""
    header = request.headers.get(_PRIORITY_HEADER)
    if header not in (None, "interactive", "bulk"):
        text = f'{_PRIORITY_HEADER} must be "interactive" or "bulk"'
        raise RequestError(400, "bad_priority", text, param="priority")
    asked = call.priority or header
    return "bulk" if "bulk" in (client.priority, asked) else "interactive"


def _check_reader(request: web.Request, call: EmbeddingCall) -> None:
    """Refuse what OpenAI's clients would take for float32: they ask for base64 unasked."""
    if call.output == "float32" or call.encoding != "base64":
        return
    if "X-Stainless-Lang" in request.headers:
        raise RequestError(
            400,
            "base64_is_float32",
            f"OpenAI's client reads base64 as float32, and these are {call.output}:"
            ' give encoding_format="float"',
            param="encoding_format",
        )


def _listed(name: str, group: Group) -> dict[str, str | int]:
    """A model under one of its names, and what a text may have, as engines tell it."""
    about: dict[str, str | int] = {
        "id": name,
        "object": "model",
        "created": 0,
        "owned_by": "qlaunch",
        "root": group.name,
    }
    known = group.checkpoint()
    return about if known is None else about | {"max_model_len": known.longest}


def _counts(outcome: Outcome) -> dict[str, str]:
    return {
        "X-Truncated-Inputs": str(outcome.cut),
        "X-Cache-Hits": str(outcome.hits),
        "X-Cache-Shared": str(outcome.shared),
        "X-Cache-Misses": str(len(outcome.vectors) - outcome.hits - outcome.shared),
    }


def _json(status: int, body: bytes, headers: dict[str, str] | None = None) -> web.Response:
    from aiohttp import web

    return web.Response(
        status=status, body=body, headers={"Content-Type": "application/json", **(headers or {})}
    )


def _problem(problem: RequestError) -> web.Response:
    return _json(problem.status, problem.body(), problem.headers)
