"""Options of the gateway's cache, which `gateway` and `cache` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from launcher.config.size import parse_size
from launcher.gateway.backends.backend import DEFAULT_BYTES, CacheSettings

_OPTIONS = (
    click.option(
        "--cache",
        "cache_url",
        metavar="URL",
        help="A file, redis://…, rediss://…, redis+sentinel://…, redis+cluster://…, "
        "memcached://host:port, or none (default: a file in qlaunch's cache folder).",
    ),
    click.option(
        "--cache-password-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="File with the password of Redis.",
    ),
    click.option(
        "--cache-sentinel-password-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="File with the password of the sentinels themselves.",
    ),
    click.option(
        "--cache-key-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The secret that keys are made with (32 bytes, mode 0600, made where missing); "
        "gateways on several machines share a cache by sharing it.",
    ),
)


def cache_options(body: Callable[..., Any]) -> Callable[..., Any]:
    """`--cache`, the files of its passwords and `--cache-key-file`."""
    for option in reversed(_OPTIONS):
        body = option(body)
    return body


def cache_settings(
    url: str | None,
    password_file: Path | None,
    *,
    sentinel_password_file: Path | None = None,
    ttl_s: int | None = None,
    size: str | None = None,
) -> CacheSettings | None:
    """The cache that options name; None for `none`.

    Raises:
        click.UsageError: `size` is no size.
    """
    from launcher.app.caching import default_cache

    if url == "none":
        return None
    try:
        most = DEFAULT_BYTES if size is None else parse_size(size)
    except ValueError as error:
        raise click.UsageError(f"--cache-max-bytes {size!r}: {error}") from error
    return CacheSettings(
        url=default_cache() if url is None else url,
        ttl_s=ttl_s,
        max_bytes=most,
        password_file=password_file,
        sentinel_password_file=sentinel_password_file,
    )
