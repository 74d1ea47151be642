"""A compose file for a plan. Pure."""

from __future__ import annotations

from typing import Any

from launcher.fleet import container, start_command
from launcher.fleet.container import Contained
from launcher.network.listening import is_loopback

FILE = "compose.yaml"


def text(contained: Contained, *, user: str) -> str:
    """The file.

    Args:
        contained: what runs.
        user: `UID:GID` that may read the model and the key on this machine.

    Raises:
        QlaunchError: `export_impossible` (exit 2), as `start_command.words`.
    """
    document: dict[str, Any] = {
        "services": {contained.name: _service(contained, user)},
        "volumes": {_work(contained): {}},
    }
    if contained.key:
        document["secrets"] = {_secret(contained): {"file": contained.plan.api_key_file}}
    return container.commented(contained.comments) + container.dumped([_escaped(document)])


def _service(contained: Contained, user: str) -> dict[str, Any]:
    plan = contained.plan
    limits: dict[str, Any] = {"memory": f"{contained.memory_bytes >> 20}M"}
    if contained.threads is not None:
        limits["cpus"] = str(contained.threads)
    found: dict[str, Any] = {
        "image": contained.image,
        "entrypoint": ["qlaunch"],
        "command": list(contained.words),
        "environment": contained.variables,
        "user": user,
        "ports": [
            _published(plan.host, plan.port),
            *(
                [_published(plan.metrics_host, contained.metrics_port)]
                if contained.metrics_port is not None
                else []
            ),
        ],
        "volumes": _volumes(contained),
        "healthcheck": {
            "test": ["CMD", *contained.probe],
            "interval": "30s",
            "timeout": f"{container.PROBE_S}s",
            "retries": 3,
            "start_period": f"{start_command.start_limit_s(plan)}s",
        },
        "restart": "on-failure",
        "stop_grace_period": f"{start_command.STOP_S}s",
        "read_only": True,
        "tmpfs": ["/tmp"],  # noqa: S108 - inside the container
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "deploy": {"resources": {"limits": limits}},
    }
    if contained.key:
        found["secrets"] = [{"source": _secret(contained), "target": container.KEY}]
    if plan.device == "cuda":
        gpu = {"driver": "nvidia", "count": contained.gpus, "capabilities": ["gpu"]}
        found["deploy"]["resources"]["reservations"] = {"devices": [gpu]}
    return found


def _work(contained: Contained) -> str:
    """The volume's name: files in one folder are one project, whose volumes are common to all."""
    return f"{contained.name}-work"


def _secret(contained: Contained) -> str:
    return f"{contained.name}-{container.KEY}"


def _published(host: str, port: int) -> str:
    """The port on this machine: for it alone where the service listens on loopback."""
    if is_loopback(host):
        return f"127.0.0.1:{port}:{port}"
    if host in {"0.0.0.0", "::", "[::]"}:  # noqa: S104 - what the plan says
        return f"{port}:{port}"
    address = host.strip("[]")
    return f"[{address}]:{port}:{port}" if ":" in address else f"{address}:{port}:{port}"


def _volumes(contained: Contained) -> list[Any]:
    mounts = {contained.model_source: contained.model_target}
    mounts |= {
        path: f"{container.PROFILES}/{name}" for name, (path, _) in contained.profiles.items()
    }
    return [
        *(
            {"type": "bind", "source": source, "target": target, "read_only": True}
            for source, target in mounts.items()
        ),
        {"type": "volume", "source": _work(contained), "target": container.WORK},
    ]


def _escaped(value: Any) -> Any:
    """Compose puts variables in place of `$NAME`; `$$` is a dollar."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, dict):
        return {key: _escaped(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_escaped(inner) for inner in value]
    return value
