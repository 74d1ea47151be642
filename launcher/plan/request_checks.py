"""What no machine would run: refused before anything is fetched. Pure."""

from __future__ import annotations

import ipaddress
from typing import Final

from launcher.argv import options
from launcher.config.settings import Resolved
from launcher.errors import QlaunchError

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
            (exit 2) for an address beyond this machine without a key.
    """
    _check_bind(settings)
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


def _check_bind(settings: Resolved) -> None:
    if settings.api_key_file or settings.allow_unauthenticated or is_loopback(settings.host):
        return
    raise QlaunchError(
        f"{settings.host} can be reached from other machines, and no API key is set",
        code="unauthenticated_bind",
        fix="give --api-key-file FILE, or --allow-unauthenticated if that is what you want",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host` (names other than localhost count as wide)."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
