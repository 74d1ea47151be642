"""The installer's promises, with pip and the engine's import replaced by stand-ins."""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from launcher.engine import releases
from launcher.engine.environments import (
    bytecode,
    environment_probe,
    install,
    pip,
    stub_driver,
)
from launcher.engine.release import InstalledEngine, Release
from launcher.errors import ExitCode, QlaunchError
from tests.patience import PATIENCE_S
from tests.samples import installed, packages

Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - what shutil.disk_usage returns
CPU = releases.release("cpu")


class FakePip:
    """Does what pip and the engine's Python would leave behind, and keeps count."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.before: dict[str, Callable[[], None]] = {}
        self.holds = CPU.version
        self.packages = frozenset({"torch"})
        """What pip would install for the requirements."""
        self.driver: stub_driver.Driver = "real"

    def _step(self, name: str) -> None:
        self.steps.append(name)
        self.before.get(name, lambda: None)()

    def create_environment(self, _release: Release, root: Path) -> None:
        self._step("venv")
        (root / "bin").mkdir()
        (root / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
        (root / "bin" / "python").chmod(0o755)

    def resolve(self, *_args: object, **_options: object) -> frozenset[str]:
        self._step("resolve")
        return self.packages

    def install(self, *_args: object, **_options: object) -> None:
        self._step("requirements")

    def install_lock(self, release: str, python: Path, *_args: object, **_o: object) -> None:
        self._step("lock")
        packages(python.parents[1], releases.release(release))
        (python.parents[1] / "package.py").write_text("x = 1\n" * 5000)

    def compile_bytecode(self, *_args: object) -> None:
        self._step("compile")

    def versions(self, _python: Path) -> environment_probe.Versions:
        self._step("metadata")
        return environment_probe.Versions(sglang=self.holds, torch="2.8.0+cu128")

    def warm_import(self, *_args: object) -> environment_probe.Versions:
        self._step("import")
        return environment_probe.Versions(sglang=self.holds, torch="2.13.0+cpu")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    return stand_in(monkeypatch)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> FakePip:
    """Replace pip and the engine's import."""
    found = FakePip()
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)  # else the machine's own is told of
    for name in ("create_environment", "resolve", "install", "install_lock"):
        monkeypatch.setattr(pip, name, getattr(found, name))
    monkeypatch.setattr(bytecode, "compile_bytecode", found.compile_bytecode)
    monkeypatch.setattr(environment_probe, "warm_import", found.warm_import)
    monkeypatch.setattr(environment_probe, "versions", found.versions)
    monkeypatch.setattr(stub_driver, "available", lambda *_: found.driver)
    monkeypatch.setattr(install, "_keep_options", lambda *_: None, raising=False)
    free_space(monkeypatch, 10**12)
    return found


def free_space(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**13, 0, free))


def quiet(_line: str) -> None:
    pass


def marker(engines: Path) -> InstalledEngine:
    data = (engines / "cpu" / install.MARKER).read_bytes()
    return msgspec.json.decode(data, type=InstalledEngine)


ALL = ["venv", "requirements", "lock", "compile", "import"]


