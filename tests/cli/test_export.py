"""Exports carry the whole plan: what their command line plans is what was exported."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from launcher.app.prepare import Request, prepare
from launcher.cli.main import cli
from launcher.cli.options import plan_options
from launcher.config.settings import SETTINGS
from launcher.documents.plan import Plan
from launcher.fleet import start_command
from launcher.service import store
from tests.checkpoints import make_bert
from tests.cli.commandline import Run
from tests.cli.services import leave_service
from tests.units import exec_start, variables


def up_words(unit: str) -> list[str]:
    """What stands after the program, with a dry run for the supervisor."""
    words = exec_start(unit)
    return ["--dry-run" if w == "--foreground" else w for w in words[words.index("up") :]]


def service(**given: Any) -> Plan:
    """A service as `up` left it, stopped."""
    extra = given.pop("extra", ())
    profile = given.pop("profile", "cpu-minilm")
    plan = prepare(Request(profile=profile, given=given, extra=extra), lambda _: None).plan
    store.write_plan(store.folder(plan.service, create=True), plan)
    leave_service(plan.service, "run")
    return plan


def lasting(plan: Plan) -> dict[str, Any]:
    """A plan without what each making of it may put differently."""
    document: dict[str, Any] = msgspec.to_builtins(plan)
    for name in ("reasons", "origin", "start_budget_s", "start_budget_source"):
        del document[name]
    return document


@pytest.fixture
def own_model(ready: Path) -> Path:
    return make_bert(ready / "my model 100%", pooling="cls", seed=5)


def test_the_service_s_own_model_is_exported(run: Run, ready: Path, own_model: Path) -> None:
    """The trap: `--model DIR --name walk2` came out as the profile's model on port 30000."""
    plan = service(model=str(own_model), name="walk2", port="30123")
    answer = run("export", "systemd", "walk2", "--json")
    assert answer.code == 0, answer.out
    words = exec_start(answer.data["unit"])
    assert words[words.index("--model") + 1] == str(own_model)
    assert words[words.index("--port") + 1] == "30123"
    assert words[words.index("--expect-fingerprint") + 1] == plan.fingerprint
    planned = run(*up_words(answer.data["unit"]), "--json").data
    assert planned["fingerprint"] == answer.data["fingerprint"] == plan.fingerprint


def test_a_service_goes_before_the_profile_it_is_named_after(
    run: Run, ready: Path, own_model: Path
) -> None:
    plan = service(model=str(own_model))
    answer = run("export", "systemd", "cpu-minilm", "--json")
    assert answer.data["fingerprint"] == plan.fingerprint
    assert "--from-profile" in answer.err
    bare = run("export", "systemd", "cpu-minilm", "--from-profile", "--json")
    assert bare.data["fingerprint"] != plan.fingerprint


EVERY: dict[str, Any] = {
    "name": "other",
    "engine": "cpu",
    "host": "0.0.0.0",
    "port": "31234",
    "metrics_port": "31235",
    "metrics_host": "0.0.0.0",
    "dtype": "float32",
    "threads": "2",
    "replicas": "2",
    "start_timeout_s": "77",
    "plugin": False,
    "start_method": "spawn",
    "allow_unauthenticated": True,
    "offline": True,
}
"""A value other than the default for each option; model and key file come from fixtures."""


def everything(own_model: Path, key: Path) -> dict[str, Any]:
    return EVERY | {"model": str(own_model), "api_key_file": str(key)}


def test_every_option_of_up_is_in_the_test_below() -> None:
    """An option that is added must be carried, or be of the one start alone."""

    @click.command()
    @plan_options
    def shaped(**_given: object) -> None:
        """Takes what shapes a plan."""

    up = cli.get_command(click.Context(cli), "up")
    assert up is not None
    of_plan = {p.name for p in shaped.params}
    of_output = {"json", "verbose", "color", "debug"}
    assert {p.name for p in up.params} - of_plan == {"dry_run", "foreground", "quiet"} | of_output
    tested = {*EVERY, "model", "api_key_file", "engine_python"}
    assert of_plan - {"words", "expect_fingerprint"} == tested
    assert {setting.name for setting in SETTINGS} == tested
    assert {*start_command.OPTIONS, *start_command.SWITCHES} == tested


