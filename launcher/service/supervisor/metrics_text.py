"""The service's figures in Prometheus's text format. Pure.

Written by hand: prometheus_client takes 10 MB and 0.2 s to import, of the supervisor's 24 MB. A
test reads the text back with that library's own parser. What was not measured has no line.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from launcher.documents.run import Sample
from launcher.documents.service_state import FINAL, ServiceState, State
from launcher.service.supervisor.batch_counter import BatchCounter

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Value = tuple[Labels, float | None]

METRICS: Mapping[str, tuple[str, str]] = {
    "qlaunch_up": ("gauge", "Whether a process of the engine runs."),
    "qlaunch_ready": ("gauge", "Whether its vectors are proved right and its checks pass."),
    "qlaunch_state": ("gauge", "1 for the state the service is in, 0 for the others."),
    "qlaunch_restarts_total": ("counter", "Starts of the engine after failures."),
    "qlaunch_replicas": ("gauge", "Replicas of a set that requests are handed to, and the others."),
    "qlaunch_start_seconds": ("gauge", "From the request to the first healthy answer."),
    "qlaunch_verified_seconds": ("gauge", "From the request to vectors proved right."),
    "qlaunch_smoke_success": ("gauge", "Whether the last smoke passed."),
    "qlaunch_smoke_cosine_min": ("gauge", "Least cosine of the smoke with the reference."),
    "qlaunch_check_latency_seconds": ("gauge", "Latency of the last embedding check."),
    "qlaunch_ram_bytes": ("gauge", "Memory of the engine by process."),
    "qlaunch_gpu_memory_used_bytes": ("gauge", "GPU memory of the engine."),
    "qlaunch_predicted_memory_bytes": ("gauge", "Predicted peak until verified."),
    "qlaunch_cpu_cores": ("gauge", "Cores that the engine keeps busy."),
    "qlaunch_texts_total": ("counter", "Texts embedded, by the engine's log, since it started."),
    "qlaunch_tokens_total": ("counter", "Tokens computed, by the engine's log, since it started."),
    "qlaunch_queue_requests": ("gauge", "Requests that waited when the last batch was logged."),
}
"""Type and help of every metric, in the order they are written."""


@dataclass(frozen=True)
class Facts:
    """What is known at this moment."""

    state: ServiceState
    model: str
    sample: Sample | None = None
    """The last one taken of a living engine."""
    traffic: BatchCounter | None = None
    """None where no engine runs."""


def exposition(facts: Facts) -> str:
    """The whole answer to `GET /metrics`."""
    state = facts.state
    common = {"service": state.service, "profile": state.profile, "model": facts.model}
    lines = []
    values = {**_status(state), **_memory(facts), **_work(facts)}
    for name, (kind, text) in METRICS.items():
        found = [(labels, value) for labels, value in values[name] if value is not None]
        if found:
            lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
            lines += [
                f"{name}{_labels({**common, **labels})} {_number(value)}" for labels, value in found
            ]
    return "\n".join(lines) + "\n"


def _status(state: ServiceState) -> dict[str, Iterable[Value]]:
    smoke, predicted, latency = state.smoke, state.predicted, state.last_check.latency_ms
    runs = state.leader is not None and state.state not in FINAL
    return {
        "qlaunch_up": [({}, runs)],
        "qlaunch_ready": [({}, state.state == "ready")],
        "qlaunch_state": [
            ({"state": name}, name == state.state) for name in get_args(State) if name != "unknown"
        ],
        "qlaunch_restarts_total": [({}, state.restarts)],
        "qlaunch_replicas": [
            ({"state": name}, count if state.replicas else None)
            for name, count in (
                ("serving", state.serving),
                ("missing", len(state.replicas) - state.serving),
            )
        ],
        "qlaunch_start_seconds": [({}, state.timings.ready_s)],
        "qlaunch_verified_seconds": [({}, state.timings.verified_s)],
        "qlaunch_smoke_success": [({}, smoke.ok if smoke else None)],
        "qlaunch_smoke_cosine_min": [({}, smoke.worst_cosine if smoke else None)],
        "qlaunch_check_latency_seconds": [({}, None if latency is None else latency / 1000)],
        "qlaunch_predicted_memory_bytes": [
            ({"device": "ram"}, predicted.ram_bytes if predicted else None),
            ({"device": "gpu"}, predicted.gpu_bytes if predicted else None),
        ],
    }


def _memory(facts: Facts) -> dict[str, Iterable[Value]]:
    sample = facts.sample
    if sample is None:
        return dict.fromkeys(
            ("qlaunch_ram_bytes", "qlaunch_gpu_memory_used_bytes", "qlaunch_cpu_cores"), ()
        )
    cpu = sample.cpu_percent
    return {
        "qlaunch_ram_bytes": _ram(sample),
        "qlaunch_gpu_memory_used_bytes": [({"method": sample.gpu_method}, sample.gpu_bytes)],
        "qlaunch_cpu_cores": [({}, None if cpu is None else cpu / 100)],
    }


def _ram(sample: Sample) -> Iterator[Value]:
    """By role, several processes of one added up; nothing where one could not be read."""
    if sample.ram_bytes is None:
        return
    total: dict[str, int] = {}
    for process in sample.processes:
        total[process.role] = total.get(process.role, 0) + (process.ram_bytes or 0)
    for role, used in total.items():
        yield {"process": role, "method": sample.ram_method}, used


def _work(facts: Facts) -> dict[str, Iterable[Value]]:
    traffic = facts.traffic
    return {
        "qlaunch_texts_total": [({}, None if traffic is None else traffic.texts)],
        "qlaunch_tokens_total": [({}, None if traffic is None else traffic.tokens)],
        "qlaunch_queue_requests": [({}, None if traffic is None else traffic.queue)],
    }


def _labels(labels: Labels) -> str:
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return str(int(value)) if isinstance(value, int) else repr(float(value))
