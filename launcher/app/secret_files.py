"""Files with keys and passwords that a start reads: looked at before anything is done for it."""

from __future__ import annotations

from launcher.config.service_cache import ServiceCache
from launcher.service import keys


def require_secrets(api_key_file: str | None, cache: ServiceCache | None) -> None:
    """Refuse a start whose API key or cache password cannot be read; makes and keeps nothing.

    Raises:
        QlaunchError: `api_key_unusable`, `bad_cache` (exit 2).
    """
    if api_key_file:
        keys.read_key(api_key_file)
    if cache is not None and (cache.password_file or cache.sentinel_password_file):
        from launcher.app.caching import cache_settings_of
        from launcher.gateway.backends.redis_server import password_of, sentinel_password_of

        settings = cache_settings_of(cache)
        password_of(settings)
        sentinel_password_of(settings)
