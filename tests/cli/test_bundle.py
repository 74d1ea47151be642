"""`qlaunch bundle`: made, refused, interrupted, and installed where no index can be reached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest

from launcher import __version__
from launcher.app import bundling
from launcher.bundle import archive, own_wheel
from launcher.bundle import manifest as documents
from launcher.bundle.archive import Entry, write_archive
from launcher.config.loading import shipped_dir
from launcher.engine.releases import LOCKS, releases
from launcher.model.inspect import inspect
from tests.checkpoints import make_bert
from tests.cli.commandline import Answer, Run
from tests.patience import HANG_S

NETWORK: Final = {"connection_failed", "connection_lost", "dns_failed", "wheels_missing"}
DEAF: Final = "http://127.0.0.1:9/simple"
"""An index that nobody answers at."""
Usage = namedtuple("Usage", "total used free")  # noqa: PYI024 - what shutil returns


def quiet(_line: str) -> None:
    pass


def made(run: Run, output: Path, *words: str) -> Answer:
    answer = run("bundle", "make", str(output), "--no-engine", "--json", *words)
    if answer.code and answer.error["code"] in NETWORK:
        pytest.skip("no package index can be reached")
    assert answer.code == 0, answer.out
    return answer


def unpacked(tar: Path, to: Path) -> Path:
    with tarfile.open(tar) as file:
        file.extractall(to, filter="data")
    return to / documents.ROOT


def small(folder: Path, model: Path, **changes: Any) -> Path:
    """An unpacked bundle without wheels: what `bundle install` reads."""
    host = documents.this_host()
    checkpoint = inspect(model)
    bundled = documents.BundledModel(
        name="my-finetune",
        folder="my-finetune",
        fingerprint=checkpoint.fingerprint,
        bytes=1,
        found_by="profile",
    )
    values = {
        "qlaunch": __version__,
        **msgspec.structs.asdict(host),
        "profile": "mine",
        "engine": None,
        "engine_version": None,
        "model": bundled,
    }
    manifest = documents.Manifest(**{**values, **changes})
    text = f"# mine\nextends: cpu-minilm\nmodel: {model}  # the finetune\n"
    entries = [
        Entry(documents.MANIFEST, msgspec.json.encode(manifest)),
        Entry("profiles/mine.yaml", text.encode()),
        *archive.files_below(model, "model/my-finetune"),
    ]
    tar = folder / "small.tar"
    write_archive(tar, entries, quiet)
    return unpacked(tar, folder)


@pytest.fixture
def finetune(tmp_path: Path) -> Path:
    return make_bert(tmp_path / "models" / "my-finetune", pooling="mean")


class TestMake:
    def test_a_bundle_is_the_same_bytes_twice_and_installs_without_an_index(
        self, run: Run, ready: Path, tmp_path: Path
    ) -> None:
        tar = tmp_path / "out" / "minilm.tar"
        tar.parent.mkdir()
        data = made(run, tar, "--profile", "cpu-minilm").data
        assert data["bytes"] == tar.stat().st_size
        first = hashlib.sha256(tar.read_bytes()).hexdigest()
        again = run("bundle", "make", str(tar), "--no-engine", "--profile", "cpu-minilm", "--json")
        assert (again.code, again.error["code"]) == (9, "output_exists")
        made(run, tar, "--profile", "cpu-minilm", "--force")
        assert hashlib.sha256(tar.read_bytes()).hexdigest() == first
        assert [path.name for path in tar.parent.iterdir()] == ["minilm.tar"]
        with tarfile.open(tar) as file:
            names = file.getnames()
        assert names == [*sorted(names[:-1]), f"{documents.ROOT}/{documents.SUMS}"]
        self.installs(unpacked(tar, tmp_path / "there"), tmp_path, run)

    def installs(self, folder: Path, tmp_path: Path, run: Run) -> None:
        """By its own script, with an index that nobody answers at, into an empty home."""
        there = tmp_path / "empty"
        env = {
            "HOME": str(there),
            "QLAUNCH_HOME": str(there / "qlaunch"),
            "PATH": "/usr/bin:/bin",
            "PIP_NO_INDEX": "1",
            "PIP_INDEX_URL": DEAF,
            "QLAUNCH_OFFLINE": "1",
        }
        for _ in range(2):  # the second finds all there
            done = subprocess.run(
                [sys.executable, str(folder / "install")],
                env=env,
                capture_output=True,
                text=True,
                timeout=3 * HANG_S,
                check=False,
            )
            assert done.returncode == 0, done.stdout + done.stderr
        assert "start it: qlaunch up cpu-minilm --offline" in done.stdout
        command = there / ".local" / "bin" / "qlaunch"
        assert f"the command is {command}" in done.stdout
        listed = subprocess.run(
            [command, "model", "inspect", "all-minilm-l6-v2", "--json"],
            env=env,
            capture_output=True,
            text=True,
            timeout=HANG_S,
            check=True,
        )
        model = json.loads(listed.stdout)["data"]
        assert Path(model["path"]).is_relative_to(there / "qlaunch" / "data" / "models")
        wanted = run("model", "inspect", "all-minilm-l6-v2", "--json").data
        assert model["fingerprint"] == wanted["fingerprint"]

    def test_the_engine_is_what_its_lock_says(self, run: Run, ready: Path, tmp_path: Path) -> None:
        tar = tmp_path / "x.tar"
        answer = run("bundle", "make", str(tar), "--profile", "cpu-minilm", "--dry-run", "--json")
        engine = answer.data["engine"]
        names = {line.partition("==")[0].lower() for line in engine["packages"]}
        lock = (LOCKS / "cpu.txt").read_text("utf-8").splitlines()
        pinned = {line.partition("==")[0].lower() for line in lock if line[:1].isalnum()}
        assert names == pinned | {"torch"}
        assert {"sglang", "transformers"} <= names
        assert engine["release"] == "cpu"
        assert not tar.exists()
        assert [part["at_most"] for part in answer.data["parts"]] == [True, False, True]

    @pytest.mark.parametrize("release", list(releases()))
    def test_every_release_has_a_list_of_pinned_packages(self, release: str) -> None:
        packages = bundling.locked(releases()[release])
        assert len(packages) > 50
        assert all(name and version for name, _, version in (p.partition("==") for p in packages))

    def test_a_full_disk_is_refused_before_anything_is_fetched(
        self, run: Run, ready: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(2e9, 1.9e9, 1e8))
        tar = tmp_path / "x.tar"
        answer = run("bundle", "make", str(tar), "--profile", "cpu-minilm", "--json")
        assert (answer.code, answer.error["code"]) == (1, "disk_full")
        assert "0.1 GB free" in answer.error["message"]
        assert not tar.with_name(".x.tar.parts").exists()

    def test_an_output_in_no_folder_is_one_sentence(
        self, run: Run, ready: Path, tmp_path: Path
    ) -> None:
        tar = tmp_path / "none" / "x.tar"
        answer = run("bundle", "make", str(tar), "--profile", "cpu-minilm", "--json")
        assert (answer.code, answer.error["code"]) == (2, "usage")

    def test_an_unknown_profile_is_refused(self, run: Run, ready: Path, tmp_path: Path) -> None:
        answer = run("bundle", "make", str(tmp_path / "x.tar"), "--profile", "cpu-minlm", "--json")
        assert answer.code == 2
        assert "cpu-minilm" in f"{answer.error}"

    def test_an_interrupted_write_leaves_nothing(self, tmp_path: Path) -> None:
        def interrupted(_line: str) -> None:
            raise KeyboardInterrupt

        large = tmp_path / "large"
        with large.open("wb") as file:
            file.truncate(200_000_000)
        with pytest.raises(KeyboardInterrupt):
            write_archive(tmp_path / "x.tar", [Entry("large", large)], interrupted)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["large"]


class TestOwnWheel:
    def test_it_holds_what_runs_here(self, tmp_path: Path) -> None:
        path = own_wheel.write_own_wheel(tmp_path, shipped_dir())
        with zipfile.ZipFile(path) as wheel:
            names = wheel.namelist()
            (record,) = (name for name in names if name.endswith("/RECORD"))
            listed = [line.partition(",")[0] for line in wheel.read(record).decode().splitlines()]
        assert sorted(listed) == sorted(names)
        assert {"launcher/cli/main.py", "launcher/_profiles/cpu-minilm.yaml"} <= set(names)
        assert "launcher/_profiles/models/all-minilm-l6-v2.yaml" in names
        assert not any("__pycache__" in name for name in names)

    def test_what_is_required_is_closed(self) -> None:
        names = {line.partition("==")[0] for line in own_wheel.requirements()}
        assert {"click", "msgspec", "openai", "pydantic-core", "huggingface-hub"} <= names
        assert not {"qlaunch", "matplotlib", "pytest", "pyarrow"} & names


class TestInstall:
    def test_a_model_of_ones_own_and_its_profile(
        self, run: Run, ready: Path, finetune: Path, tmp_path: Path
    ) -> None:
        folder = small(tmp_path, finetune)
        shutil.move(finetune, tmp_path / "gone")
        for _ in range(2):
            answer = run("bundle", "install", str(folder), "--json")
            assert answer.code == 0, answer.out
        plan = run("plan", "mine", "--json").data
        assert plan["model_path"] == str(ready / "data" / "models" / "my-finetune")
        text = (ready / "config" / "profiles" / "mine.yaml").read_text("utf-8")
        assert text.startswith("# mine\nextends: cpu-minilm\n")
        assert "# the finetune" in text

    @pytest.mark.parametrize(
        ("changes", "code", "words"),
        [
            ({"python": "2.7"}, "bundle_unsuitable", "is for Python 2.7 on"),
            ({"machine": "s390x"}, "bundle_unsuitable", "on s390x with"),
            ({"qlaunch": "0.0.1"}, "bundle_unsuitable", "belongs to qlaunch 0.0.1"),
            ({"version": 9}, "bundle_invalid", "newer than this"),
        ],
    )
    def test_one_for_another_machine_is_refused(
        self,
        run: Run,
        ready: Path,
        finetune: Path,
        tmp_path: Path,
        changes: dict[str, Any],
        code: str,
        words: str,
    ) -> None:
        answer = run("bundle", "install", str(small(tmp_path, finetune, **changes)), "--json")
        assert (answer.code, answer.error["code"]) == (2, code)
        assert words in answer.error["message"]
        assert not (ready / "data" / "models" / "my-finetune").exists()

    @pytest.mark.parametrize("fault", ["changed", "missing", "more"])
    def test_a_damaged_one_is_refused(
        self, run: Run, ready: Path, finetune: Path, tmp_path: Path, fault: str
    ) -> None:
        folder = small(tmp_path, finetune)
        path = folder / "model" / "my-finetune" / "config.json"
        if fault == "missing":
            path.unlink()
        else:
            (path if fault == "changed" else path.with_name("more")).write_text("{}")
        answer = run("bundle", "install", str(folder), "--json")
        assert (answer.code, answer.error["code"]) == (2, "bundle_damaged")
        assert not (ready / "config" / "profiles" / "mine.yaml").exists()

    def test_a_profile_of_that_name_is_left_alone(
        self, run: Run, ready: Path, finetune: Path, tmp_path: Path
    ) -> None:
        folder = small(tmp_path, finetune)
        mine = ready / "config" / "profiles" / "mine.yaml"
        mine.write_text("extends: cpu-bge-micro\n")
        answer = run("bundle", "install", str(folder), "--json")
        assert (answer.code, answer.error["code"]) == (9, "profile_exists")
        assert mine.read_text() == "extends: cpu-bge-micro\n"
        assert run("bundle", "install", str(folder), "--force", "--json").code == 0

    def test_a_tar_is_to_be_unpacked_first(self, run: Run, ready: Path, tmp_path: Path) -> None:
        tar = tmp_path / "x.tar"
        tar.touch()
        answer = run("bundle", "install", str(tar), "--json")
        assert (answer.code, answer.error["code"]) == (2, "bundle_invalid")
        assert answer.error["fix"] == f"unpack it first: tar -xf {tar}"

    def test_the_script_interrupted_or_refused_a_folder_says_so_in_one_sentence(
        self, finetune: Path, tmp_path: Path
    ) -> None:
        """Ctrl-C printed a traceback."""
        folder = small(tmp_path, finetune)
        shutil.copy(bundling._INSTALLER, folder / "install")
        (folder / "wheels").mkdir()
        (tmp_path / "file").touch()
        words = (folder / "install", "--into", tmp_path / "file" / "x")
        argv = [sys.executable, *map(str, words)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith(f"Error: {tmp_path / 'file'}: ")
        assert "Traceback" not in done.stderr
        (folder / "bundle.json").unlink()
        os.mkfifo(folder / "bundle.json")
        reader = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
        with (folder / "bundle.json").open("w"):  # waits until it reads
            reader.send_signal(signal.SIGINT)
            _, err = reader.communicate(timeout=HANG_S)
        assert (reader.returncode, err.count("\n")) == (130, 2)
        assert err.startswith("Error: interrupted\n")

    def test_the_script_refuses_another_python_in_one_sentence(
        self, finetune: Path, tmp_path: Path
    ) -> None:
        folder = small(tmp_path, finetune, python="3.99")
        script = folder / "install"
        shutil.copy(bundling._INSTALLER, script)
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=False, env=os.environ
        )
        assert done.returncode == 2
        first, second = done.stderr.splitlines()
        assert first.startswith("Error: this bundle is for Python 3.99 on ")
        assert second == f"  Try: run it with that Python: python3.99 {script}"
