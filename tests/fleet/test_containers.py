"""Compose and Kubernetes: golden, accepted by their own validators, safe whatever values hold.

To change the golden files on purpose: `python -m tests.fleet.test_containers`, and read the
difference.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import msgspec
import pytest
import yaml

from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.fleet import compose, container, kubernetes, start_command
from launcher.fleet.container import Contained
from tests.fleet.plans import origin, plan
from tests.patience import PATIENCE_S

GOLDEN = Path(__file__).parent / "golden"
VERSION = "1.31"
"""Of Kubernetes, whose schema the manifests are held to."""


def small() -> Contained:
    """A model that an image has, on loopback, without a key."""
    return contained(plan(), model="all-minilm-l6-v2", model_target="/opt/qlaunch/models/m-1")


def large() -> Contained:
    """A model of one's own, a key, a profile of one's own, a GPU, odd values."""
    made = msgspec.structs.replace(
        plan(
            origin=origin(
                settings={"host": "0.0.0.0", "api_key_file": "/home/me/a $key"},
                extra=("--log-level", "$(debug) 'a' \"b\" \\ é"),
            ),
            host="0.0.0.0",
            device="cuda",
            api_key_file="/home/me/a $key",
        ),
        service="my_service.v2",
    )
    return contained(
        made,
        model="/models/minilm",
        model_source="/data/my $model: 1",
        baked=False,
        profile="own",
        profiles={"own.yaml": ("/etc/q/own.yaml", "title: $x\nengine: cpu\n")},
        environ={"SGLANG_X": "$1 {{y}}"},
        notes=("HF_TOKEN is not carried (a secret,\nand nothing is fetched)",),
    )


def contained(made: Plan, **changes: Any) -> Contained:
    values: dict[str, Any] = {
        "plan": made,
        "image": "qlaunch-cpu:0.1.0",
        "model": "m",
        "model_source": "/data/m",
        "model_target": "/models/m",
        "baked": True,
        "profile": "cpu-minilm",
    }
    return Contained(**{**values, **changes})


TEXTS: dict[str, Callable[[], str]] = {
    "compose.yaml": lambda: compose.text(small(), user="1000:1000"),
    "compose-own.yaml": lambda: compose.text(large(), user="1000:1000"),
    "kubernetes.yaml": lambda: kubernetes.text(small(), claim=None, secret=None),
    "kubernetes-own.yaml": lambda: kubernetes.text(large(), claim=None, secret="keys"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_exports_are_as_they_were(name: str) -> None:
    assert TEXTS[name]() == (GOLDEN / name).read_text("utf-8")


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("kubernetes")])
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    documents = list(yaml.safe_load_all(TEXTS[name]()))
    kinds = ["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"]
    assert [d["kind"] for d in documents][-4:] == kinds
    for document in documents:
        kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_validator_can_fail() -> None:
    document = next(iter(yaml.safe_load_all(TEXTS["kubernetes.yaml"]())))
    document["spec"]["template"]["spec"]["containers"][0]["startupProbes"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSION, strict=True)


def docker_compose() -> str:
    """docker-compose, installed where it may be; it asks no daemon for `config`."""
    script = Path(__file__).parents[2] / "scripts" / "debian-packages"
    if shutil.which("docker-compose") is None:
        subprocess.run([str(script), "compose"], capture_output=True, check=False)
    found = shutil.which("docker-compose")
    if found is None:
        pytest.skip("docker-compose (Debian package) is not there")
    return found


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("compose")])
def test_compose_accepts_the_file_and_reads_what_was_meant(name: str, tmp_path: Path) -> None:
    program = docker_compose()
    path = tmp_path / "compose.yaml"
    path.write_text(TEXTS[name](), "utf-8")
    ran = subprocess.run(
        [program, "-f", str(path), "config"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
    )
    assert ran.returncode == 0, ran.stderr
    whole = yaml.safe_load(ran.stdout)
    made = small() if name == "compose.yaml" else large()
    service = whole["services"][made.name]
    # `config` prints a file again, in which a dollar is written as two.
    assert [word.replace("$$", "$") for word in service["command"]] == list(made.words)
    assert service["healthcheck"]["test"] == ["CMD", *made.probe]
    assert service["environment"]["XDG_DATA_HOME"] == "/opt"


def pod(text: str) -> dict[str, Any]:
    documents = yaml.safe_load_all(text)
    found: dict[str, Any] = next(d for d in documents if d["kind"] == "Deployment")
    template: dict[str, Any] = found["spec"]["template"]["spec"]
    return template


def test_the_startup_probe_waits_as_long_as_a_start_may_take() -> None:
    made = small()
    probe = pod(TEXTS["kubernetes.yaml"]())["containers"][0]["startupProbe"]
    whole = probe["periodSeconds"] * probe["failureThreshold"]
    assert whole >= start_command.start_limit_s(made.plan) == 900
    assert probe["exec"]["command"][-1] == "--verified"


def test_probes_are_more_patient_than_the_engine_s_health() -> None:
    one = pod(TEXTS["kubernetes-own.yaml"]())["containers"][0]
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert one[name]["timeoutSeconds"] > 20
    assert "httpGet" not in one["livenessProbe"]


def test_memory_follows_the_prediction() -> None:
    made = small()
    full = made.plan.predicted.ram_full_bytes
    assert full is not None
    assert full * 1.2 <= made.memory_bytes <= full * 1.2 + (1 << 20)
    resources = pod(TEXTS["kubernetes.yaml"]())["containers"][0]["resources"]
    assert resources["limits"]["memory"] == f"{made.memory_bytes >> 20}Mi"
    assert resources["limits"]["cpu"] == made.plan.engine.env["OMP_NUM_THREADS"]


def test_a_key_is_in_no_file() -> None:
    """Only where it is: a file for compose, a Secret's name for Kubernetes."""
    manifests = list(yaml.safe_load_all(TEXTS["kubernetes-own.yaml"]()))
    assert "Secret" not in {document["kind"] for document in manifests}
    volume = next(v for v in pod(TEXTS["kubernetes-own.yaml"]())["volumes"] if v["name"] == "key")
    assert volume["secret"]["secretName"] == "keys"
    assert "/home/me/a $key" not in TEXTS["kubernetes-own.yaml"]()


def test_a_service_on_loopback_is_published_there_alone() -> None:
    service = yaml.safe_load(TEXTS["compose.yaml"]())["services"]["qlaunch-svc"]
    assert service["ports"] == ["127.0.0.1:30000:30000"]
    wide = yaml.safe_load(TEXTS["compose-own.yaml"]())["services"]["qlaunch-my-service-v2"]
    assert wide["ports"] == ["30000:30000"]


def test_a_port_that_changes_is_refused() -> None:
    made = contained(plan(origin=origin(settings={"port": 0})))
    with pytest.raises(QlaunchError, match="stays the same"):
        compose.text(made, user="1:1")
    with pytest.raises(QlaunchError, match="stays the same"):
        kubernetes.text(made, claim=None, secret=None)


def test_a_comment_stays_a_comment() -> None:
    made = contained(plan(), notes=("x\nservices: {}",))
    assert "services: {}" not in compose.text(made, user="1:1").splitlines()
    assert container.commented(["a\nb"]) == "# a?b\n"


if __name__ == "__main__":
    for name_, make_ in TEXTS.items():
        (GOLDEN / name_).write_text(make_(), "utf-8")
