"""Peers: the catalogue, their commands, and installs that are refused or not repeated."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import msgspec
import pytest

from launcher.bench.peers import peers
from launcher.engine.environments import pip
from launcher.errors import QlaunchError

NAMES = ("infinity", "sentence-transformers")


def test_the_catalogue() -> None:
    assert tuple(peers.peers()) == NAMES
    used = {peer.lock for peer in peers.peers().values()}
    assert {path.name for path in peers.LOCKS.glob("*.txt")} == used
    for peer in peers.peers().values():
        assert peer.requirements == ("torch==2.13.0",)
        assert peer.version in peer.then[0]
        lines = (peers.LOCKS / peer.lock).read_text("utf-8").splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert all(line.count("==") == 1 for line in pins)
        # torch is chosen by itself: a constraint would name one build of it.
        assert not any(line.startswith(("torch==", "nvidia", "triton")) for line in pins)


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_filled_in(name: str, tmp_path: Path) -> None:
    peer = peers.peers()[name]
    root = peers.folder(peer, tmp_path)
    argv = peers.command(
        peer, root, model_path="/models/m", model="m", dtype="bfloat16", port=47000
    )
    assert argv[0].startswith(str(root))
    assert not any("{" in word for word in argv)
    assert "--port=47000" in argv
    assert "--dtype=bfloat16" in argv
    assert any(word.endswith("=/models/m") for word in argv)
    env = peers.environment(peer, 2)
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["HF_HUB_OFFLINE"] == "1"


def test_the_worker_sees_no_module_that_stands_beside_it() -> None:
    start = peers.peers()["sentence-transformers"].start
    assert start[1:3] == ("-P", "{worker}")
    assert peers.WORKER.is_file()


def _stub(monkeypatch: pytest.MonkeyPatch, calls: list[tuple[str, ...]]) -> None:
    def create(_release: object, root: Path) -> None:
        (root / "bin").mkdir()
        (root / "bin" / "python").touch()

    def install(_release: object, _python: Path, wanted: tuple[str, ...], **_: object) -> None:
        calls.append(tuple(wanted))

    monkeypatch.setattr(pip, "create_environment", create)
    monkeypatch.setattr(pip, "install", install)


def test_torch_comes_first_and_an_install_happens_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    _stub(monkeypatch, calls)
    peer = peers.peers()["infinity"]
    assert peers.find(peer, tmp_path) is None
    said: list[str] = []
    root = peers.install(peer, tmp_path, progress=said.append)
    assert calls == [peer.requirements, peer.then]
    assert "infinity-emb 0.0.78" in said[0]
    assert peers.install(peer, tmp_path, progress=said.append) == root
    assert len(calls) == 2
    other = msgspec.structs.replace(peer, then=("infinity-emb==0.0.79",))
    assert peers.find(other, tmp_path) is None
    (root / "left").touch()
    peers.install(other, tmp_path, progress=said.append)
    assert not (root / "left").exists()


def test_an_install_that_was_cut_short_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = peers.peers()["infinity"]
    root = peers.folder(peer, tmp_path)
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").touch()
    assert peers.find(peer, tmp_path) is None
    (root / peers.MARKER).write_text("{")
    assert peers.find(peer, tmp_path) is None


def test_what_cannot_be_installed_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = peers.peers()["infinity"]
    old = msgspec.structs.replace(peer, python="<3.0")
    with pytest.raises(QlaunchError) as error:
        peers.install(old, tmp_path, progress=lambda _: None)
    assert error.value.code == "engine_unsupported"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(QlaunchError) as error:
        peers.install(peer, tmp_path, progress=lambda _: None)
    assert error.value.code == "disk_full"
    assert not peers.folder(peer, tmp_path).exists()
