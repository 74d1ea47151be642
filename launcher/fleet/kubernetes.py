"""Kubernetes manifests for a plan. Pure.

The startup probe asks whether the vectors are proved right, so no traffic comes before; readiness
asks the engine, whose answer may take 20 s; liveness asks only whether the supervisor moves, since
an engine that dies is its business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.fleet import container, monitoring, objects, scaling, start_command
from launcher.fleet.container import Contained
from launcher.fleet.scaling import Scaling
from launcher.network import redis_address

FILE = "kubernetes.yaml"
PERIOD_S = 10


@dataclass(frozen=True)
class Cluster:
    """What of a cluster the manifests name."""

    claim: str | None = None
    """PersistentVolumeClaim with the model; None: the image has it, or a claim named after the
    service where no image can."""
    secret: str | None = None
    """Secret with the API key under `api-key`; None: named after the service."""
    monitoring: str | None = None
    """Namespace of Prometheus and its operator; None: there is none."""
    scaling: Scaling = field(default_factory=Scaling)


def text(contained: Contained, cluster: Cluster) -> str:
    """The manifests, one document each.

    Args:
        contained: what runs; with a port for metrics, where the cluster reads them.
        cluster: where.

    Raises:
        QlaunchError: `export_impossible` (exit 2), as `start_command.words`; where the autoscaler
            needs metrics that nobody reads.
    """
    _require_metrics(contained, cluster)
    claim, secret = cluster.claim, cluster.secret
    if claim is None and not contained.baked:
        claim = f"{contained.name}-model"
    secret = secret or f"{contained.name}-key"
    documents = [
        *([_profiles(contained)] if contained.profiles else []),
        _deployment(contained, claim, secret, cluster.scaling),
        _service(contained),
        _budget(contained),
        _network(contained, cluster.monitoring),
        *([monitoring.monitor(contained, secret)] if cluster.monitoring else []),
        *scaling.documents(contained, cluster.scaling),
    ]
    needs = [f"Needs the Secret {secret}, key {container.KEY}."] if contained.key else []
    if claim is not None:
        needs.append(
            f"Needs the PersistentVolumeClaim {claim}, with what is here in "
            f"{contained.model_source} at its root."
        )
    return container.commented([*contained.comments, *needs]) + container.dumped(documents)


def _require_metrics(contained: Contained, cluster: Cluster) -> None:
    if cluster.monitoring is None and scaling.needs_metrics(cluster.scaling, contained.plan):
        raise QlaunchError(
            f"the autoscaler {cluster.scaling.autoscaler} follows the requests that wait, which "
            "Prometheus has to read",
            code="export_impossible",
            fix="name the namespace of Prometheus: --monitoring NAMESPACE",
        )


def _deployment(
    contained: Contained, claim: str | None, secret: str, wanted: Scaling
) -> dict[str, Any]:
    labels = objects.labels(contained)
    annotations = {"qlaunch/fingerprint": contained.plan.fingerprint}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": objects.meta(contained),
        "spec": {
            # An autoscaler's number must not be put back by the next `kubectl apply`.
            **({"replicas": wanted.replicas} if wanted.autoscaler is None else {}),
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "progressDeadlineSeconds": start_command.start_limit_s(contained.plan) + 60,
            "template": {
                "metadata": {"labels": labels, "annotations": annotations},
                "spec": {
                    "automountServiceAccountToken": False,
                    "enableServiceLinks": False,
                    "terminationGracePeriodSeconds": start_command.STOP_S,
                    "securityContext": {
                        "runAsNonRoot": True,
                        "runAsUser": container.USER,
                        "runAsGroup": container.USER,
                        "fsGroup": container.USER,
                        "seccompProfile": {"type": "RuntimeDefault"},
                    },
                    "containers": [_container(contained, claim)],
                    "volumes": _volumes(contained, claim, secret),
                },
            },
        },
    }


def _container(contained: Contained, claim: str | None) -> dict[str, Any]:
    probe = {"exec": {"command": contained.probe}, "timeoutSeconds": container.PROBE_S}
    alive = {"command": contained.probe[:-1]}
    limit_s = start_command.start_limit_s(contained.plan)
    return {
        "name": "qlaunch",
        "image": contained.image,
        "command": ["qlaunch"],
        "args": [_literal(word) for word in contained.words],
        "env": [{"name": n, "value": _literal(v)} for n, v in contained.variables.items()],
        "ports": [{"name": name, "containerPort": port} for name, port in _ports(contained)],
        "startupProbe": {
            **probe,
            "periodSeconds": PERIOD_S,
            "failureThreshold": -(-limit_s // PERIOD_S),
        },
        "readinessProbe": {
            "httpGet": {"path": _readiness(contained.plan), "port": "http"},
            "periodSeconds": PERIOD_S,
            "timeoutSeconds": container.PROBE_S,
            "failureThreshold": 2,
        },
        "livenessProbe": {
            "exec": alive,
            "periodSeconds": 60,
            "timeoutSeconds": container.PROBE_S,
            "failureThreshold": 3,
        },
        "resources": _resources(contained),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": _mounts(contained, claim),
    }


def _literal(word: str) -> str:
    """Kubernetes puts variables in place of `$(NAME)`; `$$` is a dollar."""
    return word.replace("$", "$$")


def _resources(contained: Contained) -> dict[str, Any]:
    amounts = {"memory": f"{contained.memory_bytes >> 20}Mi"}
    if contained.threads is not None:
        amounts["cpu"] = str(contained.threads)
    if contained.plan.device == "cuda":
        amounts["nvidia.com/gpu"] = str(contained.gpus)
    return {"requests": dict(amounts), "limits": dict(amounts)}


def _mounts(contained: Contained, claim: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "work", "mountPath": container.WORK},
        {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - inside the container
    ]
    if claim is not None:
        found.append({"name": "model", "mountPath": contained.model_target, "readOnly": True})
    if contained.key:
        # As a file of its own: the links of a whole Secret's folder are not followed.
        path = f"{container.SECRETS}/{container.KEY}"
        found.append({"name": "key", "mountPath": path, "subPath": container.KEY})
        found[-1]["readOnly"] = True
    found += [
        {
            "name": "profiles",
            "mountPath": f"{container.PROFILES}/{name}",
            "subPath": name,
            "readOnly": True,
        }
        for name in contained.profiles
    ]
    return found


def _volumes(contained: Contained, claim: str | None, secret: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "work", "emptyDir": {}},
        {"name": "tmp", "emptyDir": {}},
    ]
    if claim is not None:
        of_claim = {"claimName": claim, "readOnly": True}
        found.append({"name": "model", "persistentVolumeClaim": of_claim})
    if contained.key:
        found.append({"name": "key", "secret": {"secretName": secret, "defaultMode": 0o440}})
    if contained.profiles:
        found.append({"name": "profiles", "configMap": {"name": f"{contained.name}-profiles"}})
    return found


def _profiles(contained: Contained) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": objects.meta(contained, "-profiles"),
        "data": {name: text for name, (_, text) in contained.profiles.items()},
    }


def _service(contained: Contained) -> dict[str, Any]:
    ports = [{"name": n, "port": port, "targetPort": n} for n, port in _ports(contained)]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": objects.meta(contained),
        "spec": {"selector": objects.labels(contained), "ports": ports},
    }


def _ports(contained: Contained) -> list[tuple[str, int]]:
    metrics = contained.metrics_port
    more = [] if metrics is None else [(monitoring.METRICS, metrics)]
    return [("http", contained.plan.port), *more]


def _budget(contained: Contained) -> dict[str, Any]:
    selector = {"matchLabels": objects.labels(contained)}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": objects.meta(contained),
        "spec": {"maxUnavailable": 1, "selector": selector},
    }


def _network(contained: Contained, prometheus: str | None) -> dict[str, Any]:
    """Its port from inside the namespace, and nothing out but to its cache: it fetches nothing."""
    port = {"port": contained.plan.port, "protocol": "TCP"}
    inside = {"from": [{"podSelector": {}}], "ports": [port]}
    reader = [monitoring.way_in(contained, prometheus)] if prometheus else []
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": objects.meta(contained),
        "spec": {
            "podSelector": {"matchLabels": objects.labels(contained)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [inside, *reader],
            "egress": _to_cache(contained.plan),
        },
    }


def _readiness(plan: Plan) -> str:
    """What asks the engine: a gateway's `/health` speaks of itself alone."""
    return "/ready" if plan.fronted else "/health"


def _to_cache(plan: Plan) -> list[dict[str, Any]]:
    """The way to a cache server, and to the name service that knows it; nothing for a file."""
    cache = plan.cache
    if cache is None or cache.backend == "embedded":
        return []
    names = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    servers = [
        {"port": port, "protocol": "TCP"} for port in _cache_ports(cache.backend, cache.url or "")
    ]
    return [{"ports": servers}, {"ports": names}]


def _cache_ports(backend: str, url: str) -> list[int]:
    """Sentinels and clusters name further servers, which are taken to have Redis' usual port."""
    if backend == "memcached":
        return [urlsplit(url).port or 11211]
    address = redis_address.parse(url)
    others = set() if address.kind == "server" else {redis_address.PORT}
    return sorted({port for _host, port in address.hosts} | others)
