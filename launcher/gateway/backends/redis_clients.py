"""Clients of Redis by the kind of address: who is asked, and how a failover is followed.

A master that died is a failure until the sentinels, or the cluster, have named another; no call
waits for that. Its connections end with it, and new ones go to whoever is the master then.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from launcher.errors import QlaunchError
from launcher.gateway.backends.backend import ANSWER_S
from launcher.network.redis_address import RedisAddress

if TYPE_CHECKING:
    import redis

_TIMES: Final[Mapping[str, Any]] = {
    "socket_timeout": ANSWER_S,
    "socket_connect_timeout": ANSWER_S,
    "socket_keepalive": True,
}


class Clients(Protocol):
    """One Redis, whatever it is made of."""

    def get(self) -> Any:
        """The client; what it raises is Redis' own."""
        ...

    def mget(self, names: list[bytes]) -> Sequence[Any]:
        """Values in the order of the names."""
        ...

    def memories(self) -> list[Mapping[str, Any]]:
        """`INFO memory` of each server that holds entries."""
        ...

    def interrupt(self) -> None:
        """End all connections, those that a thread waits on too; the next call makes new ones."""
        ...

    def close(self) -> None:
        """Close all connections."""
        ...


class OneClient:
    """A server, or the master that sentinels name."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def get(self) -> Any:
        """The client."""
        return self._client

    def mget(self, names: list[bytes]) -> Sequence[Any]:
        """By one MGET."""
        return cast("Sequence[Any]", self._client.mget(names))

    def memories(self) -> list[Mapping[str, Any]]:
        """Of that server."""
        memory: Any = self._client.info("memory")
        return [memory]

    def interrupt(self) -> None:
        """End them all."""
        self._client.connection_pool.disconnect(inuse_connections=True)

    def close(self) -> None:
        """Close the connections, those that a thread still waits on too."""
        self.interrupt()


class ClusterClient:
    """A cluster; its client asks for the slots as soon as it is made, so it is made when needed."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._client: Any = None
        self._lock = threading.Lock()

    def get(self) -> Any:
        """The client; made by the first who asks, again and again until a node answers."""
        with self._lock:
            if self._client is None:
                self._client = self._make()
            return self._client

    def mget(self, names: list[bytes]) -> Sequence[Any]:
        """By one MGET for each slot, all at once."""
        return cast("Sequence[Any]", self.get().mget_nonatomic(names))

    def memories(self) -> list[Mapping[str, Any]]:
        """Of each master."""
        client = self.get()
        by_node = client.info("memory", target_nodes=client.PRIMARIES)
        return list(by_node.values()) if "used_memory" not in by_node else [by_node]

    def interrupt(self) -> None:
        """End those of every node; without the lock, which the making of a client may hold."""
        client = self._client
        for node in [] if client is None else client.get_nodes():
            if node.redis_connection is not None:
                node.redis_connection.connection_pool.disconnect(inuse_connections=True)

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            if self._client is not None:
                self._client.close()


Password = Callable[[], str]
"""Reads a password, for each connection again: it may have been changed meanwhile."""


def clients_of(
    url: str,
    address: RedisAddress,
    password: Password | None,
    sentinel_password: Password | None = None,
) -> Clients:
    """The clients of an address; nothing is sent yet.

    Args:
        url: as it was given.
        address: what it says.
        password: of the servers.
        sentinel_password: of the sentinels themselves.

    Raises:
        ValueError: the URL has an option that is none.
    """
    import redis
    from redis import connection
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    once = Retry(NoBackoff(), 0)
    if address.kind == "server":
        plain = url.replace("valkeys://", "rediss://", 1).replace("valkey://", "redis://", 1)
        untyped: Any = connection
        options: dict[str, Any] = {"retry": once, **_TIMES, **untyped.parse_url(plain)}
        if password is not None:
            options.pop("password", None)
            options |= _login(options.pop("username", None), password)
        return OneClient(redis.Redis(connection_pool=redis.ConnectionPool(**options)))
    login = {"ssl": address.tls, **_login(address.username, password)}
    if address.kind == "sentinel":
        from redis import sentinel

        untyped = sentinel
        asked = {"ssl": address.tls, "retry": once, **_login(None, sentinel_password), **_TIMES}
        sentinels = untyped.Sentinel(list(address.hosts), sentinel_kwargs=asked)
        master = sentinels.master_for(
            address.master, db=address.database, retry=once, **login, **_TIMES
        )
        return OneClient(master)
    from redis import cluster

    def make() -> Any:
        node: Any = cluster.ClusterNode
        nodes = [node(host, port) for host, port in address.hosts]
        return cluster.RedisCluster(startup_nodes=nodes, retry=once, **login, **_TIMES)

    return ClusterClient(make)


def _login(username: str | None, password: Password | None) -> dict[str, Any]:
    """How to log in, as redis-py takes it."""
    import redis

    if password is None:
        return {} if username is None else {"username": username}

    read = password

    class Login(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str] | tuple[str, str]:
            try:
                word = read()
            except QlaunchError as error:  # its file is gone: a failure as a wrong password is
                raise redis.AuthenticationError(error.message) from None
            return (word,) if username is None else (username, word)

    return {"credential_provider": Login()}
