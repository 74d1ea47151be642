"""Facts of the releases that a slip in releases.yaml must not change unseen."""

from __future__ import annotations

import re
from typing import Any

import pytest

from launcher.engine import releases
from launcher.engine.options import flags
from launcher.errors import ExitCode, QlaunchError

RELEASES = releases.releases()

FACTS: dict[str, dict[str, Any]] = {
    "cpu": {"version": "0.5.23", "device": "cpu", "standins": True},
    "cpu-0.5.15": {"version": "0.5.15.post1", "device": "cpu"},
    "cuda13": {
        "version": "0.5.23",
        "device": "cuda",
        "min_compute_capability": "8.0",
        "min_driver": "580",
        "standins": False,
    },
    "cuda13-portable": {
        "version": "0.5.23",
        "device": "cuda",
        "min_compute_capability": "7.5",
        "max_compute_capability": "12.1",
        "kernels": "torch",
        "named_only": True,
    },
    "cuda12": {
        "version": "0.5.10.post1",
        "device": "cuda",
        "min_compute_capability": "8.0",
        "max_compute_capability": "12.1",
    },
    "turing": {
        "version": "0.5.1.post2",
        "device": "cuda",
        "min_compute_capability": "7.5",
        "max_compute_capability": "7.5",
        "model_info_path": "/get_model_info",
    },
}


@pytest.mark.parametrize("name", FACTS)
def test_pinned_facts(name: str) -> None:
    release = releases.release(name)
    assert release.name == name
    assert {key: getattr(release, key) for key in FACTS[name]} == FACTS[name]


@pytest.mark.parametrize("name", RELEASES)
def test_every_release_can_be_started_and_checked(name: str) -> None:
    release = RELEASES[name]
    assert flags.table(release.version) is not None, "no table of its options"
    words = [word.format(bin="/e/bin", python="/e/bin/python") for word in release.start]
    assert words[0].startswith("/e/bin/")
    assert not [word for word in words if "{" in word]
    assert release.fallback is None or release.fallback in RELEASES


def test_the_oldest_release_is_started_as_a_module() -> None:
    assert RELEASES["turing"].start == ("{python}", "-m", "sglang.launch_server")
    assert RELEASES["cpu"].start == ("{bin}/sglang", "serve")


@pytest.mark.parametrize("name", [name for name, found in RELEASES.items() if found.lock])
def test_a_lock_pins_everything_once_and_the_releases_own_sglang(name: str) -> None:
    release = RELEASES[name]
    assert release.lock
    text = (releases.LOCKS / release.lock).read_text("utf-8").replace("\\\n", "")
    pins = [line.split("  ")[0].strip() for line in text.splitlines() if line[:1] not in ("", "#")]
    pins = [pin for pin in pins if not pin.startswith("--no-binary ")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][a-z0-9.+!]*( ;.*)?", pin) for pin in pins)
    names = [pin.partition("==")[0] for pin in pins if ";" not in pin]
    assert len(names) == len(set(names))
    assert f"sglang=={release.version}" in pins
    if release.device == "cuda":
        assert "torch" in names
        assert release.requirements == (), "all of it is in the lock, and has hashes"
    else:
        assert "torch" not in names, "torch comes with its dependencies: see requirements"
        assert any(requirement.startswith("torch==") for requirement in release.requirements)


def test_every_lock_belongs_to_a_release() -> None:
    used = {release.lock for release in RELEASES.values() if release.lock}
    assert {path.name for path in releases.LOCKS.glob("*.txt")} == used


@pytest.mark.parametrize("name", RELEASES)
def test_requirements_are_pinned(name: str) -> None:
    assert all("==" in requirement for requirement in RELEASES[name].requirements)
    assert RELEASES[name].lock or RELEASES[name].requirements


@pytest.mark.parametrize(
    ("python", "machine", "glibc", "says"),
    [
        ((3, 11, 0), "x86_64", "2.34", None),
        ((3, 13, 2), "aarch64", "2.39", None),
        ((3, 14, 0), "x86_64", "2.39", "it needs Python >=3.11,<3.14"),
        ((3, 10, 9), "x86_64", "2.34", "it needs Python >=3.11"),
        ((3, 15, 0), "x86_64", "2.34", "it needs Python >=3.11"),
        ((3, 11, 0), "riscv64", "2.34", "it has no build for riscv64"),
        ((3, 11, 0), "x86_64", "2.31", "it needs glibc 2.34 or newer, this is 2.31"),
        ((3, 11, 0), "x86_64", None, None),
    ],
)
def test_where_the_cpu_release_installs(
    python: tuple[int, int, int], machine: str, glibc: str | None, says: str | None
) -> None:
    reason = releases.why_not_here(RELEASES["cpu"], python=python, machine=machine, glibc=glibc)
    assert (reason is None) is (says is None)
    assert says is None or says in (reason or "")


@pytest.mark.parametrize(
    ("name", "near"), [("turin", "turing"), ("cuda14", "cuda1"), ("CPU", ""), ("", "")]
)
def test_an_unknown_release_is_refused_with_the_nearest(name: str, near: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        releases.release(name)
    assert caught.value.code == "engine_unknown"
    assert caught.value.exit_code == ExitCode.ENGINE
    assert near in caught.value.message
    assert str(caught.value.fix).startswith("choose one of: cpu, ")
