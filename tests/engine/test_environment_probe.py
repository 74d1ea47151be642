"""What an environment's Python says of its engine, told by stand-in interpreters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.engine import releases
from launcher.engine.environments import environment_probe
from launcher.errors import ExitCode, QlaunchError

CPU = releases.release("cpu")


def interpreter(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def answers(path: Path, **versions: str | None) -> Path:
    return interpreter(path, f"echo '{json.dumps(versions)}'")


class TestOwnEngine:
    def test_a_version_of_the_catalogue(self, tmp_path: Path) -> None:
        python = answers(tmp_path / "python", sglang=CPU.version, torch="2.14.1")
        engine = environment_probe.own_engine(python, device="cpu")
        assert engine.release.name == "cpu"
        assert (engine.python, engine.root, engine.torch) == (python, None, "2.14.1")

    def test_on_a_card_the_compiled_operators_decide(self, tmp_path: Path) -> None:
        with_them = answers(
            tmp_path / "a" / "python", sglang=CPU.version, torch="2.14.1", kernels="0.4.10"
        )
        without = answers(
            tmp_path / "b" / "python", sglang=CPU.version, torch="2.11.0", kernels=None
        )
        names = [
            environment_probe.own_engine(python, device="cuda", named=named).release.name
            for python in (with_them, without)
            for named in (None, "cuda13-portable", "cuda13", "cuda12")
        ]
        assert names == [
            *("cuda13", "cuda13-portable", "cuda13", "cuda13"),
            *("cuda13-portable", "cuda13-portable", "cuda13", "cuda13-portable"),
        ]

    def test_a_version_without_a_table(self, tmp_path: Path) -> None:
        python = answers(tmp_path / "python", sglang="0.0.1", torch="2")
        with pytest.raises(QlaunchError, match=r"holds SGLang 0\.0\.1, which") as caught:
            environment_probe.own_engine(python, device="cpu")
        assert caught.value.code == "engine_unknown"
        assert caught.value.exit_code == ExitCode.ENGINE
        assert CPU.version in str(caught.value.fix)

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ('echo \'{"sglang": null, "torch": null}\'', "there is no sglang and torch in it"),
            ("echo hello", "it printed something unexpected"),
            ("exit 3", "it ended with 3"),
        ],
    )
    def test_a_python_without_an_engine(self, body: str, says: str, tmp_path: Path) -> None:
        python = interpreter(tmp_path / "python", body)
        with pytest.raises(QlaunchError) as caught:
            environment_probe.own_engine(python, device="cpu")
        assert caught.value.message == f"{python} is not the Python of an engine: {says}"
        assert caught.value.exit_code == ExitCode.ENGINE

    def test_what_is_no_program(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        for path, says in (
            (tmp_path / "absent", "No such file"),
            (tmp_path, "Permission denied"),
            (tmp_path / "file", "Permission denied"),
        ):
            with pytest.raises(QlaunchError, match=says):
                environment_probe.own_engine(path, device="cpu")


class TestOnPath:
    @pytest.fixture(autouse=True)
    def _path(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.python = answers(tmp_path / "env with spaces" / "python3", sglang="1", torch="2")
        self.bin = tmp_path / "bin"
        self.bin.mkdir()
        monkeypatch.setenv("PATH", str(self.bin))

    def script(self, text: str) -> Path:
        path = self.bin / "sglang"
        path.write_text(text)
        path.chmod(0o755)
        return path

    def test_the_python_of_the_script(self) -> None:
        python = answers(self.bin / "python3", sglang="1", torch="2")
        self.script(f"#!{python}\nimport sglang\n")
        assert environment_probe.python_on_path() == python

    def test_by_env(self) -> None:
        python = answers(self.bin / "python3", sglang="1", torch="2")
        self.script("#!/usr/bin/env python3\nimport sglang\n")
        assert environment_probe.python_on_path() == python

    def test_a_path_with_spaces_as_pip_writes_it(self) -> None:
        self.script(f"#!/bin/sh\n'''exec' \"{self.python}\" \"$0\" \"$@\"\n' '''\nimport sglang\n")
        assert environment_probe.python_on_path() == self.python

    def test_none_there(self) -> None:
        with pytest.raises(QlaunchError, match="no `sglang` command on PATH") as caught:
            environment_probe.python_on_path()
        assert caught.value.exit_code == ExitCode.ENGINE

    @pytest.mark.parametrize(
        "text", ["", "\x7fELF", "#!\n", "#!/absent/python\n", "#!/usr/bin/env absent\n"]
    )
    def test_one_that_does_not_say(self, text: str) -> None:
        script = self.script(text)
        with pytest.raises(QlaunchError, match="does not say which Python") as caught:
            environment_probe.python_on_path()
        assert str(script) in caught.value.message
        assert "--engine-python" in str(caught.value.fix)


class TestWarmImport:
    def test_what_it_holds(self, tmp_path: Path) -> None:
        python = answers(tmp_path / "python", sglang="0.5.23", torch="2.13.0+cpu")
        found = environment_probe.warm_import(CPU, python)
        assert (found.sglang, found.torch) == ("0.5.23", "2.13.0+cpu")

    @pytest.mark.parametrize(
        ("body", "says"),
        [
            ("echo 'ImportError: libcuda.so.1' >&2; exit 1", "ImportError: libcuda.so.1"),
            ("exit 1", "it ended with 1"),
            ("echo '{}'", "it printed something unexpected"),
        ],
    )
    def test_what_does_not_import(self, body: str, says: str, tmp_path: Path) -> None:
        python = interpreter(tmp_path / "python", body)
        with pytest.raises(QlaunchError) as caught:
            environment_probe.warm_import(CPU, python)
        assert caught.value.code == "engine_broken"
        assert caught.value.message.endswith(f"does not import: {says}")
        assert "--force" in str(caught.value.fix)

    def test_a_python_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(QlaunchError, match="No such file"):
            environment_probe.warm_import(CPU, tmp_path / "absent")

    def test_it_runs_as_the_server_will(self, tmp_path: Path) -> None:
        seen = tmp_path / "seen"
        python = interpreter(
            tmp_path / "python",
            f'echo "$SGLANG_USE_CPU_ENGINE|$CUDA_VISIBLE_DEVICES|$PYTHONPATH" >{seen}\nexit 1',
        )
        with pytest.raises(QlaunchError):
            environment_probe.warm_import(CPU, python)
        engine, gpus, path = seen.read_text().strip().split("|")
        assert (engine, gpus) == ("1", "")
        assert path.endswith("standins")
