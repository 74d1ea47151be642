"""What the supervisor tells its gateway, by the first line of its standard input.

Protocol of `python -m launcher.app.service_gateway`: one line of GatewayRequest JSON on stdin; it
prints `{"event":"listening","problem":…}` when it can be asked (`problem`: the cache cannot be used
for now, in a sentence), or `{"event":"error","message":…,"code":…,"exit_code":…,"fix":…}` and ends.
Other lines of its output are for the log.

Before the replicas of a set its standard input stays open: each further line is a Rotation, the
servers from then on. When a server that has left has finished its last call, it prints
`{"event":"drained","server":NAME,"serial":…}` with the serial of the line by which it left.

Before one engine a further line `{"engine":null}` says that the engine is about to be stopped: the
gateway begins no call to it and prints `{"event":"resting"}`; when a request then needs the engine
it prints `{"event":"wanted"}`, once, and the request waits. `{"engine":"http://…/v1"}` says where
it is.
"""

from __future__ import annotations

import msgspec

from launcher.documents.plan import Plan
from launcher.errors import ExitCode


class Server(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One replica behind a gateway."""

    name: str
    url: str | None = None
    """`http://127.0.0.1:port/v1`; None: it is not asked now, and comes back."""


class Rotation(msgspec.Struct, frozen=True, kw_only=True):
    """All replicas from now on; one that is not named any more has gone for good."""

    serial: int
    servers: tuple[Server, ...]


class EngineChange(msgspec.Struct, frozen=True, kw_only=True):
    """The engine is stopped, or at work at an address."""

    engine: str | None


class GatewayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One gateway before one engine, or before a set of them."""

    plan: Plan
    """In force: what it says of vectors decides the keys of the cache."""
    port: int
    """To listen on, at the plan's host."""
    engine: str | None = None
    """`http://127.0.0.1:port/v1`; None: it is stopped until a request needs it, or replicas are
    behind it."""
    rotation: Rotation | None = None
    """Of a set, at first."""
    key: str | None = None
    """Clients must send it, and the engine is sent it."""


class Listening(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="listening"):
    """It can be asked."""

    problem: str | None = None
    """Why the cache cannot be used for now, in a sentence."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="error"):
    """It does not start."""

    message: str
    code: str = "start_failed"
    exit_code: int = ExitCode.START_FAILED
    fix: str | None = None


class Drained(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="drained"):
    """A server that left has finished its last call."""

    server: str
    serial: int
    """Of the line by which it left."""


class Resting(msgspec.Struct, frozen=True, tag_field="event", tag="resting"):
    """No call to the engine is begun any more."""


class Wanted(msgspec.Struct, frozen=True, tag_field="event", tag="wanted"):
    """A request needs the engine."""


GatewayEvent = Listening | Refused | Drained | Resting | Wanted
"""A line of its output."""
