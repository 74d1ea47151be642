"""Ports: whether one is free, who holds it, and whether that is our own process tree.

A health check alone cannot tell our engine from a stranger that answers 200 on its port, so the
supervisor asks the kernel who owns the listening socket (/proc/net/tcp gives its inode,
/proc/PID/fd the process that has it open).
"""

from __future__ import annotations

import errno
import ipaddress
import os
import random
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.errors import ExitCode, QlaunchError
from launcher.linux import processes
from launcher.service.store import Lock

LISTEN = "0A"
"""State of a listening socket in /proc/net/tcp (TCP_LISTEN of the kernel's tcp_states.h)."""
ESTABLISHED = "01"
"""State of a connection, there."""
PICK = (20000, 29999)
"""Below Linux's default net.ipv4.ip_local_port_range (32768 to 60999) and above most services."""
Address = tuple[socket.AddressFamily, str]


@dataclass(frozen=True, slots=True)
class Listener:
    """One listening TCP socket of this network namespace."""

    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int
    inode: int


def resolve(host: str, port: int = 0) -> Address:
    """Family and numeric address that a server bound to `host` listens on.

    Raises:
        QlaunchError: `bad_host` (exit 2) if the name does not resolve.
    """
    try:
        found = socket.getaddrinfo(
            host or "0.0.0.0",  # noqa: S104 - an empty host means every interface to servers too
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except (OSError, UnicodeError) as error:
        raise _bad_host(host, "it does not resolve") from error
    family, _, _, _, address = found[0]
    return family, str(address[0])


def require_here(host: str) -> None:
    """Refuse an address that is not this machine's, and a name that does not resolve.

    Of an address that every machine has nobody is asked.

    Raises:
        QlaunchError: `bad_host` (exit 2).
    """
    if _everywhere(host):
        return
    family, address = resolve(host)
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((address, 0))
    except OSError as error:
        # Another error is this moment's, or the port's: who starts the service meets it.
        if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            raise _bad_host(host, "it is not an address of this machine") from error


def _everywhere(host: str) -> bool:
    """Whether each machine has the address: loopback in IPv4, or all of its own there."""
    try:
        address = ipaddress.IPv4Address(host or "0.0.0.0")  # noqa: S104 - as in `resolve`
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def reach(host: str) -> str:
    """Numeric address at which a client on this machine reaches a server bound to `host`."""
    family, address = resolve(host)
    if ipaddress.ip_address(address.partition("%")[0]).is_unspecified:
        return "::1" if family == socket.AF_INET6 else "127.0.0.1"
    return address


def url(host: str, port: int, path: str = "/v1") -> str:
    """`http://host:port/v1` at which this machine reaches a server bound to `host`."""
    address = reach(host)
    return (
        f"http://[{address}]:{port}{path}" if ":" in address else f"http://{address}:{port}{path}"
    )


def check_free(host: str, port: int) -> None:
    """Bind the port as the server would, and let it go again.

    Raises:
        QlaunchError: `port_taken` (exit 9), naming the holder as far as it can be seen;
            `port_forbidden` (exit 2) for a port that this user may not bind; `bad_host` (exit 2).
    """
    family, address = resolve(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        # As uvicorn does: connections of a dead server that linger in TIME_WAIT do not count.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((address, port))
        except PermissionError as error:
            raise QlaunchError(
                f"this user may not bind port {port}",
                code="port_forbidden",
                fix="choose a port of 1024 or above, for example with --port",
            ) from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise taken(host, port, holder(port)) from error
            raise _bad_host(host, error.strerror or str(error)) from error


def taken(host: str, port: int, by: str) -> QlaunchError:
    """The `port_taken` error (exit 9): `by` says who has it."""
    return QlaunchError(
        f"port {port} on {host or '0.0.0.0'} is taken by {by}",  # noqa: S104 - text only
        code="port_taken",
        exit_code=ExitCode.CONFLICT,
        fix="stop that process, or choose another port with --port (0 takes a free one)",
    )


def pick_free(host: str) -> int:
    """A port that is free now, outside the range from which outgoing connections get theirs.

    An engine binds only minutes after its port was chosen; a port of the kernel's own choice
    (bind to 0) could meanwhile go to any outgoing connection.

    Raises:
        QlaunchError: `bad_host` (exit 2).
    """
    family, address = resolve(host)
    for _ in range(50):
        port = random.randint(*PICK)  # noqa: S311 - spreads choices, hides nothing
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            try:
                sock.bind((address, port))
            except OSError as error:
                if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                    continue
                raise _bad_host(host, error.strerror or str(error)) from error
            return port
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


def reserve(root: Path, port: int) -> Lock | None:
    """Hold `port` among the services under `root`; None if another of them holds it.

    An engine binds only once its weights are loaded, so two services could both find the port
    free, and one would lose minutes later. The lock decides at the start.

    Raises:
        OSError: the lock file cannot be made.
    """
    folder = root / ".ports"
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = Lock(folder / f"{port}.lock")
    return lock if lock.acquire() else None


def claim(root: Path, host: str, wanted: int, before: int = 0) -> tuple[int, Lock]:
    """Port `wanted`, or a free one for 0, reserved among the services under `root`.

    `before`: of the free ones the one to take, where it is one.

    Raises:
        QlaunchError: `port_taken` (exit 9) by another service; `bad_host` (exit 2).
        OSError: the lock file cannot be made.
    """
    if before and not wanted:
        with suppress(QlaunchError):
            check_free(host, before)
            if (lock := reserve(root, before)) is not None:
                return before, lock
    while True:
        port = wanted or pick_free(host)
        lock = reserve(root, port)
        if lock is not None:
            return port, lock
        if wanted:
            raise taken(host, port, "another service of qlaunch")


def listeners(port: int) -> list[Listener]:
    """Sockets that listen on `port`, on any address."""
    return [found for text in _tables() for found in parse_listeners(text, port)]


def connected(port: int, besides: Iterable[int] = ()) -> bool:
    """Whether a process of this machine has a connection to `port` of it.

    Args:
        port: of a server on loopback.
        besides: processes whose connections do not count.
    """
    inodes = {
        int(fields[9])
        for text in _tables()
        for fields in _rows(text, ESTABLISHED)
        if int(fields[2].rpartition(":")[2], 16) == port
    }
    for pid in besides if inodes else ():
        inodes -= sockets_of(pid)
    return bool(inodes)


def parse_listeners(text: str, port: int) -> list[Listener]:
    """Listening sockets on `port` in the text of /proc/net/tcp or tcp6."""
    found = []
    for fields in _rows(text, LISTEN):
        address, _, number = fields[1].rpartition(":")
        if int(number, 16) == port:
            found.append(Listener(_address(address), port, int(fields[9])))
    return found


def _tables() -> Iterator[str]:
    """The kernel's tables of TCP sockets; one that cannot be read is left out."""
    for name in ("tcp", "tcp6"):
        with suppress(OSError):
            yield Path(f"/proc/net/{name}").read_text(encoding="ascii")


def _rows(text: str, state: str) -> Iterator[list[str]]:
    """The fields of the sockets in a state."""
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) >= 10 and fields[3] == state:
            yield fields


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The kernel prints addresses as 32-bit words in the machine's own byte order."""
    words = [int(text[at : at + 8], 16) for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(struct.pack(f"={len(words)}I", *words))
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped
    return address


def _reaches(listener: Listener, host: str) -> bool:
    """Whether a connection to a server bound to `host` could end at this listener."""
    if listener.address.is_unspecified:
        return True
    wanted = ipaddress.ip_address(resolve(host)[1].partition("%")[0])
    return wanted.is_unspecified or listener.address == wanted


def sockets_of(pid: int) -> set[int]:
    """Inodes of the sockets that `pid` has open; empty where that cannot be seen."""
    found: set[int] = set()
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 - hot: every descriptor there is
    except OSError:
        return found
    for name in names:
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")  # noqa: PTH115 - hot
        except OSError:
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


def owner_pids(port: int) -> list[int]:
    """PIDs that hold a listening socket on `port`, as far as this user can see them."""
    inodes = {listener.inode for listener in listeners(port)}
    if not inodes:
        return []
    return sorted(pid for pid in processes.all_processes() if sockets_of(pid) & inodes)


def ownership(pids: Iterable[int], host: str, port: int) -> Literal["ours", "foreign", "unseen"]:
    """Whether every socket that could answer for `host`:`port` is held by one of `pids`.

    `unseen`: the kernel shows no listener there.
    """
    inodes = {found.inode for found in listeners(port) if _reaches(found, host)}
    if not inodes:
        return "unseen"
    held: set[int] = set()
    for pid in pids:
        held |= sockets_of(pid)
    return "ours" if inodes <= held else "foreign"


def holder(port: int) -> str:
    """Who holds `port`, for messages: `process 4711 (nginx)`, or `another process`."""
    names = []
    for pid in owner_pids(port):
        stat = processes.read_stat(pid)
        names.append(f"process {pid} ({stat.command})" if stat else f"process {pid}")
    return ", ".join(names) or "another process"


def _bad_host(host: str, why: str) -> QlaunchError:
    return QlaunchError(
        f"cannot listen on host {host!r}: {why}",
        code="bad_host",
        fix="use an address of this machine, such as 127.0.0.1",
    )
