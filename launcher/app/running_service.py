"""A service that runs: what commands need to know to speak to it."""

from __future__ import annotations

import http.client
import json
import time
from contextlib import closing, suppress
from typing import Final
from urllib.parse import urlsplit

from launcher.documents.plan import Plan
from launcher.documents.service_state import FINAL, UP, ServiceState
from launcher.errors import ExitCode, QlaunchError
from launcher.service import control, failures, keys, store

WAKE_S: Final = 180.0
"""For an engine that was stopped while nobody needed it."""
_LOOK_S: Final = 0.1


def running(name: str, *, past_cache: bool = False) -> tuple[Plan, str]:
    """Plan and endpoint (`http://host:port/v1`) of a running service.

    `past_cache`: the engine's own, for whoever measures or proves it: an answer from the gateway's
    cache would say nothing of it.

    Raises:
        QlaunchError: `no_such_service`, `not_running` (exit 3); `bad_service_name` (exit 2).
    """
    state = control.status(name)
    if state.state not in UP or state.endpoint is None:
        raise failures.not_running(state)
    plan = store.read_plan(store.folder(name))
    if past_cache and state.state == "idle":
        state = awake(name, plan)
    endpoint = state.past_cache if past_cache else state.endpoint
    return plan, endpoint or state.endpoint or ""


def awake(name: str, plan: Plan) -> ServiceState:
    """The state of an idle service once its engine runs again: a request that needs it was sent.

    Raises:
        QlaunchError: `not_running` (exit 3): it did not come back.
    """
    state = control.status(name)
    parts = urlsplit(state.endpoint or "")
    key = api_key(plan)
    headers = {"Content-Type": "application/json", "Cache-Control": "no-store"}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    body = json.dumps({"model": plan.model_name, "input": ["wake up"]})
    client = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=WAKE_S)
    with suppress(OSError, http.client.HTTPException), closing(client):
        client.request("POST", f"{parts.path}/embeddings", body, headers)
        client.getresponse().read()
    until = time.monotonic() + WAKE_S
    while True:
        state = control.status(name)
        if state.state in {"ready", "degraded"} and state.engine_endpoint is not None:
            return state
        if state.state in FINAL or time.monotonic() >= until:
            raise QlaunchError(
                f"service {name!r} was idle, and its engine did not come back: {state.state}",
                code="not_running",
                exit_code=ExitCode.NOT_RUNNING,
                fix=f"see why: qlaunch logs {name}",
            )
        time.sleep(_LOOK_S)


def engines(name: str) -> list[tuple[Plan, str]]:
    """Plan and own endpoint of each engine of a running service: of every replica that serves.

    For whoever proves them: each is asked past the gateway.

    Raises:
        QlaunchError: as `running`; `not_running` (exit 3) where no replica serves.
    """
    alone = running(name, past_cache=True)
    state = control.status(name)
    if not state.replicas:
        return [alone]
    serving = [running(each.service) for each in state.replicas if each.serving]
    if not serving:
        raise QlaunchError(
            f"no replica of service {name!r} serves: {state.detail}",
            code="not_running",
            exit_code=ExitCode.NOT_RUNNING,
            fix=f"wait for it: qlaunch status {name}",
        )
    return serving


def api_key(plan: Plan) -> str | None:
    """The key clients must send, where the service has one; `api_key_unusable` (exit 2)."""
    return keys.read_key(plan.api_key_file) if plan.api_key_file else None