class TestOnce:
    def test_everything_in_order_and_the_marker_last(self, fake: FakePip, tmp_path: Path) -> None:
        def no_marker_yet() -> None:
            assert not (tmp_path / "cpu" / install.MARKER).exists()

        fake.before = dict.fromkeys(ALL, no_marker_yet)
        said: list[str] = []
        engine = install.install(CPU, tmp_path, progress=said.append)
        assert fake.steps == ALL
        assert engine.python == tmp_path / "cpu" / "bin" / "python"
        assert (engine.version, engine.torch) == (CPU.version, "2.13.0+cpu")
        assert said[0] == f"installing SGLang {CPU.version} in {tmp_path / 'cpu'}"
        assert not (tmp_path / "cpu" / "unfinished.json").exists()

    def test_the_marker_says_what_is_there(self, fake: FakePip, tmp_path: Path) -> None:
        install.install(CPU, tmp_path, progress=quiet)
        found = marker(tmp_path)
        assert (found.release, found.sglang) == ("cpu", CPU.version)
        assert found.lock_sha256 == install.lock_hash(CPU)
        assert found.bytes >= 30_000
        assert found.bytes == install.size_bytes(CPU, tmp_path)
        assert found.installed.endswith("Z")

    def test_a_second_time_nothing_is_done(self, fake: FakePip, tmp_path: Path) -> None:
        first = install.install(CPU, tmp_path, progress=quiet)
        fake.steps.clear()
        said: list[str] = []
        assert install.install(CPU, tmp_path, progress=said.append) == first
        assert (fake.steps, said) == ([], [])

    def test_force_starts_from_nothing(self, fake: FakePip, tmp_path: Path) -> None:
        install.install(CPU, tmp_path, progress=quiet)
        (tmp_path / "cpu" / "mine").write_text("x")
        fake.steps.clear()
        install.install(CPU, tmp_path, progress=quiet, force=True)
        assert fake.steps == ALL
        assert not (tmp_path / "cpu" / "mine").exists()

    def test_another_lock_installs_again(
        self, fake: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install.install(CPU, tmp_path, progress=quiet)
        fake.steps.clear()
        changed = msgspec.structs.replace(CPU, requirements=("torch==9",))
        assert install.lock_hash(changed) != install.lock_hash(CPU)
        install.install(changed, tmp_path, progress=quiet)
        assert fake.steps == ALL
        assert marker(tmp_path).lock_sha256 == install.lock_hash(changed)

    @pytest.mark.parametrize("text", ["", "{}", "[" * 100_000, '{"sglang": 1}', "\xff"])
    def test_a_damaged_marker_is_no_marker(self, text: str, fake: FakePip, tmp_path: Path) -> None:
        installed(tmp_path)
        (tmp_path / "cpu" / install.MARKER).write_text(text)
        assert install.find(CPU, tmp_path) is None
        assert install.size_bytes(CPU, tmp_path) is None
        install.install(CPU, tmp_path, progress=quiet)
        assert fake.steps == ALL

    def test_a_marker_without_its_python_is_none(self, tmp_path: Path) -> None:
        root = installed(tmp_path)
        assert install.find(CPU, tmp_path) is not None
        (root / "bin" / "python").unlink()
        assert install.find(CPU, tmp_path) is None


class TestHalfRemoved:
    """An environment out of which somebody took something counted as whole for ever."""

    def test_it_is_made_again_from_nothing(self, fake: FakePip, tmp_path: Path) -> None:
        install.install(CPU, tmp_path, progress=quiet)
        place = tmp_path / "cpu" / "lib" / "python3.11" / "site-packages"
        shutil.rmtree(place / "transformers")
        assert install.replaces(CPU, tmp_path)
        fake.steps.clear()
        said: list[str] = []
        engine = install.install(CPU, tmp_path, progress=said.append)
        assert fake.steps == ALL
        assert f"{place / 'transformers'} is gone, which is part of transformers" in said[0]
        assert install.damage(engine) is None
        assert not install.replaces(CPU, tmp_path)

    def test_it_is_refused_before_a_start(self, tmp_path: Path) -> None:
        shutil.rmtree(installed(tmp_path) / "lib")
        engine = install.find(CPU, tmp_path)
        assert engine is not None
        with pytest.raises(QlaunchError, match="installed and not whole") as caught:
            install.require_whole(engine)
        assert (caught.value.code, caught.value.exit_code) == ("engine_broken", ExitCode.ENGINE)
        assert caught.value.fix == "make it again: qlaunch engine install cpu"


class TestWithoutADriver:
    """A CUDA release on a machine where images are built: no GPU, no libcuda.so.1."""

    TURING = releases.release("turing")

    def marked(self, engines: Path) -> InstalledEngine:
        data = (engines / "turing" / install.MARKER).read_bytes()
        return msgspec.json.decode(data, type=InstalledEngine)

    def test_the_import_is_tried_with_the_stand_in(self, fake: FakePip, tmp_path: Path) -> None:
        fake.driver, fake.holds = "stub", self.TURING.version
        said: list[str] = []
        install.install(self.TURING, tmp_path, progress=said.append)
        assert fake.steps == ["venv", "lock", "compile", "import"]
        assert self.marked(tmp_path).imported_with == "stub"
        assert "qlaunch doctor" in said[-1]

    def test_without_a_compiler_it_is_postponed_and_said(
        self, fake: FakePip, tmp_path: Path
    ) -> None:
        fake.driver, fake.holds = "none", self.TURING.version
        said: list[str] = []
        install.install(self.TURING, tmp_path, progress=said.append)
        assert fake.steps == ["venv", "lock", "compile", "metadata"]
        assert self.marked(tmp_path).imported_with == "none"
        assert "the import is not tried" in said[-1]

    def test_a_marker_of_before_counts_as_proved(self, fake: FakePip, tmp_path: Path) -> None:
        root = installed(tmp_path)
        data = json.loads((root / install.MARKER).read_text())
        del data["imported_with"]
        (root / install.MARKER).write_text(json.dumps(data))
        assert marker(tmp_path).imported_with == "real"


class TestInterrupted:
    @pytest.mark.parametrize("step", ALL)
    def test_nothing_counts_as_installed(self, step: str, fake: FakePip, tmp_path: Path) -> None:
        fake.before = {step: interrupt}
        with pytest.raises(KeyboardInterrupt):
            install.install(CPU, tmp_path, progress=quiet)
        assert install.find(CPU, tmp_path) is None
        assert not (tmp_path / "cpu" / install.MARKER).exists()

    def test_the_next_one_goes_on(self, fake: FakePip, tmp_path: Path) -> None:
        fake.before = {"lock": interrupt}
        with pytest.raises(KeyboardInterrupt):
            install.install(CPU, tmp_path, progress=quiet)
        fake.before, fake.steps = {}, []
        said: list[str] = []
        install.install(CPU, tmp_path, progress=said.append)
        assert said[0].startswith("resuming SGLang")
        assert fake.steps == ALL[1:]
        assert install.find(CPU, tmp_path) is not None

    @pytest.mark.parametrize("step", ALL)
    @pytest.mark.parametrize(
        ("number", "code"),
        [(errno.ENOSPC, "disk_full"), (errno.EROFS, "engines_dir_unusable")],
    )
    def test_a_file_of_ours_that_the_disk_refuses_is_named_as_one_of_pips(
        self, step: str, number: int, code: str, fake: FakePip, tmp_path: Path
    ) -> None:
        """Exit 1 and `cannot write the result`: the log beside the environment was refused."""

        def refuse() -> None:
            raise OSError(number, os.strerror(number), str(tmp_path / "cpu" / "install.log"))

        fake.before = {step: refuse}
        with pytest.raises(QlaunchError) as caught:
            install.install(CPU, tmp_path, progress=quiet)
        assert (caught.value.code, caught.value.exit_code) == (code, ExitCode.ENGINE)
        fake.before = {}
        assert install.install(CPU, tmp_path, progress=quiet).version == CPU.version

    def test_what_no_longer_fits_is_not_resumed(self, fake: FakePip, tmp_path: Path) -> None:
        fake.before = {"lock": interrupt}
        with pytest.raises(KeyboardInterrupt):
            install.install(CPU, tmp_path, progress=quiet)
        fake.before, fake.steps = {}, []
        changed = msgspec.structs.replace(CPU, requirements=("torch==9",))
        install.install(changed, tmp_path, progress=quiet)
        assert fake.steps == ALL

    @pytest.mark.parametrize("code", ["engine_broken", "engine_install_failed"])
    def test_what_does_not_work_when_resumed_starts_from_nothing(
        self, code: str, fake: FakePip, tmp_path: Path
    ) -> None:
        fake.before = {"lock": interrupt}
        with pytest.raises(KeyboardInterrupt):
            install.install(CPU, tmp_path, progress=quiet)

        def fail_once() -> None:
            fake.before = {}
            raise QlaunchError("half a package", code=code, exit_code=ExitCode.ENGINE)

        fake.before, fake.steps = {"import": fail_once}, []
        said: list[str] = []
        install.install(CPU, tmp_path, progress=said.append)
        assert fake.steps == ALL[1:] + ALL
        assert "the interrupted install does not work: starting from nothing" in said

    def test_what_does_not_work_when_fresh_is_an_error(self, fake: FakePip, tmp_path: Path) -> None:
        def fail() -> None:
            raise QlaunchError("broken", code="engine_broken", exit_code=ExitCode.ENGINE)

        fake.before = {"import": fail}
        with pytest.raises(QlaunchError, match="broken"):
            install.install(CPU, tmp_path, progress=quiet)
        assert fake.steps == ALL

    @pytest.mark.parametrize("code", ["dns_failed", "pip_setting_invalid", "package_missing"])
    def test_what_is_no_fault_of_the_environment_keeps_what_was_fetched(
        self, code: str, fake: FakePip, tmp_path: Path
    ) -> None:
        def unreachable() -> None:
            raise QlaunchError("x", code=code, exit_code=ExitCode.ENGINE)

        fake.before = {"lock": interrupt}
        with pytest.raises(KeyboardInterrupt):
            install.install(CPU, tmp_path, progress=quiet)
        fake.before, fake.steps = {"lock": unreachable}, []
        for _ in range(2):
            with pytest.raises(QlaunchError):
                install.install(CPU, tmp_path, progress=quiet)
        assert "venv" not in fake.steps


def interrupt() -> None:
    raise KeyboardInterrupt


class TestTwoAtOnce:
    def test_the_second_waits_and_finds_it_done(self, fake: FakePip, tmp_path: Path) -> None:
        inside, go_on, waiting = threading.Event(), threading.Event(), threading.Event()
        results: list[object] = []

        def hold() -> None:
            inside.set()
            assert go_on.wait(PATIENCE_S)

        def first() -> None:
            results.append(install.install(CPU, tmp_path, progress=quiet))

        def second() -> None:
            def said(line: str) -> None:
                assert line == "another install of cpu is running: waiting for it"
                waiting.set()

            results.append(install.install(CPU, tmp_path, progress=said))

        fake.before = {"lock": hold}
        threads = [threading.Thread(target=first), threading.Thread(target=second)]
        threads[0].start()
        assert inside.wait(PATIENCE_S)
        threads[1].start()
        assert waiting.wait(PATIENCE_S)
        go_on.set()
        for thread in threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()
        assert fake.steps == ALL
        assert len(results) == 2
        assert results[0] == results[1]

    def test_another_release_does_not_wait(self, fake: FakePip, tmp_path: Path) -> None:
        other = releases.release("cpu-0.5.15")

        def install_other() -> None:
            fake.before, fake.holds = {}, other.version
            install.install(other, tmp_path, progress=quiet)
            fake.holds = CPU.version

        fake.before = {"lock": install_other}
        install.install(CPU, tmp_path, progress=quiet)
        assert install.find(other, tmp_path) is not None
        assert install.find(CPU, tmp_path) is not None


class TestRefusedFirst:
    def test_a_disk_that_is_too_small(
        self, fake: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free_space(monkeypatch, CPU.disk_bytes)
        with pytest.raises(QlaunchError) as caught:
            install.install(CPU, tmp_path, progress=quiet)
        assert caught.value.code == "disk_full"
        assert caught.value.exit_code == ExitCode.ENGINE
        needed, free = (CPU.disk_bytes + 500_000_000) / 1e9, CPU.disk_bytes / 1e9
        assert f"needs {needed:.1f} GB in {tmp_path}, which has {free:.1f} GB free" in str(
            caught.value
        )
        assert fake.steps == []

    def test_a_cuda_build_of_torch_needs_more_and_nobody_checked(
        self, fake: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PyPI's torch brings 4.6 GB of CUDA libraries: the disk was full in the middle."""
        assert CPU.disk_bytes_cuda_build is not None
        free_space(monkeypatch, CPU.disk_bytes_cuda_build)
        fake.packages = frozenset({"torch", "nvidia-cublas"})
        with pytest.raises(QlaunchError) as caught:
            install.install(CPU, tmp_path, progress=quiet)
        assert (caught.value.code, caught.value.exit_code) == ("disk_full", ExitCode.ENGINE)
        assert "with a CUDA build of torch needs 8.0 GB" in str(caught.value)
        assert "PyTorch's own index" in (caught.value.fix or "")
        assert fake.steps == ["venv", "resolve"]
        fake.packages = frozenset({"torch"})
        install.install(CPU, tmp_path, progress=quiet)
        assert install.find(CPU, tmp_path) is not None

    def test_with_room_for_either_build_pip_is_not_asked(
        self, fake: FakePip, tmp_path: Path
    ) -> None:
        install.install(CPU, tmp_path, progress=quiet)
        assert "resolve" not in fake.steps

    def test_what_an_interrupted_one_took_counts(
        self, fake: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fake.before = {"compile": interrupt}
        with pytest.raises(KeyboardInterrupt):
            install.install(CPU, tmp_path, progress=quiet)
        fake.before = {}
        free_space(monkeypatch, CPU.disk_bytes + 500_000_000 - 20_000)
        install.install(CPU, tmp_path, progress=quiet)

    def test_an_installed_engine_asks_for_no_space(
        self, fake: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install.install(CPU, tmp_path, progress=quiet)
        free_space(monkeypatch, 0)
        install.install(CPU, tmp_path, progress=quiet)

    @pytest.mark.parametrize(
        ("change", "says"),
        [
            ({"python": ">=3.99"}, "it needs Python >=3.99, this is 3."),
            ({"machine": ("riscv64",)}, "it has no build for .* \\(only riscv64\\)"),
            ({"min_glibc": "9.99"}, "it needs glibc 9.99 or newer"),
        ],
    )
    def test_a_platform_it_has_no_build_for(
        self, change: dict[str, object], says: str, fake: FakePip, tmp_path: Path
    ) -> None:
        if "min_glibc" in change and releases.glibc_version() is None:
            pytest.skip("this C library is not glibc")
        engines = tmp_path / "engines"
        with pytest.raises(QlaunchError, match=says) as caught:
            install.install(msgspec.structs.replace(CPU, **change), engines, progress=quiet)
        assert caught.value.code == "engine_unsupported"
        assert caught.value.exit_code == ExitCode.ENGINE
        assert not engines.exists()

    def test_a_file_where_the_folder_of_engines_belongs(
        self, fake: FakePip, tmp_path: Path
    ) -> None:
        (tmp_path / "engines").write_text("x")
        with pytest.raises(QlaunchError, match="cannot create") as caught:
            install.install(CPU, tmp_path / "engines", progress=quiet)
        assert caught.value.exit_code == ExitCode.ENGINE

    def test_a_file_where_an_environment_belongs(self, fake: FakePip, tmp_path: Path) -> None:
        (tmp_path / "cpu").write_text("mine")
        with pytest.raises(QlaunchError, match=f"cannot remove {tmp_path / 'cpu'}"):
            install.install(CPU, tmp_path, progress=quiet)
        assert (tmp_path / "cpu").read_text() == "mine"
        assert install.find(CPU, tmp_path) is None


class TestRemove:
    def test_what_is_not_there(self, tmp_path: Path) -> None:
        assert install.remove(CPU, tmp_path / "absent") is False

    def test_the_marker_goes_first(
        self, fake: FakePip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        install.install(CPU, tmp_path, progress=quiet)

        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied", str(path / "bin"))

        with monkeypatch.context() as patch:
            patch.setattr(shutil, "rmtree", refuse)
            with pytest.raises(QlaunchError, match="bin: Permission denied") as caught:
                install.remove(CPU, tmp_path)
        assert caught.value.code == "engine_remove_failed"
        assert install.find(CPU, tmp_path) is None
        assert install.remove(CPU, tmp_path) is True
        assert not (tmp_path / "cpu").exists()


class TestPlatformNow:
    def test_this_python_can_install_the_cpu_release(self) -> None:
        reason = releases.why_not_here(
            CPU,
            python=sys.version_info[:3],
            machine="x86_64",
            glibc="2.36",
        )
        assert reason is None

    def test_a_c_library_that_is_not_glibc_is_not_judged(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
        assert releases.glibc_version() is None
        assert releases.why_not_here(CPU, python=(3, 12, 0), machine="x86_64", glibc=None) is None


def test_the_marker_is_readable_by_others(fake: FakePip, tmp_path: Path) -> None:
    install.install(CPU, tmp_path, progress=quiet)
    path = tmp_path / "cpu" / install.MARKER
    assert path.stat().st_mode & 0o777 == 0o644
    assert json.loads(path.read_text())["version"] == 1
