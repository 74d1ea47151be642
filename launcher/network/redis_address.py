"""Addresses of Redis: one server, the sentinels of a master, or nodes of a cluster. Pure.

`redis://host:port/0`, `redis+sentinel://host:port,host:port/master[/0]` and
`redis+cluster://host:port,host:port`; `rediss…` for TLS, `valkey…` the same.
"""

from __future__ import annotations

import re
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

import msgspec

Kind = Literal["server", "sentinel", "cluster"]
_BASES: Final = ("redis", "rediss", "valkey", "valkeys")
SCHEMES: Final = (
    *_BASES,
    *(f"{base}+{kind}" for kind in ("sentinel", "cluster") for base in _BASES),
)
PORT: Final = 6379
SENTINEL_PORT: Final = 26379
_HOST: Final = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.%a-z]+\]|[^\s:,\[\]/@]+)(?::(?P<port>[0-9]{1,5}))?"
)
_MASTER: Final = re.compile(r"[A-Za-z0-9._-]{1,200}")
_DATABASE: Final = re.compile(r"[0-9]{1,5}")


class RedisAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where the servers are that are asked first."""

    kind: Kind
    scheme: str
    hosts: tuple[tuple[str, int], ...]
    """Of a sentinel's address: the sentinels."""
    master: str = ""
    """What the sentinels call it."""
    database: int = 0
    username: str | None = None
    password: str | None = None

    @property
    def tls(self) -> bool:
        """Whether it is reached by TLS."""
        return self.scheme.partition("+")[0] in {"rediss", "valkeys"}

    @property
    def name(self) -> str:
        """For people: without user and password."""
        hosts = ",".join(
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts
        )
        path = f"/{self.master}" if self.kind == "sentinel" else ""
        database = f"/{self.database}" if self.database or self.kind == "server" else ""
        return f"{self.scheme}://{hosts}{path}{database}"


def is_redis(scheme: str) -> bool:
    """Whether a URL's scheme is one of Redis."""
    return scheme in SCHEMES


def parse(url: str) -> RedisAddress:
    """The address that a URL gives.

    Raises:
        ValueError: what is wrong with it, in words that quote nothing of it.
    """
    parts = urlsplit(url)
    kind = _kind(parts.scheme)
    if kind != "server" and parts.query:
        raise ValueError("takes no options after `?`")
    userinfo, _, places = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    hosts = tuple(
        _host(one, SENTINEL_PORT if kind == "sentinel" else PORT) for one in places.split(",")
    )
    if kind == "server" and len(hosts) > 1:
        raise ValueError("names several servers: write redis+sentinel:// or redis+cluster://")
    master, database = _path(kind, parts.path)
    return RedisAddress(
        kind=kind,
        scheme=parts.scheme,
        hosts=hosts,
        master=master,
        database=database,
        username=unquote(user) or None,
        password=unquote(password) or None,
    )


def _kind(scheme: str) -> Kind:
    if not is_redis(scheme):
        raise ValueError("is not an address of Redis")
    after = scheme.partition("+")[2]
    return "sentinel" if after == "sentinel" else "cluster" if after else "server"


def _host(text: str, default: int) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    port = default if match is None or match["port"] is None else int(match["port"])
    if match is None or not 0 < port < 65536:
        raise ValueError("names no host and port")
    return match["host"].strip("[]"), port


def _path(kind: Kind, path: str) -> tuple[str, int]:
    """The name of the master, and the number of the database."""
    words = [unquote(word) for word in path.split("/")[1:] if word]
    master = ""
    if kind == "sentinel":
        master = words.pop(0) if words else ""
        if not _MASTER.fullmatch(master):
            raise ValueError("names no master: write redis+sentinel://host:26379/master")
    if kind == "cluster" and words:
        raise ValueError("names a database, which a cluster does not have")
    if len(words) > 1 or not all(_DATABASE.fullmatch(word) for word in words):
        raise ValueError("names no database by its number")
    return master, int(words[0]) if words else 0
