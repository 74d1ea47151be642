"""`extends: PARENT`: one parent, merged key by key, each value with its own file and line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from launcher.config.loading import list_profiles, load_draft, load_profile, shipped_dir
from launcher.config.profile import Cache
from launcher.config.settings import UserConfig, resolve
from launcher.errors import ExitCode, QlaunchError

PARENT = """title: The parent
description: of others
hardware:
  device: cpu
  min_ram: 2GiB
engine: cpu
model: all-minilm-l6-v2
port: 4000
flags:
  max-total-tokens: 4096
  sleep-on-idle: true
fallback:
  - max-total-tokens: 2048
restart:
  max_attempts: 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parent.yaml").write_text(PARENT)
    return tmp_path


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def refused(folder: Path, name: str = "child") -> QlaunchError:
    with pytest.raises(QlaunchError) as caught:
        load_profile(name, folder)
    assert (caught.value.code, caught.value.exit_code) == ("profile_invalid", ExitCode.USAGE)
    return caught.value


def test_what_the_child_does_not_say_is_the_parents(folder: Path) -> None:
    child = write(folder, "child", "extends: parent\nflags:\n  max-total-tokens: 8192\n")
    loaded = load_profile("child", folder)
    assert loaded.profile.port == 4000
    assert loaded.profile.hardware.min_ram == "2GiB"
    assert loaded.profile.flags == {"max-total-tokens": 8192, "sleep-on-idle": True}
    assert loaded.profile.restart.max_attempts == 2
    assert loaded.parents == (folder / "parent.yaml",)
    assert loaded.lines[("flags", "max-total-tokens")] == 3
    assert loaded.file(("flags", "max-total-tokens")) == child
    assert loaded.lines[("flags", "sleep-on-idle")] == 11
    assert loaded.file(("flags", "sleep-on-idle")) == folder / "parent.yaml"


def test_settings_say_which_of_the_files_decided(folder: Path) -> None:
    write(folder, "child", "extends: parent\nport: 5000\n")
    sources = resolve(load_profile("child", folder), {}, {}, UserConfig()).sources
    assert sources["port"] == f"profile {folder / 'child.yaml'}:2"
    assert sources["model"] == f"profile {folder / 'parent.yaml'}:7"
    assert sources["flags.sleep-on-idle"] == f"profile {folder / 'parent.yaml'}:11"


def test_a_title_and_evidence_are_not_inherited(folder: Path) -> None:
    write(folder, "child", "extends: parent\n")
    child = load_profile("child", folder).profile
    assert (child.title, child.description) == ("all-minilm-l6-v2 on a CPU", "")
    assert load_profile("parent", folder).profile.measured
    assert not child.measured
    write(folder, "proved", "extends: parent\nmeasured: true\n")
    assert load_profile("proved", folder).profile.measured


def test_lists_are_replaced_and_null_takes_a_key_out(folder: Path) -> None:
    text = (
        "extends: parent\nfallback:\n  - max-total-tokens: 512\nrestart: null\n"
        "flags:\n  sleep-on-idle: null\n"
    )
    write(folder, "child", text)
    loaded = load_profile("child", folder)
    assert loaded.profile.flags == {"max-total-tokens": 4096}
    assert loaded.profile.fallback == [{"max-total-tokens": 512}]
    assert loaded.profile.restart.max_attempts == 5
    assert ("flags", "sleep-on-idle") not in loaded.lines
    assert ("restart", "max_attempts") not in loaded.lines


@pytest.mark.parametrize(
    "more",
    [
        "host: null",
        "title: null",
        "cors_origins: null",
        "cache: null",
        "cache: {ttl: null, wait_ms: null}",
        "env: {FOO: null}",
        "flags: {slep-on-idle: null}",
        "flags_by_engine: {cpu: {page-size: null}}",
        "restart: {stable_after_s: null}",
        "checkpoint: null",
    ],
)
def test_a_null_for_a_key_that_no_parent_has_changes_nothing(folder: Path, more: str) -> None:
    """It was refused, for most keys cannot be null."""
    write(folder, "plain", "extends: parent\n")
    write(folder, "child", f"extends: parent\n{more}\n")
    plain, found = (load_profile(name, folder).profile for name in ("plain", "child"))
    held = {"cache": found.cache, "flags_by_engine": found.flags_by_engine}
    assert msgspec.structs.replace(plain, extends="parent", **held) == found
    assert held["cache"] in (False, Cache())


