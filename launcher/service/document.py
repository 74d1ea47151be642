"""The status document of the command line's contract."""

from __future__ import annotations

from typing import TypeVar

import msgspec
from msgspec import UNSET

from launcher.documents.plan import MemoryPrediction
from launcher.documents.run import Peak, PredictionError
from launcher.documents.service_state import FINAL, ReplicaState, ServiceState, at_work
from launcher.documents.status import (
    GatewayStatus,
    NoChecks,
    Nothing,
    ReplicaStatus,
    ServiceStatus,
    StatusMemory,
)
from launcher.plan import memory

_Part = TypeVar("_Part", bound=msgspec.Struct)


def status_of(state: ServiceState) -> ServiceStatus:
    """The status document of the command line's contract (docs/cli.md)."""
    runs, one_of_many = at_work(state), state.part_of is not None
    is_set = bool(state.replicas) and not one_of_many
    return ServiceStatus(
        service=state.service,
        profile=state.profile,
        state=state.state,
        since=state.since,
        endpoint=state.endpoint,
        pid=state.engine.pid if state.engine else None,
        supervisor_pid=state.supervisor.pid if state.supervisor and runs else None,
        run=state.run,
        engine=_said(state.engine_plan),
        memory=StatusMemory(
            predicted=state.predicted or Nothing(),
            measured=_said(state.measured),
            error=prediction_error(state),
        ),
        timings=Nothing() if state.predicted is None else state.timings,
        smoke=state.smoke or NoChecks(),
        failure=state.failure,
        restarts=state.restarts,
        fallbacks=state.fallbacks,
        start_limit=_said(state.start_limit),
        last_check=_said(state.last_check),
        metrics=None if state.state in FINAL else state.metrics,
        phases=state.phases,
        detail=state.detail,
        engine_endpoint=UNSET
        if state.gateway is None
        else (state.engine_endpoint if runs else None),
        gateway=_gateway(state),
        part_of=UNSET if state.part_of is None else state.part_of,
        replicas=tuple(_replica(each, runs=runs) for each in state.replicas) if is_set else UNSET,
        serving=(state.serving if runs else 0) if is_set else UNSET,
        rollout=state.rollout if is_set else UNSET,
        template_pid=state.template.pid if state.template and runs else UNSET,
        problem=UNSET if state.problem is None else state.problem,
    )


def _gateway(state: ServiceState) -> GatewayStatus | msgspec.UnsetType:
    """The gateway and its cache; unset where none was asked for."""
    gateway = state.gateway
    if gateway is None:
        return UNSET
    use = gateway.use
    return GatewayStatus(
        pid=gateway.process.pid if gateway.process and at_work(state) else None,
        inputs=use.inputs,
        hits=use.hits,
        shared=use.shared,
        hit_rate=use.hit_rate if gateway.cached else None,
        restarts=use.restarts,
        bypassed=gateway.bypassed,
        problem=gateway.problem,
    )


def _replica(each: ReplicaState, *, runs: bool) -> ReplicaStatus:
    """One replica of a set; `runs`: whether the set does."""
    return ReplicaStatus(
        service=each.service,
        state=each.state,
        serving=each.serving and runs,
        endpoint=each.endpoint if runs else None,
        pid=each.engine.pid if each.engine and runs else None,
        supervisor_pid=each.supervisor.pid if each.supervisor and runs else None,
        run=each.run,
        starts=each.starts,
        restarts=each.restarts,
        detail=each.detail,
    )


def prediction_error(state: ServiceState) -> PredictionError:
    """How far the prediction is off what it foresees: the peak until the service was verified."""
    return error_of(state.predicted, state.verified_peak)


def error_of(foreseen: MemoryPrediction | None, peak: Peak | None) -> PredictionError:
    """How far a prediction is off a peak; nothing where one of them is not there."""
    if foreseen is None or peak is None:
        return PredictionError()
    return PredictionError(
        ram=memory.error(foreseen.ram_bytes, peak.ram_peak_bytes),
        gpu=memory.error(foreseen.gpu_bytes, peak.gpu_peak_bytes),
    )


def _said(part: _Part) -> _Part | Nothing:
    """A part of the state; nothing where all of it is as at the beginning."""
    return Nothing() if part == type(part)() else part
