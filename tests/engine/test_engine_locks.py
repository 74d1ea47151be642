"""The locks of the CUDA releases: what they say, and that the package index still has all of it.

The index is asked for metadata alone; where none is reachable those tests are skipped and say so.
"""

from __future__ import annotations

import re
import subprocess

import pytest

from launcher.engine import releases
from tools import engine_locks

LOCKS = {name: (releases.LOCKS / f"{name}.txt").read_text("utf-8") for name in engine_locks.WITHOUT}
UNREACHABLE = re.compile(
    r"error sending request|dns error|Connection refused|timed out|Could not connect|"
    r"client error|operation timed out|tls handshake",
    re.IGNORECASE,
)


@pytest.mark.parametrize("python", engine_locks.PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_the_index_has_every_package_of_the_lock(name: str, python: str) -> None:
    try:
        complaints = engine_locks.missing(name, python)
    except subprocess.CalledProcessError as error:
        if UNREACHABLE.search(error.stderr):
            pytest.skip("no package index is reachable")
        pytest.fail(error.stderr)
    assert complaints == []


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_has_a_hash_and_none_is_built_here(name: str) -> None:
    packages = LOCKS[name].replace("\\\n", " ").splitlines()
    pins = [line for line in packages if "==" in line and not line.startswith("#")]
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", pin) for pin in pins)
    assert "--no-binary" not in LOCKS[name], "a source distribution: say in CHANGELOG.md why"


@pytest.mark.parametrize("python", engine_locks.PYTHONS)
@pytest.mark.parametrize("name", LOCKS)
def test_each_python_gets_each_package_once(name: str, python: str) -> None:
    names = [pin.partition("==")[0] for pin in engine_locks.pins(LOCKS[name], python)]
    assert len(names) == len(set(names))
    assert {"sglang", "torch", "transformers", "triton"} <= set(names)
    assert not set(names) & set(engine_locks.WITHOUT[name])


@pytest.mark.parametrize(
    ("wheel", "python", "fits"),
    [
        ("a-1-py3-none-any.whl", "3.11", True),
        ("a-1-py37-none-any.whl", "3.12", True),
        ("a-1-py2-none-any.whl", "3.12", False),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", "3.11", True),
        ("a-1-cp311-cp311-manylinux_2_17_x86_64.whl", "3.12", False),
        ("a-1-cp310-abi3-manylinux2014_x86_64.whl", "3.13", True),
        ("a-1-cp313-abi3-manylinux2014_x86_64.whl", "3.12", False),
        ("a-1-cp313-cp313t-manylinux_2_17_x86_64.whl", "3.13", False),
        ("a-1-cp311-cp311-manylinux_2_17_aarch64.whl", "3.11", False),
        ("a-1-cp311-cp311-musllinux_1_2_x86_64.whl", "3.11", False),
        ("a-1-cp311-cp311-win_amd64.whl", "3.11", False),
        ("a-1-cp311-cp311-macosx_10_9_x86_64.whl", "3.11", False),
    ],
)
def test_which_files_fit(wheel: str, python: str, fits: bool) -> None:
    assert engine_locks.fits(wheel, python) is fits


def entry(name: str, version: str, *wheels: str, sdist: bool = False) -> dict[str, object]:
    one: dict[str, object] = {"name": name, "version": version}
    one["wheels"] = [{"name": file, "hashes": {"sha256": f"{file}!"}} for file in wheels]
    if sdist:
        one["sdist"] = {"name": f"{name}.tar.gz", "hashes": {"sha256": "source!"}}
    return one


def test_a_package_without_a_wheel_is_named_and_built_from_source() -> None:
    lock = {"packages": [entry("Old_Thing", "2", "old_thing-2-cp39-cp39-win32.whl", sdist=True)]}
    (package,) = engine_locks.packages(lock, "3.11")
    assert (package.name, package.source, package.hashes) == ("old-thing", True, {"source!"})
    text = engine_locks.text("turing", {"3.11": [package]})
    assert "--no-binary old-thing\n" in text
    assert "old-thing==2 \\\n    --hash=sha256:source!\n" in text


def test_what_differs_between_pythons_says_so() -> None:
    by_python = {}
    for python, version in (("3.11", "1"), ("3.12", "2"), ("3.13", "2")):
        versions = {"a": "1", "b": version}
        listed = [entry(name, v, f"{name}-{v}-py3-none-any.whl") for name, v in versions.items()]
        by_python[python] = engine_locks.packages({"packages": listed}, python)
    text = engine_locks.text("turing", by_python)
    assert engine_locks.pins(text, "3.11") == ["a==1", "b==1"]
    assert engine_locks.pins(text, "3.13") == ["a==1", "b==2"]
