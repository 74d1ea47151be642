"""A SkyPilot task for a plan, with what makes SkyServe run replicas of it. Pure.

It installs qlaunch, engine and model on a bare machine: a container would have to be one that
SkyPilot can log in to as root. SkyServe sends requests to a replica from its first good probe on,
and an engine answers before its vectors are proved right. So the gateway is what listens: its
`/ready` says yes while the vectors are proved, and the engine stays on loopback behind it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Final

from launcher.errors import QlaunchError
from launcher.fleet import container, start_command
from launcher.fleet.container import Contained

FILE: Final = "skypilot.yaml"
ROOT: Final = "~/qlaunch"
"""Everything of ours on the machine: the environment, a home, files that are brought along."""
SECRET: Final = "QLAUNCH_API_KEY"  # noqa: S105 - its name
PYTHON: Final = "3.11"
"""SkyPilot's images bring an older one."""
_GIB: Final = 1 << 30


@dataclass(frozen=True)
class Sky:
    """What is asked of SkyPilot."""

    package: str
    """What pip installs: a requirement, an address, or the path of a wheel here."""
    accelerators: str | None = None
    """The card, as SkyPilot calls it; None on a CPU."""
    replicas: int = 1
    """The number, or the least."""
    most: int | None = None
    """The most; None: always `replicas`."""
    per_replica: float | None = None
    """Requests a second that one replica takes; the number of replicas follows it."""

    @property
    def wheel(self) -> PurePath | None:
        """The wheel on this machine that goes along; None where pip finds the package itself."""
        path = PurePath(self.package)
        return path if path.suffix == ".whl" and "://" not in self.package else None


def text(contained: Contained, sky: Sky) -> str:
    """The task.

    Raises:
        QlaunchError: `export_impossible` (exit 2), as `start_command.words`; on a GPU without the
            card's name; a number of replicas that follows no rate.
    """
    _require(contained, sky)
    document: dict[str, Any] = {
        "name": contained.name,
        "resources": _resources(contained, sky),
        "envs": dict(contained.environ),
        "secrets": {SECRET: None} if contained.key else {},
        "file_mounts": _mounts(contained, sky),
        "setup": "\n".join(_setup(contained, sky)) + "\n",
        "run": "\n".join(_run(contained)) + "\n",
        "service": _service(contained, sky),
    }
    kept = {name: value for name, value in document.items() if value != {}}
    return container.commented(_comments(contained)) + container.dumped([kept])


def _require(contained: Contained, sky: Sky) -> None:
    start_command.require_ports(start_command.origin(contained.plan).settings)
    why, fix = "", ""
    if contained.plan.device == "cuda" and sky.accelerators is None:
        why = f"{contained.plan.profile} needs a GPU, and which one SkyPilot must be told"
        fix = "name it as `sky gpus list` does: --accelerators T4:1"
    elif sky.most is not None and sky.per_replica is None:
        why = "SkyServe chooses the number of replicas by requests a second"
        fix = "say how many one replica takes (qlaunch bench): --per-replica 50"
    elif sky.per_replica is not None and sky.most is None:
        why = "the number of replicas is fixed, and no rate of requests changes it"
        fix = "say how many there may be (--max-replicas 8), or leave out --per-replica"
    elif sky.most is not None and sky.most < sky.replicas:
        why = f"the most replicas, {sky.most}, are fewer than the least, {sky.replicas}"
        fix = "give a larger --max-replicas"
    if why:
        raise QlaunchError(why, code="export_impossible", fix=fix)


def _comments(contained: Contained) -> list[str]:
    secret = f"sky serve up {FILE} --secret {SECRET}" if contained.key else f"sky serve up {FILE}"
    return [
        f"Serves {contained.plan.model_name}, fingerprint {contained.plan.fingerprint}:",
        "a checkpoint that was changed is refused.",
        f"{secret}; on one machine without SkyServe: sky launch.",
        "Memory: the predicted peak under full load and a fifth, or what the profile asks for.",
        *(f"Note: {note}." for note in contained.notes),
    ]


