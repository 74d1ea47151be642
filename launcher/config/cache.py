"""`cache:` of a profile: what it means, and what is wrong with it. Pure."""

from __future__ import annotations

import os.path
import re
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from launcher.config.profile import Cache, CacheBackend
from launcher.config.service_cache import DEFAULT_BYTES, MEMORY_BYTES, ServiceCache
from launcher.config.size import parse_size
from launcher.errors import QlaunchError
from launcher.network import redis_address
from launcher.paths import at_home
from launcher.yaml_reader import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SCHEMES: Final[dict[CacheBackend, tuple[str, ...]]] = {
    "embedded": ("sqlite",),
    "redis": redis_address.SCHEMES,
    "memcached": ("memcached",),
}
"""Of the URLs of a backend, the usual one first; `embedded` takes a bare path too."""
HERE: Final[dict[CacheBackend, str]] = {
    "redis": "redis://127.0.0.1:6379/0",
    "memcached": "memcached://127.0.0.1:11211",
}
"""The server of this machine, where no URL is given."""
_NO_PLACE: Final = "names no host and port"
_SERVER: Final = re.compile(r"sqlite://[^/]+:[0-9]{1,5}/?", re.ASCII)
_A_PATH: Final = "write the path of a file, such as vectors.db; for a server give its `backend`"
LEAST_BYTES: Final = 32 << 20
"""Of the file: below, its own log would fill it."""
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_TTL: Final = re.compile(r"\s*([0-9]{1,9})\s*([smhd]?)\s*", re.ASCII)
LONGEST_TTL_S: Final = 10 * 366 * 86_400


