"""Compose and Kubernetes: golden, accepted by their own validators, safe whatever values hold.

To change the golden files on purpose: `python -m tests.fleet.test_containers`, and read the
difference.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate  # type: ignore[import-untyped]
import msgspec
import pytest
import yaml

from launcher import paths
from launcher.config.service_cache import ServiceCache
from launcher.documents.plan import Plan, ReplicaSet
from launcher.errors import QlaunchError
from launcher.fleet import compose, container, kubernetes, scaling, start_command
from launcher.fleet.container import Contained
from launcher.fleet.kubernetes import Cluster
from launcher.fleet.scaling import Scaling
from launcher.service.supervisor.metrics_text import METRICS
from tests.fleet.plans import origin, plan
from tests.patience import PATIENCE_S

GOLDEN = Path(__file__).parent / "golden"
CRDS = Path(__file__).parent / "crds"
"""Of operators' own kinds, by hand from their CRDs: what each file says where it is from."""
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


HPA = Scaling(autoscaler="hpa")
KEDA = Scaling(replicas=2, most=10, autoscaler="keda", prometheus="http://prometheus:9090")


def watched(wanted: Scaling) -> Cluster:
    """In a cluster with Prometheus."""
    return Cluster(monitoring="watch", scaling=wanted)


def read(made: Contained) -> Contained:
    """With metrics that somebody reads."""
    return dataclasses.replace(made, metrics_port=9131)


def cached() -> Contained:
    """A gateway with a cache and a key before the engine."""
    key = origin(settings={"host": "0.0.0.0", "api_key_file": "/home/me/key"})
    made = plan(origin=key, host="0.0.0.0", api_key_file="/home/me/key")
    return contained(
        msgspec.structs.replace(made, cache=ServiceCache(backend="embedded", url=None))
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
    "kubernetes.yaml": lambda: kubernetes.text(small(), Cluster()),
    "kubernetes-own.yaml": lambda: kubernetes.text(large(), Cluster(secret="keys")),
    "kubernetes-hpa.yaml": lambda: kubernetes.text(small(), Cluster(scaling=HPA)),
    "kubernetes-hpa-gpu.yaml": lambda: kubernetes.text(read(large()), watched(HPA)),
    "kubernetes-keda.yaml": lambda: kubernetes.text(read(small()), watched(KEDA)),
    "kubernetes-keda-own.yaml": lambda: kubernetes.text(read(cached()), watched(KEDA)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_exports_are_as_they_were(name: str) -> None:
    assert TEXTS[name]() == (GOLDEN / name).read_text("utf-8")


@pytest.mark.parametrize("name", [name for name in TEXTS if name.startswith("kubernetes")])
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    documents = list(yaml.safe_load_all(TEXTS[name]()))
    kinds = [document["kind"] for document in documents]
    usual = ["Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"]
    more = ["ServiceMonitor", "HorizontalPodAutoscaler", "ScaledObject"]
    assert [kind for kind in kinds if kind not in {*more, "ConfigMap"}] == usual
    for document in documents:
        schema = CRDS / f"{document['kind']}.json"
        if schema.exists():
            jsonschema.validate(document, json.loads(schema.read_text("utf-8")))
        else:
            kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("path", sorted(CRDS.glob("*.json")), ids=lambda path: path.stem)
def test_schemas_of_operators_can_fail(path: Path) -> None:
    schema = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    documents = yaml.safe_load_all(TEXTS["kubernetes-keda.yaml"]())
    document = next(each for each in documents if each["kind"] == path.stem)
    jsonschema.validate(document, schema)
    changes: list[dict[str, Any]] = [{"spec": {**document["spec"], "targets": []}}, {"spec": {}}]
    for change in changes:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **change}, schema)


def objects(name: str) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(TEXTS[name]())}