@pytest.mark.parametrize("more", ["prot: null", "restart: {max_atempts: null}"])
def test_a_null_for_a_key_that_no_profile_has_is_refused(folder: Path, more: str) -> None:
    write(folder, "child", f"extends: parent\n{more}\n")
    error = refused(folder)
    assert f"{folder / 'child.yaml'}:2: unknown key" in error.message
    assert "did you mean" in error.message


def test_a_parent_on_a_gpu_and_a_child_on_a_cpu(folder: Path) -> None:
    """The message was about the shipped parent's file, with the advice to remove a line there."""
    write(folder, "child", "extends: gpu-minilm\nhardware:\n  device: cpu\n")
    error = refused(folder)
    assert f"{folder / 'child.yaml'}:3: " in error.message
    assert "gpu-minilm.yaml says the former" in error.message
    assert "`min_compute_capability: null`" in (error.fix or "")
    nulls = "min_compute_capability: null, min_gpu_memory: null"
    write(folder, "child", f"extends: gpu-minilm\nhardware: {{device: cpu, {nulls}}}\n")
    assert load_profile("child", folder).profile.hardware.min_gpu_memory is None


def test_a_whole_line_of_parents(folder: Path) -> None:
    write(folder, "middle", "extends: parent\nport: 5000\nflags: {log-level: debug}\n")
    write(folder, "child", "extends: middle\nthreads: 2\n")
    loaded = load_profile("child", folder)
    assert (loaded.profile.port, loaded.profile.threads) == (5000, 2)
    assert loaded.profile.flags["log-level"] == "debug"
    assert loaded.profile.flags["max-total-tokens"] == 4096
    assert loaded.file(("port",)) == folder / "middle.yaml"
    assert [path.stem for path in loaded.parents] == ["middle", "parent"]


def test_a_circle_is_refused_with_file_and_line(folder: Path) -> None:
    write(folder, "a", "title: a\nextends: b\n")
    write(folder, "b", "extends: a\n")
    message = refused(folder, "a").message
    assert f"{folder / 'b.yaml'}:1: `extends` leads in a circle: a → b → a" in message
    refs = {ref.name: ref for ref in list_profiles(folder)}
    assert refs["a"].error is not None
    assert refs["parent"].error is None


def test_a_circle_by_path_is_one_too(folder: Path) -> None:
    write(folder, "a", "extends: ./a.yaml\n")
    assert "a.yaml:1: `extends` leads in a circle: a → a" in refused(folder, "a").message


def test_an_unknown_parent_is_refused_with_the_nearest_name(folder: Path) -> None:
    write(folder, "child", "port: 1\nextends: cpu-minlm\n")
    error = refused(folder)
    assert f"{folder / 'child.yaml'}:2: `extends` names `cpu-minlm`" in error.message
    assert "did you mean `cpu-minilm`" in error.message
    write(folder, "child", "extends: ./absent.yaml\n")
    assert (
        f"child.yaml:1: `extends`: there is no file {folder}/absent.yaml" in refused(folder).message
    )
    write(folder, "child", "extends: 3\n")
    assert "`extends` must be text or nothing" in refused(folder).message
    write(folder, "child", "extends: child\n")
    assert "child.yaml:1: `extends: child` names the profile itself" in refused(folder).message


def test_more_parents_than_people_write(folder: Path) -> None:
    for number in range(20):
        write(folder, f"p{number}", f"extends: p{number + 1}\n")
    assert "leads through more than 16 profiles" in refused(folder, "p0").message


def test_a_fault_in_the_parent_names_the_parents_line(folder: Path) -> None:
    write(folder, "parent", PARENT.replace("port: 4000", "port: x"))
    write(folder, "child", "extends: parent\n")
    assert f"{folder / 'parent.yaml'}:8: `port` must be" in refused(folder).message
    write(folder, "parent", PARENT.replace("  sleep-on-idle", "  --sleep-on-idle"))
    assert f"{folder / 'parent.yaml'}:11: `flags.--sleep-on-idle`" in refused(folder).message


def test_a_fault_of_the_child_names_the_childs_line(folder: Path) -> None:
    write(folder, "child", "extends: parent\nflags:\n  port: 1\n")
    assert f"{folder / 'child.yaml'}:3: `flags.port` is set by" in refused(folder).message
    write(folder, "child", "extends: parent\nprot: 1\n")
    assert f"{folder / 'child.yaml'}:2: unknown key `prot`" in refused(folder).message


