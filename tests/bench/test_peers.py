"""Peers: the catalogue, their commands, installs and exports that are refused or not repeated."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher.bench.peers import catalogue, exports, installing, names, refusal
from launcher.bench.peers.catalogue import Chosen, Peer, Serving
from launcher.engine.environments import pip, tools
from launcher.errors import ExitCode, QlaunchError
from tests.samples import machine, pinned_packages

SERVING = Serving(
    model_path="/models/m",
    model="m",
    variant="float32",
    dtype="float32",
    threads=2,
    pooling="mean",
    normalize=True,
    longest=512,
    fingerprint="f",
)
PINS = re.compile(r"^[a-z0-9._-]+==[^ ]+(?: ; [^\\]+)? \\$")


def test_the_catalogue() -> None:
    used = {peer.lock for peer in catalogue.peers().values()}
    assert {path.name for path in catalogue.LOCKS.glob("*.txt")} == used
    specs = []
    for peer in catalogue.peers().values():
        specs += [Chosen(peer, variant).spec for variant in peer.variants or (None,)]
        assert peer.dtypes or peer.variants, peer.name
        assert peer.notes.keys() <= {*peer.variants, "native", "prebuilt"}, peer.name
        assert any(f"{peer.package}" in ask and peer.version in ask for ask in peer.asks)
    assert sorted(specs) == sorted(names.SPECS)
    assert [catalogue.choose(spec).spec for spec in names.SPECS] == list(names.SPECS)
    with pytest.raises(KeyError):
        catalogue.choose("onnxruntime:int3")


@pytest.mark.parametrize("name", sorted(catalogue.peers()))
def test_a_lock_holds_every_package_to_its_hashes_and_leaves_torch_to_the_index(name: str) -> None:
    peer = catalogue.peers()[name]
    text = (catalogue.LOCKS / peer.lock).read_text("utf-8")
    lines = [line for line in text.splitlines() if line[:1] not in ("#", " ", "-")]
    assert lines
    assert [line for line in lines if not PINS.match(line)] == []
    assert text.count("--hash=sha256:") >= len(lines)
    assert not any(line.startswith(("torch==", "nvidia", "triton==")) for line in lines)
    pins = tools.pins(text)
    assert len(pins) == len(lines)
    assert not any("\\" in pin or "hash" in pin for pin in pins)


@pytest.mark.parametrize("spec", names.SPECS)
def test_a_command_is_filled_in(spec: str, tmp_path: Path) -> None:
    chosen = catalogue.choose(spec)
    peer = chosen.peer
    root = installing.folder(peer, tmp_path)
    wanted = replace(SERVING, variant=chosen.variant or "bfloat16", dtype="bfloat16")
    argv = catalogue.command(peer, root, wanted, export="/exports/e", port=47000)
    made = catalogue.export_command(peer, root, wanted, Path("/exports/e"))
    assert argv[0].startswith(str(root))
    assert not any("{" in word for word in (*argv, *made))
    assert any("47000" in word for word in argv)
    assert bool(made) == any("/exports/e" in word for word in argv)
    assert any("/models/m" in word for word in (*argv, *made))
    env = catalogue.environment(peer, 2)
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["HF_HUB_OFFLINE"] == "1"
    workers = [word for word in (*argv, *made) if word.startswith("qlaunch_peers.")]
    for worker in workers:
        assert (catalogue.WORKERS / f"{worker.replace('.', '/')}.py").is_file()
        # Not the folder it was called in: a module there must not stand before Python's own.
        assert "-P" in argv or worker not in argv


BERT = refusal.ModelFacts(encoder=True, model_type="bert", pooling="cls")


@pytest.mark.parametrize(
    ("spec", "changes", "said"),
    [
        ("onnxruntime", {}, None),
        ("onnxruntime:int8", {}, None),
        ("infinity", {}, None),
        ("infinity", {"encoder": False, "model_type": "qwen3"}, None),
        ("onnxruntime", {"encoder": False}, "set up for encoders, and this model is a decoder"),
        ("onnxruntime", {"model_type": "nomic_bert"}, "and this one is nomic_bert"),
        ("onnxruntime", {"dense": True}, "Dense module"),
        ("onnxruntime", {"pooling": "max"}, "does not pool by max"),
        ("infinity", {"quantization": "awq"}, "unquantised weights, and these are in awq"),
    ],
)
def test_what_a_peer_cannot_serve_is_a_sentence(
    spec: str, changes: dict[str, Any], said: str | None
) -> None:
    found = replace(BERT, **changes)
    why = refusal.why_not(catalogue.choose(spec), "bfloat16", found, machine().cpu, compiler=True)
    if said is None:
        assert why is None
    else:
        assert said in str(why)


def test_processors_and_formats_a_peer_cannot_do() -> None:
    found, cpu = BERT, machine().cpu
    picky = msgspec.structs.replace(catalogue.peers()["onnxruntime"], needs=("avx2",))
    bare = msgspec.structs.replace(cpu, flags=())
    masked = msgspec.structs.replace(bare, hidden=("avx2",), masks=("ONEDNN_MAX_CPU_ISA=SSE41",))
    chosen = Chosen(picky, "float32")
    assert refusal.why_not(chosen, "x", found, bare, compiler=True) == "it needs a CPU with avx2"
    assert "masked by ONEDNN_MAX_CPU_ISA=SSE41" in str(
        refusal.why_not(chosen, "x", found, masked, compiler=True)
    )
    arm = msgspec.structs.replace(cpu, machine="riscv64")
    assert "this CPU is riscv64" in str(refusal.why_not(chosen, "x", found, arm, compiler=True))
    infinity = catalogue.choose("infinity")
    said = refusal.why_not(infinity, "float64", found, cpu, compiler=True)
    assert said == "it does not serve float64"
    half = catalogue.choose("openvino:bfloat16")
    none = msgspec.structs.replace(cpu, flags=("avx2",))
    said = refusal.why_not(half, "float32", found, none, compiler=True)
    assert said == "this CPU has no bfloat16 arithmetic"


def test_what_only_a_build_makes_needs_a_compiler() -> None:
    found, cpu = BERT, machine().cpu
    for spec, compiler, refused in (
        ("llama.cpp", False, False),
        ("llama.cpp:Q4_K_M", True, False),
        ("llama.cpp:Q4_K_M", False, True),
    ):
        why = refusal.why_not(catalogue.choose(spec), "float32", found, cpu, compiler=compiler)
        assert ("cmake and a C++ compiler" in str(why)) is refused


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What pip is asked to install by stand-ins for it: requirements, or a lock's name."""
    calls: list[tuple[str, ...]] = []

    def create(_release: object, root: Path) -> None:
        (root / "bin").mkdir()
        (root / "bin" / "python").touch()

    def install(
        _release: object, python: Path, wanted: list[str], *, constraint: Path, **_: object
    ) -> None:
        assert "--hash" not in constraint.read_text()
        pinned_packages(python.parent.parent, wanted)
        calls.append(tuple(wanted))

    def install_lock(_release: object, python: Path, lock: Path, **_: object) -> None:
        pinned_packages(python.parent.parent, lock.read_text().splitlines())
        calls.append((lock.name,))

    monkeypatch.setattr(pip, "create_environment", create)
    monkeypatch.setattr(pip, "install", install)
    monkeypatch.setattr(pip, "install_lock", install_lock)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return calls


