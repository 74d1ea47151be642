"""`export compose` and `export k8s`, from services as they were started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from launcher.app.containing import contained
from launcher.app.prepare import Request, prepare
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.linux.removal import discard
from tests.checkpoints import make_bert
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.cli.services import leave_service
from tests.cli.test_export import service
from tests.samples import GIB, machine


def compose_service(run: Run, name: str, *words: str) -> dict[str, Any]:
    answer = run("export", "compose", name, *words, "--json")
    assert answer.code == 0, answer.out
    services = yaml.safe_load(answer.data["compose"])["services"]
    (found,) = services.values()
    return dict(found)


@pytest.fixture
def own_model(ready: Path) -> Path:
    return make_bert(ready / "walk", pooling="cls", seed=5)


def test_a_folder_of_one_s_own_is_mounted_under_its_served_name(
    run: Run, ready: Path, own_model: Path
) -> None:
    plan = service(model=str(own_model), name="walk2", port="30123")
    found = compose_service(run, "walk2")
    words = found["command"]
    assert words[words.index("--model") + 1] == "/models/walk"
    assert words[words.index("--expect-fingerprint") + 1] == plan.fingerprint
    assert found["ports"] == ["127.0.0.1:30123:30123"]
    (mount,) = [v for v in found["volumes"] if v["type"] == "bind"]
    assert mount == {
        "type": "bind",
        "source": str(own_model),
        "target": "/models/walk",
        "read_only": True,
    }


def test_the_command_starts_the_same_plan_within_the_container_s_memory(
    run: Run, ready: Path, own_model: Path, on: SetMachine
) -> None:
    """With the container's own limits: admission inside must not refuse what was exported."""
    plan = service(model=str(own_model), name="walk2")
    found = compose_service(run, "walk2")
    limits = found["deploy"]["resources"]["limits"]
    limit = int(limits["memory"].removesuffix("M")) << 20
    on(machine(threads=int(limits["cpus"]), total=32 * GIB, limit=limit, available=limit))
    words = found["command"]
    given = {"model": str(own_model), "name": "walk2", "host": "0.0.0.0", "port": "30000"}
    again = prepare(
        Request(profile=words[1], given={**given, "allow_unauthenticated": True}), lambda _: None
    ).plan
    assert again.fits, again.reasons
    assert again.fingerprint == plan.fingerprint
    mine, theirs = list(plan.engine.argv), list(again.engine.argv)
    mine[mine.index("--host") + 1] = "0.0.0.0"
    assert mine == theirs


def test_a_profile_of_one_s_own_goes_along_with_its_parents(run: Run, ready: Path) -> None:
    folder = ready / "config" / "profiles"
    (folder / "mother.yaml").write_text("extends: cpu-minilm\nthreads: 2\n")
    (folder / "child.yaml").write_text("extends: mother\ndtype: float32\n")
    service(profile="child")
    found = compose_service(run, "child")
    targets = {v["target"]: v.get("source") for v in found["volumes"]}
    for name in ("mother.yaml", "child.yaml"):
        assert targets[f"/etc/qlaunch/profiles/{name}"] == str(folder / name)
    answer = run("export", "k8s", "child", "--json")
    maps = [d for d in yaml.safe_load_all(answer.data["manifests"]) if d["kind"] == "ConfigMap"]
    assert maps[0]["data"]["child.yaml"] == (folder / "child.yaml").read_text()


@pytest.mark.parametrize("name", ["mother.yaml", "mother.yml"])
def test_two_profiles_of_one_name_do_not_go_into_one_folder(
    run: Run, ready: Path, tmp_path: Path, name: str
) -> None:
    """The parent took the child's place, and the child's own settings were lost."""
    parent = ready / "config" / "profiles" / "mother.yaml"
    parent.parent.mkdir(parents=True, exist_ok=True)
    parent.write_text("extends: cpu-minilm\ntitle: Mother\n")
    child = tmp_path / name
    child.write_text("extends: mother\ntitle: Child\n")
    for target in ("compose", "k8s", "skypilot"):
        answer = run("export", target, str(child), "--json")
        assert (answer.code, answer.error["code"]) == (2, "export_impossible")
        assert str(child) in answer.error["message"]
        assert str(parent) in answer.error["message"]
    assert run("export", "systemd", str(child), "--json").code == 0


def test_an_engine_of_one_s_own_is_refused(run: Run, ready: Path) -> None:
    plan = service(name="svc")
    assert plan.origin is not None
    settings = plan.origin.settings | {"engine_python": "/x/bin/python"}
    own = msgspec.structs.replace(
        plan, origin=msgspec.structs.replace(plan.origin, settings=settings)
    )
    with pytest.raises(QlaunchError, match="environment of your own") as caught:
        contained(own, None)
    assert (caught.value.code, caught.value.exit_code) == ("export_impossible", 2)


def test_links_out_of_the_model_s_folder_are_refused(
    run: Run, ready: Path, own_model: Path
) -> None:
    weights = own_model / "model.safetensors"
    weights.rename(ready / "elsewhere")
    weights.symlink_to(ready / "elsewhere")
    service(model=str(own_model), name="walk2")
    answer = run("export", "compose", "walk2", "--json")
    assert (answer.code, answer.error["code"]) == (2, "export_impossible")
    discard(weights)