class CacheProblem(Exception):  # noqa: N818 - becomes a message with file and line
    """What is wrong with one key of `cache`, and what to write."""

    def __init__(self, key: str, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.key, self.message, self.fix = key, message, fix


def wanted(value: bool | CacheBackend | Cache) -> Cache | None:
    """The settings that a profile's `cache` stands for; None where there is none."""
    if isinstance(value, Cache):
        return value
    if isinstance(value, str):
        return Cache(backend=value)
    return Cache() if value else None


def problems(value: bool | CacheBackend | Cache) -> Iterator[CacheProblem]:
    """Everything wrong with a profile's `cache` that its schema cannot say."""
    cache = wanted(value)
    if cache is None:
        return
    checks: tuple[Callable[[Cache], object], ...] = (_url, _ttl_s, _max_bytes, _memory, _files)
    for check in checks:
        try:
            check(cache)
        except CacheProblem as problem:
            yield problem


def service_cache(
    value: bool | CacheBackend | Cache, folder_of: Callable[[str], Path]
) -> ServiceCache | None:
    """The cache that a valid `cache` asks for, its paths absolute.

    Args:
        value: what the profile says.
        folder_of: by key of `cache`: the folder of the file in which it stands.
    """
    cache = wanted(value)
    if cache is None:
        return None

    def anchored(key: str, path: str | None) -> str | None:
        folder = folder_of(key)
        return None if path is None else os.path.abspath(folder / at_home(path))  # noqa: PTH100 - a link stays itself

    url = _url(cache)
    if cache.backend == "embedded":
        url = anchored("url", url)
    return ServiceCache(
        backend=cache.backend,
        url=url,
        ttl_s=_ttl_s(cache),
        max_bytes=_max_bytes(cache),
        dtype=cache.dtype,
        memory_bytes=_memory(cache),
        wait_ms=cache.wait_ms,
        idle_stop_s=cache.idle_stop_s,
        password_file=anchored("password_file", cache.password_file),
        sentinel_password_file=anchored("sentinel_password_file", cache.sentinel_password_file),
        key_file=anchored("key_file", cache.key_file),
    )


def _url(cache: Cache) -> str | None:
    """The server's URL, or the path of the file; None for our own file."""
    url, schemes = cache.url, SCHEMES[cache.backend]
    if url is None:
        return HERE.get(cache.backend)
    if not url.strip() or not url.isprintable():
        raise CacheProblem("url", "`cache.url` is empty or holds control characters")
    scheme = url.partition("://")[0] if "://" in url else ""
    if cache.backend == "embedded" and scheme in {"", "sqlite"}:
        if _SERVER.fullmatch(url):
            message = f"`cache.url` {shown(url, 80)!r} names a host and a port; a file has neither"
            raise CacheProblem("url", message, _A_PATH)
        return url.removeprefix("sqlite:").removeprefix("//")
    if scheme not in schemes:
        found = shown(_without_secrets(url), 80)
        raise CacheProblem(
            "url",
            f"`cache.url` {found!r} is not an address of `{cache.backend}`",
            _right_backend(scheme)
            or (_A_PATH if cache.backend == "embedded" else f"write {schemes[0]}://host:port"),
        )
    _check_address(url)
    return url


def _right_backend(scheme: str) -> str | None:
    for backend, schemes in SCHEMES.items():
        if scheme in schemes:
            return f"write `backend: {backend}`"
    return None


def _check_address(url: str) -> None:
    if _has_secret(url):
        raise CacheProblem(
            "url",
            "`cache.url` holds a password; secrets do not belong in a profile",
            "put it alone into a file of mode 0600, and name that as `password_file`",
        )
    why = _wrong_address(url)
    if why is not None:
        raise CacheProblem("url", f"`cache.url` {shown(url, 80)!r} {why}")


def _has_secret(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.password is not None or "password=" in parts.query.lower()


def _wrong_address(url: str) -> str | None:
    """What is wrong with a server's address, as the end of a sentence; None: nothing."""
    try:
        if redis_address.is_redis(url.partition("://")[0]):
            redis_address.parse(url)
            return None
        parts = urlsplit(url)
        whole = bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        return str(error) if redis_address.is_redis(url.partition("://")[0]) else _NO_PLACE
    return None if whole else _NO_PLACE


def _without_secrets(url: str) -> str:
    return re.sub(r"//[^/@]*@", "//…@", url)


def _ttl_s(cache: Cache) -> int | None:
    ttl = cache.ttl
    if ttl is None:
        return None
    read = _TTL.fullmatch(str(ttl))
    seconds = int(read[1]) * _UNITS[read[2]] if read else 0
    if not 0 < seconds <= LONGEST_TTL_S:
        message = f"`cache.ttl` {shown(str(ttl), 40)!r} is not a time that a vector can be kept"
        raise CacheProblem("ttl", message, "write seconds, or such as 30m, 12h, 7d")
    return seconds


def _max_bytes(cache: Cache) -> int:
    if cache.max_bytes is None:
        return DEFAULT_BYTES
    if cache.backend != "embedded":
        message = f"`cache.max_bytes` bounds a file, and {cache.backend} has a bound of its own"
        fix = {"redis": "maxmemory and maxmemory-policy allkeys-lru", "memcached": "-m"}
        raise CacheProblem("max_bytes", message, f"remove it; there: {fix[cache.backend]}")
    size = _size("max_bytes", cache.max_bytes)
    if size < LEAST_BYTES:
        message = f"`cache.max_bytes` is {size} bytes, and {LEAST_BYTES} are the least"
        raise CacheProblem("max_bytes", message, "write 32MiB or more")
    return size


def _memory(cache: Cache) -> int:
    return MEMORY_BYTES if cache.memory is None else _size("memory", cache.memory)


def _size(key: str, value: int | str) -> int:
    try:
        return value if isinstance(value, int) else parse_size(value)
    except QlaunchError as error:
        raise CacheProblem(key, f"`cache.{key}`: {error.message}", error.fix) from error


def _files(cache: Cache) -> None:
    for key in ("password_file", "sentinel_password_file", "key_file"):
        path = getattr(cache, key)
        if path is not None and (not path.strip() or "\0" in path):
            raise CacheProblem(key, f"`cache.{key}` is not a path", "give a path, or leave it out")
    if cache.password_file is not None and cache.backend != "redis":
        message = f"`cache.password_file` is for Redis, and {cache.backend} takes no password"
        raise CacheProblem("password_file", message, "remove it")
    asked = (cache.url or "").partition("://")[0]
    if cache.sentinel_password_file is not None and "+sentinel" not in asked:
        message = "`cache.sentinel_password_file` is for sentinels, and `cache.url` names none"
        fix = "remove it, or write redis+sentinel://host:port/master"
        raise CacheProblem("sentinel_password_file", message, fix)
