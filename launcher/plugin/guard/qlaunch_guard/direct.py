"""A checked call goes to SGLang's handler of embeddings, past FastAPI's way to it.

FastAPI takes a request through seven layers of middleware, matches its path against a hundred
routes and resolves what a handler depends on, in Python, while the text waits. What those layers
look after, the guard has looked after by then: method, content type, key, origin and size. SGLang's
handler itself is called as it is, with the same request, and answers for its own errors.

Where an application has no such handler, does not say how it was started (the guard then knows no
key), has a key of its own for administrators, or counts requests in its middleware
(`--enable-metrics`), calls take the whole way.
"""

import asyncio
import concurrent.futures
import sys
import weakref

_SERVING = "openai_serving_embedding"
_PROTOCOL = "sglang.srt.entrypoints.openai.protocol"
_INLINE = "_convert_to_internal_request"
"""What SGLang's handler has a thread do: to copy six fields, where no chat is rendered."""


_loops = weakref.WeakSet()
"""Event loops whose executor is ours."""


async def answer(app, given, scope, receive, send):
    """Answer a call whose body is `given`; False where it must take the whole way, `app`."""
    application = getattr(app, "application", None)
    handler, protocol = _handler(application), sys.modules.get(_PROTOCOL)
    if handler is None or protocol is None:
        return False
    from starlette.middleware.errors import ServerErrorMiddleware
    from starlette.requests import Request

    try:
        asked = protocol.EmbeddingRequest.model_validate_json(given)
    except ValueError:
        return False  # FastAPI says what is wrong with it
    _convert_here()

    async def handled(scope, receive, send):
        request = Request({**scope, "app": application}, receive, send)
        await _response(await handler.handle_request(asked, request))(scope, receive, send)

    await ServerErrorMiddleware(handled)(scope, receive, send)
    return True


def _handler(application):
    """SGLang's handler of embeddings; None where its middleware has more to do than the guard."""
    started = getattr(application, "server_args", None)
    if started is None or getattr(started, "admin_api_key", None):
        return None
    return getattr(getattr(application, "state", None), _SERVING, None)


def _convert_here():
    """Have the loop's own thread do what is shorter than to wake another for it."""
    loop = asyncio.get_running_loop()
    if loop not in _loops:
        _loops.add(loop)
        loop.set_default_executor(_Executor())


class _Executor(concurrent.futures.ThreadPoolExecutor):
    """The usual one of an event loop, but for conversions."""

    def submit(self, function, /, *args, **kwargs):
        """Have a thread call `function`, or call it at once."""
        if getattr(function, "__name__", None) != _INLINE:
            return super().submit(function, *args, **kwargs)
        done = concurrent.futures.Future()
        try:
            done.set_result(function(*args, **kwargs))
        except BaseException as error:  # whatever it is, it belongs to who awaits the future
            done.set_exception(error)
        return done


def _response(made):
    """What a handler returned as FastAPI would send it."""
    from starlette.responses import Response

    if isinstance(made, Response):
        return made
    return Response(made.model_dump_json(by_alias=True), media_type="application/json")
