"""A server that is known once and for all: whoever knows better starts another gateway."""

from __future__ import annotations

from launcher.gateway.replica import Seen


class FixedSource:
    """One server, as it is known now and as long as this gateway runs."""

    def __init__(self, name: str, model: str, seen: Seen) -> None:
        self.name = name
        self.model = model
        self._seen = seen

    def look(self) -> Seen:
        """What is known."""
        return self._seen

    def want(self) -> None:
        """Whoever stopped it starts it."""

    def suspect(self) -> None:
        """A connection failed: whoever started this gateway ends it with its server."""
