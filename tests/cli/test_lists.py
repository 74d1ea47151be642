"""Commands that list, show and remove: profiles, engines, models, runs, services, completion."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.documents.failure import Failure
from launcher.documents.plan import MemoryPrediction
from launcher.documents.run import Peak
from launcher.linux import processes
from launcher.paths import dirs
from tests.checkpoints import make_qwen3
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.cli.services import leave_run, leave_service
from tests.samples import GIB, gpu, installed, machine


class TestProfiles:
    def test_the_list_says_what_runs_here_and_why_not(self, run: Run, ready: Path) -> None:
        found = {p["name"]: p for p in run("profiles", "list", "--json").data["profiles"]}
        assert found["cpu-minilm"]["runs_here"] is True
        assert found["cpu-minilm"]["reason"] is None
        assert found["t4-fp16"]["runs_here"] is False
        assert "needs an NVIDIA GPU" in found["t4-fp16"]["reason"]
        assert all(p["shipped"] for p in found.values())

    def test_the_list_follows_the_machine(self, run: Run, ready: Path, on: SetMachine) -> None:
        on(machine(gpus=(gpu(),), total=4 * GIB))
        found = {p["name"]: p for p in run("profiles", "list", "--json").data["profiles"]}
        assert found["t4-fp16"]["runs_here"] is True
        assert "needs 7.52 GB of RAM" in found["cpu-qwen3-0.6b"]["reason"]

    def test_one_broken_profile_does_not_hide_the_others(self, run: Run, ready: Path) -> None:
        (ready / "config" / "profiles" / "broken.yaml").write_text("title: [\n")
        answer = run("profiles", "list", "--json")
        assert answer.code == 10
        assert answer.document["status"] == "partial"
        found = {p["name"]: p for p in answer.data["profiles"]}
        assert found["cpu-minilm"]["runs_here"] is True
        assert found["broken"]["runs_here"] is False
        assert found["broken"].keys() == found["cpu-minilm"].keys()
        assert "broken.yaml:2" in answer.error["message"]

    def test_an_own_profile_with_an_unknown_engine_says_so(self, run: Run, ready: Path) -> None:
        text = "title: t\nhardware: {device: cpu}\nengine: cpux\nmodel: all-minilm-l6-v2\n"
        (ready / "config" / "profiles" / "own.yaml").write_text(text)
        found = {p["name"]: p for p in run("profiles", "list", "--json").data["profiles"]}
        assert found["own"]["runs_here"] is False
        assert "did you mean `cpu`" in found["own"]["reason"]
        answer = run("profiles", "validate", "own", "--json")
        assert answer.code == 2
        assert answer.error["code"] == "engine_unknown"

    @pytest.mark.parametrize(
        ("model", "code", "words"),
        [
            ("gte-tniy", "model_unknown", "own.yaml:2: there is no model card 'gte-tniy'; did you"),
            ("org/name", "model_not_found", "own.yaml:2: there is no folder"),
            ("HF:org/name", "model_source_invalid", "own.yaml:2: the model source 'HF:org/name'"),
        ],
    )
    def test_a_profile_of_a_model_that_cannot_be_is_not_valid(
        self, model: str, code: str, words: str, run: Run, ready: Path
    ) -> None:
        """It was `valid`, and no plan could be made of it."""
        path = ready / "config" / "profiles" / "own.yaml"
        path.write_text(f"extends: cpu-minilm\nmodel: {model}\n")
        answer = run("profiles", "validate", "own", "--json")
        assert (answer.code, answer.error["code"]) == (2, code)
        assert words in answer.error["message"]
        path.write_text("extends: cpu-minilm\nmodel: ./on-another-machine\n")
        assert run("profiles", "validate", "own").code == 0

    def test_show_prints_the_file_as_it_is_written(self, run: Run, ready: Path) -> None:
        shipped = Path(run("profiles", "show", "cpu-minilm", "--json").data["path"])
        assert shipped.read_text("utf-8") in run("profiles", "show", "cpu-minilm").out

    def test_show_warns_of_what_was_not_measured(self, run: Run, ready: Path) -> None:
        assert run("profiles", "show", "t4-fp16").out.startswith("# not measured")

    def test_resolved_lists_every_engine_option(self, run: Run, ready: Path) -> None:
        out = run("profiles", "show", "cpu-minilm", "--resolved").out
        assert "flags.max-total-tokens" in out
        assert "cpu-minilm.yaml:" in out

    def test_validate_checks_each(self, run: Run, ready: Path, tmp_path: Path) -> None:
        bad = tmp_path / "bad.yaml"
        bad.write_text("titel: t\n")
        answer = run("profiles", "validate", "cpu-minilm", str(bad), "absent", "--json")
        assert answer.code == 2
        assert [p["valid"] for p in answer.data["profiles"]] == [True, False, False]
        codes = [error["code"] for error in answer.document["errors"]]
        assert codes == ["profile_invalid", "profile_unknown"]

    @pytest.mark.parametrize(
        ("more", "code", "said"),
        [
            ("flags: {max-runing-requests: 5}\n", "flag_unknown", "--max-runing-requests is not"),
            ("flags: {mem-fraction-static: 7}\n", "flag_invalid", "above 0 and below 1"),
            ("flags_by_engine:\n  cpu: {tp: 1}\n", "flag_unknown", "--tp"),
            ("fallback: [{max-totl-tokens: 5}]\n", "flag_unknown", "--max-totl-tokens is not"),
            ("flags_by_engine: {cpuu: {page-size: 1}}\n", "engine_unknown", "'cpuu'"),
        ],
    )
    def test_validate_and_plan_refuse_the_same_options(
        self, run: Run, ready: Path, tmp_path: Path, more: str, code: str, said: str
    ) -> None:
        """`validate` called options valid that `plan` refused, and the other way round."""
        path = tmp_path / "own.yaml"
        path.write_text(f"extends: cpu-minilm\n{more}")
        checked = run("profiles", "validate", str(path), "--json")
        assert checked.code == 2
        assert checked.error["code"] == code
        assert said in checked.error["message"]
        line = 3 if more.startswith("flags_by_engine:\n") else 2
        assert f"{path}:{line}: " in checked.error["message"]
        planned = run("plan", str(path), "--json")
        assert planned.code == 5
        assert said in planned.error["message"]

    def test_a_plan_says_that_replicas_are_not_stopped(
        self, run: Run, ready: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "own.yaml"
        path.write_text("extends: cpu-minilm\nreplicas: 2\ncache: {idle_stop_s: 60}\n")
        said = "`cache.idle_stop_s` has no effect: replicas are not stopped"
        assert any(said in note for note in run("plan", str(path), "--json").data["notes"])
        assert said in run("plan", str(path)).out

    def test_options_of_an_engine_of_ones_own_are_left_to_the_plan(
        self, run: Run, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "own.yaml"
        path.write_text("extends: cpu-minilm\nflags: {of-my-own: 5}\n")
        monkeypatch.setenv("QLAUNCH_ENGINE_PYTHON", "/opt/engine/bin/python")
        answer = run("profiles", "validate", str(path))
        assert answer.code == 0
        assert "checked by `qlaunch plan`" in answer.out

    def test_all_shipped_profiles_are_valid(self, run: Run, ready: Path) -> None:
        names = [p["name"] for p in run("profiles", "list", "--json").data["profiles"]]
        assert run("profiles", "validate", *names).code == 0


class TestEngines:
    def test_the_list_says_what_is_installed(self, run: Run, ready: Path) -> None:
        found = {e["name"]: e for e in run("engine", "list", "--json").data["engines"]}
        assert found["cpu"]["installed"] is True
        assert found["cpu"]["bytes"] == 1_000_000
        assert found["cpu"]["path"] == str(ready / "data" / "engines" / "cpu")
        assert found["turing"]["installed"] is False
        assert found["turing"]["bytes"] is None

    def test_list_install_and_doctor_say_the_same(
        self, run: Run, home: Path, on: SetMachine
    ) -> None:
        for hardware in (machine(), machine(gpus=(gpu(),))):
            on(hardware)
            listed = {e["name"]: e for e in run("engine", "list", "--json").data["engines"]}
            checks = run("doctor", "--offline", "--json").data["checks"]
            told = next(c["message"] for c in checks if c["name"] == "releases")
            for name in ("cuda13", "turing"):
                reason = listed[name]["reason"]
                assert listed[name]["installable"] is (reason is None)
                assert (name in told.partition(" can be")[0].split(", ")) is (reason is None)
                if reason is not None:
                    refused = run("engine", "install", name, "--json")
                    assert refused.code == 5
                    assert reason in refused.error["message"]
                    assert reason in told

    def test_a_cuda_release_says_first_that_it_cannot_run(
        self, run: Run, home: Path, on: SetMachine
    ) -> None:
        on(machine())
        answer = run("engine", "install", "turing", "--json")
        assert answer.code == 5
        assert answer.error["code"] == "engine_unsupported"
        assert "needs an NVIDIA GPU" in answer.error["message"]
        assert not (home / "data").exists()

    def test_an_unknown_release_names_the_nearest(self, run: Run, home: Path) -> None:
        answer = run("engine", "install", "turin", "--json")
        assert answer.code == 5
        assert "did you mean `turing`" in answer.error["message"]

    def test_installing_what_is_there_returns_at_once(self, run: Run, ready: Path) -> None:
        answer = run("engine", "install", "--json")
        assert answer.code == 0
        assert answer.data["installed"] is True
        assert answer.data["torch"] == "2.13.0"

    def test_remove_takes_the_environment_away_once(self, run: Run, ready: Path) -> None:
        assert run("engine", "remove", "cpu", "--json").data == {"name": "cpu", "removed": True}
        assert not (ready / "data" / "engines" / "cpu").exists()
        assert run("engine", "remove", "cpu", "--json").data == {"name": "cpu", "removed": False}

    @pytest.mark.parametrize("words", [["remove", "cpu"], ["install", "cpu", "--force"]])
    def test_an_engine_in_use_stays(
        self, words: list[str], run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        used = leave_service("svc", "r", "ready")
        monkeypatch.setattr("launcher.service.control.services", lambda **_: [used])
        answer = run("engine", *words, "--json")
        assert answer.code == 9
        assert answer.error["message"] == "engine cpu is in use by svc"
        assert answer.error["fix"] == "stop it first: qlaunch down svc"

    def test_one_out_of_which_something_was_taken_is_told_and_not_replaced_under_a_service(
        self, run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It counted as installed: `plan` was fine, and every start ended in the engine."""
        place = ready / "data" / "engines" / "cpu" / "lib" / "python3.11" / "site-packages"
        shutil.rmtree(place / "transformers")
        for words in (("plan",), ("up", "--dry-run"), ("up",)):
            answer = run(*words, "cpu-minilm", "--json")
            assert (answer.code, answer.error["code"]) == (5, "engine_broken")
            assert answer.error["fix"] == "make it again: qlaunch engine install cpu"
        used = leave_service("svc", "r", "ready")
        monkeypatch.setattr("launcher.service.control.services", lambda **_: [used])
        answer = run("engine", "install", "--json")
        assert (answer.code, answer.error["code"]) == (9, "engine_in_use")
        assert place.exists()


