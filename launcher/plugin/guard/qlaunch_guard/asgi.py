"""The guard as an ASGI layer: routes, then limits, then the engine's own application."""

import asyncio

from qlaunch_guard import body, direct, listing, routes
from qlaunch_guard.held import Held
from qlaunch_guard.memory import Memory
from qlaunch_guard.refusal import Refused, busy, no_key, no_model, of_engine

MARK = (b"x-qlaunch-guard", b"1")
"""On every answer: by it the supervisor knows that the guard is there."""
RUN = b"x-qlaunch-run"
"""The supervisor's own calls carry the run's name, and are answered however busy the engine is."""
PASSED_ON = frozenset(
    {
        b"accept",
        b"accept-encoding",
        b"authorization",
        b"connection",
        b"content-length",
        b"content-type",
        b"host",
        b"traceparent",
        b"tracestate",
        b"user-agent",
        b"x-request-id",
    }
)
"""Headers that the engine sees. Others choose its schedulers, caches and adapters."""
_CORS = b"access-control-"
ODD = b"x-qlaunch-odd"
"""On an answer with a vector that is not finite: the input's number (answers.py)."""
_ERROR_BYTES = 64 * 1024
_DIGITS = 19
_GUARDED = "qlaunch.guarded"


class Guard:
    """Decides over every request of a process, for whichever application it is meant."""

    def __init__(self, settings, token, run):
        """`token` is what the engine's own calls carry, `run` what the supervisor's do."""
        self.settings = settings
        self.token = token
        self.run = run
        self.calls = self.looks = self.bytes = self.inputs = self.tokens = 0
        self.arriving = {}
        """Calls whose body has not come whole, in the order in which they began (Held to None)."""
        self.memory = Memory(lambda: self.calls == 0)

    def wrap(self, application):
        """Stand before an application class: its `__call__` is the guard's from now on."""
        original = application.__call__
        guard = self

        async def __call__(self, scope, receive, send):
            if scope.get(_GUARDED) or scope["type"] == "lifespan":
                await original(self, scope, receive, send)
            else:
                key = getattr(getattr(self, "server_args", None), "api_key", None)
                await guard.serve(Whole(original, self), key, scope, receive, send)

        application.__call__ = __call__

    async def serve(self, app, key, scope, receive, send):
        """Answer one request, by a refusal or by `app`."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = dict(reversed(scope["headers"]))
        answer = Answer(send, headers.get(b"origin"), self.settings)
        try:
            await self._decide(app, key, scope, headers, receive, answer)
        except Refused as refused:
            await answer.refuse(refused)

    async def _decide(self, app, key, scope, headers, receive, answer):
        path = routes.decide(scope, headers, self.settings, self.token)
        if path is None:
            await app({**scope, _GUARDED: True}, receive, answer.bare)
            return
        if scope["method"] == "OPTIONS":
            await answer.preflight(headers, routes.methods(path, self.settings))
            return
        if key and not path.startswith(routes.OPEN) and not routes.has_key(headers, key):
            raise no_key()
        if path == routes.EMBEDDINGS:
            await self._embed(app, scope, headers, receive, answer)
        else:
            if path.startswith(routes.LISTING):
                scope = self._listing(path, scope, answer)
            await self._look(app, scope, headers, receive, answer)

    def _listing(self, path, scope, answer):
        """The question for models as the engine is asked: it knows one name only.

        Raises:
            Refused: 404.
        """
        name = routes.named(path)
        if name is not None and name not in self.settings.names:
            raise no_model(name, self.settings)
        if self.settings.text_tokens is not None or self.settings.aliases:
            answer.edit(lambda content: listing.told(content, self.settings, name))
        if name in self.settings.aliases:
            asked = routes.MODELS + self.settings.model
            scope = {**scope, "path": scope.get("root_path", "") + asked}
            scope.pop("raw_path", None)
        return scope

    def _free(self, headers):
        """Whether a request is the supervisor's own."""
        return self.run is not None and headers.get(RUN) == self.run.encode()

    async def _look(self, app, scope, headers, receive, answer):
        """One question about the engine: each of `/health` sends a token through its scheduler."""
        if self.looks >= self.settings.open_calls and not self._free(headers):
            raise busy()
        self.looks += 1
        try:
            await app(_passed(scope), receive, answer)
        finally:
            self.looks -= 1

    async def _embed(self, app, scope, headers, receive, answer):
        """One call: its body read, checked and passed on, within what may be open at once."""
        _check_headers(headers, self.settings)
        free = self._free(headers)
        self.calls += 1
        held = Held(self, free)
        answer.as_it_is = free
        try:
            raw = await self._read(receive, held)
            if self.calls - len(self.arriving) > self.settings.open_calls and not free:
                raise busy()
            given, count, tokens = body.check(raw, self.settings)
            del raw
            held.add_inputs(count, tokens)
            scope = _passed(scope)
            scope["query_string"] = b""
            scope["headers"] = _described(scope["headers"], given)
            short = not self.settings.metrics
            if not (short and await direct.answer(app, given, scope, receive, answer)):
                await app(scope, Replay(given, receive), answer)
        finally:
            self.calls -= 1
            held.release()
            self.memory.served(held.tokens, held.inputs, held.came)
            if not self.calls:
                self.memory.idle()

    async def _read(self, receive, held):
        """The whole body, within its limits of size and time."""
        parts, size, most = [], 0, self.settings.body_bytes
        try:
            async with asyncio.timeout(self.settings.body_seconds) as limit:
                held.arrives(limit)
                while True:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise Refused(400, "the client closed the connection", code="client_gone")
                    part = message.get("body", b"")
                    size += len(part)
                    if size > most:
                        raise too_large(most)
                    held.add_bytes(len(part))
                    parts.append(part)
                    if not message.get("more_body"):
                        return b"".join(parts) if len(parts) > 1 else parts[0]
        except TimeoutError:
            if held.made_way:
                raise busy(closing=True) from None
            message = f"the body did not arrive within {self.settings.body_seconds:g} s"
            closing = [(b"connection", b"close")]
            raise Refused(408, message, code="body_too_slow", headers=closing) from None
        finally:
            held.arrived()


