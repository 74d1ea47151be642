"""`qlaunch doctor`: the report, its exit codes, the setup it looks at, and its time limits."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from launcher.cli import doctor
from launcher.doctor import folders
from launcher.doctor.runner import DoctorCheck, Finding, ok, problem, run, unavailable, warning
from launcher.errors import ExitCode
from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.nvml.machines import machine
from tests.patience import PATIENCE_S, no_hang
from tests.samples import installed
from tests.samples import machine as samples_machine

STATUSES = {"ok", "warning", "problem", "unavailable"}
ROOT = os.geteuid() == 0


def statuses(data: dict[str, object]) -> dict[str, str]:
    checks = data["checks"]
    assert isinstance(checks, list)
    return {check["name"]: check["status"] for check in checks}


# --- the report ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("findings", "code", "status"),
    [
        ([ok("a", "x")], 0, "ok"),
        ([ok("a", "x"), unavailable("b", "x")], 0, "ok"),
        ([warning("a", "x", "y"), unavailable("b", "x")], 1, "partial"),
        ([problem("a", "x"), warning("b", "x"), ok("c", "x")], 2, "error"),
    ],
)
def test_the_worst_finding_decides(findings: list[Finding], code: int, status: str) -> None:
    found = doctor.result(findings, as_json=True)
    assert (found.exit_code, found.status) == (ExitCode(code), status)
    assert len(found.problems) == sum(f.status in ("warning", "problem") for f in findings)
    assert doctor.result(findings, as_json=False).problems == ()


def test_the_text_has_every_finding_and_its_fix() -> None:
    lines = doctor.result(
        [ok("short", "fine"), problem("a longer name", "bad", "do this")],
        as_json=False,
        everything=True,
    ).lines
    assert list(lines) == [
        "ok           short          fine",
        "problem      a longer name  bad",
        "                            Try: do this",
        "1 problem, no warnings, 1 ok, 0 unavailable",
    ]


def test_the_text_names_what_is_well_on_one_line() -> None:
    findings = [ok("cpu", "fine"), problem("clock", "bad", "do this"), ok("swap", "fine")]
    assert list(doctor.result(findings, as_json=False).lines) == [
        "problem      clock  bad",
        "                    Try: do this",
        "ok           cpu, swap",
        "1 problem, no warnings, 2 ok, 0 unavailable: --all tells what was found",
    ]


def test_this_machine(home: Path, run: Run) -> None:
    with no_hang():
        answer = run("doctor", "--offline", "--json")
    assert answer.code in (0, 1, 2)
    found = statuses(answer.data)
    assert set(found.values()) <= STATUSES
    assert list(found)[:3] == ["python", "releases", "cpu"]
    assert {"engines", "services", "leftovers", "disk data", "folder state", "port 30000"} <= set(
        found
    )
    for check in answer.data["checks"]:
        assert set(check) == {"name", "status", "message", "fix", "seconds"}
        assert check["message"]
    counts = answer.data["counts"]
    assert sum(counts.values()) == len(answer.data["checks"])
    worst = 2 if counts["problem"] else 1 if counts["warning"] else 0
    assert answer.code == worst
    assert list(home.iterdir()) == []


def test_the_text_goes_to_stdout(home: Path, run: Run) -> None:
    answer = run("doctor", "--offline", "--all")
    assert answer.err == ""
    assert answer.out.splitlines()[0].split()[1] == "python"


def test_an_engine_with_a_damaged_marker_ends_with_2(home: Path, run: Run) -> None:
    root = installed(home / "data" / "engines")
    (root / "installed.json").write_text("{")
    answer = run("doctor", "--offline", "--json")
    assert answer.code == 2
    assert statuses(answer.data)["engine cpu"] == "problem"
    errors = answer.document["errors"]
    assert errors[0]["code"] == "doctor_problem"
    assert any(error["message"].startswith("engine cpu: ") for error in errors)


def test_a_state_folder_that_is_a_file_ends_with_2(home: Path, run: Run) -> None:
    (home / "state").write_text("a file")
    answer = run("doctor", "--offline", "--json")
    assert answer.code == 2
    assert statuses(answer.data)["folder state"] == "problem"


def test_an_engine_that_is_asked_for_and_not_there(home: Path, run: Run) -> None:
    answer = run("doctor", "--offline", "--engine", "cpu-0.5.15", "--json")
    assert answer.code == 2
    assert statuses(answer.data)["engine cpu-0.5.15 import"] == "problem"
    assert (
        statuses(run("doctor", "--offline", "--engine", "--json").data)
        .keys()
        .isdisjoint({"engine cpu import"})
    )


def test_an_engine_that_cannot_be_installed_is_not_told_to_be(
    home: Path, run: Run, on: SetMachine
) -> None:
    """`doctor` advised what `engine install` refuses."""
    on(samples_machine())
    checks = run("doctor", "--offline", "--engine", "cuda13", "--json").data["checks"]
    finding = next(c for c in checks if c["name"] == "engine cuda13 import")
    reason = run("engine", "install", "cuda13", "--json").error["message"].partition(": ")[2]
    assert finding["message"] == f"it is not installed, and cannot be installed here: {reason}"
    assert "engine install" not in finding["fix"]


def test_an_engine_that_no_catalogue_has(home: Path, run: Run) -> None:
    answer = run("doctor", "--engine", "cpuu", "--json")
    assert answer.code == 5
    assert answer.document["errors"][0]["code"] == "engine_unknown"


@pytest.mark.parametrize("value", ["0", "-1", "soon", "nan", "inf"])
def test_a_limit_must_be_a_time(home: Path, run: Run, value: str) -> None:
    assert run("doctor", "--limit", value, "--json").code == 2


def test_a_hanging_driver_is_cut_at_the_limit(tmp_path: Path) -> None:
    program = (
        "import contextlib, io, json, sys, time\n"
        "from launcher.cli.main import main\n"
        "began, out = time.monotonic(), io.StringIO()\n"
        "with contextlib.redirect_stdout(out):\n"
        "    code = main(['doctor', '--offline', '--json', '--limit', '2'])\n"
        "print(json.dumps([code, time.monotonic() - began, json.loads(out.getvalue())]))\n"
    )
    code, seconds, document = machine("driver-hangs").run(
        tmp_path,
        program,
        QLAUNCH_HOME=str(tmp_path / "home"),
        ONEDNN_MAX_CPU_ISA="",  # a mask is warned of
        ATEN_CPU_CAPABILITY="",
    )
    assert code == 2
    assert seconds < PATIENCE_S
    found = {check["name"]: check for check in document["data"]["checks"]}
    assert found["nvidia driver"]["status"] == "problem"
    assert found["nvidia driver"]["message"] == "there was no answer within 2 s"
    assert found["cpu"]["status"] == "ok"


def test_a_machine_with_a_card_is_reported_whole(tmp_path: Path) -> None:
    program = (
        "import contextlib, io, json\n"
        "from launcher.cli.main import main\n"
        "out = io.StringIO()\n"
        "with contextlib.redirect_stdout(out):\n"
        "    main(['doctor', '--offline', '--json'])\n"
        "print(out.getvalue())\n"
    )
    document = machine("t4").run(tmp_path, program, QLAUNCH_HOME=str(tmp_path / "home"))
    found = statuses(document["data"])
    assert [found[name] for name in ("nvidia driver", "gpu 0", "engines for gpu 0")] == ["ok"] * 3
    assert "c compiler" in found  # Triton needs it; whether it is here is the machine's matter


# --- folders -------------------------------------------------------------------------------------


def test_folders_that_are_not_there_yet_are_fine(tmp_path: Path) -> None:
    found = folders.folder_finding("state", tmp_path / "a" / "b", private=True)
    assert found.status == "ok"
    assert not (tmp_path / "a").exists()


def test_a_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    found = folders.folder_finding("data", tmp_path / "a" / "b", private=False)
    assert found.status == "problem"
    assert "QLAUNCH_HOME" in (found.fix or "")


@pytest.mark.parametrize(
    ("mode", "private", "status"),
    [
        (0o700, True, "ok"),
        (0o755, True, "warning"),
        (0o755, False, "ok"),
        (0o777, False, "warning"),
        (0o1777, False, "ok"),
    ],
)
def test_modes(tmp_path: Path, mode: int, private: bool, status: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    folder.chmod(mode)
    assert folders.folder_finding("x", folder, private=private).status == status


def test_links(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "real")
    assert folders.folder_finding("state", link, private=True).status == "problem"
    assert folders.folder_finding("data", link, private=False).status == "ok"
    link.unlink()
    link.symlink_to(tmp_path / "nowhere")
    assert folders.folder_finding("data", link, private=False).status == "problem"


def test_a_folder_of_someone_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    found = folders.folder_finding("state", tmp_path, private=True)
    assert (found.status, "belongs to user" in found.message) == ("problem", True)


@pytest.mark.skipif(ROOT, reason="the superuser may write everywhere")
def test_folders_that_cannot_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        for path in (tmp_path, tmp_path / "new"):
            assert folders.folder_finding("data", path, private=False).status == "problem"
    finally:
        tmp_path.chmod(0o700)


# --- environment ---------------------------------------------------------------------------------


def test_variables_of_the_hubs_are_named_and_never_shown() -> None:
    environ = {"HF_TOKEN": "hf_secret", "HF_ENDPOINT": "https://user:pw@hub.example", "PATH": "/"}
    found = folders.hub_finding(environ)
    assert (found.status, found.message) == ("ok", "set: HF_TOKEN, HF_ENDPOINT")
    assert folders.hub_finding({"HF_TOKEN": ""}).message.startswith("no variable")


@pytest.mark.parametrize("value", ["hub.example:x y", "ftp://hub.example", "https://"])
def test_an_endpoint_that_is_none(value: str) -> None:
    found = folders.hub_finding({"HF_ENDPOINT": value})
    assert found.status == "warning"
    assert value not in found.message


@pytest.mark.parametrize(
    ("environ", "status", "said"),
    [
        ({}, "ok", "no proxy variable is set"),
        ({"http_proxy": ""}, "ok", "no proxy variable is set"),
        (
            {"HTTPS_PROXY": "http://user:pa@ss@proxy.example:3128/x", "no_proxy": "127.0.0.1"},
            "ok",
            "HTTPS_PROXY=http://proxy.example:3128",
        ),
        ({"http_proxy": "proxy:3128", "NO_PROXY": "*"}, "ok", "http_proxy=http://proxy:3128"),
        ({"http_proxy": "http://proxy:1"}, "warning", "leaves 127.0.0.1 out"),
        ({"http_proxy": "http://proxy:1", "no_proxy": "localhost"}, "warning", "127.0.0.1"),
        ({"all_proxy": "http://[bad"}, "warning", "all_proxy is not the address"),
        ({"all_proxy": "secret words"}, "warning", "all_proxy is not the address"),
    ],
)
def test_proxies_are_shown_without_credentials(
    environ: dict[str, str], status: str, said: str
) -> None:
    found = folders.proxy_finding(environ)
    assert found.status == status
    assert said in found.message
    for secret in ("user", "pa@ss", "ss@", "secret words"):
        assert secret not in found.message


def test_every_check_of_the_command_ends_within_its_limit(home: Path) -> None:
    """The limits are those of the checks, and what is looked at by default has small ones."""
    from launcher.paths import dirs

    checks: list[DoctorCheck] = list(doctor._checks(dirs(), None, offline=True))
    # It imports an engine once: the first time that one installed without a GPU sees one.
    once = {"engine first import"}
    assert max(check.limit_s for check in checks if check.name not in once) <= 15
    assert sum(check.limit_s == 3.0 for check in checks) >= 10
    names = [check.name for check in checks]
    assert len(set(names)) == len(names)
    assert json.dumps([f.name for f in run(checks)])
