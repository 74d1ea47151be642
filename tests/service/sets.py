"""Sets of replicas for tests: plans, and a client that counts what fails."""

from __future__ import annotations

import http.client
import json
import sys
import threading
import urllib.parse
from pathlib import Path
from typing import Any, Self

from launcher.documents.plan import MemoryPrediction, Plan, ReplicaSet
from launcher.documents.service_state import ReplicaState, ServiceState
from launcher.service import control
from tests.patience import PATIENCE_S, eventually
from tests.service.home import Home

ENTRY = Path(__file__).with_name("entry.py")


def plan(home: Home, count: int, *switches: str, **changes: Any) -> Plan:
    """A set of `count` scripted engines."""
    one = MemoryPrediction(ram_bytes=1, gpu_bytes=None)
    shares = tuple({"REPLICA": str(number)} for number in range(1, count + 1))
    engines = ReplicaSet(count=count, one=one, shares=shares)
    return home.plan(*switches, replica_set=engines, **changes)


def up(home: Home, count: int, *switches: str, **changes: Any) -> ServiceState:
    arrange(home)
    return home.up(plan(home, count, *switches, **changes))


def arrange(home: Home) -> None:
    """Have the supervisors of replicas be those of tests too."""
    options = home.root / "options.json"
    home.options["replica"] = [sys.executable, str(ENTRY), str(options)]
    home.options["timing"].update(gateway_beat_s=0.2, look_s=0.05)


def replica(state: ServiceState, number: int) -> ReplicaState:
    return state.replicas[number - 1]


def wait(what: Any, name: str = "svc") -> ServiceState:
    """The set's state once `what` is true of it."""

    def there() -> ServiceState | None:
        now = control.status(name)
        return now if what(now) else None

    state: ServiceState = eventually(there)
    return state


def all_serve(count: int) -> Any:
    return lambda now: now.state == "ready" and now.serving == len(now.replicas) == count


class Load:
    """Clients that ask without a pause until the end, and what they were answered."""

    def __init__(self, endpoint: str | None, clients: int = 4, model: str = "fake") -> None:
        self._body = json.dumps({"model": model, "input": ["the same text"]})
        self._parts = urllib.parse.urlsplit(endpoint or "")
        self._over = threading.Event()
        self.failed: list[str] = []
        self.asked = 0
        self.vectors: set[tuple[float, ...]] = set()
        """Of the one text that all ask for, rounded."""
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        eventually(lambda: self.asked >= len(self._threads))
        return self

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def more(self, count: int = 20) -> None:
        """Wait until so many more were answered."""
        goal = self.asked + count
        eventually(lambda: self.asked >= goal)

    def _ask(self) -> None:
        while not self._over.is_set():
            client = http.client.HTTPConnection(
                str(self._parts.hostname), self._parts.port, timeout=PATIENCE_S
            )
            try:
                client.request(
                    "POST", "/v1/embeddings", self._body, {"Content-Type": "application/json"}
                )
                answer = client.getresponse()
                data = answer.read()
                if answer.status != 200:
                    self.failed.append(f"HTTP {answer.status}: {data[:200]!r}")
                else:
                    vector = json.loads(data)["data"][0]["embedding"]
                    self.vectors.add(tuple(round(x, 5) for x in vector))
            except (OSError, http.client.HTTPException) as error:
                self.failed.append(repr(error))
            finally:
                client.close()
            self.asked += 1
