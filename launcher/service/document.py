"""The status document of the command line's contract."""

from __future__ import annotations

from typing import Any

import msgspec

from launcher.documents.run import PredictionError
from launcher.documents.service_state import FINAL, ServiceState, at_work
from launcher.plan import memory


def as_data(state: ServiceState) -> dict[str, Any]:
    """The status document of the command line's contract (docs/cli.md)."""
    known = state.predicted is not None
    template = state.template if at_work(state) else None
    document: dict[str, Any] = {
        "service": state.service,
        "profile": state.profile,
        "state": state.state,
        "since": state.since,
        "endpoint": state.endpoint,
        "pid": state.engine.pid if state.engine else None,
        "supervisor_pid": state.supervisor.pid if state.supervisor and at_work(state) else None,
        "run": state.run,
        "engine": _said(state.engine_plan),
        "memory": {
            "predicted": state.predicted or {},
            "measured": _said(state.measured),
            # Of the peak so far, so that load after the start shows too.
            "error": prediction_error(state),
        },
        "timings": state.timings if known else {},
        "smoke": state.smoke or {"checks": []},
        "failure": state.failure,
        "restarts": state.restarts,
        "fallbacks": state.fallbacks,
        "start_limit": _said(state.start_limit),
        "last_check": _said(state.last_check),
        "metrics": state.metrics if state.state not in FINAL else None,
        "phases": state.phases,
        "detail": state.detail,
        **_gateway(state),
        **_replicas(state),
        **({} if template is None else {"template_pid": template.pid}),
        **({} if state.problem is None else {"problem": state.problem}),
    }
    data: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document))
    return data


def _gateway(state: ServiceState) -> dict[str, Any]:
    """The gateway and its cache; nothing where none was asked for."""
    gateway = state.gateway
    if gateway is None:
        return {}
    use = gateway.use
    runs = gateway.process is not None and at_work(state)
    return {
        "engine_endpoint": state.engine_endpoint if at_work(state) else None,
        "gateway": {
            "pid": gateway.process.pid if runs and gateway.process else None,
            "inputs": use.inputs,
            "hits": use.hits,
            "shared": use.shared,
            "hit_rate": use.hit_rate if gateway.cached else None,
            "restarts": use.restarts,
            "bypassed": gateway.bypassed,
            "problem": gateway.problem,
        },
    }


def _replicas(state: ServiceState) -> dict[str, Any]:
    """The replicas of a set, or the set of a replica; nothing for a single engine."""
    if state.part_of is not None:
        return {"part_of": state.part_of}
    if not state.replicas:
        return {}
    runs = at_work(state)
    return {
        "replicas": [
            {
                "service": each.service,
                "state": each.state,
                "serving": each.serving and runs,
                "endpoint": each.endpoint if runs else None,
                "pid": each.engine.pid if each.engine and runs else None,
                "supervisor_pid": each.supervisor.pid if each.supervisor and runs else None,
                "run": each.run,
                "starts": each.starts,
                "restarts": each.restarts,
                "detail": each.detail,
            }
            for each in state.replicas
        ],
        "serving": state.serving if runs else 0,
        "rollout": state.rollout,
    }


def prediction_error(state: ServiceState) -> PredictionError:
    """How far the prediction is off the peak so far."""
    foreseen, peak = state.predicted, state.measured
    if foreseen is None:
        return PredictionError()
    return PredictionError(
        ram=memory.error(foreseen.ram_bytes, peak.ram_peak_bytes),
        gpu=memory.error(foreseen.gpu_bytes, peak.gpu_peak_bytes),
    )


def _said(part: msgspec.Struct) -> msgspec.Struct | dict[str, Any]:
    """A part of the state; `{}` where nothing was said of it."""
    return {} if part == type(part)() else part
