"""A home for services under test: all real but the engine, and proof that nothing is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from launcher.config.profile import Restart
from launcher.documents.plan import EnginePlan, Expectation, MemoryPrediction, Plan
from launcher.documents.service_state import ServiceState
from launcher.errors import QlaunchError
from launcher.linux import processes as procs
from launcher.linux.processes import ProcessId
from launcher.service import control, ports, store
from tests.patience import PATIENCE_S, eventually

__all__ = ["Beside", "Home", "eventually", "status_of"]

HERE = Path(__file__).parent
ENGINE = HERE.parent / "fake_engine.py"
FAST = {"beat_s": 0.3, "health_timeout_s": 10.0, "poll_s": 0.03}
START_TIMEOUT_S = PATIENCE_S
"""Of a plan: an engine that starts well must not miss it beside any other work."""
IMPATIENT = {"grace_s": 3.0, "children_s": 0.1, "group_s": 0.1, "kill_s": 3.0}


def status_of(error: QlaunchError) -> dict[str, Any]:
    """The status document that an error carries, as scripts read it."""
    assert error.data is not None
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(error.data))
    return data


class Home:
    """A QLAUNCH_HOME of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.options: dict[str, Any] = {
            "verify": [sys.executable, "-S", str(HERE / "fake_verify.py")],
            "timing": dict(FAST),
            "patience": dict(IMPATIENT),
        }
        self.ports: set[int] = set()

    def plan(self, *switches: str, name: str = "svc", **changes: Any) -> Plan:
        """A plan whose engine is the fake one with these switches."""
        port = changes.pop("port", None)
        if port is None:
            port = ports.pick_free("127.0.0.1")
        self.ports.add(port)
        argv = [sys.executable, "-S", str(ENGINE), "--host", "127.0.0.1", "--port", "{port}"]
        argv += ["--model-path", "/models/fake", "--dimensions", "8", *switches]
        if changes.get("api_key_file"):
            argv += ["--config", "{secrets_config}"]
        values: dict[str, Any] = {
            "service": name,
            "profile": "fake",
            "engine": EnginePlan(
                release="fake",
                version="0",
                python=sys.executable,
                argv=tuple(argv),
                env={"QLAUNCH_TEST_HOME": str(self.root)},
            ),
            "device": "cpu",
            "model_name": "fake",
            "model_path": "/models/fake",
            "fingerprint": "0",
            "expectation": Expectation(
                dimensions=8,
                normalize=True,
                pooling="mean",
                encoder=True,
                max_running_requests=4,
                context_length=512,
                parity_min=0.0,
                dtype="float32",
            ),
            "host": "127.0.0.1",
            "port": port,
            "api_key_file": None,
            "predicted": MemoryPrediction(ram_bytes=1, gpu_bytes=None),
            "fits": True,
            "start_timeout_s": START_TIMEOUT_S,
            "restart": Restart(max_attempts=2, backoff_initial_s=0.05, backoff_max_s=0.1),
            "reference_cache": str(self.root / "cache"),
        }
        return Plan(**{**values, **changes})

    @property
    def entry(self) -> tuple[str, ...]:
        path = self.root / "options.json"
        path.write_text(json.dumps(self.options))
        return (sys.executable, str(HERE / "entry.py"), str(path))

    def up(self, plan: Plan, seen: list[ServiceState] | None = None) -> ServiceState:
        on_change = (lambda _: None) if seen is None else seen.append
        return control.launch(plan, on_change=on_change, entry=self.entry)

    def up_beside(self, plan: Plan, seen: list[ServiceState] | None = None) -> Beside:
        return Beside(lambda: self.up(plan, seen))

    def starter(
        self, plan: Plan, *more: str, within: Sequence[str] = (), **env: str
    ) -> subprocess.Popen[str]:
        """`up` in a process of its own; `within` starts it elsewhere (`unshare …`)."""
        options = self.entry[2]
        path = self.root / "given-plan.json"
        path.write_bytes(msgspec.json.encode(plan))
        return subprocess.Popen(
            [*within, sys.executable, "-m", "tests.service.starter", options, str(path), *more],
            cwd=HERE.parents[1],
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def state(self, name: str = "svc") -> ServiceState | None:
        return store.read_state(name)

    def wait_for(
        self, *states: str, name: str = "svc", limit_s: float = PATIENCE_S
    ) -> ServiceState:
        def there() -> ServiceState | None:
            state = store.read_state(name)
            return state if state is not None and state.state in states else None

        found: ServiceState = eventually(there, limit_s)
        return found

    def processes(self) -> list[ProcessId]:
        """Everything alive that belongs to this home."""
        marks = (f"QLAUNCH_TEST_HOME={self.root}", f"QLAUNCH_HOME={self.root}")
        return [p for mark in marks for p in procs.marked(mark) if p.pid != os.getpid()]

    def assert_nothing_left(self) -> None:
        eventually(lambda: not self.processes())
        for port in self.ports:
            ports.check_free("127.0.0.1", port)
        assert not list(self.root.rglob("*.tmp"))
        assert not list(self.root.rglob("engine-secrets.yaml"))


class Beside:
    """A call in a thread, and what came of it."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.result: Any = None
        self.error: BaseException | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # noqa: BLE001 - handed to the test
            self.error = error

    def join(self, limit_s: float = PATIENCE_S) -> Beside:
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), "it did not end"
        return self
