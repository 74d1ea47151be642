"""`qlaunch cache`: how full the gateway's cache is, what is in it, and empty it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from launcher.cli.base import command as declare
from launcher.cli.base import group
from launcher.cli.cache_options import cache_options, cache_secret, cache_settings
from launcher.cli.result import Result
from launcher.errors import ExitCode, QlaunchError
from launcher.gateway.backends.backend import Backend, BackendError, CacheSettings

command = group("cache", "Show, empty and fill the cache of the gateway.")


def _settings(url: str | None, password_file: Path | None) -> CacheSettings:
    settings = cache_settings(url, password_file)
    if settings is None:
        raise click.UsageError("there is no cache called none")
    return settings


def _opened(settings: CacheSettings) -> Backend | None:
    """The cache; None for a file that no gateway has made yet."""
    from launcher.gateway.backends.opening import is_made, open_backend

    return open_backend(settings) if is_made(settings) else None


def _nothing(settings: CacheSettings, data: dict[str, Any]) -> Result:
    """What is said of a cache that has not been made."""
    return Result(
        data={"cache": settings.url, **data},
        lines=[f"there is no cache at {settings.url} yet: a gateway makes it"],
    )


def _unreachable(backend: Backend, error: BackendError) -> QlaunchError:
    return QlaunchError(
        f"the cache {backend.name} cannot be asked: {error}",
        code="cache_unreachable",
        exit_code=ExitCode.UNEXPECTED,
        fix="see that it runs, and that the URL and the password are right",
    )


@declare("cache stats")
@cache_options
def stats(
    cache_url: str | None, cache_password_file: Path | None, cache_key_file: Path | None
) -> Result:
    """Show how full the cache is."""
    del cache_key_file  # counts need no key
    settings = _settings(cache_url, cache_password_file)
    backend = _opened(settings)
    if backend is None:
        return _nothing(settings, {"entries": 0, "bytes": 0, "max_bytes": settings.max_bytes})
    try:
        found = backend.stats()
    except BackendError as error:
        raise _unreachable(backend, error) from error
    finally:
        backend.close()
    from launcher.units import size

    data = {
        "cache": backend.name,
        "entries": found.entries,
        "bytes": found.bytes,
        "max_bytes": found.max_bytes,
    }
    used = size(found.bytes)
    bound = "" if found.max_bytes is None else f" of {size(found.max_bytes)}"
    entries = "?" if found.entries is None else found.entries
    lines = [f"cache    {backend.name}", f"entries  {entries}", f"size     {used}{bound}"]
    return Result(data=data, lines=lines)


@declare("cache purge")
@cache_options
@click.option("--service", help="Only the vectors of this service's model, as it is now.")
def purge(
    cache_url: str | None,
    cache_password_file: Path | None,
    cache_key_file: Path | None,
    service: str | None,
) -> Result:
    """Remove the cache's vectors; a gateway that runs goes on, with an empty cache."""
    settings = _settings(cache_url, cache_password_file)
    backend = _opened(settings)
    if backend is None:
        return _nothing(settings, {"removed": 0})
    space = None if service is None else _space(service, cache_key_file)
    try:
        gone = backend.purge(space)
    except BackendError as error:
        raise _unreachable(backend, error) from error
    finally:
        backend.close()
    return Result(
        data={"cache": backend.name, "removed": gone},
        lines=[f"removed {'all' if gone is None else gone} entries of {backend.name}"],
    )


def _space(service: str, key_file: Path | None) -> bytes:
    from launcher.app.gateway import ServiceSource, identity_of
    from launcher.gateway.identity import space_of

    return space_of(cache_secret(key_file), identity_of(ServiceSource(service).plan))


@declare("cache warm")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--gateway",
    "url",
    default="http://127.0.0.1:30100/v1",
    show_default=True,
    help="The gateway's endpoint.",
)
@click.option("--model", required=True, help="The model's name at the gateway.")
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="A key.")
@click.option(
    "--batch", type=click.IntRange(1, 2048), default=64, show_default=True, help="Texts a request."
)
def warm(file: Path, url: str, model: str, api_key_file: Path | None, batch: int) -> Result:
    """Have the vectors of FILE's texts made and kept: one text a line, or JSON strings (.jsonl)."""
    from launcher.app.cache_warming import warm_cache

    done = warm_cache(file, url=url, model=model, key_file=api_key_file, batch=batch)
    data = {"texts": done.texts, "hits": done.hits, "made": done.texts - done.hits}
    line = f"{done.texts} texts: {done.hits} were there, {done.texts - done.hits} were made"
    return Result(data=data, lines=[line])


for _one in (stats, purge, warm):
    command.add_command(_one)