def test_the_lock_comes_before_torch_and_an_install_happens_once(
    tmp_path: Path, calls: list[tuple[str, ...]]
) -> None:
    peer = catalogue.peers()["infinity"]
    assert installing.find(peer, tmp_path) is None
    said: list[str] = []
    root = installing.install(peer, tmp_path, progress=said.append)
    assert calls == [(peer.lock,), (peer.torch,)]
    assert "infinity-emb 0.0.78" in said[0]
    assert installing.install(peer, tmp_path, progress=said.append) == root
    assert len(calls) == 2
    other = msgspec.structs.replace(peer, torch="torch==2.14.0")
    assert installing.find(other, tmp_path) is None
    (root / "left").touch()
    installing.install(other, tmp_path, progress=said.append)
    assert not (root / "left").exists()


def test_an_environment_from_which_a_package_was_taken_is_made_again(
    tmp_path: Path, calls: list[tuple[str, ...]]
) -> None:
    """Its marker alone counted."""
    peer = catalogue.peers()["infinity"]
    for pattern in ("infinity_emb", "infinity_emb-*.dist-info", "torch"):
        root = installing.install(peer, tmp_path, progress=lambda _: None)
        assert installing.find(peer, tmp_path) == root
        (gone,) = root.glob(f"lib/python3*/site-packages/{pattern}")
        shutil.rmtree(gone)
        assert installing.find(peer, tmp_path) is None
        calls.clear()
    installing.install(peer, tmp_path, progress=lambda _: None)
    assert calls


