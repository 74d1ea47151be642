"""A hub's cache that was damaged on this machine: told, mended by a pull, and removable."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make_qwen3
from tests.checkpoints.hub import Hub, serve
from tests.checkpoints.odd_edits import POINTER
from tests.network.test_downloads import KINDS, SHARD, answer
from tests.network.test_up_from_a_hub import start


def cut(folder: Path) -> str:
    blob = (folder / SHARD).resolve()
    blob.write_bytes(blob.read_bytes()[:-1000])
    return SHARD


def flip(folder: Path) -> str:
    blob = (folder / SHARD).resolve()
    data = blob.read_bytes()
    blob.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    return SHARD


def spoil_config(folder: Path) -> str:
    (folder / "config.json").write_text("{", encoding="utf-8")
    return "config.json"


def unlink_blob(folder: Path) -> str:
    (folder / SHARD).resolve().unlink()
    return SHARD


def leave_pointer(folder: Path) -> str:
    (folder / SHARD).write_bytes(POINTER)
    return SHARD


Damage = Callable[[Path], str]
SEEN: list[Damage] = [cut, spoil_config, unlink_blob, leave_pointer]
"""What `inspect` sees; another byte within the weights shows by its hash alone."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("model") / "main", shards=2)


@pytest.fixture
def hub(model: Path) -> Iterator[Hub]:
    with serve(Hub(repos={"acme/tiny": {"main": model}})) as server:
        yield server


@pytest.fixture(scope="module")
def caches(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """By kind of hub a cache with the model, whole, and the model's folder within it."""
    made = {}
    with serve(Hub(repos={"acme/tiny": {"main": model}})) as hub:
        for kind in KINDS:
            cache = tmp_path_factory.mktemp(kind)
            made[kind] = cache, pull(hub, cache, kind).relative_to(cache)
    return made


Copy = Callable[[str], Path]


@pytest.fixture
def pulled(caches: dict[str, tuple[Path, Path]], tmp_path: Path) -> Copy:
    """The model's folder within a cache of this test's own, by kind of hub."""

    def copy(kind: str) -> Path:
        cache, within = caches[kind]
        shutil.copytree(cache, tmp_path, symlinks=True, dirs_exist_ok=True)
        assert (tmp_path / within / SHARD).resolve().is_relative_to(tmp_path)
        return tmp_path / within

    return copy


def run(hub: Hub, folder: Path, *words: str) -> tuple[int, dict[str, Any], str]:
    """Exit code, document and stderr of a command."""
    child = start(hub, folder, *words)
    out, err = child.communicate(timeout=120)
    assert "Traceback" not in err
    return child.returncode, json.loads(out), err


def pull(hub: Hub, folder: Path, kind: str) -> Path:
    code, document = answer(start(hub, folder, "model", "pull", f"{kind}:acme/tiny"))
    assert code == 0, document
    return Path(document["data"]["path"])


@pytest.mark.parametrize("damage", [*SEEN, flip], ids=lambda each: each.__name__)
def test_a_pull_fetches_again_what_is_damaged_and_nothing_else(
    damage: Damage, hub: Hub, pulled: Copy, model: Path, tmp_path: Path
) -> None:
    folder = pulled("hf")
    name = damage(folder)
    hub.requests.clear()
    code, _document, err = run(hub, tmp_path, "model", "pull", "hf:acme/tiny")
    assert code == 0
    fetched = {path.rpartition("/")[2] for verb, path, _ in hub.requests if verb == "GET"}
    assert {each for each in fetched if "." in each} == {name}
    if damage is not unlink_blob:
        assert f"damaged in the hub's cache, fetched again: {name}" in err
    for path in (path for path in model.rglob("*") if path.is_file()):
        assert (folder / path.relative_to(model)).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("damage", [cut, spoil_config], ids=lambda each: each.__name__)
def test_what_is_damaged_is_told_mended_and_removed(
    damage: Damage, kind: str, hub: Hub, pulled: Copy, tmp_path: Path
) -> None:
    source = f"{kind}:acme/tiny"
    folder = pulled(kind)
    name = damage(folder)
    _code, document, _err = run(hub, tmp_path, "plan", source)
    said = json.dumps(document)
    assert "is not whole on this machine" in said
    assert name in said
    assert f"qlaunch model pull {source}" in said
    code, document, _err = run(hub, tmp_path, "model", "inspect", source)
    (error,) = document["errors"]
    assert (code, error["fix"]) == (2, f"qlaunch model pull {source}")
    assert name in error["message"]
    assert pull(hub, tmp_path, kind) == folder
    assert run(hub, tmp_path, "model", "inspect", source)[0] == 0
    damage(folder)
    code, document, _err = run(hub, tmp_path, "model", "remove", source)
    assert code == 0, document
    assert document["data"]["removed"][0]["bytes"] > 10_000
    assert not folder.exists()
    assert not list(tmp_path.rglob(SHARD))


@pytest.mark.parametrize("damage", SEEN, ids=lambda each: each.__name__)
def test_whatever_is_damaged_can_be_removed(
    damage: Damage, hub: Hub, pulled: Copy, tmp_path: Path
) -> None:
    damage(pulled("hf"))
    code, document, _err = run(hub, tmp_path, "model", "remove", "hf:acme/tiny")
    assert code == 0, document
    assert not list((tmp_path / "hf").rglob("blobs/*"))


def test_a_pointer_in_a_hubs_cache_is_no_matter_for_git(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    served = tmp_path / "served"
    served.mkdir()
    for path in (path for path in model.rglob("*") if path.is_file()):
        copy = served / path.relative_to(model)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(POINTER if path.name == SHARD else path.read_bytes())
    hub.repos["acme/pointers"] = {"main": served}
    code, document, _err = run(hub, tmp_path, "model", "pull", "hf:acme/pointers")
    (error,) = document["errors"]
    assert (code, error["code"]) == (2, "model_incomplete")
    assert "git-lfs pointer" in error["message"]
    assert "git lfs pull" not in error["fix"]
    assert "the hub has it like that" in error["fix"]
