"""The cache of a service as the gateway takes it, and whether it can be used here at all."""

from __future__ import annotations

from pathlib import Path

from launcher import extras, paths
from launcher.config.service_cache import ServiceCache
from launcher.documents.plan import Plan
from launcher.gateway.access import secret
from launcher.gateway.backends.backend import CacheSettings
from launcher.gateway.backends.redis_server import password_of, sentinel_password_of


def default_cache() -> str:
    """The file of the cache on disk."""
    return str(paths.dirs().cache / "gateway" / "vectors.db")


def default_secret() -> Path:
    """The file of the secret that cache keys are made with."""
    return paths.dirs().state / "gateway" / "cache.key"


def cache_settings_of(cache: ServiceCache) -> CacheSettings:
    """Which store, and what it may hold."""
    return CacheSettings(
        url=cache.url or default_cache(),
        ttl_s=cache.ttl_s,
        max_bytes=cache.max_bytes,
        password_file=_path(cache.password_file),
        sentinel_password_file=_path(cache.sentinel_password_file),
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def cache_secret(file: Path | str | None) -> bytes:
    """The secret that keys are made with, of a file or this installation's own.

    It is made where it is missing.

    Raises:
        QlaunchError: `cache_key`, `state_dir_unsafe` (exit 1).
    """
    if file is not None:
        return secret(Path(file))
    paths.private_dir(paths.dirs().state)
    file = default_secret()
    paths.private_dir(file.parent)
    return secret(file)


def require_cache(plan: Plan) -> None:
    """Refuse a start whose cache can never work: without its library, password or secret.

    Raises:
        QlaunchError: `extra_missing`, `bad_cache` (exit 2), `cache_key` (exit 1).
    """
    cache = plan.cache
    if cache is None:
        return
    if cache.backend == "redis":
        extras.require("redis")
        settings = cache_settings_of(cache)
        password_of(settings)
        sentinel_password_of(settings)
    elif cache.backend == "memcached":
        extras.require("memcached")
    cache_secret(cache.key_file)
