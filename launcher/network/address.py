"""Addresses as people may see them, and the proxy that is in force for one."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_HOST: Final = re.compile(r"[A-Za-z0-9._:\[\]%-]{1,255}")


def shown(url: str) -> str:
    """Scheme, host and port of an address: no user, no password, no path."""
    host, scheme = _netloc(url), url.partition("://")[0] if "://" in url else "http"
    return f"{scheme}://{host}" if host else "an address that cannot be read"


def host(url: str) -> str:
    """The host's name alone; the whole of what is shown where there is none."""
    try:
        name = urlsplit(url if "://" in url else f"http://{url}").hostname
    except ValueError:
        name = None
    return name if name and _HOST.fullmatch(name) else shown(url)


def proxy_for(url: str, proxy: str | None = None) -> str | None:
    """The proxy through which clients ask `url`, by the variables that all of them obey.

    Args:
        url: what is asked for.
        proxy: one that a client has been told of besides; it comes first.
    """
    if proxy:
        return proxy
    parts = urlsplit(url)
    if not parts.hostname or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    proxies = getproxies()
    return proxies.get(parts.scheme) or proxies.get("all")


def _netloc(url: str) -> str:
    try:
        netloc = urlsplit(url if "://" in url else f"http://{url}").netloc.rpartition("@")[2]
    except ValueError:
        return ""
    return netloc if _HOST.fullmatch(netloc) else ""
