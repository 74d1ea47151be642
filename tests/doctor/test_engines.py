"""What doctor says of this Python, the releases, the driver they need, and environments."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from launcher.doctor import engines as engine_checks
from launcher.doctor.runner import Finding
from launcher.engine import releases
from launcher.engine.environments import environment_probe, install, stub_driver
from launcher.engine.options import flags, own_options
from launcher.engine.options.flags import Option, Table
from launcher.engine.release import Release
from launcher.engine.releases import Host
from launcher.errors import ExitCode, QlaunchError
from tests.samples import gpu, installed, machine

CPU = releases.release("cpu")
ALL = tuple(releases.releases().values())
MIXED = machine(gpus=(gpu(), gpu("NVIDIA A100", (8, 0))))
"""A machine with a GPU for every CUDA release."""


def by_name(findings: Iterable[Finding]) -> dict[str, Finding]:
    return {finding.name: finding for finding in findings}


def speaking(root: Path, script: str) -> None:
    """Give an environment a Python that does this."""
    (root / "bin" / "python").write_text(f"#!/bin/sh\n{script}\n")


def looked_at(engines: Path) -> dict[str, Finding]:
    return by_name(engine_checks.engine_findings(CPU, engines))


def only(found: dict[str, Finding]) -> Finding:
    assert list(found) == ["engine cpu"]
    return found["engine cpu"]


# --- platform ------------------------------------------------------------------------------------


def test_this_machine() -> None:
    assert engine_checks.python_finding().status == "ok"
    assert "cpu" in engine_checks.release_finding(ALL, machine()).message


@pytest.mark.parametrize(
    ("python", "arch", "glibc", "status", "said"),
    [
        (
            (3, 12, 1),
            "x86_64",
            "2.39",
            "ok",
            "cpu, cpu-0.5.15, cuda13, cuda13-portable, cuda12, turing can be",
        ),
        ((3, 14, 0), "x86_64", "2.39", "problem", "no engine release can be installed here"),
        ((3, 12, 1), "aarch64", "2.39", "ok", "cpu can be installed here; not"),
        ((3, 12, 1), "x86_64", "2.31", "ok", "cuda12, turing can be installed here; not cpu,"),
        ((3, 10, 1), "x86_64", "2.39", "problem", "no engine release can be installed here"),
        ((3, 12, 1), "riscv64", "2.39", "problem", "it has no build for riscv64"),
    ],
)
def test_which_releases_can_be_installed(
    python: tuple[int, int, int], arch: str, glibc: str, status: str, said: str
) -> None:
    host = Host(python, arch, glibc)
    found = engine_checks.release_finding(ALL, MIXED, host)
    assert found.status == status
    assert said in found.message


def test_a_release_without_a_gpu_for_it_is_not_said_to_install_here() -> None:
    found = engine_checks.release_finding(ALL, machine())
    assert "not cuda13, cuda13-portable, cuda12, turing: it needs an NVIDIA GPU" in found.message
    found = engine_checks.release_finding(ALL, machine(gpus=(gpu(),)))
    assert "turing can be installed here; not cuda13, cuda12: Tesla T4: it has" in found.message


def test_another_c_library_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "glibc_version", lambda: None)
    assert engine_checks.python_finding().status == "problem"


def test_a_python_without_venv_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    found = engine_checks.python_finding()
    assert found.status == "problem"
    assert "python3-venv" in (found.fix or "")


# --- drivers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capability", "driver", "runs"),
    [
        ((7, 5), "535.183.01", ["turing"]),
        ((8, 6), "535.183.01", ["cuda12"]),
        ((8, 6), "580", ["cuda13", "cuda12"]),
        ((9, 0), "579.99.99", ["cuda12"]),
        ((9, 0), None, ["cuda13", "cuda12"]),
        ((7, 0), "580.1", []),
        ((7, 5), "470.1", []),
        ((8, 0), "not a version", []),
    ],
)
def test_which_releases_run_on_a_card_and_driver(
    capability: tuple[int, int], driver: str | None, runs: list[str]
) -> None:
    (found,) = engine_checks.gpu_findings([gpu(capability=capability)], driver, ALL)
    assert found.status == ("ok" if runs else "warning")
    if runs:
        assert found.message.partition("; not ")[0] == ", ".join(runs)
    else:
        assert found.message.startswith("no release runs on it: ")
        assert found.fix == ("use a CPU profile" if capability == (7, 0) else "update the driver")


# --- environments --------------------------------------------------------------------------------


def test_nothing_is_present_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert engine_checks.present(ALL, tmp_path / "engines") == []
    (tmp_path / "engines" / "cpu").mkdir(parents=True)
    assert engine_checks.present(ALL, tmp_path / "engines") == [CPU]


def test_an_environment_that_is_whole(tmp_path: Path) -> None:
    speaking(installed(tmp_path), f"echo '\"{CPU.version}\"'")
    found = looked_at(tmp_path)
    assert found["engine cpu"].status == "ok"
    assert found["engine cpu"].message.startswith(f"SGLang {CPU.version}, torch 2.13.0, in ")
    assert found["engine cpu options"].status == "unavailable"
    assert found["engine cpu options"].fix == "qlaunch engine install cpu"


def test_an_install_that_was_not_finished(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    found = only(looked_at(tmp_path))
    assert (found.status, found.fix) == ("warning", "qlaunch engine install cpu resumes it")


def test_an_install_that_is_going_on(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    with (tmp_path / ".cpu.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert only(looked_at(tmp_path)).message.startswith("it is being installed")
    assert only(looked_at(tmp_path)).status == "warning"


@pytest.mark.parametrize("text", ["", "{}", '{"version": 1', "[" * 100_000, "\x00", '"x"'])
def test_a_damaged_marker_is_a_problem(tmp_path: Path, text: str) -> None:
    root = installed(tmp_path)
    (root / install.MARKER).write_text(text)
    found = only(looked_at(tmp_path))
    assert found.status == "problem"
    assert f"{root / install.MARKER} is damaged" in found.message
    assert found.fix == "qlaunch engine install cpu --force"


def test_a_marker_that_is_a_folder_or_a_link(tmp_path: Path) -> None:
    root = installed(tmp_path)
    marker = root / install.MARKER
    marker.rename(root / "real.json")
    marker.symlink_to(root / "real.json")
    assert only(looked_at(tmp_path)).status == "problem"
    marker.unlink()
    marker.mkdir()
    assert only(looked_at(tmp_path)).status == "problem"


def test_an_environment_of_another_version(tmp_path: Path) -> None:
    installed(tmp_path, sglang="0.5.1")
    found = only(looked_at(tmp_path))
    assert found.status == "warning"
    assert f"holds SGLang 0.5.1, the catalogue says {CPU.version}" in found.message


def test_an_environment_of_an_older_lock(tmp_path: Path) -> None:
    speaking(installed(tmp_path, lock_sha256="0" * 64), f"echo '\"{CPU.version}\"'")
    found = looked_at(tmp_path)["engine cpu"]
    assert (found.status, found.fix) == ("warning", "qlaunch engine install cpu")


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo '\"0.4.1\"'", f"says it holds SGLang {CPU.version}, and holds 0.4.1"),
        ("echo 'PackageNotFoundError: sglang' >&2; exit 1", "PackageNotFoundError: sglang"),
        ("exit 3", "it ended with 3"),
        ("kill -9 $$", "it ended with -9"),
    ],
)
def test_a_python_that_does_not_find_its_sglang(tmp_path: Path, script: str, said: str) -> None:
    speaking(installed(tmp_path), script)
    found = only(looked_at(tmp_path))
    assert found.status == "problem"
    assert said in found.message
    assert found.fix == "qlaunch engine install cpu --force"


def test_a_python_that_is_gone_or_cannot_be_run(tmp_path: Path) -> None:
    python = installed(tmp_path) / "bin" / "python"
    python.chmod(0o644)
    assert (
        "cannot tell its SGLang's version: Permission denied" in only(looked_at(tmp_path)).message
    )
    python.unlink()
    assert "there is no Python" in only(looked_at(tmp_path)).message


# --- options -------------------------------------------------------------------------------------


def own(*more: Option) -> Table:
    shipped = flags.table(CPU.version)
    assert shipped is not None
    parsed = (option for option in shipped.options if option.name != "--model-type")
    return msgspec.structs.replace(shipped, options=(*parsed, *more))


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        ((), "ok", "options that the table has"),
        (
            ("--a",),
            "warning",
            "1 of its options differ from the table of SGLang 0.5.23: --a: only",
        ),
        (tuple(f"--{c}" for c in "abcdefg"), "warning", "7 of its options differ"),
    ],
)
def test_options_that_differ_are_a_warning(
    tmp_path: Path, more: tuple[str, ...], status: str, said: str
) -> None:
    root = installed(tmp_path)
    speaking(root, f"echo '\"{CPU.version}\"'")
    table = own(*(Option(name=name) for name in more))
    (root / own_options.STORED).write_bytes(msgspec.json.encode(table))
    found = looked_at(tmp_path)["engine cpu options"]
    assert found.status == status
    assert said in found.message
    assert found.message.count("--") <= 5


def test_a_version_without_a_table_is_said() -> None:
    table = Table(version="9.9", options=())
    assert engine_checks.options_finding("engine x", "9.9", table, "again").status == "warning"


# --- importing -----------------------------------------------------------------------------------


def test_a_deep_look_imports_and_builds_the_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path)
    versions = environment_probe.Versions(sglang=CPU.version, torch="2")
    monkeypatch.setattr(environment_probe, "warm_import", lambda *_: versions)
    monkeypatch.setattr(own_options, "read_parser", lambda *_: own())
    found = by_name(engine_checks.deep_findings(CPU, tmp_path))
    assert {name: f.status for name, f in found.items()} == {
        "engine cpu import": "ok",
        "engine cpu parser": "ok",
    }


def test_an_engine_that_does_not_import_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_release: Release, _python: Path) -> environment_probe.Versions:
        raise QlaunchError("no torch", code="x", exit_code=ExitCode.ENGINE, fix="again")

    installed(tmp_path)
    monkeypatch.setattr(environment_probe, "warm_import", broken)
    (found,) = engine_checks.deep_findings(CPU, tmp_path)
    assert (found.status, found.message, found.fix) == ("problem", "no torch", "again")


def test_the_deep_look_has_nothing_to_say_of_what_is_not_whole(tmp_path: Path) -> None:
    assert list(engine_checks.deep_findings(CPU, tmp_path)) == []
    installed(tmp_path, sglang="0")
    assert list(engine_checks.deep_findings(CPU, tmp_path)) == []
    assert json.loads((tmp_path / "cpu" / install.MARKER).read_text())["sglang"] == "0"


# --- installed where there is no GPU --------------------------------------------------------------

TURING = releases.release("turing")


def first_import(engines: Path) -> list[Finding]:
    return list(engine_checks.first_import_findings(TURING, engines))


def imported_with(engines: Path) -> str:
    return str(json.loads((engines / "turing" / install.MARKER).read_text())["imported_with"])


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has the NVIDIA driver, and the engine imports."""
    versions = environment_probe.Versions(sglang=TURING.version, torch="2")
    monkeypatch.setattr(stub_driver, "has_real", lambda: True)
    monkeypatch.setattr(environment_probe, "warm_import", lambda *_: versions)
    monkeypatch.setattr(own_options, "read_parser", lambda *_: own())


