"""Who reaches an address that something of ours listens at."""

from __future__ import annotations

import ipaddress

from launcher.errors import QlaunchError


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches `host` (names other than localhost count as wide)."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def require_guarded(host: str, *, keyed: bool, allowed: bool) -> None:
    """Refuse to listen beyond this machine without a key.

    Args:
        host: address to listen on.
        keyed: clients must send a key.
        allowed: the user has said that none is wanted.

    Raises:
        QlaunchError: `unauthenticated_bind` (exit 2).
    """
    if keyed or allowed or is_loopback(host):
        return
    raise QlaunchError(
        f"{host} can be reached from other machines, and no API key is set",
        code="unauthenticated_bind",
        fix="give --api-key-file FILE, or --allow-unauthenticated if that is what you want",
    )
