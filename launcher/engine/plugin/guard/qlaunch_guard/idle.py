"""Ends connections on which no request comes: uvicorn waits for a header for ever.

A connection that holds no request for the time given, header begun or not, is closed. uvicorn's
own keep-alive limit closes the others far earlier.
"""

import time

HEADER_SECONDS = 20.0
"""From the connection, or from the last answer on it, to the end of a request's header."""
EVERY_TICKS = 20
"""Of uvicorn's, a tenth of a second each."""


def reap(server):
    """Look at a `uvicorn.Server` class's connections every two seconds."""
    original = server.on_tick

    async def on_tick(self, counter):
        if counter % EVERY_TICKS == 0:
            close_idle(self.server_state.connections, time.monotonic())
        return await original(self, counter)

    server.on_tick = on_tick


def close_idle(connections, now):
    """Close those of `connections` that have held no request for too long."""
    for connection in list(connections):
        cycle = getattr(connection, "cycle", None)
        busy = cycle is not None and not getattr(cycle, "response_complete", True)
        mark, since = getattr(connection, "_qlaunch_idle", (None, now))
        if busy or mark is not cycle:
            since = now
        connection._qlaunch_idle = (cycle, since)
        if now - since > HEADER_SECONDS and getattr(connection, "transport", None) is not None:
            connection.transport.close()