class TestModels:
    def test_the_list_says_what_is_here(self, run: Run, ready: Path) -> None:
        found = {m["name"]: m for m in run("model", "list", "--json").data["models"]}
        assert found["all-minilm-l6-v2"]["path"] is not None
        assert found["gte-tiny"]["path"] is None
        assert found["qwen3-embedding-0.6b"]["dimensions"] == 1024

    def test_inspect_reads_a_folder(self, run: Run, home: Path, tmp_path: Path) -> None:
        path = make_qwen3(tmp_path / "q", layers=2, kv_heads=2, head_dim=32)
        data = run("model", "inspect", str(path), "--json").data
        assert data["path"] == str(path)
        assert data["pooling"] == "last"
        assert data["kv_bytes_per_token"] == 2 * 2 * 2 * 32 * 2

    def test_inspect_and_pull_of_a_file_say_so(self, run: Run, home: Path, tmp_path: Path) -> None:
        file = tmp_path / "model.bin"
        file.write_text("x")
        for command in ("inspect", "pull"):
            answer = run("model", command, str(file), "--json")
            assert answer.code == 2
            assert str(file) in answer.error["message"]

    def test_pulling_what_is_here_says_where(self, run: Run, ready: Path) -> None:
        answer = run("model", "pull", "all-minilm-l6-v2", "--offline")
        assert answer.code == 0
        assert Path(answer.out.strip()).is_dir()

    def test_pulling_offline_what_is_not_here(
        self, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = run("model", "pull", "all-minilm-l6-v2", "--offline", "--json")
        assert answer.code in (1, 2)
        assert "offline" in answer.error["message"]

    def test_an_unknown_card_names_the_nearest(self, run: Run, home: Path) -> None:
        answer = run("model", "inspect", "gte-tyni", "--json")
        assert answer.code == 2
        assert "did you mean `gte-tiny`" in answer.error["message"]


class TestRuns:
    @pytest.fixture(autouse=True)
    def _runs(self, home: Path) -> None:
        for day in (1, 2, 3):
            leave_run(f"2026010{day}T000000Z-svc-000{day}", "svc", outcome="stopped")
        leave_run("20260104T000000Z-other-0004", "other", outcome="failed")

    def ids(self, run: Run, *words: str) -> list[str]:
        return [found["run"][6:8] for found in run("runs", "list", *words, "--json").data["runs"]]

    def test_the_newest_is_first(self, run: Run) -> None:
        assert self.ids(run) == ["04", "03", "02", "01"]
        assert self.ids(run, "--service", "svc") == ["03", "02", "01"]

    def test_show_takes_the_latest_or_the_beginning_of_an_id(self, run: Run) -> None:
        assert run("runs", "show", "--json").data["service"] == "other"
        assert run("runs", "show", "20260102", "--json").data["run"].endswith("0002")
        answer = run("runs", "show", "2026010", "--json")
        assert answer.code == 2
        assert answer.error["code"] == "run_ambiguous"

    def test_show_reads_to_people(self, run: Run) -> None:
        out = run("runs", "show", "20260102").out
        assert "run       20260102T000000Z-svc-0002: stopped" in out
        assert "RAM       not measured (unavailable)" in out

    def test_a_broken_record_shows_what_is_left_of_it(self, run: Run) -> None:
        (dirs().runs / "20260102T000000Z-svc-0002" / "run.json").write_text('{"version": 1, "ru')
        answer = run("runs", "show", "20260102", "--json")
        assert answer.data["outcome"] == "broken"
        assert answer.data["failure"]["code"] == "record_broken"

    def test_the_list_says_why_a_run_failed(self, run: Run) -> None:
        failure = Failure(
            code="engine_exited",
            exit_code=6,
            failure_class="ram_oom",
            message="killed",
            fix=None,
        )
        leave_run("20260105T000000Z-big-0005", "big", outcome="failed", failure=failure)
        first = run("runs", "list", "--json").data["runs"][0]
        assert (first["failure_class"], first["problem"]) == ("ram_oom", "killed")
        assert "ram_oom" in run("runs", "list").out

    def test_a_services_name_means_its_last_run(self, run: Run) -> None:
        for command in ("show", "report"):
            data = run("runs", command, "svc", "--json").data
            found = data["report"] if command == "report" else data
            assert found["run"] == "20260103T000000Z-svc-0003"
        assert run("runs", "diff", "svc", "other", "--json").data["b"]["run"].endswith("-0004")
        assert run("runs", "show", "sv", "--json").error["code"] == "run_unknown"

    def test_prune_keeps_the_newest(self, run: Run) -> None:
        answer = run("runs", "prune", "--keep", "1", "--service", "svc", "--json")
        assert [name[6:8] for name in answer.data["removed"]] == ["02", "01"]
        assert self.ids(run) == ["04", "03"]

    @pytest.mark.parametrize("words", [("list",), ("prune", "--keep", "0")])
    def test_a_misspelt_service_is_no_service_without_runs(
        self, words: tuple[str, ...], run: Run
    ) -> None:
        answer = run("runs", *words, "--service", "svcc", "--json")
        assert (answer.code, answer.error["code"]) == (2, "run_unknown")
        assert answer.error["fix"] == "did you mean svc?"
        assert len(self.ids(run)) == 4

    def test_prune_can_only_tell(self, run: Run) -> None:
        answer = run("runs", "prune", "--keep", "0", "--dry-run")
        assert answer.out.endswith("4 of 4 runs would be removed\n")
        assert len(self.ids(run)) == 4

    def test_prune_spares_what_is_still_written(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        live = leave_service("svc", "20260101T000000Z-svc-0001", "ready")
        monkeypatch.setattr("launcher.service.control.services", lambda **_: [live])
        run("runs", "prune", "--keep", "0")
        assert self.ids(run) == ["01"]

    def test_prune_names_what_it_cannot_remove(
        self, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr("shutil.rmtree", refuse)
        answer = run("runs", "prune", "--keep", "3", "--json")
        assert answer.code == 1
        assert answer.error["code"] == "run_not_removed"
        assert "20260101T000000Z-svc-0001: Permission denied" in answer.error["message"]


class TestServices:
    def test_ps_leaves_out_what_is_over_unless_asked(self, run: Run, home: Path) -> None:
        leave_service("svc", "r")
        assert run("ps", "--json").data["services"] == []
        assert run("ps").out == "no services are running\n"
        assert [s["service"] for s in run("ps", "-a", "--json").data["services"]] == ["svc"]

    def test_status_of_what_is_over_is_shown_and_exits_3(self, run: Run, home: Path) -> None:
        leave_service("svc", "r")
        answer = run("status", "svc", "--json")
        assert answer.code == 3
        assert answer.data["state"] == "stopped"
        assert answer.error["fix"] == "start it: qlaunch restart svc"
        assert run("status", "svc", "--endpoint").out == ""

    def test_an_unknown_name_lists_those_there_are(self, run: Run, home: Path) -> None:
        leave_service("svc", "r")
        for command in ("status", "down", "restart", "logs", "smoke"):
            answer = run(command, "scv", "--json")
            assert answer.code == 3
            assert answer.error["message"] == "there is no service 'scv'; there are: svc"

    def test_a_start_that_was_refused_left_no_service(self, run: Run, home: Path) -> None:
        leave_service("svc", "r")
        left = home / "state" / "services" / "two"
        left.mkdir(mode=0o700)
        (left / "up.lock").touch(mode=0o600)
        answer = run("status", "two", "--json")
        assert answer.code == 3
        assert answer.error["message"] == "there is no service 'two'; there are: svc"

    def test_a_name_that_can_be_none(
        self, run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(home)  # `../x` would be a model where there is such a folder
        for name in ("../x", "UPPER", "a" * 65, "a/b"):
            assert run("status", name, "--json").error["code"] == "bad_service_name"

    def test_smoke_of_what_does_not_run(self, run: Run, home: Path) -> None:
        leave_service("svc", "r")
        answer = run("smoke", "svc", "--json")
        assert answer.code == 3
        assert answer.error["code"] == "not_running"

    def test_down_of_what_is_over_is_no_error(self, run: Run, home: Path) -> None:
        leave_service("svc", "r")
        (found,) = run("down", "svc", "--json").data["services"]
        assert (found["service"], found["was_running"], found["left"]) == ("svc", False, [])
        assert run("down", "--all").out == "svc: not running\n"

    def test_down_of_everything_where_there_is_nothing(self, run: Run, home: Path) -> None:
        assert run("down", "--all").out == "no services\n"

    def test_restart_without_a_plan_says_what_to_do(self, run: Run, home: Path) -> None:
        leave_service("svc", "r")
        answer = run("restart", "svc", "--json")
        assert answer.code == 1
        assert answer.error["code"] == "bad_plan"
        assert answer.error["fix"] == "start the service again: qlaunch up svc"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_the_shells_own_script(shell: str, run: Run, home: Path) -> None:
    answer = run("completion", shell)
    assert answer.code == 0
    assert f"{shell}_complete" in answer.out
    assert json.loads(run("completion", shell, "--json").out)["data"]["shell"] == shell


def test_the_script_completes_commands(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from launcher.cli.main import entry; entry()"],
        env={
            **os.environ,
            "QLAUNCH_HOME": str(tmp_path),
            "_QLAUNCH_COMPLETE": "bash_complete",
            "COMP_WORDS": "qlaunch engine in",
            "COMP_CWORD": "2",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["plain,install"]


def test_an_installed_engine_of_another_version_does_not_count(run: Run, home: Path) -> None:
    installed(home / "data" / "engines", sglang="0.4.0")
    found = {e["name"]: e for e in run("engine", "list", "--json").data["engines"]}
    assert found["cpu"]["installed"] is False


@pytest.mark.parametrize(
    ("proved", "peak", "error", "shown"),
    [
        (None, 400, None, "400 MB, predicted 660 MB"),
        (600, 600, 0.1, "600 MB, predicted 660 MB, 10 % too high"),
        (600, 900, 0.1, "900 MB, 600 MB until verified, predicted 660 MB, 10 % too high"),
    ],
)
def test_status_holds_a_prediction_against_what_it_foresees(
    run: Run, home: Path, proved: int | None, peak: int, error: float | None, shown: str
) -> None:
    """Not against a start that is still loading, nor against what load took later."""
    megabyte = 1_000_000
    leave_service(
        "svc",
        "20260105T000000Z-svc-0005",
        "ready" if proved else "loading",
        supervisor=processes.process_id(os.getpid()),
        predicted=MemoryPrediction(ram_bytes=660 * megabyte, gpu_bytes=None),
        measured=Peak(ram_peak_bytes=peak * megabyte, method={"ram": "pss"}),
        verified_peak=Peak(ram_peak_bytes=proved * megabyte) if proved else None,
    )
    found = run("status", "svc", "--json").data["memory"]["error"]["ram"]
    assert found == (error if error is None else pytest.approx(error, abs=0.001))
    lines = run("status", "svc").out.splitlines()
    (line,) = (line.removeprefix("RAM").strip() for line in lines if line.startswith("RAM"))
    assert line.replace(" peak (PSS)", "") == shown
