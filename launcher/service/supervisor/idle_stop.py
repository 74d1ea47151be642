"""When the engine behind a gateway is needed no longer (`cache.idle_stop_s`)."""

from __future__ import annotations

import os
import re
import time
from typing import Final

from launcher.service import ports
from launcher.service.supervisor import gateway_process

_OPEN: Final = re.compile(
    rb"^qlaunch_gateway_(?:waiting|open_calls)\{[^}]*\} ([0-9.e+]+)$", re.MULTILINE
)


class IdleStop:
    """Counts how long no request has needed the engine: hits need none."""

    def __init__(self, after_s: float | None) -> None:
        """`after_s` None: it is always needed."""
        self.after_s = after_s
        self._made = -1
        self._since = time.monotonic()

    def begin(self) -> None:
        """The engine has just come up."""
        self._since = time.monotonic()

    def proved(self, page: bytes) -> None:
        """A new gateway was proved: what it has counted so far, nobody has asked for."""
        self._made, self._since = _made(page), time.monotonic()

    def is_due(self, page: bytes, engine_port: int, gateway: int) -> bool:
        """Whether it may be stopped, by the `/metrics` of the gateway, a process."""
        if self.after_s is None:
            return False
        made = _made(page)
        if made != self._made or in_use(page, engine_port, gateway):
            self._made, self._since = made, time.monotonic()
        return time.monotonic() - self._since >= self.after_s


def in_use(page: bytes, engine_port: int, gateway: int) -> bool:
    """Whether somebody waits for the engine, or has a connection to it past the gateway.

    Who measures or proves it has.
    """
    return bool(calls_open(page)) or ports.connected(engine_port, (gateway, os.getpid()))


def _made(page: bytes) -> int:
    """Inputs that the engine was needed for, of all that the gateway has had."""
    used = gateway_process.counts(page)
    return used.inputs - used.hits


def calls_open(page: bytes) -> int:
    """Calls to the engine that are under way or wait, by a gateway's `/metrics`."""
    return sum(int(float(value)) for value in _OPEN.findall(page))
