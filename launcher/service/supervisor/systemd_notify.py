"""Telling systemd how the service is (`Type=notify`), when it wants to know."""

from __future__ import annotations

import os
import socket

from launcher.service.supervisor.event_loop import Loop


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


def keep_watchdog(loop: Loop) -> None:
    """Tell systemd from the loop that we are alive, if it wants to know (`WatchdogSec=`).

    sd_watchdog_enabled(3): twice within the interval of WATCHDOG_USEC, for the process of
    WATCHDOG_PID alone. A loop that hangs stops telling, which is the point.
    """
    interval = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    if not interval.isdigit() or int(interval) == 0 or not mine:
        return

    def tell() -> None:
        notify("WATCHDOG=1")
        loop.call_later(int(interval) / 2e6, tell)

    tell()