def _resources(contained: Contained, sky: Sky) -> dict[str, Any]:
    found: dict[str, Any] = {
        "ports": contained.plan.port,
        "memory": f"{-(-contained.memory_bytes // _GIB)}+",
    }
    if contained.threads is not None:
        found["cpus"] = f"{contained.threads}+"
    if sky.accelerators is not None:
        found["accelerators"] = sky.accelerators
    return found


def _mounts(contained: Contained, sky: Sky) -> dict[str, str]:
    """Files of this machine, by where they are put."""
    found = {}
    if sky.wheel is not None:
        found[f"{ROOT}/{sky.wheel.name}"] = str(sky.wheel)
    if not contained.baked:
        found[f"{ROOT}/{_folder(contained)}"] = contained.model_source
    for name, (path, _) in contained.profiles.items():
        found[f"{ROOT}/home/config/profiles/{name}"] = path
    return found


def _folder(contained: Contained) -> str:
    """A model that is brought along, relative to the root."""
    return f"models/{contained.plan.model_name}"


def _begin() -> list[str]:
    return [
        "set -e",
        f"mkdir -p {ROOT}",
        f"cd {ROOT}",
        'export QLAUNCH_HOME="$PWD/home"',
        'export PATH="$PWD/venv/bin:$HOME/.local/bin:$PATH"',
    ]


def _setup(contained: Contained, sky: Sky) -> list[str]:
    package = f"./{sky.wheel.name}" if sky.wheel is not None else sky.package
    words = [
        "command -v uv >/dev/null || python3 -m pip install --quiet uv",
        # With pip in it, which installs the engine.
        f"test -x venv/bin/python || uv venv --quiet --seed --python {PYTHON} venv",
        f"uv pip install --quiet --python venv/bin/python {shlex.quote(package)}",
        f"qlaunch engine install {shlex.quote(contained.plan.engine.release)}",
    ]
    if contained.baked:
        words.append(f"qlaunch model pull {shlex.quote(contained.model)}")
    return [*_begin(), *words]


def _run(contained: Contained) -> list[str]:
    key = []
    if contained.key:
        key = [f'(umask 077 && printf %s "${{{SECRET}:?give it with --secret {SECRET}}}" >key)']
    if contained.plan.fronted:  # the service's own address is a gateway's
        return [*_begin(), *key, f"exec qlaunch {shlex.join(_words(contained, foreground=True))}"]
    gateway = ["gateway", contained.plan.service, *_listening(contained), "--cache", "none"]
    return [
        *_begin(),
        *key,
        f"qlaunch {shlex.join(_words(contained, foreground=False))}",
        f"exec qlaunch {shlex.join(gateway)}",
    ]


def _listening(contained: Contained) -> list[str]:
    """Where clients ask, and what they must send."""
    keyed = ["--api-key-file", "key"] if contained.key else ["--allow-unauthenticated"]
    return ["--host", "0.0.0.0", "--port", str(contained.plan.port), *keyed]  # noqa: S104 - a machine of its own


def _words(contained: Contained, *, foreground: bool) -> tuple[str, ...]:
    """Arguments that start the service: behind a gateway where it has none of its own."""
    plan = contained.plan
    settings = {"model": contained.model if contained.baked else f"./{_folder(contained)}"}
    if foreground:
        settings |= {"host": "0.0.0.0"}  # noqa: S104 - a machine of its own
    else:
        settings |= {"host": "127.0.0.1", "port": str(_neighbour(plan.port))}
    if contained.key:
        settings["api_key_file"] = "key"
    elif foreground:
        settings["allow_unauthenticated"] = "true"
    placed = start_command.Placed(profile=contained.profile, settings=settings)
    return start_command.words(plan, placed, foreground=foreground)


def _neighbour(port: int) -> int:
    return port + 1 if port < 65535 else port - 1


def _service(contained: Contained, sky: Sky) -> dict[str, Any]:
    probe = {
        "path": "/ready",
        "initial_delay_seconds": start_command.start_limit_s(contained.plan),
        "timeout_seconds": container.PROBE_S,
    }
    if sky.most is None:
        return {"readiness_probe": probe, "replicas": sky.replicas}
    policy = {
        "min_replicas": sky.replicas,
        "max_replicas": sky.most,
        "target_qps_per_replica": sky.per_replica,
    }
    return {"readiness_probe": probe, "replica_policy": policy}