class Whole:
    """An application as it was before it was guarded."""

    def __init__(self, original, application):
        self._original = original
        self.application = application

    async def __call__(self, scope, receive, send):
        """Answer a request."""
        await self._original(self.application, scope, receive, send)


class Replay:
    """`receive` for the engine: the checked body, then what comes of the client (its end)."""

    def __init__(self, given, receive):
        self._given = given
        self._receive = receive

    async def __call__(self):
        """The next message."""
        if self._given is not None:
            given, self._given = self._given, None
            return {"type": "http.request", "body": given, "more_body": False}
        return await self._receive()


class Answer:
    """`send` for the engine: without SGLang's CORS, and without what its errors tell."""

    def __init__(self, send, origin, settings):
        self._send = send
        self._settings = settings
        self._failed = None
        self._said = b""
        self._edit = self._start = None
        self._refusal = None
        self.as_it_is = False
        """Vectors that are not finite go to who asks too: the supervisor, which finds out why."""
        self._more = [MARK]
        if origin is not None and routes.may_ask(origin, settings):
            self._more += [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]

    async def bare(self, message):
        """Pass on as it is, marked."""
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), *self._more]}
        await self._send(message)

    async def __call__(self, message):
        """Pass on what the engine answers; an error in our own words."""
        if message["type"] == "http.response.start":
            if message["status"] >= 400:
                self._failed = message["status"]
                return
            self._refusal = None if self.as_it_is else _not_finite(message)
            if self._refusal is not None:
                return
            kept = [h for h in message.get("headers", ()) if not h[0].lower().startswith(_CORS)]
            message = {**message, "headers": [*kept, *self._more]}
            if self._edit is None:
                await self._send(message)
            else:
                self._start = message
        elif self._refusal is not None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                await self.refuse(self._refusal)
        elif self._start is not None and message["type"] == "http.response.body":
            self._said += message.get("body", b"")
            if not message.get("more_body"):
                await self._edited()
        elif self._failed is None or message["type"] != "http.response.body":
            await self._send(message)
        else:
            if len(self._said) < _ERROR_BYTES:
                self._said += message.get("body", b"")
            if not message.get("more_body"):
                await self.refuse(of_engine(self._failed, self._said, self._settings))

    def edit(self, edit):
        """Have the body of an answer that is no error go through `edit`, bytes to bytes."""
        self._edit = edit

    async def _edited(self):
        content = self._edit(self._said)
        other = [h for h in self._start["headers"] if h[0].lower() != b"content-length"]
        length = (b"content-length", str(len(content)).encode())
        await self._send({**self._start, "headers": [*other, length]})
        await self._send({"type": "http.response.body", "body": content, "more_body": False})

    async def refuse(self, refused):
        """Send a refusal. What a client still sends of its body, the server reads to nowhere."""
        content = refused.body
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(content)).encode()),
            *refused.headers,
            *self._more,
        ]
        await self._send(
            {"type": "http.response.start", "status": refused.status, "headers": headers}
        )
        await self._send({"type": "http.response.body", "body": content, "more_body": False})

    async def preflight(self, headers, methods):
        """Tell a browser what a page of an allowed origin may send."""
        wanted = headers.get(b"access-control-request-headers", b"content-type, authorization")
        more = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-allow-headers", wanted),
            (b"access-control-max-age", b"600"),
            *self._more,
        ]
        await self._send({"type": "http.response.start", "status": 204, "headers": more})
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})


