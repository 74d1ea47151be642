"""How many replicas a cluster runs: a fixed number, or what an autoscaler makes of the load. Pure.

Two signals. Processor time, which every cluster measures, and which on a CPU is what runs out. And
the requests that wait for the engine (`qlaunch_queue_requests`), which Prometheus has to bring:
KEDA asks it, and the autoscaler of Kubernetes itself needs prometheus-adapter for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from launcher.documents.plan import Plan
from launcher.fleet import objects, start_command
from launcher.fleet.container import Contained

Autoscaler = Literal["hpa", "keda"]

QUEUE: Final = "qlaunch_queue_requests"
CPU_PERCENT: Final = 80
"""Of the processors asked for; above, another replica helps."""
UP_S: Final = 120
"""Replicas double at most once in so long: those that were asked for must first start and be
proved, and until then the queue does not shrink."""
_DOWN_S: Final = (300, 3600)
"""Least and most that Kubernetes waits before it takes a replica away."""


@dataclass(frozen=True)
class Scaling:
    """How many replicas."""

    replicas: int = 1
    """The number, or the least."""
    most: int | None = None
    """The most; None: four times the least."""
    autoscaler: Autoscaler | None = None
    prometheus: str | None = None
    """Address of Prometheus, for KEDA."""

    @property
    def maximum(self) -> int:
        """Most replicas."""
        return self.most if self.most is not None else 4 * self.replicas


def needs_metrics(scaling: Scaling, plan: Plan) -> bool:
    """Whether the supervisor's metrics decide: a GPU's load is in no figure of Kubernetes."""
    return scaling.autoscaler == "keda" or (scaling.autoscaler == "hpa" and plan.device == "cuda")


def documents(contained: Contained, scaling: Scaling) -> list[dict[str, Any]]:
    """The autoscaler's object; none where the number is fixed."""
    if scaling.autoscaler == "hpa":
        return [_autoscaler(contained, scaling)]
    return [_scaled_object(contained, scaling)] if scaling.autoscaler == "keda" else []


def _waiting(plan: Plan) -> str:
    """As many waiting requests as the engine takes at once: work for another replica."""
    engines = plan.replica_set.count if plan.replica_set is not None else 1
    return str(max(1, plan.expectation.max_running_requests) * engines)


def _behavior(plan: Plan) -> dict[str, Any]:
    least, most = _DOWN_S
    down_s = max(least, min(most, start_command.start_limit_s(plan)))
    double = {"type": "Percent", "value": 100, "periodSeconds": UP_S}
    return {
        "scaleUp": {"policies": [double]},
        # A queue is empty before and after a burst: what took long to start stays for a while.
        "scaleDown": {"stabilizationWindowSeconds": down_s},
    }


def _autoscaler(contained: Contained, scaling: Scaling) -> dict[str, Any]:
    plan = contained.plan
    target: dict[str, Any] = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
    metric: dict[str, Any] = {"type": "Resource", "resource": {"name": "cpu", "target": target}}
    if needs_metrics(scaling, plan):
        target = {"type": "AverageValue", "averageValue": _waiting(plan)}
        metric = {"type": "Pods", "pods": {"metric": {"name": QUEUE}, "target": target}}
    deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "name": contained.name}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": objects.meta(contained),
        "spec": {
            "scaleTargetRef": deployment,
            "minReplicas": scaling.replicas,
            "maxReplicas": scaling.maximum,
            "metrics": [metric],
            "behavior": _behavior(plan),
        },
    }


def _scaled_object(contained: Contained, scaling: Scaling) -> dict[str, Any]:
    plan = contained.plan
    triggers: list[dict[str, Any]] = [
        {
            "type": "prometheus",
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": scaling.prometheus,
                "query": f'sum({QUEUE}{{service="{plan.service}"}})',
                "threshold": _waiting(plan),
            },
        }
    ]
    if plan.device == "cpu":
        busy = {"type": "cpu", "metricType": "Utilization", "metadata": {"value": str(CPU_PERCENT)}}
        triggers.append(busy)
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": objects.meta(contained),
        "spec": {
            "scaleTargetRef": {"name": contained.name},
            # KEDA's own least is none, and nobody would hold requests until one has started.
            "minReplicaCount": scaling.replicas,
            "maxReplicaCount": scaling.maximum,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(plan)}},
            "triggers": triggers,
        },
    }