@pytest.mark.parametrize("through", ["command line", "environment", "user config"])
def test_every_option_is_carried_wherever_it_was_given(
    through: str,
    run: Run,
    ready: Path,
    own_model: Path,
    key: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The unit's own command line, in the unit's own environment, plans what was exported."""
    given = everything(own_model, key)
    extra = ("--log-level", "debug")
    if through == "environment":
        for name, value in given.items():
            monkeypatch.setenv(f"QLAUNCH_{name.upper()}", str(value))
        plan = service(extra=extra)
        for name in given:
            monkeypatch.delenv(f"QLAUNCH_{name.upper()}")
    elif through == "user config":
        here = {"name", "model", "engine"}  # a profile's own business
        rows = [
            f"{name}: {str(value).lower() if isinstance(value, bool) else value}\n"
            for name, value in given.items()
            if name not in here
        ]
        config = ready / "config" / "config.yaml"
        config.write_text("".join(rows) + "flags: {log-level: debug, max-loaded-loras: 7}\n")
        plan = service(**{name: given[name] for name in here})
        config.unlink()
    else:
        plan = service(**given, extra=extra)
    unit = run("export", "systemd", "other", "--json").data["unit"]
    assert f"LoadCredential=api-key:{key}" in unit
    words = up_words(unit)
    words[words.index("%d/api-key")] = str(key)
    rest = words.index("--")
    before, after = words[:rest], words[rest + 1 :]
    context = cli.get_command(click.Context(cli), "up").make_context("up", before[1:])  # type: ignore[union-attr]
    params = {k: v for k, v in context.params.items() if k in given or k == "engine_python"}
    again = prepare(
        Request(profile=before[1], given=params, extra=tuple(after), environ={}), lambda _: None
    ).plan
    new, old = lasting(again), lasting(plan)
    for one in (new, old):  # what goes after `--` may move within the command line
        one["engine"]["argv"] = sorted(one["engine"]["argv"])
        for step in one["fallbacks"]:
            step["argv"] = sorted(step["argv"])
    assert new == old


def test_the_environment_of_the_service_is_carried_and_secrets_are_not(
    run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carried = {
        "SGLANG_LOG_MS": "1",
        "HF_HOME": str(ready / "hf 50%"),
        "CUDA_VISIBLE_DEVICES": "1",
        "OMP_PLACES": "cores",
        "XDG_CACHE_HOME": str(ready / "cache"),
    }
    withheld = {"HF_TOKEN": "hf_canary", "https_proxy": "http://u:canary@proxy", "TMPDIR": "/x"}
    for name, value in {**carried, **withheld, "AWS_SECRET": "canary"}.items():
        monkeypatch.setenv(name, value)
    service(name="svc")
    for name in (*carried, *withheld):
        monkeypatch.delenv(name)
    answer = run("export", "systemd", "svc", "--json")
    found = variables(answer.data["unit"])
    assert {name: found.get(name) for name in carried} == carried
    assert found["QLAUNCH_HOME"] == str(ready)
    assert "canary" not in answer.out
    for name in withheld:
        assert any(name in note for note in answer.data["notes"]), name
        assert f"# Not carried: {name} " in answer.data["unit"]


def test_a_profile_s_file_is_carried_by_its_path(
    run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "title: t\nhardware: {device: cpu}\nengine: cpu\nmodel: all-minilm-l6-v2\n"
    (ready / "mine.yaml").write_text(text)
    monkeypatch.chdir(ready)
    service(profile="mine.yaml")
    monkeypatch.chdir("/")
    unit = run("export", "systemd", "mine", "--json").data["unit"]
    assert exec_start(unit)[exec_start(unit).index("up") + 1] == str(ready / "mine.yaml")


def test_a_relative_folder_becomes_absolute(
    run: Run, ready: Path, own_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own_model.parent)
    unit = run("export", "systemd", "cpu-minilm", "--model", own_model.name, "--json").data["unit"]
    assert str(own_model) in exec_start(unit)


def test_a_folder_that_was_started_by_itself_is_exported(
    run: Run, ready: Path, own_model: Path
) -> None:
    """`up ./folder`: the profile was chosen by the machine, and is named."""
    unit = run("export", "systemd", str(own_model), "--json").data["unit"]
    words = exec_start(unit)
    assert words[words.index("--model") + 1] == str(own_model)
    planned = run(*up_words(unit), "--json").data
    whole = run("plan", str(own_model), "--json").data
    assert planned["fingerprint"] == whole["fingerprint"]
    assert planned["engine"]["argv"] == whole["engine"]["argv"]


def test_options_given_with_the_export_go_first(run: Run, ready: Path) -> None:
    service(name="svc", port="30500", dtype="float32")
    words = exec_start(run("export", "systemd", "svc", "--port", "30501", "--json").data["unit"])
    assert words[words.index("--port") + 1] == "30501"
    assert words[words.index("--dtype") + 1] == "float32"


def test_the_port_of_a_running_service_is_kept(run: Run, ready: Path) -> None:
    service(name="svc", port="0", metrics_port="0")
    stopped = run("export", "systemd", "svc", "--json")
    assert (stopped.code, stopped.error["code"]) == (2, "export_impossible")
    from launcher.linux import processes

    leave_service(
        "svc",
        "run",
        state="ready",
        endpoint="http://127.0.0.1:41234/v1",
        metrics={"url": "http://127.0.0.1:41235/metrics", "problem": None},
        supervisor=processes.process_id(os.getpid()),
    )
    answer = run("export", "systemd", "svc", "--json")
    words = exec_start(answer.data["unit"])
    assert words[words.index("--port") + 1] == "41234"
    assert words[words.index("--metrics-port") + 1] == "41235"


def test_a_changed_checkpoint_is_refused(run: Run, ready: Path, own_model: Path) -> None:
    service(model=str(own_model), name="svc")
    unit = run("export", "systemd", "svc", "--json").data["unit"]
    weights = own_model / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    started = run(*up_words(unit), "--json")
    assert (started.code, started.error["code"]) == (2, "checkpoint_changed")
    assert str(own_model) in started.error["message"]
    exported = run("export", "systemd", "svc", "--json")
    assert (exported.code, exported.error["code"]) == (2, "checkpoint_changed")


def test_a_changed_profile_is_refused(run: Run, ready: Path) -> None:
    path = ready / "config" / "profiles" / "own.yaml"
    text = "title: t\nhardware: {device: cpu}\nengine: cpu\nmodel: all-minilm-l6-v2\n"
    path.write_text(text)
    service(profile="own")
    path.write_text("# a comment\n" + text)
    assert run("export", "systemd", "own").code == 0
    path.write_text(text + "dtype: float32\n")
    answer = run("export", "systemd", "own", "--json")
    assert (answer.code, answer.error["code"]) == (9, "profile_changed")
    path.unlink()
    assert run("export", "systemd", "own", "--json").error["code"] == "profile_changed"


@pytest.mark.parametrize("text", ["abc", "x" * 64, "", "F" * 64])
def test_what_is_no_fingerprint_is_said(text: str, run: Run, ready: Path) -> None:
    answer = run("up", "cpu-minilm", "--dry-run", "--json", "--expect-fingerprint", text)
    assert (answer.code, answer.error["code"]) == (2, "usage")


def test_a_plan_of_an_earlier_version_is_said(run: Run, ready: Path) -> None:
    plan = service(name="svc")
    store.write_plan(store.folder("svc"), msgspec.structs.replace(plan, origin=None))
    answer = run("export", "systemd", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (2, "export_impossible")


def test_a_file_that_cannot_be_written_is_said(run: Run, ready: Path) -> None:
    answer = run("export", "systemd", "cpu-minilm", "-o", str(ready / "no" / "unit"), "--json")
    assert (answer.code, answer.error["code"]) == (2, "usage")