def test_an_install_that_was_cut_short_is_not_taken_for_whole(tmp_path: Path) -> None:
    peer = catalogue.peers()["infinity"]
    root = installing.folder(peer, tmp_path)
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "python").touch()
    assert installing.find(peer, tmp_path) is None
    (root / tools.MARKER).write_text("{")
    assert installing.find(peer, tmp_path) is None


def test_what_cannot_be_installed_is_refused_before_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peer = catalogue.peers()["infinity"]
    old = msgspec.structs.replace(peer, python="<3.0")
    with pytest.raises(QlaunchError) as error:
        installing.install(old, tmp_path, progress=lambda _: None)
    assert error.value.code == "engine_unsupported"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(QlaunchError) as error:
        installing.install(peer, tmp_path, progress=lambda _: None)
    assert error.value.code == "disk_full"
    assert not installing.folder(peer, tmp_path).exists()


def _exporter(tmp_path: Path, program: str) -> tuple[Peer, Path]:
    """A peer whose exporter is a few lines of Python, and its environment's folder."""
    peer = msgspec.structs.replace(
        catalogue.peers()["onnxruntime"], export=(sys.executable, "-c", program, "{export}")
    )
    root = tmp_path / "peer"
    root.mkdir()
    return peer, root


WRITES = "import sys, pathlib; pathlib.Path(sys.argv[1], 'model.onnx').write_text('x')"


def test_an_export_is_made_once_for_a_checkpoint_and_a_format(tmp_path: Path) -> None:
    peer, root = _exporter(tmp_path, WRITES)
    said: list[str] = []
    folder = exports.export(peer, root, SERVING, os.environ, said.append)
    assert (folder / "model.onnx").read_text() == "x"
    assert exports.export(peer, root, SERVING, os.environ, said.append) == folder
    assert len(said) == 1
    others = [
        replace(SERVING, fingerprint="g"),
        replace(SERVING, variant="int8"),
        replace(SERVING, seven_bits=True),
    ]
    assert len({folder, *(exports.place(peer, root, each) for each in others)}) == 4


def test_an_export_is_made_anew_where_its_own_program_changes_and_only_there() -> None:
    for peer in catalogue.peers().values():
        files = [path.name for path in exports.programs(peer)]
        assert "encoding.py" in files
        assert all(path.is_file() for path in exports.programs(peer))
        assert not any(name.startswith("serve_") for name in files)
        assert any(name.startswith("export_") for name in files) is bool(peer.export)


def test_half_an_export_is_never_used(tmp_path: Path) -> None:
    peer, root = _exporter(tmp_path, WRITES + "; sys.exit('no room in the graph')")
    with pytest.raises(QlaunchError) as error:
        exports.export(peer, root, SERVING, os.environ, lambda _: None)
    assert (error.value.code, error.value.exit_code) == ("export_failed", ExitCode.ENGINE)
    assert "no room in the graph" in error.value.message
    assert not exports.place(peer, root, SERVING).exists()
    assert [path for path in (root / "exports").iterdir() if path.is_dir()] == []
    killed = exports.place(peer, root, SERVING).with_name(
        f".partial-{exports.place(peer, root, SERVING).name}"
    )
    killed.mkdir()
    (killed / "half").touch()
    whole = msgspec.structs.replace(peer, export=(sys.executable, "-c", WRITES, "{export}"))
    folder = exports.export(whole, root, SERVING, os.environ, lambda _: None)
    assert sorted(path.name for path in folder.iterdir()) == ["model.onnx"]


def test_a_lock_s_pins_without_their_hashes() -> None:
    text = '# a\n--no-binary y\nx==1 \\\n    --hash=sha256:a\ny==2 ; python_version == "3.11" \\\n'
    assert tools.pins(text) == ["x==1", 'y==2 ; python_version == "3.11"']


def test_documents_of_before_have_one_length() -> None:
    from launcher.documents.comparison import Level

    assert msgspec.json.decode(json.dumps({"tokens": 64}), type=Level).shortest is None
