"""Pages in browsers: which of them may ask, and what their browsers must be told (CORS)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

from launcher.gateway.problems import RequestError

if TYPE_CHECKING:
    from aiohttp import web

_METHODS: Final = "GET, POST"
_HEADERS: Final = "content-type, authorization"
_MAX_AGE_S: Final = "600"


def origin_rules(origins: frozenset[str] | None, named_by: str) -> list[Any]:
    """The middleware that holds pages to `origins` (`*`: all of them); none for None.

    `named_by` tells where they are named.

    A page of another origin is refused before its request is read: a browser sends some requests
    without asking first.
    """
    if origins is None:
        return []
    from aiohttp import web

    @web.middleware
    async def rule(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        allowed = origin is not None and ("*" in origins or origin in origins)
        if request.method == "OPTIONS" and allowed:
            response: web.StreamResponse = _preflight(request)
        elif request.method == "POST" and origin is not None and not allowed:
            response = _refusal(named_by)
        else:
            response = await handler(request)
        if allowed and origin is not None:
            response.headers["Access-Control-Allow-Origin"] = origin
            response.headers["Vary"] = "Origin"
        return response

    return [rule]


def _preflight(request: web.Request) -> web.Response:
    from aiohttp import web

    wanted = request.headers.get("Access-Control-Request-Headers", _HEADERS)
    headers = {
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": wanted,
        "Access-Control-Max-Age": _MAX_AGE_S,
    }
    return web.Response(status=204, headers=headers)


def _refusal(named_by: str) -> web.Response:
    from aiohttp import web

    message = f"pages of this origin may not ask this service ({named_by})"
    body = RequestError(403, "origin", message).body()
    return web.Response(status=403, body=body, content_type="application/json")
