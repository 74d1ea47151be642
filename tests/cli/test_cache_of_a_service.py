"""`cache:` of a profile on the command line: plan, exports, and what is refused before a start."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from launcher.app.caching import require_cache
from launcher.config.service_cache import ServiceCache
from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.fleet import kubernetes
from launcher.service import store
from tests import samples
from tests.cli.commandline import Run
from tests.cli.test_export import service, up_words
from tests.fleet.plans import plan as paper_plan
from tests.fleet.test_containers import contained


def profile(ready: Path, cache: Any) -> None:
    """A profile of one's own, `cached`."""
    text = yaml.safe_dump({"extends": "cpu-minilm", "cache": cache})
    (ready / "config" / "profiles" / "cached.yaml").write_text(text)


def test_a_dry_run_tells_both_addresses(run: Run, ready: Path) -> None:
    profile(ready, True)
    answer = run("up", "cached", "--dry-run", "--port", "31000", "--json")
    assert answer.code == 0, answer.out
    argv = answer.data["engine"]["argv"]
    assert argv[argv.index("--host") + 1] == "127.0.0.1"
    assert argv[argv.index("--port") + 1] == "<picked at start>"
    assert answer.data["cache"]["backend"] == "embedded"
    names = [term["name"] for term in answer.data["memory"]["predicted"]["terms"]]
    assert "gateway" in names
    text = run("plan", "cached", "--port", "31000")
    assert "gateway   127.0.0.1 port 31000, vectors kept in a file" in text.out


def test_a_fault_is_told_with_file_and_line(run: Run, ready: Path) -> None:
    profile(ready, {"ttl": "soon"})
    answer = run("plan", "cached", "--json")
    assert (answer.code, answer.error["code"]) == (2, "profile_invalid")
    assert "cached.yaml:2: `cache.ttl`" in answer.error["message"]


def test_a_unit_plans_the_same_cache(run: Run, ready: Path) -> None:
    profile(ready, {"backend": "redis", "url": "redis://cache:6379/0", "ttl": "7d"})
    made = service(profile="cached")
    unit = run("export", "systemd", "cached", "--json")
    assert unit.code == 0, unit.out
    again = run(*up_words(unit.data["unit"]), "--json").data
    assert made.cache is not None
    assert again["cache"] == msgspec.to_builtins(made.cache)
    assert again["engine"]["argv"][-2:] == list(made.engine.argv)[-2:]


def manifests(run: Run) -> dict[str, Any]:
    answer = run("export", "k8s", "cached", "--json")
    assert answer.code == 0, answer.out
    return {each["kind"]: each for each in yaml.safe_load_all(answer.data["manifests"])}


def test_a_pod_may_ask_its_cache_server_and_nobody_else(run: Run, ready: Path) -> None:
    profile(ready, {"backend": "redis", "url": "redis://cache:6380/0"})
    service(profile="cached")
    found = manifests(run)
    assert "redis://cache:6380/0" in found["ConfigMap"]["data"]["cached.yaml"]
    assert found["NetworkPolicy"]["spec"]["egress"] == [
        {"ports": [{"port": 6380, "protocol": "TCP"}]},
        {"ports": [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]},
    ]
    (pod,) = found["Deployment"]["spec"]["template"]["spec"]["containers"]
    assert pod["readinessProbe"]["httpGet"]["path"] == "/ready"
    (port,) = found["Service"]["spec"]["ports"]
    assert port["port"] == 30000


def test_a_pod_with_a_file_of_its_own_asks_nobody(run: Run, ready: Path) -> None:
    profile(ready, True)
    service(profile="cached")
    assert manifests(run)["NetworkPolicy"]["spec"]["egress"] == []


@pytest.mark.parametrize(
    ("backend", "port"), [("redis", 6379), ("memcached", 11211)], ids=["redis", "memcached"]
)
def test_a_server_s_usual_port(backend: Any, port: int) -> None:
    cache = ServiceCache(backend=backend, url=f"{backend}://cache")
    made = contained(paper_plan(cache=cache))
    text = kubernetes.text(made, kubernetes.Cluster())
    policy = next(d for d in yaml.safe_load_all(text) if d["kind"] == "NetworkPolicy")
    assert policy["spec"]["egress"][0]["ports"] == [{"port": port, "protocol": "TCP"}]


@pytest.mark.parametrize(
    "cache",
    [
        {"url": "v.db"},
        {"key_file": "cache.key"},
        {"backend": "redis", "password_file": "redis.password"},
    ],
    ids=["file", "secret", "password"],
)
def test_a_container_has_no_file_of_this_machine(
    run: Run, ready: Path, cache: dict[str, str]
) -> None:
    profile(ready, cache)
    if "password_file" in cache:  # a start reads it
        (ready / "config" / "profiles" / cache["password_file"]).write_text("geheim")
    service(profile="cached")
    answer = run("export", "compose", "cached", "--json")
    assert (answer.code, answer.error["code"]) == (2, "export_impossible")
    assert "a file of this machine" in answer.error["message"]


def test_a_cache_on_loopback_is_the_container_s_own(run: Run, ready: Path) -> None:
    profile(ready, "memcached")
    service(profile="cached")
    answer = run("export", "compose", "cached", "--json")
    assert answer.code == 0, answer.out
    assert "memcached://127.0.0.1:11211 is asked inside the container" in answer.data["compose"]


def with_cache(**changes: Any) -> Plan:
    cache = ServiceCache(**{"backend": "embedded", "url": None, **changes})
    return msgspec.structs.replace(samples.plan(), cache=cache)


@pytest.mark.parametrize("name", ["redis", "memcached"])
def test_a_missing_library_is_told_before_a_start(
    name: str, monkeypatch: pytest.MonkeyPatch, ready: Path
) -> None:
    module = {"redis": "redis", "memcached": "pymemcache"}[name]
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(QlaunchError) as caught:
        require_cache(with_cache(backend=name, url=f"{name}://127.0.0.1"))
    assert (caught.value.code, caught.value.exit_code) == ("extra_missing", 2)
    assert f"qlaunch[{name}]" in str(caught.value.fix)


def test_a_missing_password_is_told_before_a_start(ready: Path) -> None:
    missing = str(ready / "nobody")
    with pytest.raises(QlaunchError) as caught:
        require_cache(with_cache(backend="redis", url="redis://127.0.0.1", password_file=missing))
    assert (caught.value.code, caught.value.exit_code) == ("bad_cache", 2)
    assert missing in caught.value.message


def test_a_secret_that_others_read_is_told_before_a_start(ready: Path) -> None:
    file = ready / "cache.key"
    file.write_bytes(bytes(32))
    file.chmod(0o644)
    with pytest.raises(QlaunchError) as caught:
        require_cache(with_cache(key_file=str(file)))
    assert (caught.value.code, caught.value.exit_code) == ("cache_key", 1)
    assert "others can read it" in caught.value.message


def test_a_plan_without_a_cache_needs_nothing(ready: Path) -> None:
    require_cache(samples.plan())
    assert not (ready / "state" / "gateway").exists()


def test_a_plan_of_an_earlier_version_has_no_cache(ready: Path) -> None:
    made = samples.plan()
    where = store.folder(made.service, create=True)
    document = msgspec.to_builtins(made)
    del document["cache"]
    where.plan.write_bytes(msgspec.json.encode(document))
    assert store.read_plan(where).cache is None
