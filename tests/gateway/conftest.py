from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.gateway.backends.backend import Backend, CacheSettings
from launcher.gateway.backends.opening import open_backend
from launcher.service import ports
from tests.patience import eventually

Start = Callable[..., "CacheServer"]


class CacheServer:
    """A real redis-server or memcached."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, scheme: str) -> None:
        self.process, self.port = process, port
        self.url = f"{scheme}://127.0.0.1:{port}"


def free_port() -> int:
    """None that the kernel gives to a connection, or another worker to a server, meanwhile."""
    return ports.pick_free("127.0.0.1")


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def port_with_bus() -> int:
    """A free port whose bus port, 10000 above, is free too, and is this worker's.

    The bus port of any other free port may be one that the kernel just gave to a connection:
    the node ends at once then.
    """
    while answers(port := free_port() - 10_000):
        pass
    return port


@pytest.fixture
def start_cache(tmp_path: Path) -> Iterator[Start]:
    """Start `redis` or `memcached`, with further options; all are ended."""
    running: list[subprocess.Popen[bytes]] = []

    def start(kind: str, *options: str, port: int | None = None) -> CacheServer:
        port = port or (port_with_bus() if "--cluster-enabled" in options else free_port())
        if kind == "redis":
            words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
            words += ["--appendonly", "no", "--dir", str(tmp_path), *options]
        else:
            words = ["memcached", "-l", "127.0.0.1", "-p", str(port), "-U", "0", *options]
            if not options:
                words += ["-u", "root"]
        program = shutil.which(words[0])
        assert program, f"{words[0]} is missing: scripts/debian-packages tests"
        process = subprocess.Popen([program, *words[1:]], stdout=subprocess.DEVNULL)
        running.append(process)
        eventually(lambda: answers(port) or process.poll() is not None)
        assert process.poll() is None, f"{words} ended with {process.returncode}"
        return CacheServer(process, port, kind)

    yield start
    for process in running:
        process.kill()
        process.wait()


@pytest.fixture(params=["sqlite", "redis", "memcached"])
def backend(
    request: pytest.FixtureRequest, tmp_path: Path, start_cache: Start
) -> Iterator[Backend]:
    """Each of the three stores, real ones, empty."""
    url = str(tmp_path / "cache" / "vectors.db")
    if request.param != "sqlite":
        url = start_cache(request.param).url
    made = open_backend(CacheSettings(url=url))
    yield made
    made.close()
