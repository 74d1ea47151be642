"""systemd's part, for tests: a unit's command and environment, and the socket it tells READY on."""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path


def exec_start(unit: str) -> list[str]:
    """Words of a unit's command, as systemd hands them over (systemd.syntax(7))."""
    line = next(row for row in unit.splitlines() if row.startswith("ExecStart="))
    words = shlex.split(line.removeprefix("ExecStart="))
    return [word.replace("%%", "%").replace("$$", "$") for word in words]


def variables(unit: str) -> dict[str, str]:
    """`Environment=` of a unit."""
    rows = [row.removeprefix("Environment=") for row in unit.splitlines()]
    kept = [row for row, whole in zip(rows, unit.splitlines(), strict=True) if row != whole]
    pairs = [shlex.split(row)[0].replace("%%", "%").partition("=") for row in kept]
    return {name: value for name, _, value in pairs}


class Started:
    """A unit's command, running under its environment and nothing else."""

    def __init__(self, unit: str, folder: Path, user: Mapping[str, str]) -> None:
        """Start it; `folder` takes its socket, `user` is what systemd itself sets."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(0.5)
        env = {**user, **variables(unit), "NOTIFY_SOCKET": str(folder / "notify")}
        self.process = subprocess.Popen(
            exec_start(unit), cwd="/", env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def ready(self, limit_s: float) -> bool:
        """Wait for READY; False where it ended first.

        Raises:
            TimeoutError: neither came.
        """
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in self._socket.recv(4096):
                    return True
            except TimeoutError:
                if self.process.poll() is not None:
                    return False
        raise TimeoutError(f"no READY in {limit_s} s")

    def stop(self, limit_s: float) -> tuple[int, str]:
        """Stop it as systemd does; its exit code and what it said on stderr."""
        self.process.terminate()
        _out, err = self.process.communicate(timeout=limit_s)
        self._socket.close()
        return self.process.returncode, err.decode()
