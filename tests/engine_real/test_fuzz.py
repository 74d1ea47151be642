"""The endpoint under everything that clients can send: the real engine, MiniLM, one life.

`make fuzz` sends 20,000 (QLAUNCH_FUZZ_REQUESTS); the tests a few hundred. Beside them a hundred
connections that send nothing or a little now and then.
"""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, seed, settings

from launcher.verify.embedding_client import read_vector
from tests.engine_real import fuzz
from tests.engine_real.conftest import Running
from tests.engine_real.fuzz import Case, Heard, send
from tests.engine_real.qlaunch import Home, tree

REQUESTS = int(os.environ.get("QLAUNCH_FUZZ_REQUESTS", "300"))
CONTROL_EVERY = 100
LARGE_EVERY = 150
IDLE = 100
"""Connections held open by clients that hardly say anything."""
REFUSALS = frozenset({400, 403, 404, 405, 408, 411, 413, 414, 415, 431, 501, 503})
DIMENSIONS = 384
BACK = 1.05
"""Memory afterwards, as a share of that before."""
SETTLE_S = 60.0
"""For what was freed to be given back."""


class Watched:
    """A service under fuzz: its control texts, its memory, what was answered."""

    def __init__(self, home: Home, data: dict[str, Any]) -> None:
        self.home, self.name, self.leader = home, str(data["service"]), int(data["pid"])
        self.full = int(data["memory"]["predicted"]["ram_full_bytes"])
        self.port = int(urlsplit(data["endpoint"]).port or 0)
        self.seen: Counter[int] = Counter()
        self.sent = self.peak = 0
        self.control = self.ask_control()
        self.before = self.pss()

    def ask_control(self) -> bytes:
        """The control texts' vectors, bit for bit, each asked alone."""
        found = b""
        for text in ("a text whose vector must stay", "另一个", "x " * 300):
            heard = send(self.port, Case(fuzz.http(fuzz.body({"input": text}))))
            assert heard.statuses == [200], heard.data[:500]
            found += json.dumps(heard.document["data"]).encode()
        return found

    def pss(self) -> int:
        """Memory of the engine's processes, bytes."""
        total = 0
        for member in tree(self.leader):
            try:
                text = Path(f"/proc/{member.pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total += next(
                1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")
            )
        self.peak = max(self.peak, total)
        return total

    def play(self, case: Case) -> None:
        """Send one case and judge what came."""
        self.sent += 1
        heard = send(self.port, case)
        self.seen.update(heard.statuses or [0])
        judge(case, heard)
        if self.sent % CONTROL_EVERY == 0:
            assert self.ask_control() == self.control, f"after {case}"
            self.pss()
        if self.sent % LARGE_EVERY == 0:
            big = [each for each in fuzz.NAMED if len(each.sent) >= 100_000]
            self.play(big[self.sent // LARGE_EVERY % len(big)])

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.home.run("status", self.name, "--json").ok().data
        return found


def judge(case: Case, heard: Heard) -> None:
    """Right vectors or a refusal; never a 500, a dropped connection, or a vector for nonsense."""
    if case.cut is not None:
        return
    strange = [s for s in heard.statuses if s != 200 and s not in REFUSALS]
    assert not strange, f"{case}: {heard.data[:500]!r}"
    assert len(heard.statuses) >= case.answers, f"{case}: the connection was dropped"
    if heard.statuses == [200] and case.sent.startswith(b"POST /v1/embeddings "):
        rows = heard.document["data"]
        assert [row["index"] for row in rows] == list(range(len(rows)))
        for row in rows:
            vector = read_vector(row["embedding"])
            length = math.sqrt(sum(x * x for x in vector))
            assert len(vector) == DIMENSIONS, case
            assert abs(length - 1) < 0.01, case


@contextmanager
def loiterers(port: int, count: int) -> Iterator[None]:
    """Clients that connect and say nothing, or one byte a second, for as long as they may."""
    over = threading.Event()

    def linger() -> None:
        drip = fuzz.http(fuzz.body({"input": "slow"}))
        with ExitStack() as held:
            links = [
                held.enter_context(socket.create_connection(("127.0.0.1", port), 60))
                for _ in range(count)
            ]
            for at in range(len(drip) - 1):
                for number, link in enumerate(links):
                    if number % 2:
                        try:
                            link.send(drip[at : at + 1])
                        except OSError:  # it was hung up on, and rightly
                            continue
                if over.wait(1.0):
                    return
            over.wait()

    thread = threading.Thread(target=linger, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def bombard(watched: Watched, requests: int) -> None:
    """The named cases, then as many of the others, beside clients that only hold on."""
    with loiterers(watched.port, IDLE):
        for case in fuzz.NAMED:
            watched.play(case)

        @seed(12)
        @settings(
            max_examples=requests,
            deadline=None,
            database=None,
            print_blob=False,
            suppress_health_check=list(HealthCheck),
        )
        @given(fuzz.usual)
        def play(case: Case) -> None:
            watched.play(case)

        play()


@pytest.mark.timeout(2400 + REQUESTS)  # the first test pays for the install
def test_nothing_that_clients_send_harms_the_service(running: Running) -> None:
    watched = Watched(running.home, running.data)
    bombard(watched, REQUESTS)
    assert watched.ask_control() == watched.control
    deadline = time.monotonic() + SETTLE_S
    while (after := watched.pss()) > BACK * watched.before and time.monotonic() < deadline:
        time.sleep(2)
    found = watched.status()
    peak = max(watched.peak, found["memory"]["measured"]["ram_peak_bytes"])
    print(
        f"{watched.sent} requests: {dict(sorted(watched.seen.items()))}; memory (PSS)"
        f" {watched.before / 1e6:.0f} MB before, {peak / 1e6:.0f} at most,"
        f" {after / 1e6:.0f} afterwards; {watched.full / 1e6:.0f} predicted in full"
    )
    assert (found["state"], found["restarts"], found["pid"]) == ("ready", 0, watched.leader)
    assert found["smoke"]["ok"]
    assert watched.seen[200] > 0
    assert peak <= watched.full
    assert after <= BACK * watched.before
