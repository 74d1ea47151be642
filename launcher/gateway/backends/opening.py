"""The choice of a store by its URL."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from launcher.gateway.backends.backend import Backend, BackendError, CacheSettings, bad_cache
from launcher.network.listening import is_loopback
from launcher.network.redis_address import is_redis, parse
from launcher.paths import at_home, dirs


def open_backend(settings: CacheSettings) -> Backend:
    """The store of a URL. A server that cannot be reached is no error here: it may come.

    Raises:
        QlaunchError: `bad_cache` (exit 2): the URL names no store we know, or the bound is too
            small; `extra_missing` (exit 2): the client library is not installed;
            `cache_unusable` (exit 1): the file cannot be made or read.
    """
    scheme = _scheme(settings.url)
    if scheme != "redis" and (settings.password_file or settings.sentinel_password_file):
        raise bad_cache("a password is for Redis, and this cache takes none")
    if scheme == "sqlite":
        from launcher.gateway.backends.sqlite import SqliteBackend

        return SqliteBackend(_file(settings.url), settings)
    if scheme == "redis":
        from launcher.gateway.backends.redis_server import RedisBackend

        return RedisBackend(settings)
    from launcher.gateway.backends.memcached import MemcachedBackend

    return MemcachedBackend(settings)


def is_made(settings: CacheSettings) -> bool:
    """Whether there is anything to open: a file may not have been made yet, a server may be there.

    Raises:
        QlaunchError: `bad_cache` (exit 2).
    """
    if _scheme(settings.url) != "sqlite":
        return True
    return at_home(_file(settings.url)).exists()


def discarded(settings: CacheSettings) -> bool:
    """Remove a cache that cannot be opened, as on a full disk; False where that is no file of ours.

    Who has it open begins a new one.
    """
    if _scheme(settings.url) != "sqlite":
        return False
    from launcher.gateway.backends.sqlite import discard

    try:
        discard(at_home(_file(settings.url)).absolute())
    except BackendError:
        return False
    return True


def _file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:").removeprefix("//"))


def _scheme(url: str) -> str:
    if not url.strip():
        raise bad_cache("the cache's address is empty")
    if "://" not in url:
        return "sqlite"
    try:
        parts = urlsplit(url)
        scheme, _port = parts.scheme, is_redis(parts.scheme) or parts.port
    except ValueError:
        raise bad_cache("the cache's URL names no host and port") from None
    if scheme == "sqlite":
        return scheme
    if is_redis(scheme):
        return "redis"
    if scheme == "memcached":
        return "memcached"
    raise bad_cache(f"{scheme!r} is not a kind of cache that qlaunch knows")


def caution(url: str) -> str | None:
    """What to know of a cache server on another machine, or of a file whose folder is not there.

    In a sentence; None where nothing.
    """
    if _scheme(url) == "sqlite":
        folder = at_home(_file(url)).absolute().parent
        if folder.is_dir() or folder.is_relative_to(dirs().cache):
            return None
        return f"the cache's folder {folder} was not there, and is made: is a disk not mounted?"
    if _scheme(url) == "redis":
        try:
            address = parse(url)
        except ValueError:
            return None  # it will be refused
        hosts, tls = [host for host, _port in address.hosts], address.tls
    else:
        hosts, tls = [urlsplit(url).hostname or "127.0.0.1"], False
    if tls or all(is_loopback(host) for host in hosts):
        return None
    return (
        f"the cache {urlsplit(url).scheme}://{','.join(hosts)} is reached without encryption: "
        "who listens sees vectors, never texts; what others write there is not believed"
    )
