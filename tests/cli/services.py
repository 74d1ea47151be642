"""Services and runs as their supervisors leave them, without a supervisor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from launcher.documents.plan import MemoryPrediction
from launcher.documents.run import Run
from launcher.documents.service_state import ExecutedEngine, ServiceState, State
from launcher.paths import dirs, private_dir
from launcher.service import store


def leave_service(name: str, run: str, state: State = "stopped", **changes: Any) -> ServiceState:
    """Write the state file of a service that is over."""
    values: dict[str, Any] = {
        "version": store.VERSION,
        "service": name,
        "profile": "cpu-minilm",
        "state": state,
        "since": "2026-01-01T00:00:00.000Z",
        "run": run,
        "endpoint": None,
        "supervisor": None,
        "engine": None,
        "engine_plan": ExecutedEngine(release="cpu", version="0.5.23"),
        "predicted": MemoryPrediction(ram_bytes=1, gpu_bytes=None),
    }
    found = ServiceState(**{**values, **changes})
    store.write_state(store.folder(name, create=True), found)
    return found


def leave_run(run: str, service: str, log: str = "", **changes: Any) -> Path:
    """Write the record of one life; returns its folder."""
    private_dir(dirs().state)
    folder = dirs().runs / run
    folder.mkdir(parents=True)
    record = Run(
        version=1, run=run, service=service, profile="cpu-minilm", began="2026-01-01T00:00:00Z"
    )
    (folder / "run.json").write_bytes(
        msgspec.json.encode(msgspec.structs.replace(record, **changes))
    )
    (folder / "engine.log").write_text(log)
    return folder
