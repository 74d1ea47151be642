"""An engine that is upgraded is the old one or the new one, whatever happens on the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.engine import releases
from launcher.engine.environments import install, upgrade
from launcher.errors import ExitCode, QlaunchError
from tests.engine.test_install import FakePip, quiet, stand_in
from tests.samples import installed

CPU = releases.release("cpu")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    return stand_in(monkeypatch)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An environment of an earlier SGLang."""
    root = installed(tmp_path, sglang="0.5.1")
    (root / "old.txt").write_text("old")
    return root


def test_another_version_or_other_packages_are_outdated(tmp_path: Path) -> None:
    assert upgrade.outdated(CPU, tmp_path) is None
    root = installed(tmp_path)
    assert upgrade.outdated(CPU, tmp_path) is None
    (root / install.MARKER).unlink()
    installed(tmp_path / "a", sglang="0.5.1")
    installed(tmp_path / "b", lock_sha256="0" * 64)
    for name in ("a", "b"):
        assert upgrade.outdated(CPU, tmp_path / name) is not None


def test_the_new_one_takes_the_old_one_s_place(tmp_path: Path, old: Path, fake: FakePip) -> None:
    made = upgrade.upgrade(CPU, tmp_path, quiet)
    assert (made.version, made.root) == (CPU.version, old)
    assert not (old / "old.txt").exists()
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["cpu"]
    assert upgrade.outdated(CPU, tmp_path) is None


@pytest.mark.parametrize("step", ["venv", "requirements", "lock", "compile", "import"])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), QlaunchError("no network", code="x", exit_code=ExitCode.ENGINE)]
)
def test_the_old_one_is_put_back(
    step: str, error: BaseException, tmp_path: Path, old: Path, fake: FakePip
) -> None:
    def fail() -> None:
        raise error

    fake.before[step] = fail
    with pytest.raises((KeyboardInterrupt, QlaunchError)):
        upgrade.upgrade(CPU, tmp_path, quiet)
    assert (old / "old.txt").read_text() == "old"
    assert (old / install.MARKER).exists()
    assert not upgrade.aside(tmp_path, CPU).exists()


def test_what_a_crash_left_aside_is_put_back(tmp_path: Path, old: Path) -> None:
    """kill -9 while the new one was being made."""
    old.rename(upgrade.aside(tmp_path, CPU))
    (old / "half").mkdir(parents=True)
    assert upgrade.restore(CPU, tmp_path) is True
    assert (old / "old.txt").exists()
    assert not (old / "half").exists()
    assert upgrade.restore(CPU, tmp_path) is False


def test_a_crash_after_the_new_one_was_whole_keeps_the_new_one(tmp_path: Path, old: Path) -> None:
    old.rename(upgrade.aside(tmp_path, CPU))
    installed(tmp_path)
    assert upgrade.restore(CPU, tmp_path) is False
    assert install.find(CPU, tmp_path) is not None
    assert not upgrade.aside(tmp_path, CPU).exists()
