"""The Hugging Face hub's cache, as its library lays it out: what is damaged, what is left over."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from launcher.app.known_model import Fetching, known_model
from launcher.errors import QlaunchError
from launcher.model import hub, hub_cache, remove
from launcher.model.fetch import locate
from launcher.model.files import POINTER, check_stand_in
from launcher.model.source import parse_source
from launcher.paths import dirs
from tests.checkpoints import make_qwen3
from tests.checkpoints.weights import write_json

SOURCE = parse_source("hf:acme/tiny")
COMMIT = "c" * 40


def git_id(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a repository with a whole model, where the library looks for it."""
    repo = tmp_path / "hf" / "models--acme--tiny"
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(hub, "_snapshot", lambda _source, **_: snapshot(repo))
    model = make_qwen3(tmp_path / "model", shards=2)
    (repo / "blobs").mkdir(parents=True)
    for path in (path for path in model.rglob("*") if path.is_file()):
        data = path.read_bytes()
        is_large = path.suffix == ".safetensors"
        put(repo, str(path.relative_to(model)), data, None if is_large else git_id(data))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return repo


def snapshot(repo: Path) -> Path:
    return repo / "snapshots" / COMMIT


def put(repo: Path, name: str, data: bytes, etag: str | None = None) -> Path:
    """A blob and its link."""
    blob = repo / "blobs" / (etag or hashlib.sha256(data).hexdigest())
    blob.write_bytes(data)
    link = snapshot(repo) / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    return blob


def names(repo: Path) -> list[str]:
    return [one.name for one in hub_cache.damaged(snapshot(repo), lambda _line: None)]


def test_files_that_are_not_what_their_names_say_are_damaged(cache: Path) -> None:
    assert names(cache) == []
    spoilt = put(cache, "extra.safetensors", b"weights")
    spoilt.write_bytes(b"Weights")
    (snapshot(cache) / "config.json").write_text("{", encoding="utf-8")
    (snapshot(cache) / "1_Pooling" / "config.json").write_text("{ ", encoding="utf-8")
    assert names(cache) == ["1_Pooling/config.json", "config.json", "extra.safetensors"]


def test_names_that_are_no_hashes_of_ours_promise_nothing(cache: Path) -> None:
    put(cache, "a.json", b"{}", hashlib.md5(b"other").hexdigest())
    put(cache, "b.json", b"[]", hashlib.sha1(b"[]").hexdigest())  # as some mirrors name them
    put(cache, "onnx/model.safetensors", b"not served", "0" * 64)
    assert names(cache) == []


