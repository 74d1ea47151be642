"""Addresses as people may see them, and the proxy that is in force for one."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_HOST: Final = re.compile(r"[A-Za-z0-9._:\[\]%-]{1,255}")
_OF_HOSTS: Final = re.compile(r"[\w.:%-]{1,255}")
"""Names in any script, which clients encode, and addresses."""


def shown(url: str) -> str:
    """Scheme, host and port of an address: no user, no password, no path."""
    host, scheme = _netloc(url), url.partition("://")[0] if "://" in url else "http"
    return f"{scheme}://{host}" if host else "an address that cannot be read"


def told(url: str) -> str:
    """The same after a blank, for the middle of a sentence; nothing where it cannot be read."""
    return f" {shown(url)}" if _netloc(url) else ""


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


class WrongAddressError(ValueError):
    """A text that is no server's address; the message ends a sentence and quotes no secret."""


def server_url(text: str) -> str:
    """The address of a server as clients take it: `scheme://host[:port][/path]`, no slash last.

    Args:
        text: as a person wrote it; without a scheme it is `http://`.

    Raises:
        WrongAddressError: it is none.
    """
    if not text or any(character.isspace() or not character.isprintable() for character in text):
        raise WrongAddressError("is empty, or holds blanks or control characters")
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        port = parts.port
    except ValueError:
        raise WrongAddressError("names no host and port") from None
    if parts.scheme not in ("http", "https"):
        raise WrongAddressError("is not http:// or https://")
    if parts.username is not None:
        raise WrongAddressError("holds a user or a password; a key is given by a file")
    if not parts.hostname or port == 0 or not _OF_HOSTS.fullmatch(parts.hostname):
        raise WrongAddressError("names no host and port")
    if parts.query or parts.fragment:
        raise WrongAddressError("has a part after ? or #, which calls would lose")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def api_url(text: str) -> str:
    """The address of a server of OpenAI's interface, with its `/v1` where no path is named.

    Raises:
        WrongAddressError: it is none.
    """
    url = server_url(text).removesuffix("/embeddings")
    return url if urlsplit(url).path else f"{url}/v1"


def _netloc(url: str) -> str:
    try:
        netloc = urlsplit(url if "://" in url else f"http://{url}").netloc.rpartition("@")[2]
    except ValueError:
        return ""
    return netloc if _HOST.fullmatch(netloc) else ""
