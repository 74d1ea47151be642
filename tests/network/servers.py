"""Servers on loopback that misbehave in one way each, as networks, proxies and hubs do."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme

from launcher.service import ports

Talk = Callable[[socket.socket], None]


@dataclass
class Server:
    """One that listens; `url` without a path."""

    port: int
    scheme: str = "http"
    asked: list[bytes] = field(default_factory=list)
    """The first line of each request."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


@contextlib.contextmanager
def listen(talk: Talk, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    """Serve every connection by `talk` in a thread of its own."""
    closing = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                connection = self.request
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                with connection:
                    connection.settimeout(60)
                    head = read_head(connection)
                    server.asked.append(head.split(b"\r\n", 1)[0])
                    talk(connection)

    class Threaded(socketserver.ThreadingTCPServer):
        daemon_threads = True
        allow_reuse_address = True
        request_queue_size = 64

        def handle_error(self, *_: object) -> None:
            return

    listening = Threaded(("127.0.0.1", 0), Handler)
    server = Server(listening.server_address[1], "https" if tls else "http")
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        closing.set()
        listening.shutdown()
        thread.join()
        listening.server_close()


def read_head(connection: socket.socket) -> bytes:
    """A request up to the empty line; what there is where it ends before."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 65_536:
        more = connection.recv(4096)
        if not more:
            break
        head += more
    return head


def answers(status: str, *headers: str, body: bytes = b"{}") -> Talk:
    """The same answer to everything."""
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    data = "\r\n".join([*head, "", ""]).encode() + body
    return lambda connection: connection.sendall(data)


def says_nothing(stop: threading.Event) -> Talk:
    """Takes the request and never answers."""

    def wait(_connection: socket.socket) -> None:
        stop.wait(60)

    return wait


def trickles(stop: threading.Event) -> Talk:
    """Answers a byte at a time, and never to the end."""

    def send(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not stop.wait(0.2):
            connection.sendall(b"x")

    return send


def resets(connection: socket.socket) -> None:
    """Breaks the connection off hard, as a firewall does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def hangs_up(connection: socket.socket) -> None:
    """Ends the connection in order, without an answer."""
    connection.close()


def free_port() -> int:
    """A port of loopback where nobody listens."""
    return ports.pick_free("127.0.0.1")


def certificate(
    folder: Path, *, expired: bool = False, name: str = "127.0.0.1"
) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context, and the file of the authority that vouches for it."""
    authority = trustme.CA()
    end = datetime.now(UTC) - timedelta(days=3) if expired else None
    issued = authority.issue_cert(name, not_after=end)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued.configure_cert(context)
    path = folder / f"authority-{name}.pem"
    authority.cert_pem.write_to_path(str(path))
    return context, path
