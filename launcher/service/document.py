"""The status document of the command line's contract."""

from __future__ import annotations

from typing import Any

import msgspec

from launcher.documents.service_state import FINAL, ServiceState, at_work
from launcher.plan import memory


def as_data(state: ServiceState) -> dict[str, Any]:
    """The status document of the command line's contract (docs/cli.md)."""
    data: dict[str, Any] = {
        "service": state.service,
        "profile": state.profile,
        "state": state.state,
        "since": state.since,
        "endpoint": state.endpoint,
        "pid": state.engine.pid if state.engine else None,
        "supervisor_pid": state.supervisor.pid if state.supervisor and at_work(state) else None,
        "run": state.run,
        "engine": state.engine_plan,
        "memory": {
            "predicted": state.predicted,
            "measured": state.measured,
            # Of the peak so far, so that load after the start shows too: predicted / measured - 1.
            "error": {
                "ram": memory.error(
                    state.predicted.get("ram_bytes"), state.measured.get("ram_peak_bytes")
                ),
                "gpu": memory.error(
                    state.predicted.get("gpu_bytes"), state.measured.get("gpu_peak_bytes")
                ),
            },
        },
        "timings": state.timings,
        "smoke": state.smoke or {"checks": []},
        "failure": msgspec.json.decode(msgspec.json.encode(state.failure)),
        "restarts": state.restarts,
        "fallbacks": list(state.fallbacks),
        "start_limit": state.start_limit,
        "last_check": state.last_check,
        "metrics": state.metrics if state.state not in FINAL else None,
        "phases": list(state.phases),
        "detail": state.detail,
    }
    if state.problem is not None:
        data["problem"] = state.problem
    return data
