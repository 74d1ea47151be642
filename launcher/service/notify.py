"""Telling systemd how the service is (`Type=notify`), when it wants to know."""

from __future__ import annotations

import os
import socket


def notify(*lines: str) -> bool:
    """Send `READY=1`, `STATUS=…`, `STOPPING=1` to `NOTIFY_SOCKET`; False where there is none.

    sd_notify(3): one datagram, newline-separated; a leading `@` stands for the NUL of an abstract
    socket. A manager that does not listen is no reason to fail.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    text = "\n".join(line.replace("\n", " ") for line in lines)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            sock.sendto(text.encode(), address)
    except OSError:
        return False
    return True