@pytest.mark.parametrize(("how", "said"), [("stub", "with a stand-in"), ("none", "not imported")])
def test_without_a_driver_the_check_stays_to_be_finished(
    how: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path, "turing", imported_with=how)
    monkeypatch.setattr(stub_driver, "has_real", lambda: False)
    (finding,) = first_import(tmp_path)
    assert finding.status == "unavailable"
    assert said in finding.message
    assert "machine with the GPU" in str(finding.fix)
    assert imported_with(tmp_path) == how


@pytest.mark.parametrize("how", ["stub", "none"])
@pytest.mark.usefixtures("driver")
def test_with_a_driver_doctor_finishes_the_check_once(how: str, tmp_path: Path) -> None:
    root = installed(tmp_path, "turing", imported_with=how)
    (finding,) = first_import(tmp_path)
    assert (finding.status, TURING.version in finding.message) == ("ok", True)
    assert imported_with(tmp_path) == "real"
    assert (root / own_options.STORED).exists()
    assert first_import(tmp_path) == []


@pytest.mark.usefixtures("driver")
def test_an_engine_that_fails_with_the_real_driver_stays_unproved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> environment_probe.Versions:
        raise QlaunchError("no kernels", code="x", exit_code=ExitCode.ENGINE, fix="again")

    installed(tmp_path, "turing", imported_with="stub")
    monkeypatch.setattr(environment_probe, "warm_import", broken)
    (finding,) = first_import(tmp_path)
    assert (finding.status, finding.message) == ("problem", "no kernels")
    assert imported_with(tmp_path) == "stub"


def test_an_engine_that_needs_no_driver_has_nothing_to_finish(tmp_path: Path) -> None:
    installed(tmp_path)
    assert list(engine_checks.first_import_findings(CPU, tmp_path)) == []
