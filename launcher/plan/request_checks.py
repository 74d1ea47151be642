"""What no machine would run: refused before anything is fetched. Pure."""

from __future__ import annotations

from typing import Final

from launcher.argv import options
from launcher.config.settings import Resolved, at_its_place
from launcher.errors import QlaunchError
from launcher.network.listening import require_guarded

OWNED: Final = {
    "--model-path": "--model",
    "--model": "--model",
    "--host": "--host",
    "--port": "--port",
    "--dtype": "--dtype",
    "--api-key": "--api-key-file",
    "--config": None,
    "--device": None,
    "--is-embedding": None,
    "--served-model-name": None,
}
"""Engine options qlaunch sets itself, and the option of its own to use instead."""


def check_request(settings: Resolved, extra: tuple[str, ...]) -> None:
    """Refuse what no machine would run: callers check this before they fetch anything.

    Raises:
        QlaunchError: `usage` (exit 2) for options qlaunch sets itself, `unauthenticated_bind`
            (exit 2) for an address beyond this machine without a key; `usage` for one port twice.
    """
    try:
        require_guarded(
            settings.host,
            keyed=bool(settings.api_key_file),
            allowed=settings.allow_unauthenticated,
        )
    except QlaunchError as error:
        raise at_its_place(error, settings, "host") from error
    if settings.metrics_port and settings.metrics_port == settings.port:
        raise QlaunchError(
            f"port {settings.port} is asked for twice: for the service and for its metrics",
            code="usage",
            fix="give --metrics-port another number, or 0 for a free one",
        )
    _check_extra(extra)


def _check_extra(extra: tuple[str, ...]) -> None:
    for option in options(extra):
        name = f"--{option}"
        if name in OWNED:
            own = OWNED[name]
            raise QlaunchError(
                f"{name} is set by qlaunch itself and cannot be given after `--`",
                code="usage",
                fix=f"use qlaunch's own {own}, before the `--`" if own else "leave it out",
            )
