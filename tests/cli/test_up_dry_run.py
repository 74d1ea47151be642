"""What `up` would run: golden command lines, precedence, engine options, and refusals.

`WRITE_GOLDEN=1 pytest tests/cli/test_up_dry_run.py` writes the golden files anew.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from launcher.engine import command as engine_command
from tests.cli.commandline import Answer, Run
from tests.cli.conftest import SetMachine
from tests.samples import GIB, gpu, installed, machine

GOLDEN = Path(__file__).with_name("golden")
CPU_PROFILES = {"cpu-minilm": "all-minilm-l6-v2", "cpu-qwen3-0.6b": "qwen3-embedding-0.6b"}


def dry(run: Run, *words: str) -> dict[str, Any]:
    answer = run("up", *words[:1], "--dry-run", "--json", *words[1:])
    assert answer.code == 0, answer.out
    return answer.data


def option(data: dict[str, Any], name: str) -> str:
    argv: list[str] = data["engine"]["argv"]
    assert argv.count(name) == 1, argv
    return argv[argv.index(name) + 1]


@pytest.mark.parametrize("bf16", [True, False], ids=["bf16", "no-bf16"])
@pytest.mark.parametrize("profile", CPU_PROFILES)
def test_the_command_and_environment_of_a_cpu_profile(
    profile: str,
    bf16: bool,
    run: Run,
    ready: Path,
    on: SetMachine,
    checkpoints: dict[str, Path],
) -> None:
    on(machine(bf16=bf16))
    data = dry(run, profile)
    text = json.dumps(
        {"argv": data["engine"]["argv"], "env": data["engine"]["env"]}, indent=2, sort_keys=True
    )
    for found, name in {
        str(ready / "data" / "engines" / "cpu"): "ENGINE",
        str(checkpoints[CPU_PROFILES[profile]]): "MODEL",
        str(engine_command.PLUGIN.parent): "PLUGIN",
    }.items():
        text = text.replace(found, name)
    golden = GOLDEN / f"{profile}-{'bf16' if bf16 else 'float32'}.json"
    if os.environ.get("WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text + "\n", "utf-8")
    assert text + "\n" == golden.read_text("utf-8")


def test_the_plan_command_says_the_same(run: Run, ready: Path) -> None:
    planned = run("plan", "cpu-minilm", "--json").data
    assert planned.pop("evidence")["measured"] is False
    assert planned == dry(run, "cpu-minilm")
    assert planned["service"] == planned["profile"] == "cpu-minilm"
    assert planned["fits"] is True
    predicted = planned["memory"]["predicted"]
    assert predicted["ram_full_bytes"] == sum(term["bytes"] for term in predicted["terms"])
    assert 0 < predicted["ram_bytes"] <= predicted["ram_full_bytes"]
    assert predicted["gpu_bytes"] is None


def test_a_dry_run_for_people_can_be_pasted(run: Run, ready: Path) -> None:
    answer = run("up", "cpu-minilm", "--dry-run")
    assert answer.code == 0
    lines = answer.out.splitlines()
    start = lines.index("command") + 1
    pasted = " ".join(line.strip().removesuffix("\\") for line in lines[start:]).split()
    assert pasted[0].endswith("/bin/sglang")
    assert "--max-total-tokens" in pasted
    assert "fits      yes" in lines


def test_a_dry_run_leaves_nothing_behind(run: Run, ready: Path) -> None:
    before = sorted(ready.rglob("*"))
    dry(run, "cpu-minilm")
    assert sorted(ready.rglob("*")) == before


class TestPrecedence:
    """Flag > environment > profile > user config > default."""

    @pytest.fixture
    def own(self, ready: Path) -> Path:
        (ready / "config" / "config.yaml").write_text("port: 1111\nthreads: 1\n")
        text = "title: t\nhardware: {device: cpu}\nengine: cpu\nmodel: all-minilm-l6-v2\n"
        path = ready / "config" / "profiles" / "own.yaml"
        path.write_text(text + "port: 2222\n")
        return path

    def test_the_users_config_is_before_the_default(self, run: Run, own: Path) -> None:
        assert option(dry(run, "cpu-minilm"), "--port") == "1111"

    def test_the_profile_is_before_the_users_config(self, run: Run, own: Path) -> None:
        data = dry(run, "own")
        assert option(data, "--port") == "2222"
        assert data["engine"]["env"]["OMP_NUM_THREADS"] == "1"

    def test_the_environment_is_before_the_profile(
        self, run: Run, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QLAUNCH_PORT", "3333")
        assert option(dry(run, "own"), "--port") == "3333"

    def test_the_command_line_is_before_all(
        self, run: Run, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QLAUNCH_PORT", "3333")
        assert option(dry(run, "own", "--port", "4444"), "--port") == "4444"

    def test_show_resolved_says_where_each_came_from(
        self, run: Run, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QLAUNCH_DTYPE", "float32")
        shown = run("profiles", "show", "own", "--resolved", "--json").data
        assert shown["resolved"]["port"] == 2222
        assert shown["sources"]["port"] == f"profile {own}:5"
        assert shown["sources"]["threads"].startswith("user config ")
        assert shown["sources"]["dtype"] == "environment QLAUNCH_DTYPE"
        assert shown["sources"]["host"] == "default"

    def test_a_bad_value_names_its_variable(
        self, run: Run, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("QLAUNCH_PORT", "many")
        answer = run("up", "own", "--json")
        assert answer.code == 2
        assert answer.error["message"].startswith("environment QLAUNCH_PORT: port must be")


class TestEngineOptions:
    """What stands after `--`."""

    def test_they_replace_the_profiles_own(self, run: Run, ready: Path) -> None:
        data = dry(run, "cpu-minilm", "--", "--max-total-tokens", "4096", "--log-level", "debug")
        assert option(data, "--max-total-tokens") == "4096"
        assert option(data, "--log-level") == "debug"

    def test_what_they_change_is_predicted(self, run: Run, ready: Path) -> None:
        words = ("--max-total-tokens", "4096", "--chunked-prefill-size", "512")
        data = dry(run, "cpu-minilm", "--", *words)
        kv = next(t for t in data["memory"]["predicted"]["terms"] if t["name"] == "KV cache")
        assert kv["source"].startswith("4096 tokens")

    def test_the_equals_form_too(self, run: Run, ready: Path) -> None:
        data = dry(run, "cpu-minilm", "--", "--max-total-tokens=4096")
        assert "--max-total-tokens=4096" in data["engine"]["argv"]
        assert "--max-total-tokens" not in data["engine"]["argv"]

    @pytest.mark.parametrize(
        ("words", "code", "says", "fix"),
        [
            (
                ["--log-levl", "debug"],
                5,
                "--log-levl is not an option of SGLang 0.5.23",
                "--log-level",
            ),
            (["--max-total-tokens", "many"], 5, "--max-total-tokens", None),
            (["--max-total-tokens"], 5, "--max-total-tokens", None),
            (["--dry-run"], 5, "--dry-run", None),
            (["--port", "1"], 2, "--port is set by qlaunch itself", "qlaunch's own --port"),
            (["--api-key=x"], 2, "--api-key is set by qlaunch itself", "--api-key-file"),
            (["--is-embedding"], 2, "--is-embedding is set by qlaunch itself", "leave it out"),
        ],
    )
    def test_they_are_checked_before_anything_is_fetched(
        self, words: list[str], code: int, says: str, fix: str | None, run: Run, home: Path,
        on: SetMachine,
    ) -> None:  # fmt: skip
        on(machine())
        answer = run("up", "cpu-minilm", "--json", "--", *words)
        assert answer.code == code
        assert says in answer.error["message"]
        assert fix is None or fix in answer.error["fix"]
        assert not (home / "data").exists()


class TestRefusals:
    def test_no_gpu(self, run: Run, ready: Path) -> None:
        answer = run("up", "t4-fp16", "--json")
        assert answer.code == 4
        assert answer.error["code"] == "does_not_fit"
        assert "needs an NVIDIA GPU" in answer.error["message"]
        assert "no NVIDIA driver" in answer.error["message"]
        assert answer.error["fix"].startswith("what runs here: cpu-minilm, ")
        assert "cpu-qwen3-0.6b" in answer.error["fix"]
        assert "t4-fp16" not in answer.error["fix"]

    def test_a_gpu_that_is_too_new(self, run: Run, ready: Path, on: SetMachine) -> None:
        on(machine(gpus=(gpu("NVIDIA A10G", (8, 6), 24 * GIB),)))
        answer = run("up", "t4-fp16", "--json")
        assert answer.code == 4
        assert "compute capability 8.6, it runs up to 7.5" in answer.error["message"]

    def test_too_little_ram(self, run: Run, ready: Path, on: SetMachine) -> None:
        on(machine(total=32 * GIB, limit=1 * GIB))
        answer = run("up", "cpu-minilm", "--json")
        assert answer.code == 4
        assert "needs 2.15 GB of RAM; this machine may use 1.07 GB" in answer.error["message"]
        assert answer.error["fix"] is None

    def test_memory_that_others_have_taken(self, run: Run, ready: Path, on: SetMachine) -> None:
        on(machine(available=GIB // 2))
        answer = run("up", "cpu-minilm", "--json")
        assert answer.code == 4
        assert "predicted to take" in answer.error["message"]
        dry_run = run("up", "cpu-minilm", "--dry-run", "--json")
        assert dry_run.data["fits"] is False
        assert "predicted to take" in dry_run.data["reasons"][0]

    def test_nothing_runs_here(self, run: Run, ready: Path, on: SetMachine) -> None:
        on(machine(arch="riscv64"))
        answer = run("up", "--json")
        assert answer.code == 4
        assert answer.error["message"].startswith("none of the profiles runs on this machine")

    def test_an_unknown_profile_names_the_nearest(self, run: Run, ready: Path) -> None:
        answer = run("up", "cpu-minlm", "--json")
        assert answer.code == 2
        assert "no profile `cpu-minlm`; did you mean `cpu-minilm`" in answer.error["message"]

    def test_a_wide_address_without_a_key(self, run: Run, home: Path, on: SetMachine) -> None:
        on(machine())
        answer = run("up", "cpu-minilm", "--host", "0.0.0.0", "--json")
        assert answer.code == 2
        assert answer.error["code"] == "unauthenticated_bind"
        assert "--api-key-file" in answer.error["fix"]

    def test_a_wide_address_that_is_insisted_on(self, run: Run, ready: Path) -> None:
        data = dry(run, "cpu-minilm", "--host", "0.0.0.0", "--allow-unauthenticated")
        assert option(data, "--host") == "0.0.0.0"

    def test_a_wide_address_with_a_key(self, run: Run, ready: Path, tmp_path: Path) -> None:
        key = tmp_path / "key"
        key.write_text("secret")
        key.chmod(0o600)
        data = dry(run, "cpu-minilm", "--host", "::", "--api-key-file", str(key))
        assert option(data, "--config") == "<file with the key, written at start>"
        assert "secret" not in json.dumps(data)

    def test_a_missing_engine(self, run: Run, home: Path, on: SetMachine) -> None:
        on(machine())
        answer = run("up", "cpu-minilm", "--offline", "--json")
        assert answer.code == 5
        assert answer.error["code"] == "engine_missing"
        assert answer.error["fix"].startswith("qlaunch engine install cpu")

    def test_an_engine_python_that_is_none(self, run: Run, ready: Path) -> None:
        answer = run("up", "cpu-minilm", "--engine-python", "/absent/python", "--json")
        assert answer.code == 5
        assert answer.error["code"] == "engine_missing"
        assert "/absent/python is not the Python of an engine" in answer.error["message"]

    def test_no_sglang_on_path(
        self, run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("PATH", str(ready))
        answer = run("up", "cpu-minilm", "--engine-python", "path", "--json")
        assert answer.code == 5
        assert answer.error["message"] == "there is no `sglang` command on PATH"

    def test_a_taken_port_names_its_holder(self, run: Run, ready: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            answer = run("up", "cpu-minilm", "--port", str(port), "--quiet", "--json")
        assert answer.code == 9
        assert answer.error["code"] == "port_taken"
        assert f"port {port} on 127.0.0.1 is taken by" in answer.error["message"]
        assert str(os.getpid()) in answer.error["message"]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("title: t\nengin: cpu\n", "bad.yaml:2: unknown key `engin`"),
            ("title: [\n", "bad.yaml:2"),
            ("", "bad.yaml"),
            ("title: t\ntitle: u\n", "bad.yaml:2"),
        ],
    )
    def test_a_broken_profile_names_file_and_line(
        self, text: str, says: str, run: Run, ready: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        answer = run("up", str(path), "--json")
        assert answer.code == 2
        assert answer.error["code"] == "profile_invalid"
        assert says in answer.error["message"]


def test_the_best_profile_is_taken_where_none_is_named(run: Run, ready: Path) -> None:
    answer: Answer = run("up", "--dry-run", "--json")
    assert answer.data["profile"] == "cpu-minilm"


def test_engine_options_alone_take_the_best_profile_too(run: Run, ready: Path) -> None:
    answer: Answer = run("plan", "--json", "--", "--log-level", "debug")
    assert answer.data["profile"] == "cpu-minilm"
    assert answer.data["engine"]["argv"][-2:] == ["--log-level", "debug"]


@pytest.mark.parametrize("total", [15, 24])
def test_a_t4_gets_its_own_profile(total: int, run: Run, ready: Path, on: SetMachine) -> None:
    on(machine(gpus=(gpu(total=total * GIB),)))
    installed(ready / "data" / "engines", "turing")
    data = run("plan", "--json").data
    assert data["profile"] == "t4-fp16"
    assert option(data, "--dtype") == "half"
    assert "OMP_NUM_THREADS" not in data["engine"]["env"]
    assert data["memory"]["predicted"]["gpu_bytes"] > 0
