"""What Prometheus's operator needs to read a service's metrics, and the way in for it. Pure."""

from __future__ import annotations

from typing import Any, Final

from launcher.documents.plan import Plan
from launcher.fleet import container, objects
from launcher.fleet.container import Contained

METRICS: Final = "metrics"
"""Name of the port."""


def prometheus(namespace: str) -> str:
    """Where the operator's own Service says that Prometheus is."""
    return f"http://prometheus-operated.{namespace}.svc:9090"


def own_port(plan: Plan) -> bool:
    """Whether the service's own port has metrics too: a gateway's, or an engine's."""
    return plan.fronted or (plan.guard is not None and plan.guard.metrics)


def monitor(contained: Contained, secret: str) -> dict[str, Any]:
    """The ServiceMonitor.

    Args:
        contained: what runs, with a port for metrics.
        secret: the Secret with the key, where clients must send one.
    """
    # Else the operator's own label `service` would push ours aside, which dashboards ask for.
    endpoints: list[dict[str, Any]] = [{"port": METRICS, "honorLabels": True}]
    if own_port(contained.plan):
        endpoints.append({"port": "http", **_authorization(contained, secret)})
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "ServiceMonitor",
        "metadata": objects.meta(contained),
        "spec": {"selector": {"matchLabels": objects.labels(contained)}, "endpoints": endpoints},
    }


def way_in(contained: Contained, namespace: str) -> dict[str, Any]:
    """The rule of the NetworkPolicy that lets Prometheus in, and no one else of its namespace's
    neighbours.
    """
    ports = [contained.metrics_port]
    if own_port(contained.plan):
        ports.append(contained.plan.port)
    named = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    return {
        "from": [{"namespaceSelector": named}],
        "ports": [{"port": port, "protocol": "TCP"} for port in ports],
    }


def _authorization(contained: Contained, secret: str) -> dict[str, Any]:
    """A gateway's metrics want the key that its clients send; an engine's are open."""
    if not contained.key or not contained.plan.fronted:
        return {}
    return {"authorization": {"credentials": {"name": secret, "key": container.KEY}}}
