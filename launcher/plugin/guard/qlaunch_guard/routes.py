"""What of the engine can be reached, and by whom. Pure."""

import hmac
import ipaddress
import re
from urllib.parse import unquote

from qlaunch_guard import own
from qlaunch_guard.refusal import Refused

EMBEDDINGS = "/v1/embeddings"
LISTING = "/v1/models"
READ = ("GET", "HEAD")
ROUTES = {
    EMBEDDINGS: ("POST",),
    LISTING: READ,
    "/health": READ,
    "/health_generate": READ,
    "/model_info": READ,
    "/get_model_info": READ,
}
"""Paths and methods of every release; `/get_model_info` is the older name."""
NOTHING = (
    "there is nothing at this path: embeddings are at /v1/embeddings, a base URL ends with /v1"
)
METRICS = "/metrics"
MODELS = LISTING + "/"
_HOST = re.compile(r"(?:\[([^\[\]]+)\]|([^:\[\]]+))(?::[0-9]*)?|([0-9a-f:.]+)")
"""A name or an address, and a port, with nothing behind; or a bare address of version 6."""
OPEN = ("/health", "/metrics")
"""Beginnings of paths that SGLang answers without the key, for probes."""


def methods(path, settings):
    """The methods that `path`, decoded, takes; empty where it is not reachable."""
    if path == METRICS:
        return READ if settings.metrics else ()
    if named(path) in settings.names:
        return READ
    return ROUTES.get(path, ())


def named(path):
    """The model that a path asks about: `x` of `/v1/models/x`; None of any other path."""
    return path[len(MODELS) :] if path.startswith(MODELS) else None


def decide(scope, headers, settings, token):
    """Let a request's method and path through, or not: the path, or None for the engine's own call.

    Raises:
        Refused: 404, 405 or 403.
    """
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    method = scope["method"]
    if path in own.PATHS and _same(headers.get(own.HEADER.encode()), token):
        return None
    allowed = methods(path, settings)
    if named(path) and method in READ:
        allowed = READ  # of a model that is not served, the key decides who is told
    if not allowed or not _plain(scope, path):
        raise Refused(404, NOTHING, code="unknown_path")
    if method not in allowed and method != "OPTIONS":
        raise _wrong_method(path, allowed)
    if settings.loopback and not local(headers.get(b"host"), settings.hosts):
        raise Refused(403, "this service answers to names of this machine only", code="host")
    origin = headers.get(b"origin")
    if method == "OPTIONS":
        if origin is None or not may_ask(origin, settings):
            raise _wrong_method(path, allowed)
    elif method == "POST" and origin is not None and not may_ask(origin, settings):
        message = "pages of this origin may not ask this service (cors_origins in its profile)"
        raise Refused(403, message, code="origin")
    return path


def _wrong_method(path, allowed):
    words = ", ".join(allowed)
    message = f"{path} takes {words} only"
    more = [(b"allow", words.encode())]
    return Refused(405, message, code="method_not_allowed", headers=more)


def _plain(scope, path):
    """Whether a path came as it is routed: no escapes, except in a model's name."""
    raw = scope.get("raw_path")
    if raw is None:
        return True
    sent = raw.decode("latin-1").removeprefix(scope.get("root_path", ""))
    if path.startswith(MODELS):
        return sent.startswith(MODELS) and unquote(sent) == path
    return sent == path


def may_ask(origin, settings):
    """Whether pages of an origin may ask."""
    return "*" in settings.origins or origin.decode("latin-1") in settings.origins


def local(host, further):
    """Whether `Host` names this machine by loopback, or is one of the `further` names."""
    if not host:
        return True  # HTTP/1.0, which no browser speaks
    found = _HOST.fullmatch(host.decode("latin-1").strip().lower())
    if found is None:
        return False
    name = "".join(part or "" for part in found.groups()).rstrip(".")
    if name == "localhost" or name.endswith(".localhost") or name in further:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _same(given, token):
    return given is not None and hmac.compare_digest(given, token.encode())


def has_key(headers, key):
    """Whether the request bears the key."""
    scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
    return scheme.lower() == b"bearer" and hmac.compare_digest(given, key.encode())