def test_a_parent_may_leave_out_what_its_children_say(folder: Path) -> None:
    write(folder, "part", "flags: {log-level: debug}\nengine: cpu\nhardware: {device: cpu}\n")
    write(folder, "child", "extends: part\nmodel: bge-micro-v2\n")
    assert load_profile("child", folder).profile.model == "bge-micro-v2"
    assert "the key `model` is missing" in refused(folder, "part").message


def test_a_parent_by_path_starts_from_the_childs_folder(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    child = write(inner, "child", "extends: ../parent.yaml\n")
    assert load_profile(str(child), Path("/nonexistent")).profile.port == 4000


def test_ones_own_profile_may_extend_the_shipped_one_of_its_name(tmp_path: Path) -> None:
    write(tmp_path, "cpu-minilm", "extends: cpu-minilm\nport: 1234\n")
    loaded = load_profile("cpu-minilm", tmp_path)
    assert loaded.profile.port == 1234
    assert loaded.parents == (shipped_dir() / "cpu-minilm.yaml",)


def test_paths_start_from_the_file_that_says_them(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    write(folder, "parent", PARENT + "api_key_file: key\n")
    child = write(inner, "child", "extends: ../parent.yaml\n")
    settings = resolve(load_profile(str(child), folder), {}, {}, UserConfig())
    assert settings.api_key_file == str(folder / "key")


def test_a_draft_is_read_as_the_file_it_will_be(folder: Path) -> None:
    draft = folder / ".child.draft.yaml"
    draft.write_text("extends: parent\n")
    loaded = load_draft("child", draft, folder / "child.yaml", folder)
    assert (loaded.name, loaded.path) == ("child", folder / "child.yaml")
    assert "child" not in {ref.name for ref in list_profiles(folder)}
    write(folder, "child", PARENT)
    draft.write_text("extends: child\n")
    with pytest.raises(QlaunchError, match=r"child\.yaml:1: `extends: child` names the profile"):
        load_draft("child", draft, folder / "child.yaml", folder)


CHILD: dict[str, Any] = {"extends": "cpu-minilm"}


@pytest.mark.parametrize(
    ("content", "fits"),
    [
        (CHILD, True),
        (CHILD | {"flags": {"sleep-on-idle": None}}, True),
        (CHILD | {"hardware": {"min_ram": "4GiB"}, "restart": None}, True),
        (CHILD | {"prot": 1}, False),
        (CHILD | {"port": -1}, False),
        ({"title": "t"}, False),
        ({"hardware": {}, "engine": "cpu", "model": "m"}, False),
        ({"hardware": {"device": "cpu"}, "engine": "cpu", "model": "m"}, True),
    ],
)
def test_the_schema_knows_children(content: dict[str, Any], fits: bool) -> None:
    schema = json.loads((shipped_dir() / "schema.json").read_text())
    assert jsonschema.Draft202012Validator(schema).is_valid(content) is fits


COPIES = ("cpu-bge-micro", "cpu-gte-tiny", "gpu-bge-micro")


@pytest.mark.parametrize("name", COPIES)
def test_shipped_children_differ_from_their_parent_in_the_model_only(name: str) -> None:
    nowhere = Path("/nonexistent")
    loaded = load_profile(name, nowhere)
    assert len(loaded.path.read_text().splitlines()) < 20
    [parent] = (load_profile(path.stem, nowhere).profile for path in loaded.parents)
    own = ("extends", "title", "description", "model", "measured")
    fields = {
        field: getattr(loaded.profile, field)
        for field in msgspec.structs.asdict(parent)
        if field not in own
    }
    assert fields == {field: getattr(parent, field) for field in fields}
    assert list(loaded.profile.flags) == list(parent.flags)


@pytest.mark.parametrize("name", ['""', '" "'])
def test_an_empty_extends_is_not_passed_over(folder: Path, name: str) -> None:
    """It was none: `the key hardware is missing`, or nothing at all where there was one."""
    write(folder, "child", f"title: x\nextends: {name}\n")
    error = refused(folder)
    assert error.message.endswith("child.yaml:2: `extends` is empty")
    assert error.fix == "name a profile, or leave it out"
