"""What the supervisor tells its gateway, by the first line of its standard input.

Protocol of `python -m launcher.app.service_gateway`: one line of GatewayRequest JSON on stdin; it
prints `{"event":"listening","problem":…}` when it can be asked (`problem`: the cache cannot be used
for now, in a sentence), or `{"event":"error","message":…,"code":…,"exit_code":…,"fix":…}` and ends.
Other lines of its output are for the log.
"""

from __future__ import annotations

import msgspec

from launcher.documents.plan import Plan


class GatewayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway before one engine."""

    plan: Plan
    """In force: what it says of vectors decides the keys of the cache."""
    port: int
    """To listen on, at the plan's host."""
    engine: str
    """`http://127.0.0.1:port/v1`."""
    key: str | None = None
    """Clients must send it, and the engine is sent it."""