def test_a_metric_that_decides_is_one_that_there_is() -> None:
    """By the same labels: the operator's own `service` must not stand before ours."""
    found = objects("kubernetes-keda.yaml")
    trigger = found["ScaledObject"]["spec"]["triggers"][0]["metadata"]
    assert trigger["query"] == 'sum(qlaunch_queue_requests{service="svc"})'
    assert scaling.QUEUE in METRICS
    assert found["ServiceMonitor"]["spec"]["endpoints"] == [
        {"port": "metrics", "honorLabels": True}
    ]
    pods = objects("kubernetes-hpa-gpu.yaml")["HorizontalPodAutoscaler"]["spec"]["metrics"]
    assert [metric["pods"]["metric"]["name"] for metric in pods] == [scaling.QUEUE]


def test_metrics_can_be_read_from_where_prometheus_is_and_nowhere_else() -> None:
    found = objects("kubernetes-keda.yaml")
    own, reader = found["NetworkPolicy"]["spec"]["ingress"]
    assert [port["port"] for port in own["ports"]] == [30000]
    assert [port["port"] for port in reader["ports"]] == [9131]
    [place] = reader["from"]
    assert place["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "watch"}
    [one] = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    words = one["args"]
    assert words[words.index("--metrics-port") + 1] == "9131"
    assert words[words.index("--metrics-host") + 1] == "0.0.0.0"
    assert {"name": "metrics", "containerPort": 9131} in one["ports"]
    services = {port["name"]: port["targetPort"] for port in found["Service"]["spec"]["ports"]}
    assert services == {"http": "http", "metrics": "metrics"}


def test_a_gateway_s_metrics_are_asked_for_with_the_key() -> None:
    found = objects("kubernetes-keda-own.yaml")
    [_, own] = found["ServiceMonitor"]["spec"]["endpoints"]
    key = {"name": "qlaunch-svc-key", "key": "api-key"}
    assert own == {"port": "http", "authorization": {"credentials": key}}
    _, reader = found["NetworkPolicy"]["spec"]["ingress"]
    assert [port["port"] for port in reader["ports"]] == [9131, 30000]


def test_replicas_of_one_machine_are_asked_through_their_gateway() -> None:
    made = plan()
    several = ReplicaSet(count=2, one=made.predicted)
    one, two = contained(made), contained(msgspec.structs.replace(made, replica_set=several))
    assert one.threads is not None
    assert two.threads == 2 * one.threads
    text = kubernetes.text(read(two), watched(HPA))
    assert pod(text)["containers"][0]["readinessProbe"]["httpGet"]["path"] == "/ready"
    found = {each["kind"]: each for each in yaml.safe_load_all(text)}
    assert [end["port"] for end in found["ServiceMonitor"]["spec"]["endpoints"]] == [
        "metrics",
        "http",
    ]


def test_an_autoscaler_s_number_is_in_no_other_object() -> None:
    for name in ("kubernetes-hpa.yaml", "kubernetes-keda.yaml"):
        assert "replicas" not in objects(name)["Deployment"]["spec"]
    assert objects("kubernetes.yaml")["Deployment"]["spec"]["replicas"] == 1


@pytest.mark.parametrize(("made", "wanted"), [(0, "keda"), (1, "hpa")])
def test_an_autoscaler_that_nobody_feeds_is_refused(made: int, wanted: scaling.Autoscaler) -> None:
    """A GPU's load is in no figure of Kubernetes, and KEDA asks Prometheus."""
    cluster = Cluster(scaling=Scaling(autoscaler=wanted))
    with pytest.raises(QlaunchError, match="Prometheus has to read") as caught:
        kubernetes.text((small, large)[made](), cluster)
    assert caught.value.fix is not None
    assert "--monitoring" in caught.value.fix


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
    wide = yaml.safe_load(TEXTS["compose-own.yaml"]())["services"][large().name]
    assert wide["ports"] == ["30000:30000"]


def test_a_port_that_changes_is_refused() -> None:
    made = contained(plan(origin=origin(settings={"port": 0})))
    with pytest.raises(QlaunchError, match="stays the same"):
        compose.text(made, user="1:1")
    with pytest.raises(QlaunchError, match="stays the same"):
        kubernetes.text(made, Cluster())


@pytest.mark.parametrize(
    "text",
    [
        "y",
        "N",
        "1e3",
        "12e45678",
        "-1E+3",
        "0o17",
        ".5e3",
        "1_0e3",
        "2026-1-2",
        "yes",
        "0x1f",
        "017",
    ],
)
def test_a_text_that_other_readers_take_for_a_number_is_quoted(text: str) -> None:
    """A service named 1e3, or a variable with the value y: Kubernetes refused the whole file."""
    assert container.dumped([{text: [text]}]) == f"'{text}':\n- '{text}'\n"


@pytest.mark.parametrize("text", ["e3", "yy", "30s", "1e3x", "v1", "100:2:x", "0.5.1.post2"])
def test_other_texts_are_written_as_they_are(text: str) -> None:
    assert container.dumped([{text: [text]}]) == f"{text}:\n- {text}\n"


NAMES = (
    *("a", "a-b", "a.b", "a_b", "a--b", "a-", "a.", "a_", "1", "1.2", "1-2", "e3", "model"),
    *(f"{'x' * 44}{rest}" for rest in ("x", "y", "xx", "x" * 20, "x" * 19 + "y", "-", "_")),
    *(f"{'x' * 43}{rest}" for rest in ("-y", "_y", "-", "")),
)


def test_every_service_has_objects_of_its_own() -> None:
    """`a.b` and `a_b`, and long names, were one: the second took the place of the first."""
    found = {name: container.object_name(name) for name in NAMES}
    assert len(set(found.values())) == len(NAMES)
    for name, made in found.items():
        assert paths.NAME.fullmatch(name)
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made), "RFC 1035, as a Service wants it"
        assert len(f"{made}-profiles") <= 63
    assert found["a-b"] == "qlaunch-a-b", "which says all"


