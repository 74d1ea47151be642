"""Kubernetes manifests for a plan. Pure.

The startup probe asks whether the vectors are proved right, so no traffic comes before; readiness
asks the engine, whose answer may take 20 s; liveness asks only whether the supervisor moves, since
an engine that dies is its business.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from launcher.documents.plan import Plan
from launcher.fleet import container, start_command
from launcher.fleet.container import Contained

FILE = "kubernetes.yaml"
PERIOD_S = 10


def text(contained: Contained, *, claim: str | None, secret: str | None) -> str:
    """The manifests, one document each.

    Args:
        contained: what runs.
        claim: PersistentVolumeClaim with the model; None: the image has it, or a claim named
            after the service where no image can.
        secret: Secret with the API key under `api-key`; None: named after the service.

    Raises:
        QlaunchError: `export_impossible` (exit 2), as `start_command.words`.
    """
    if claim is None and not contained.baked:
        claim = f"{contained.name}-model"
    secret = secret or f"{contained.name}-key"
    documents = [
        *([_profiles(contained)] if contained.profiles else []),
        _deployment(contained, claim, secret),
        _service(contained),
        _budget(contained),
        _network(contained),
    ]
    needs = [f"Needs the Secret {secret}, key {container.KEY}."] if contained.key else []
    if claim is not None:
        needs.append(
            f"Needs the PersistentVolumeClaim {claim}, with what is here in "
            f"{contained.model_source} at its root."
        )
    return container.commented([*contained.comments, *needs]) + container.dumped(documents)


def _labels(contained: Contained) -> dict[str, str]:
    return {"app.kubernetes.io/name": "qlaunch", "app.kubernetes.io/instance": contained.name}


def _meta(contained: Contained, suffix: str = "") -> dict[str, Any]:
    return {"name": contained.name + suffix, "labels": _labels(contained)}


def _deployment(contained: Contained, claim: str | None, secret: str) -> dict[str, Any]:
    labels = _labels(contained)
    annotations = {"qlaunch/fingerprint": contained.plan.fingerprint}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": _meta(contained),
        "spec": {
            "replicas": 1,
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
        "ports": [{"name": "http", "containerPort": contained.plan.port}],
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
        amounts["nvidia.com/gpu"] = "1"
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
        "metadata": _meta(contained, "-profiles"),
        "data": {name: text for name, (_, text) in contained.profiles.items()},
    }


def _service(contained: Contained) -> dict[str, Any]:
    port = {"name": "http", "port": contained.plan.port, "targetPort": "http"}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _meta(contained),
        "spec": {"selector": _labels(contained), "ports": [port]},
    }


def _budget(contained: Contained) -> dict[str, Any]:
    selector = {"matchLabels": _labels(contained)}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": _meta(contained),
        "spec": {"maxUnavailable": 1, "selector": selector},
    }


def _network(contained: Contained) -> dict[str, Any]:
    """Its port from inside the namespace, and nothing out but to its cache: it fetches nothing."""
    port = {"port": contained.plan.port, "protocol": "TCP"}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _meta(contained),
        "spec": {
            "podSelector": {"matchLabels": _labels(contained)},
            "policyTypes": ["Ingress", "Egress"],
            "ingress": [{"from": [{"podSelector": {}}], "ports": [port]}],
            "egress": _to_cache(contained.plan),
        },
    }


def _readiness(plan: Plan) -> str:
    """What asks the engine: a gateway's `/health` speaks of itself alone."""
    return "/health" if plan.cache is None else "/ready"


def _to_cache(plan: Plan) -> list[dict[str, Any]]:
    """The way to a cache server, and to the name service that knows it; nothing for a file."""
    cache = plan.cache
    if cache is None or cache.backend == "embedded":
        return []
    default = {"redis": 6379, "memcached": 11211}[cache.backend]
    port = urlsplit(cache.url or "").port or default
    names = [{"port": 53, "protocol": protocol} for protocol in ("UDP", "TCP")]
    return [{"ports": [{"port": port, "protocol": "TCP"}]}, {"ports": names}]
