"""The engine's calls to itself: SGLang's front warms up and freezes its heap over HTTP."""

HEADER = "x-qlaunch-own"
PATHS = frozenset({"/encode", "/freeze_gc"})
"""What SGLang's front asks itself and nobody else may ask."""


def sign(session, token):
    """Have every call of a `requests.Session` class to those paths carry the token."""
    original = session.request

    def request(self, method, url, *args, **kwargs):
        if any(str(url).endswith(path) for path in PATHS):
            kwargs["headers"] = {**(kwargs.get("headers") or {}), HEADER: token}
        return original(self, method, url, *args, **kwargs)

    session.request = request
