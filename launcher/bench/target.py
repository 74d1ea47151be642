"""What is measured, and for how long. Plain values, made by whoever knows the service."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from launcher.documents.comparison import Level, Row

Encoding = Literal["base64", "float"]


@dataclass(frozen=True)
class Target:
    """A server that answers `POST {url}/embeddings`."""

    mode: str
    """Name in the rows: a service, a profile, `plain`."""
    url: str
    """`http://host:port/v1`."""
    model: str
    """The name to send."""
    dimensions: int | None
    """Numbers of a vector; None: as many as the first has."""
    key: str | None = None
    """API key, where there is one."""
    encoding: Encoding = "base64"
    """Asked for; decimal numbers are taken as well: older engines send them whatever is asked."""
    keep_alive: bool = True
    """Whether connections are kept; False opens one for every request, as some clients do."""
    leader: int | None = None
    """Process id of the engine's leader, to measure the memory of its tree; None: not measured."""
    gpu: bool = False
    """Whether it may use GPUs."""
    longest: int | None = None
    """Tokens of the longest text it takes; None: not known."""


@dataclass(frozen=True)
class Bounds:
    """When a level ends: after both minima, or at the limit."""

    requests: int = 100
    seconds: float = 0.0
    limit_s: float = 60.0
    """No request is started any more; those under way are waited for."""
    warmup: int = 3
    """Requests before the level, not counted."""
    timeout_s: float = 120.0
    """For one answer."""

    def more(self, started: int, seconds: float) -> bool:
        """Whether to start another after so many requests and seconds."""
        if started == 0:
            return True
        if seconds >= self.limit_s:
            return False
        return started < self.requests or seconds < self.seconds


def unmeasured(mode: str, level: Level, reason: str) -> Row:
    """The row of a level that could not be run, with the reason and no figure."""
    return Row(
        mode=mode,
        batch=level.batch,
        clients=level.clients,
        mean_ms=None,
        p50_ms=None,
        p95_ms=None,
        p99_ms=None,
        embeddings_per_s=None,
        tokens_per_s=None,
        ram_peak_bytes=None,
        gpu_peak_bytes=None,
        loop=level.loop,
        tokens=level.tokens,
        shortest=level.shortest,
        rate=level.rate,
        reason=reason,
    )