def test_compose_files_in_one_folder_share_nothing() -> None:
    """They are one project: its volume and its secret were called the same in each."""

    def named(service: str) -> set[str]:
        changed = msgspec.structs.replace(large().plan, service=service)
        document = yaml.safe_load(
            compose.text(dataclasses.replace(large(), plan=changed), user="1:1")
        )
        parts = (document[part] for part in ("services", "volumes", "secrets"))
        return {name for part in parts for name in part}

    one, another = named("a.b"), named("a_b")
    assert len(one) == 3
    assert not one & another


def test_a_comment_stays_a_comment() -> None:
    made = contained(plan(), notes=("x\nservices: {}",))
    assert "services: {}" not in compose.text(made, user="1:1").splitlines()
    assert container.commented(["a\nb"]) == "# a?b\n"


if __name__ == "__main__":
    for name_, make_ in TEXTS.items():
        (GOLDEN / name_).write_text(make_(), "utf-8")


@pytest.mark.parametrize(
    ("shown", "shares", "cards"),
    [
        (None, (), 1),
        ("0", (), 1),
        ("0,1", (), 2),
        ("1", ({"CUDA_VISIBLE_DEVICES": "1"}, {"CUDA_VISIBLE_DEVICES": "0"}), 2),
        ("MIG-a", (), 1),
    ],
)
def test_a_container_asks_for_as_many_cards_as_its_engines_take(
    shown: str | None, shares: tuple[dict[str, str], ...], cards: int
) -> None:
    made = plan(device="cuda")
    env = made.engine.env | ({} if shown is None else {"CUDA_VISIBLE_DEVICES": shown})
    engine = msgspec.structs.replace(made.engine, env=env)
    engines = ReplicaSet(count=2, one=made.predicted, shares=shares) if shares else None
    found = contained(msgspec.structs.replace(made, engine=engine, replica_set=engines))
    assert f"count: {cards}" in compose.text(found, user="1000:1000")
    assert f"nvidia.com/gpu: '{cards}'" in kubernetes.text(found, Cluster())
