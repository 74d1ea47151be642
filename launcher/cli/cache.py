"""`qlaunch cache`: how full the gateway's cache is, what is in it, and empty it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from launcher.cli.base import command as declare
from launcher.cli.base import group
from launcher.cli.cache_options import cache_options, cache_settings
from launcher.cli.result import Result
from launcher.config.service_cache import ServiceCache
from launcher.errors import ExitCode, QlaunchError
from launcher.gateway.backends.backend import Backend, BackendError, CacheSettings, UnsupportedError
from launcher.units import counted

command = group("cache", "Show, empty and fill the cache of the gateway.")


def _settings(
    url: str | None,
    password_file: Path | None,
    sentinel_password_file: Path | None,
    service: str | None = None,
) -> CacheSettings:
    """The cache that is named; else the service's own, else the default one."""
    own = None if service is None or url is not None else _own(service)
    if own is not None:
        from launcher.app.caching import cache_settings_of

        return cache_settings_of(own)
    settings = cache_settings(url, password_file, sentinel_password_file=sentinel_password_file)
    if settings is None:
        raise click.UsageError("there is no cache called none")
    return settings


def _own(service: str) -> ServiceCache | None:
    """The cache that a service's profile asks for.

    Raises:
        QlaunchError: `no_such_service` (exit 3), `bad_service_name` (exit 2).
    """
    from launcher.service import control, store

    control.status(service)
    return store.read_plan(store.folder(service)).cache


def _opened(settings: CacheSettings) -> Backend | None:
    """The cache; None for a file that no gateway has made yet."""
    from launcher.gateway.backends.opening import is_made, open_backend

    return open_backend(settings) if is_made(settings) else None


def _nothing(settings: CacheSettings, data: dict[str, int | None]) -> Result:
    """What is said of a cache that has not been made."""
    return Result(
        data={"cache": settings.url, **data},
        lines=[f"there is no cache at {settings.url} yet: a gateway makes it"],
    )


@contextmanager
def _asked(backend: Backend) -> Iterator[None]:
    """Ask a cache, and close it.

    Raises:
        QlaunchError: `cache_unreachable` (exit 1).
    """
    try:
        yield
    except UnsupportedError as error:
        raise QlaunchError(
            f"the cache {backend.name} cannot be purged: {error}",
            code="cache_unreachable",
            exit_code=ExitCode.UNEXPECTED,
            fix="restart it, or give the gateways another --cache-key-file",
        ) from error
    except BackendError as error:
        raise QlaunchError(
            f"the cache {backend.name} cannot be asked: {error}",
            code="cache_unreachable",
            exit_code=ExitCode.UNEXPECTED,
            fix="see that it runs, and that the URL and the password are right",
        ) from error
    finally:
        backend.close()


@declare("cache stats")
@cache_options
@click.option("--service", help="The cache that this service's profile asks for.")
def stats(
    cache_url: str | None,
    cache_password_file: Path | None,
    cache_sentinel_password_file: Path | None,
    cache_key_file: Path | None,
    service: str | None,
) -> Result:
    """Show how full the cache is."""
    del cache_key_file  # counts need no key
    settings = _settings(cache_url, cache_password_file, cache_sentinel_password_file, service)
    backend = _opened(settings)
    if backend is None:
        return _nothing(settings, {"entries": 0, "bytes": 0, "max_bytes": settings.max_bytes})
    with _asked(backend):
        found = backend.stats()
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
    cache_sentinel_password_file: Path | None,
    cache_key_file: Path | None,
    service: str | None,
) -> Result:
    """Remove the cache's vectors; a gateway that runs goes on, with an empty cache."""
    settings = _settings(cache_url, cache_password_file, cache_sentinel_password_file, service)
    try:
        backend = _opened(settings)
    except QlaunchError as error:
        if error.code != "cache_unusable" or service is not None or not _discarded(settings):
            raise
        return _removed(settings.url, None)
    if backend is None:
        return _nothing(settings, {"removed": 0})
    space = None if service is None else _space(service, cache_key_file)
    with _asked(backend):
        gone = backend.purge(space)
    return _removed(backend.name, gone)


def _discarded(settings: CacheSettings) -> bool:
    from launcher.gateway.backends.opening import discarded

    return discarded(settings)


def _removed(name: str, gone: int | None) -> Result:
    how_many = "all entries" if gone is None else counted(gone, "entry")
    return Result(data={"cache": name, "removed": gone}, lines=[f"removed {how_many} of {name}"])


def _space(service: str, key_file: Path | None) -> bytes:
    from launcher.app.caching import cache_secret
    from launcher.app.gateway import ServiceSource, identity_of
    from launcher.gateway.identity import space_of

    plan = ServiceSource(service).plan
    if key_file is None and plan.cache is not None and plan.cache.key_file is not None:
        key_file = Path(plan.cache.key_file)
    return space_of(cache_secret(key_file), identity_of(plan))


@declare("cache warm")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--gateway",
    "url",
    default="http://127.0.0.1:30100/v1",
    show_default=True,
    help="The gateway's endpoint.",
)
@click.option("--service", help="Instead: a service with a cache of its own, and its model.")
@click.option("--model", help="The model's name at the gateway.")
@click.option("--api-key-file", type=click.Path(path_type=Path), metavar="FILE", help="A key.")
@click.option(
    "--batch", type=click.IntRange(1, 2048), default=64, show_default=True, help="Texts a request."
)
def warm(
    file: Path,
    url: str,
    service: str | None,
    model: str | None,
    api_key_file: Path | None,
    batch: int,
) -> Result:
    """Have the vectors of FILE's texts made and kept: one text a line, or JSON strings (.jsonl)."""
    from launcher.app.cache_warming import warm_cache

    if (service is None) == (model is None):
        raise click.UsageError("name the --model at a gateway, or a --service with a cache")
    if service is not None:
        url, model, own = _of_service(service)
        api_key_file = api_key_file or own
    assert model is not None
    done = warm_cache(file, url=url, model=model, key_file=api_key_file, batch=batch)
    data = {"texts": done.texts, "hits": done.hits, "made": done.texts - done.hits}
    line = (
        f"{counted(done.texts, 'text')}: {done.hits} were there, {done.texts - done.hits} were made"
    )
    return Result(data=data, lines=[line])


def _of_service(service: str) -> tuple[str, str, Path | None]:
    """Endpoint, model and key file of a running service with a cache of its own.

    Raises:
        QlaunchError: `no_cache` (exit 2): its profile asks for none; as `running`.
    """
    from launcher.app.running_service import running

    plan, endpoint = running(service)
    if plan.cache is None:
        raise QlaunchError(
            f"service {service!r} has no cache of its own",
            code="no_cache",
            fix="write `cache: true` into its profile, or name a gateway: --gateway URL --model M",
        )
    return endpoint, plan.model_name, Path(plan.api_key_file) if plan.api_key_file else None


for _one in (stats, purge, warm):
    command.add_command(_one)