def _not_finite(message):
    """The refusal of an answer with a vector that is not finite; None for all others."""
    number = dict(message.get("headers", ())).get(ODD)
    if number is None:
        return None
    said = (
        f"the vector of input[{number.decode()}] holds NaN or infinity: the model's weights are"
        " damaged, or too large for the number format it is served in"
    )
    return Refused(422, said, param="input", code="not_finite")


def _passed(scope):
    """A request as the engine sees it, which knows no HEAD: the server leaves the body out."""
    headers = [header for header in scope["headers"] if header[0] in PASSED_ON]
    method = "GET" if scope["method"] == "HEAD" else scope["method"]
    return {**scope, "method": method, "headers": headers, _GUARDED: True}


def _described(headers, given):
    """Headers whose length and type are those of the body that was written anew.

    A client's own may say the type in ways that SGLang does not know, or twice.
    """
    other = [h for h in headers if h[0] not in (b"content-length", b"content-type")]
    length = str(len(given)).encode()
    return [*other, (b"content-length", length), (b"content-type", b"application/json")]


def _check_headers(headers, settings):
    """Refuse by the header alone what need not be read.

    Raises:
        Refused: 400, 413 or 415.
    """
    length = headers.get(b"content-length")
    if length is not None and b"transfer-encoding" in headers:
        # What stands before this service may go by the other, and take what is left for a request.
        message = "Content-Length and Transfer-Encoding say two things of one body"
        closing = [(b"connection", b"close")]
        raise Refused(400, message, code="bad_body", headers=closing)
    # Python makes no number of thousands of digits: the first ones are enough.
    if length is not None and length.isdigit() and int(length[:_DIGITS]) > settings.body_bytes:
        raise too_large(settings.body_bytes)
    kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        message = "the body must be JSON: send the header Content-Type: application/json"
        raise Refused(415, message, code="bad_content_type")
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise Refused(415, "the body must not be compressed", code="bad_content_encoding")


def too_large(most):
    """A body above the limit."""
    message = f"the body is larger than {most} bytes, the most this service takes"
    return Refused(413, message, code="body_too_large")
