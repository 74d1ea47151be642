"""The shipped profiles and the published schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml

from launcher.config import profile as types
from launcher.config import schema
from launcher.config.loading import list_profiles, load_profile, shipped_dir
from launcher.config.size import parse_size

NOWHERE = Path("/nonexistent")
SHIPPED = sorted(path.stem for path in shipped_dir().glob("*.yaml"))


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((shipped_dir() / "schema.json").read_text())
    return loaded


def test_the_committed_schema_is_the_one_the_types_say() -> None:
    text = (shipped_dir() / "schema.json").read_text(encoding="utf-8")
    assert text == schema.schema_text(), "run: python -m launcher.config.schema"


def test_the_writer_writes_what_is_committed(tmp_path: Path) -> None:
    schema.main([str(tmp_path / "schema.json")])
    assert (tmp_path / "schema.json").read_text() == schema.schema_text()


def test_the_schema_is_a_schema(committed: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator.check_schema(committed)


def test_every_field_is_described(committed: dict[str, Any]) -> None:
    for name, definition in committed["$defs"].items():
        assert definition["additionalProperties"] is False
        for field, found in definition["properties"].items():
            assert found.get("description"), f"{name}.{field}"
    fields = {field.encode_name for field in msgspec.structs.fields(types.Profile)}
    assert set(committed["$defs"]["Profile"]["properties"]) == fields


def test_the_three_first_profiles_are_shipped() -> None:
    assert {"cpu-minilm", "cpu-qwen3-0.6b", "t4-fp16"} <= set(SHIPPED)
    assert all(ref.error is None for ref in list_profiles(NOWHERE))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profiles_fit_the_schema(name: str, committed: dict[str, Any]) -> None:
    content = yaml.safe_load((shipped_dir() / f"{name}.yaml").read_text())
    jsonschema.Draft202012Validator(committed).validate(content)


@pytest.mark.parametrize(
    "change",
    [
        {"prot": 1},
        {"port": -1},
        {"dtype": "half"},
        {"flags": {"--x": 1}},
        {"flags": {"x": {}}},
        {"env": {"1A": "x"}},
        {"hardware": {}},
        {"threads": 0},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(
    change: dict[str, Any], committed: dict[str, Any]
) -> None:
    content = yaml.safe_load((shipped_dir() / "cpu-minilm.yaml").read_text())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(committed).validate({**content, **change})


@pytest.mark.parametrize("name", SHIPPED)
def test_every_flag_has_its_reason_as_a_comment(name: str) -> None:
    lines = (shipped_dir() / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# yaml-language-server: $schema=schema.json"
    loaded = load_profile(name, NOWHERE)
    assert loaded.profile.title
    assert loaded.profile.description
    for key in loaded.profile.flags:
        at = ("flags", key)
        above = loaded.file(at).read_text().splitlines()[loaded.lines[at] - 2].strip()
        assert above.startswith("# "), f"{name}: {key}"


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_profiles_cap_what_the_engine_would_take(name: str) -> None:
    profile = load_profile(name, NOWHERE).profile
    tokens = profile.flags["max-total-tokens"]
    assert isinstance(tokens, int)
    assert isinstance(profile.flags["max-running-requests"], int)
    longest = profile.flags.get("context-length", 512)
    assert isinstance(longest, int)
    assert tokens >= longest
    assert profile.host == "127.0.0.1"


def test_the_encoders_profile_keeps_its_vectors_right() -> None:
    flags = load_profile("cpu-minilm", NOWHERE).profile.flags
    assert flags["disable-radix-cache"] is True
    assert flags["chunked-prefill-size"] == -1
    assert flags["mem-fraction-static"] == 0.95


@pytest.mark.parametrize("name", ["cpu-minilm", "cpu-qwen3-0.6b"])
def test_cpu_profiles(name: str) -> None:
    profile = load_profile(name, NOWHERE).profile
    assert (profile.engine, profile.hardware.device) == ("cpu", "cpu")
    assert (profile.dtype, profile.threads) == ("auto", "auto")
    assert profile.flags["attention-backend"] == "torch_native"
    assert profile.flags["disable-overlap-schedule"] is True
    assert profile.flags["sleep-on-idle"] is True


def test_the_t4_profile_has_room_for_its_own_cache() -> None:
    profile = load_profile("t4-fp16", NOWHERE).profile
    assert (profile.engine, profile.dtype, profile.measured) == ("turing", "float16", False)
    assert profile.hardware.gpus == ["T4"]
    assert profile.hardware.min_compute_capability == "7.5"
    # The line of the article; whether the cache fits a smaller Turing card is predicted.
    assert profile.hardware.min_gpu_memory == "4GiB"
    tokens = profile.flags["max-total-tokens"]
    assert isinstance(tokens, int)
    # 112 KiB of keys and values a token, and 1.2 GB of weights, on the 15 GiB that a T4 shows.
    assert parse_size("15GiB") > 2 * (tokens * 112 * 1024 + 1_200_000_000)


@pytest.mark.parametrize("name", SHIPPED)
def test_flags_of_single_releases_have_their_reason_too(name: str) -> None:
    loaded = load_profile(name, NOWHERE)
    if not loaded.profile.flags_by_engine:
        return
    at = ("flags_by_engine",)
    start, lines = loaded.lines[at], loaded.file(at).read_text().splitlines()
    above = next(i for i in range(start - 1, -1, -1) if "flags_by_engine:" in lines[i])
    assert lines[above - 1].startswith("# "), name


def test_profiles_with_offload_keep_the_cache_small_and_warn() -> None:
    for name in ("offload-t4", "gpu-offload"):
        profile = load_profile(name, NOWHERE).profile
        assert profile.flags["cpu-offload-gb"] == 1
        assert profile.flags["max-total-tokens"] == 4096
        assert "more than four times" in " ".join(profile.description.split())
