"""The cache of a service, as a profile decided it. Light: `ps` and `status` read plans."""

from __future__ import annotations

from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from launcher.config.profile import CacheBackend

DEFAULT_BYTES: Final = 1 << 30
MEMORY_BYTES: Final = 64 << 20


class ServiceCache(msgspec.Struct, frozen=True, kw_only=True):
    """The cache of a service, decided; no secret is in it."""

    backend: CacheBackend
    url: str | None
    """None: the file in qlaunch's cache folder."""
    ttl_s: int | None = None
    max_bytes: int = DEFAULT_BYTES
    """Of the file; servers have bounds of their own."""
    dtype: Literal["float32", "float16"] = "float32"
    memory_bytes: int = MEMORY_BYTES
    wait_ms: float = 5.0
    idle_stop_s: float | None = None
    """After which the engine is stopped; None: never."""
    password_file: str | None = None
    """Absolute."""
    sentinel_password_file: str | None = None
    """Absolute."""
    key_file: str | None = None
    """Absolute; None: this installation's own."""

    @property
    def place(self) -> str:
        """Where vectors are kept, for people: without what a URL may hold beside the address."""
        if self.backend == "embedded":
            return self.url or "a file in qlaunch's cache folder"
        parts = urlsplit(self.url or "")
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
