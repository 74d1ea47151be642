"""What a container of a plan is given: shared by compose and Kubernetes. Pure.

The folders are those of the Containerfile: engines and models below /opt, own profiles below /etc,
and one folder to write in.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from launcher.documents.plan import Plan
from launcher.fleet import start_command
from launcher.units import MIB

WORK: Final = "/qlaunch"
"""Home, state and caches: the only folder that is written."""
PROFILES: Final = "/etc/qlaunch/profiles"
MODELS: Final = "/models"
"""Models that no hub and no package brought."""
SECRETS: Final = "/run/secrets"
KEY: Final = "api-key"
ENVIRONMENT: Final[Mapping[str, str]] = {
    "HOME": WORK,
    "XDG_CONFIG_HOME": "/etc",
    "XDG_DATA_HOME": "/opt",
    "XDG_STATE_HOME": f"{WORK}/state",
    "XDG_CACHE_HOME": f"{WORK}/cache",
    "HF_HUB_CACHE": "/opt/qlaunch/hub",
}
USER: Final = 10001
"""Of the image, where no other one is asked for."""
METRICS_PORT: Final = 9131
"""Of the supervisor's metrics, where the plan names none and somebody reads them."""
PROBE_S: Final = 30
"""Longest answer of a health check: the engine's own may take 20 s."""


_NAME_LETTERS: Final = 53
"""Most of a name: what is added to it (`-profiles`) has the rest of a label's 63."""
_DIGEST_LETTERS: Final = 8


def object_name(service: str) -> str:
    """The name of a service's objects elsewhere: small letters, digits and `-`, 53 at most.

    Where that says less than the service's own name (`a.b` and `a_b`, or a long one), a digest of
    that name is added: an object of the same name would be replaced by the other service's.
    """
    plain = f"qlaunch-{re.sub('[^a-z0-9-]', '-', service)}"
    if plain == f"qlaunch-{service}" and len(plain) <= _NAME_LETTERS and not plain.endswith("-"):
        return plain
    digest = hashlib.sha256(service.encode()).hexdigest()[:_DIGEST_LETTERS]
    return f"{plain[: _NAME_LETTERS - 1 - _DIGEST_LETTERS].rstrip('-')}-{digest}"


@dataclass(frozen=True)
class Contained:
    """A plan as it runs in a container."""

    plan: Plan
    image: str
    model: str
    """Value of `--model` inside."""
    model_source: str
    """Folder of this machine with the model."""
    model_target: str
    """Where that folder is inside."""
    baked: bool
    """Whether the image has the model where it was built with it: a card's or a hub's."""
    profile: str
    profiles: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Own profiles by file name: their path on this machine, and their text."""
    environ: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """What does not go along, in sentences."""
    least_bytes: int = 0
    """Memory that the profile asks of a machine."""
    metrics_port: int | None = None
    """Of the supervisor's metrics; None: nobody reads them."""

    @property
    def name(self) -> str:
        """Of the service, as DNS and labels can have it: another one for every service."""
        return object_name(self.plan.service)

    @property
    def key(self) -> bool:
        """Whether clients must send an API key."""
        return self.plan.api_key_file is not None

    @property
    def words(self) -> tuple[str, ...]:
        """Arguments of qlaunch; it listens on all of the container's own addresses."""
        every = "0.0.0.0"  # noqa: S104 - of the container's own network
        settings = {"model": self.model, "host": every}
        if self.metrics_port is not None:
            settings |= {"metrics_port": str(self.metrics_port), "metrics_host": every}
        if self.key:
            settings["api_key_file"] = f"{SECRETS}/{KEY}"
        else:
            settings["allow_unauthenticated"] = "true"
        placed = start_command.Placed(profile=self.profile, settings=settings)
        return start_command.words(self.plan, placed)

    @property
    def variables(self) -> dict[str, str]:
        """The container's environment."""
        key = {"CREDENTIALS_DIRECTORY": SECRETS} if self.key else {}
        return {**self.environ, **ENVIRONMENT, **key}

    @property
    def probe(self) -> list[str]:
        """Exits with 0 when the vectors are proved right."""
        return ["qlaunch", "status", self.plan.service, "--verified"]

    @property
    def memory_bytes(self) -> int:
        """Predicted peak under full load and a fifth, and what the profile asks for at least."""
        predicted = self.plan.predicted
        peak = max(predicted.ram_bytes or 0, predicted.ram_full_bytes or 0)
        return -(-max(peak * 6 // 5, self.least_bytes) // MIB) * MIB

    @property
    def threads(self) -> int | None:
        """Compute threads of all engines of the plan; None on a GPU."""
        found = self.plan.engine.env.get("OMP_NUM_THREADS")
        engines = self.plan.replica_set.count if self.plan.replica_set is not None else 1
        return int(found) * engines if found else None

    @property
    def gpus(self) -> int:
        """Cards that its engines compute on."""
        engines = self.plan.replica_set.shares if self.plan.replica_set is not None else ()
        shown = (env.get("CUDA_VISIBLE_DEVICES", "") for env in (self.plan.engine.env, *engines))
        return max(1, len({card for cards in shown for card in cards.split(",") if card}))

    @property
    def comments(self) -> list[str]:
        """For the top of a file: what it serves, what is needed, what does not go along."""
        return [
            f"Serves {self.plan.model_name}, fingerprint {self.plan.fingerprint}:",
            "a checkpoint that was changed is refused.",
            f"Image {self.image}: the Containerfile with ENGINE={self.plan.engine.release}.",
            "Memory: the predicted peak under full load and a fifth, or what the profile asks for.",
            *(f"Note: {note}." for note in self.notes),
        ]


def commented(lines: list[str]) -> str:
    """Lines as YAML comments, on one line each whatever they hold."""
    plain = ("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return "".join(f"# {line}\n" for line in plain)


_ELSEWHERE: Final = re.compile(
    r"[yYnN]|[-+]?(0o[0-7_]+|\.?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?)|"
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}.*"
)
"""Texts that other readers of YAML (1.2, Go's) take for truth, a number or a time where PyYAML
does not, and writes them without quotes."""


class _Dumper(yaml.SafeDumper):
    """Without anchors, and with texts of several lines as they are."""

    def ignore_aliases(self, _data: object) -> bool:
        """Write everything where it is: not every reader of YAML follows anchors."""
        return True

    def text(self, value: str) -> yaml.ScalarNode:
        """Lines under each other where there are several."""
        style = "|" if "\n" in value else "'" if _ELSEWHERE.fullmatch(value) else None
        return self.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _Dumper.text)


def dumped(documents: list[dict[str, Any]]) -> str:
    """Documents as YAML, keys in their order."""
    made: str = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return made