def test_what_was_hashed_is_hashed_again_only_when_it_changed(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    agrees = hub_cache._agrees

    def noted(blob: Path) -> bool:
        hashed.append(blob.name)
        return agrees(blob)

    monkeypatch.setattr(hub_cache, "_agrees", noted)
    names(cache)
    assert len(hashed) == len(set(hashed)) > 5
    hashed.clear()
    names(cache)
    assert hashed == []
    weights = next(snapshot(cache).glob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert names(cache) == [weights.name]
    assert hashed == [weights.resolve().name]


def test_gigabytes_to_hash_are_told(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(hub_cache, "_WORTH_TELLING", 1000)
    hub_cache.damaged(snapshot(cache), told.append)
    hub_cache.damaged(snapshot(cache), told.append)
    (line,) = told
    assert "with the hub's hashes" in line


def test_a_fetch_that_ended_before_the_hashes_does_not_count(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = cache.parent
    assert locate([SOURCE], models_dir=models) == snapshot(cache)

    def killed(*_: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "_in_a_child", killed)
    with pytest.raises(KeyboardInterrupt):
        hub.pull_hub(SOURCE, is_offline=False, progress=lambda _line: None)
    assert locate([SOURCE], models_dir=models) is None
    hub.pull_hub(SOURCE, is_offline=True, progress=lambda _line: None)
    assert locate([SOURCE], models_dir=models) == snapshot(cache)


def test_offline_what_is_damaged_is_refused(cache: Path) -> None:
    weights = next(snapshot(cache).glob("*.safetensors"))
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(QlaunchError, match=weights.name) as caught:
        hub.pull_hub(SOURCE, is_offline=True, progress=lambda _line: None)
    assert caught.value.code == "model_corrupt"
    assert weights.exists()


def test_only_parts_that_nobody_writes_are_dropped(cache: Path) -> None:
    dead, alive, other = (
        cache / "blobs" / name
        for name in (
            f"{'a' * 64}.0123abcd.incomplete",
            f"{'b' * 64}.0123abcd.incomplete",
            f"{'c' * 64}.incomplete",  # an older library goes on from it
        )
    )
    for path in (dead, alive, other):
        path.write_bytes(b"half")
    locks = cache.parent / ".locks" / cache.name
    locks.mkdir(parents=True)
    (locks / f"{'a' * 64}.lock").touch()
    with (locks / f"{'b' * 64}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert list(hub_cache.partials()) == [(dead, False), (alive, True)]
        hub_cache.drop_partials(SOURCE)
        assert [path.exists() for path in (dead, alive, other)] == [False, True, True]
    assert list(hub_cache.partials()) == [(alive, False)]


def test_a_broken_revision_is_removed_without_what_others_share(cache: Path) -> None:
    other = cache / "snapshots" / ("d" * 40)
    other.mkdir()
    shared = (snapshot(cache) / "config.json").readlink()
    (other / "config.json").symlink_to(shared)
    weights = [path.resolve() for path in snapshot(cache).glob("*.safetensors")]
    weights[0].unlink()  # the library finds a repository with such a link unreadable
    (stored,) = remove.stored([SOURCE], models_dir=cache.parent)
    remove.remove(stored)
    assert [path.name for path in (cache / "snapshots").iterdir()] == [other.name]
    assert [path.name for path in (cache / "blobs").iterdir()] == [shared.name]
    assert (other / "config.json").is_file()


def test_git_lfs_is_named_only_in_a_clone(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    for is_clone in (False, True):
        if is_clone:
            (tmp_path / ".git").mkdir()
        with pytest.raises(QlaunchError) as caught:
            check_stand_in(weights, POINTER)
        assert ("git lfs pull" in (caught.value.fix or "")) == is_clone


def test_a_plan_without_a_fetch_refuses_what_the_cache_shows_is_not_served(cache: Path) -> None:
    config = snapshot(cache) / "config.json"
    (snapshot(cache) / "modules.json").unlink()
    (snapshot(cache) / "1_Pooling" / "config.json").unlink()
    how = Fetching(fetch=False, foresee=True, offline=True, progress=lambda _: None)
    both_ways = json.loads(config.read_bytes()) | {"is_causal": False}
    config.unlink()
    write_json(config, both_ways)
    with pytest.raises(QlaunchError, match="nothing says how") as caught:
        known_model(str(SOURCE), dirs(), how)
    assert caught.value.code == "model_unsupported"
    # Without weights it may be here in part: what config.json alone says counts.
    for weights in snapshot(cache).glob("*.safetensors"):
        weights.unlink()
    assert known_model(str(SOURCE), dirs(), how).absent is not None
    config.unlink()
    write_json(config, both_ways | {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"})
    with pytest.raises(QlaunchError, match="GPT2LMHeadModel"):
        known_model(str(SOURCE), dirs(), how)


def test_what_is_not_cached_is_seen_without_the_clients_imports(cache: Path) -> None:
    """They made `plan` and `model list` compute for twice as long."""
    program = (
        "import sys\n"
        "from launcher.model.hub import locate_hub\n"
        "from launcher.model.source import parse_source\n"
        "print(*(locate_hub(parse_source(text)) for text in sys.argv[1:]))\n"
        "assert 'huggingface_hub.hf_api' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "hf:acme/none", "hf:acme/tiny@" + "d" * 40],
        env={**os.environ, "HF_HUB_CACHE": str(cache.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["None", "None"], done.stderr
    assert done.returncode == 0, done.stderr
