"""Ports: free, taken and by whom, and whose listener it is."""

from __future__ import annotations

import ipaddress
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import QlaunchError
from launcher.service import ports
from tests.children import running


def test_a_free_port_is_free_and_stays_so() -> None:
    port = ports.pick_free("127.0.0.1")
    assert ports.PICK[0] <= port <= ports.PICK[1]
    ports.check_free("127.0.0.1", port)
    ports.check_free("127.0.0.1", port)
    assert ports.listeners(port) == []
    assert ports.owner_pids(port) == []
    assert ports.ownership([os.getpid()], "127.0.0.1", port) == "unseen"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "localhost"])
def test_a_taken_port_names_its_holder(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(QlaunchError) as caught:
            ports.check_free(host, port)
        assert (caught.value.code, caught.value.exit_code) == ("port_taken", 9)
        assert f"process {os.getpid()}" in caught.value.message
        assert ports.owner_pids(port) == [os.getpid()]


def test_the_listener_of_another_process_is_foreign() -> None:
    code = (
        "import socket, sys, time\ns = socket.create_server(('127.0.0.1', 0))\n"
        "print(s.getsockname()[1], flush=True)\ntime.sleep(60)\n"
    )
    with running([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        assert ports.ownership([os.getpid()], "127.0.0.1", port) == "foreign"
        assert ports.ownership([os.getpid(), other.pid], "127.0.0.1", port) == "ours"
        assert ports.ownership([], "127.0.0.1", port) != "ours"
        other.kill()


def test_a_listener_on_another_address_does_not_count() -> None:
    with socket.create_server(("127.0.0.2", 0)) as server:
        port = server.getsockname()[1]
        assert ports.ownership([os.getpid()], "127.0.0.1", port) == "unseen"
        assert ports.ownership([os.getpid()], "127.0.0.2", port) == "ours"
        assert ports.ownership([os.getpid()], "0.0.0.0", port) == "ours"


def test_a_wildcard_listener_answers_for_every_address() -> None:
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert ports.ownership([os.getpid()], "127.0.0.1", port) == "ours"


def test_the_kernel_table_is_read_in_both_families() -> None:
    head = "  sl  local_address rem_address   st\n"
    rest = "00000000:0000 {st} 00000000:00000000 00:00000000 00000000 0 0 {inode} 1 0\n"
    v4 = head + "   0: 0100007F:1F90 " + rest.format(st="0A", inode=7)
    v4 += "   1: 0100007F:1F90 " + rest.format(st="01", inode=8)
    assert ports.parse_listeners(v4, 8080) == [
        ports.Listener(ipaddress.ip_address("127.0.0.1"), 8080, 7)
    ]
    mapped = "0000000000000000FFFF00000100007F"
    v6 = head + f"   0: {mapped}:1F90 " + rest.format(st="0A", inode=9)
    v6 += "   1: 00000000000000000000000001000000:1F90 " + rest.format(st="0A", inode=10)
    found = ports.parse_listeners(v6, 8080)
    assert [str(one.address) for one in found] == ["127.0.0.1", "::1"]
    assert ports.parse_listeners(v6, 80) == []
    assert ports.parse_listeners(head + "garbage\n\n", 80) == []


@pytest.mark.parametrize("host", ["no-such-host.invalid", "256.1.1.1", "a" * 300, "192.0.2.1"])
def test_a_host_that_is_not_here_is_one_sentence(host: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        ports.check_free(host, 20000)
    assert (caught.value.code, caught.value.exit_code) == ("bad_host", 2)


def test_addresses_for_clients() -> None:
    assert ports.reach("0.0.0.0") == "127.0.0.1"
    assert ports.reach("") == "127.0.0.1"
    assert ports.reach("::") == "::1"
    assert ports.reach("127.0.0.5") == "127.0.0.5"
    assert ports.url("127.0.0.1", 1, "/v1") == "http://127.0.0.1:1/v1"
    assert ports.url("::1", 1) == "http://[::1]:1/v1"


def test_a_reserved_port_has_one_holder(tmp_path: Path) -> None:
    first = ports.reserve(tmp_path, 4000)
    assert first is not None
    assert ports.reserve(tmp_path, 4000) is None
    other = ports.reserve(tmp_path, 4001)
    assert other is not None
    other.release()
    first.release()
    again = ports.reserve(tmp_path, 4000)
    assert again is not None
    again.release()