def test_the_environment_of_this_machine_stays_here(
    run: Run, ready: Path, own_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SGLANG_LOG_MS", "1")
    monkeypatch.setenv("LD_PRELOAD", "/usr/lib/x.so")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    service(name="svc", model=str(own_model))
    answer = run("export", "compose", "svc", "--json")
    (found,) = yaml.safe_load(answer.data["compose"])["services"].values()
    assert found["environment"]["SGLANG_LOG_MS"] == "1"
    assert not {"LD_PRELOAD", "CUDA_VISIBLE_DEVICES", "QLAUNCH_HOME"} & found["environment"].keys()
    for name in ("LD_PRELOAD", "CUDA_VISIBLE_DEVICES"):
        assert any(name in note for note in answer.data["notes"])


def test_a_key_is_named_and_never_shown(run: Run, ready: Path, own_model: Path) -> None:
    key = ready / "key"
    key.write_text("canary-key")
    key.chmod(0o600)
    service(name="svc", model=str(own_model), api_key_file=str(key))
    for kind in ("compose", "k8s", "systemd"):
        answer = run("export", kind, "svc", "--json")
        assert answer.code == 0
        assert "canary-key" not in answer.out
    found = compose_service(run, "svc")
    assert "--allow-unauthenticated" not in found["command"]
    assert "/run/secrets/api-key" in found["command"]


def test_a_health_check_waits_for_the_proof(run: Run, ready: Path) -> None:
    service(name="svc")
    me = processes.process_id(os.getpid())
    for state, code in (("loading", 3), ("ready", 0), ("degraded", 0)):
        leave_service("svc", "r", state, supervisor=me)  # type: ignore[arg-type]
        assert run("status", "svc", "--verified").code == code
        assert run("status", "svc").code == 0
    leave_service("svc", "r", "failed")
    assert run("status", "svc", "--verified").code == 3


def manifests(run: Run, *words: str) -> dict[str, dict[str, Any]]:
    answer = run("export", "k8s", "svc", *words, "--json")
    assert answer.code == 0, answer.out
    return {each["kind"]: each for each in yaml.safe_load_all(answer.data["manifests"])}


def test_an_autoscaler_and_what_feeds_it(run: Run, ready: Path, own_model: Path) -> None:
    service(name="svc", model=str(own_model))
    bare = manifests(run)
    assert not {"HorizontalPodAutoscaler", "ScaledObject", "ServiceMonitor"} & bare.keys()
    hpa = manifests(run, "--autoscaler", "hpa", "--replicas", "2", "--max-replicas", "6")
    spec = hpa["HorizontalPodAutoscaler"]["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, 6)
    keda = manifests(run, "--autoscaler", "keda", "--monitoring", "watch")
    [queue, _] = keda["ScaledObject"]["spec"]["triggers"]
    assert queue["metadata"]["serverAddress"] == "http://prometheus-operated.watch.svc:9090"
    assert "ServiceMonitor" in keda
    own = ("--metrics-port", "9000", "--prometheus", "http://p:9")
    keda = manifests(run, "--autoscaler", "keda", "--monitoring", "watch", *own)
    assert keda["ScaledObject"]["spec"]["triggers"][0]["metadata"]["serverAddress"] == "http://p:9"
    [_, metrics] = keda["Service"]["spec"]["ports"]
    assert metrics["port"] == 9000


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--autoscaler", "keda"), "export_impossible"),
        (("--max-replicas", "3"), "usage"),
        (("--autoscaler", "hpa", "--replicas", "3", "--max-replicas", "2"), "usage"),
        (("--monitoring", "Not A Name"), "usage"),
        (("--secret", "a_b"), "usage"),
    ],
)
def test_what_no_cluster_takes_is_refused(
    words: tuple[str, ...], code: str, run: Run, ready: Path, own_model: Path
) -> None:
    service(name="svc", model=str(own_model))
    answer = run("export", "k8s", "svc", *words, "--json")
    assert (answer.code, answer.error["code"]) == (2, code)


def test_metrics_of_a_service_are_published_where_they_were(
    run: Run, ready: Path, own_model: Path
) -> None:
    """They were answered on the container's own loopback, where nobody is."""
    service(name="svc", model=str(own_model), metrics_port="9131")
    found = compose_service(run, "svc")
    words = found["command"]
    assert words[words.index("--metrics-host") + 1] == "0.0.0.0"
    assert found["ports"][1] == "127.0.0.1:9131:9131"


def test_a_skypilot_task_of_a_service(run: Run, ready: Path, own_model: Path) -> None:
    plan = service(name="svc", model=str(own_model), port="30123")
    answer = run("export", "skypilot", "svc", "--replicas", "3", "--json")
    assert answer.code == 0, answer.out
    task = yaml.safe_load(answer.data["task"])
    assert task["service"]["replicas"] == 3
    assert task["file_mounts"]["~/qlaunch/models/walk"] == str(own_model)
    assert f"--expect-fingerprint {plan.fingerprint}" in task["run"]
    assert "--port 30123" in task["run"]
    wheel = run("export", "skypilot", "svc", "--package", "absent.whl", "--json")
    assert (wheel.code, wheel.error["code"]) == (2, "usage")
    few = run("export", "skypilot", "svc", "--max-replicas", "3", "--json")
    assert (few.code, few.error["code"]) == (2, "export_impossible")


def test_files_are_written_where_asked(run: Run, ready: Path, own_model: Path) -> None:
    service(name="svc", model=str(own_model))
    out = ready / "out"
    out.mkdir()
    assert run("export", "compose", "svc", "-o", str(out)).code == 0
    assert run("export", "k8s", "svc", "-o", str(out), "--claim", "c").code == 0
    assert sorted(p.name for p in out.iterdir()) == ["compose.yaml", "kubernetes.yaml"]
    assert "claimName: c\n" in (out / "kubernetes.yaml").read_text()
