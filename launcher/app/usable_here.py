"""What a start needs of this machine beside memory: addresses, the cache's place, lscpu.

Looked at before anything is fetched or started, and nothing is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from launcher.config.profile import Profile
from launcher.config.service_cache import ServiceCache
from launcher.config.settings import Resolved, at_its_place
from launcher.errors import ExitCode, QlaunchError
from launcher.service import ports

TOPOLOGY: Final = "lscpu"
"""The program that SGLang asks for the processors when it starts on a CPU (srt/utils/common.py)."""
_PATH: Final = "PATH"


def require_addresses(settings: Resolved) -> None:
    """Refuse an address to listen on that is not this machine's, with the place that says it.

    Raises:
        QlaunchError: `bad_host` (exit 2).
    """
    hosts = {"host": settings.host}
    if settings.metrics_port is not None:
        hosts["metrics_host"] = settings.metrics_host
    for key, host in hosts.items():
        try:
            ports.require_here(host)
        except QlaunchError as error:
            raise at_its_place(error, settings, key) from error


def require_topology(
    settings: Resolved, profile: Profile, device: str, environ: Mapping[str, str]
) -> None:
    """Refuse a start on a CPU whose engine would not find lscpu.

    Raises:
        QlaunchError: `program_missing` (exit 5), with the line of the profile's own PATH.
    """
    own = profile.env.get(_PATH)
    # Without the variable Python looks where the system says by default, as `which` does.
    if device != "cpu" or shutil.which(TOPOLOGY, path=environ.get(_PATH) if own is None else own):
        return
    error = QlaunchError(
        f"SGLang starts {TOPOLOGY} on a CPU, and the PATH that the engine would get has none",
        code="program_missing",
        exit_code=ExitCode.ENGINE,
        fix="install util-linux, or add the folder of lscpu to PATH"
        if own is None
        else "add the folder of lscpu (/usr/bin) to `env.PATH`, or leave that out",
    )
    raise error if own is None else at_its_place(error, settings, f"env.{_PATH}")


def require_cache_place(settings: Resolved) -> None:
    """Refuse a file of vectors that could not be written, with the place that names it.

    Raises:
        QlaunchError: `bad_cache` (exit 2).
    """
    cache = settings.cache
    why = None if cache is None else _unwritable(cache)
    if why is not None:
        error = QlaunchError(
            f"`cache.url`: {why}",
            code="bad_cache",
            fix="name a file in a folder that you may write, or leave it out",
        )
        raise at_its_place(error, settings, "cache")


def _unwritable(cache: ServiceCache) -> str | None:
    """Why the file of a cache cannot be made or written; None: it can, or there is none."""
    if cache.backend != "embedded" or cache.url is None:
        return None
    path = Path(cache.url)
    try:
        if path.is_dir():
            return f"{path} is a folder"
        if path.exists() and not path.is_file():
            return f"{path} is not a file"
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return f"{path} cannot be written"
        folder = next(one for one in path.parents if os.path.lexists(one))
        if not folder.is_dir():
            return f"{folder} is not a folder"
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"
    # The owner of everything may write in a folder of the kernel's, and make nothing there.
    kernels = any(folder.is_relative_to(one) for one in ("/proc", "/sys"))
    made = os.access(folder, os.W_OK | os.X_OK) and not kernels
    return None if made else f"{folder} cannot be written"
