"""The server of a gateway that is supervised with it: at work, or stopped until it is needed."""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from launcher.gateway.replica import Seen


class AwaitedSource:
    """One server, which whoever started this gateway may stop and start."""

    def __init__(self, name: str, model: str, seen: Seen, wanted: Callable[[], object]) -> None:
        """`wanted` hears, once for each time that it is stopped, that a call waits for it."""
        self.name = name
        self.model = model
        self._wanted = wanted
        self._told = False
        self._seen = seen
        self.change(seen.url)

    def look(self) -> Seen:
        """What is known."""
        return self._seen

    def change(self, url: str | None) -> None:
        """It is at work at a URL; None: it is stopped, and started when a call waits for it."""
        self._told = False
        stopped = url is None
        self._seen = replace(self._seen, url=url, coming=stopped, resting=stopped)

    def want(self) -> None:
        """Have it started, where it is stopped."""
        if self._seen.resting and not self._told:
            self._told = True
            self._wanted()

    def suspect(self) -> None:
        """A connection failed: whoever started this gateway ends it with its server."""
