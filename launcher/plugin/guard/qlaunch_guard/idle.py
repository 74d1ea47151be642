"""Ends connections on which no request comes: uvicorn waits for a header for ever.

A connection that holds no request for the time given, header begun or not, is closed. uvicorn's
own keep-alive limit closes the others far earlier. Where there are so many connections that the
process would soon have no descriptor left, those that have held no request for longest go at once:
without a descriptor nobody is answered, the supervisor neither.
"""

import resource
import time

HEADER_SECONDS = 20.0
"""From the connection, or from the last answer on it, to the end of a request's header."""
EVERY_TICKS = 20
"""Of uvicorn's, a tenth of a second each."""


def most_connections():
    """Half of the descriptors that the process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2


def reap(server):
    """Look at a `uvicorn.Server` class's connections every two seconds, at their number always."""
    original = server.on_tick

    async def on_tick(self, counter):
        if len(self.server_state.connections) > most_connections():
            make_room(self.server_state.connections, most_connections(), time.monotonic())
        if counter % EVERY_TICKS == 0:
            close_idle(self.server_state.connections, time.monotonic())
        return await original(self, counter)

    server.on_tick = on_tick


def close_idle(connections, now):
    """Close those of `connections` that have held no request for too long."""
    for connection in list(connections):
        if now - _idle_since(connection, now) > HEADER_SECONDS:
            _close(connection)


def make_room(connections, most, now):
    """Close those of `connections` without a request, the oldest first, until `most` are left."""
    since = {each: _idle_since(each, now) for each in list(connections)}
    idle = sorted((each for each in since if not _busy(each)), key=since.__getitem__)
    for connection in idle[: max(len(since) - most, 0)]:
        _close(connection)


def _busy(connection):
    cycle = getattr(connection, "cycle", None)
    return cycle is not None and not getattr(cycle, "response_complete", True)


def _idle_since(connection, now):
    """When its last request ended, or it was first seen; `now` where it holds one."""
    cycle = getattr(connection, "cycle", None)
    mark, since = getattr(connection, "_qlaunch_idle", (None, now))
    if _busy(connection) or mark is not cycle:
        since = now
    connection._qlaunch_idle = (cycle, since)
    return since


def _close(connection):
    if getattr(connection, "transport", None) is not None:
        connection.transport.close()
