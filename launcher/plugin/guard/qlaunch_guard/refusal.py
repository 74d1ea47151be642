"""A refusal: what a client is told, in OpenAI's shape."""

import json
import re
from http import HTTPStatus

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class Refused(Exception):
    """One answer of 400 and above: a sentence, and what it is about.

    Status, type, code and param of a refused request are those that the gateway gives
    (launcher/gateway/problems.py): clients need not know which of the two stands before an engine.
    """

    def __init__(self, status, message, *, param=None, code=None, headers=()):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code or (f"bad_{param}" if param else None)
        self.headers = tuple(headers)

    @property
    def body(self):
        """The JSON document, as bytes."""
        kind = TYPES.get(self.status)
        if kind is None:
            kind = "invalid_request_error" if self.status < 500 else "server_error"
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


def shown(value, limit=80):
    """A client's own word in a message: short, printable, and in quotes."""
    text = value if isinstance(value, str) else repr(value)
    text = "".join(char if char.isprintable() else "?" for char in text[:limit])
    return f"'{text}'" + ("…" if len(str(value)) > limit else "")


def no_key():
    """A request without the service's key."""
    message = "the API key is missing or wrong"
    more = [(b"www-authenticate", b"Bearer")]
    return Refused(401, message, code="invalid_api_key", headers=more)


def no_model(name, settings):
    """A model that is not served, with the names of the one that is."""
    has = ", ".join(f"'{known}'" for known in settings.names)
    message = f"the model {shown(name)} is not served here; this service has {has}"
    return Refused(404, message, param="model", code="model_not_found")


_TOO_LONG = re.compile(r"input \((\d+) tokens\)(?:.*context length \((\d+) tokens\))?", re.DOTALL)
_WHICH = re.compile(r"(input\[\d+\]): ")
"""Before what the engine says of one text of several (tokens.py)."""
_PATH = re.compile(r"(?:File \"[^\"]*\"(?:, line \d+(?:, in \S+)?)?)|(?:~?/[^\s'\",:;)]+)+")


def of_engine(status, body, settings):
    """What a client is told of an answer of 400 and above that the engine gave: no paths."""
    if status == 401:
        return no_key()
    if status >= 500:
        words = "is not ready" if status == 503 else "failed on this request"
        return Refused(status, f"the engine {words}", code="engine_failed")
    said = _message(body)
    found = _TOO_LONG.search(said)
    if found and settings.text_tokens is not None:
        # After a memory failure the engine runs with a smaller context than the plan's first one.
        context = int(found.group(2)) if found.group(2) else settings.text_tokens + 1
        where = _WHICH.match(said)
        return too_long(
            where[1] if where else "an input",
            found.group(1),
            min(settings.text_tokens, context - 1),
        )
    said = _PATH.sub("…", " ".join(said.split()))[:300]
    return Refused(status, said or "the engine refuses this request", code="engine_refused")


def too_long(where, tokens, most):
    """An input that the model has no positions for."""
    message = f"{where} has {tokens} tokens, and this service takes {most} at most"
    return Refused(400, message, param="input", code="context_length_exceeded")


def _message(body):
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        found = found["error"]
    said = found.get("message", found.get("detail")) if isinstance(found, dict) else None
    return said if isinstance(said, str) else ""


def busy(*, closing=False):
    """More at once than the memory planned for it. `closing` ends the connection, too."""
    message = f"{HTTPStatus.SERVICE_UNAVAILABLE.phrase}: too many calls at once, try again"
    more = [(b"connection", b"close")] if closing else []
    return Refused(503, message, code="busy", headers=[(b"retry-after", b"1"), *more])
