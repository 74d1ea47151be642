"""What is proved on which machine: real profiles, cards as their drivers describe them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher import __version__
from launcher.app import proving
from launcher.documents.proof import Proof
from launcher.errors import QlaunchError
from launcher.hardware.inventory import Hardware
from launcher.paths import dirs
from launcher.prove.agenda import Chapter, agenda
from tests.nvml.machines import machine
from tests.samples import gpu
from tests.samples import machine as cpu_machine


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "home"))
    return tmp_path


def chapters(hardware: Hardware, *only: str, offline: bool = False) -> dict[str, Chapter]:
    found = agenda(proving.of(hardware, dirs(), only, offline=offline))
    return {chapter.name: chapter for chapter in found}


def words(chapter: Chapter) -> list[str]:
    return [" ".join(step.words) for step in chapter.steps]


def test_a_t4_is_proved_from_its_own_profile_to_two_services_on_the_card(tmp_path: Path) -> None:
    found = chapters(machine("t4").detect(tmp_path))
    assert list(found)[:3] == ["machine", "profile t4-fp16", "table"]
    own = found["profile t4-fp16"]
    assert [step.name for step in own.steps] == [
        "up", "vectors", "load", "memory", "its engine is killed", "vectors after it",
        "its supervisor is killed", "down",
    ]  # fmt: skip
    assert "verify prove-t4-fp16 --quality --seconds 45" in words(own)
    (compare,) = words(found["table"])
    assert compare.startswith("compare t4-fp16 offload-t4 cpu-qwen3-0.6b --clients 1 --batch 1,4")
    assert "--tokens 128 --requests 100" in compare
    whole = words(found["whole texts"])
    assert whole[0].startswith(
        "up t4-fp16 --name prove-whole-texts --port 0 -- --attention-backend"
    )
    for to, profile in (("int8", "gpu-2gb-int8"), ("int4", "gpu-2gb-int4")):
        steps = words(found[f"quantised {to}"])
        assert steps[0] == f"model quantize qwen3-embedding-0.6b --to {to}"
        assert steps[1].startswith(f"up {profile} ")
        assert f"--model qwen3-embedding-0.6b-{to}" in steps[1]
    newest = found["newest engine"]
    assert words(newest)[0].endswith(
        "--name prove-cuda13-portable --port 0 --engine cuda13-portable"
    )
    assert list(found)[-1] == "newest engine"
    pair = found["two on one card"]
    assert len(pair.services) == 2
    assert words(pair)[-2:] == [f"down {name}" for name in pair.services]
    assert not any(name.startswith("profile cpu-") for name in found)
    assert "profile gpu-fp8" not in found  # a T4 has no fp8


def test_a_card_with_fp8_is_proved_in_fp8_too(tmp_path: Path) -> None:
    found = chapters(machine("l4").detect(tmp_path))
    assert "profile gpu-fp8" in found
    assert "newest engine" not in found  # `cuda13` is that
    assert "whole texts" not in found  # its Triton has tensor cores


def test_a_machine_without_a_card_proves_its_cpu_profiles() -> None:
    found = chapters(cpu_machine())
    assert next(iter(found)) == "machine"
    assert "profile cpu-minilm" in found
    assert "two on one card" not in found
    assert not any(name.startswith("quantised") for name in found)


def test_every_service_that_is_started_is_taken_down_whatever_happens(tmp_path: Path) -> None:
    for chapter in chapters(machine("t4").detect(tmp_path)).values():
        ups = [step.words[3] for step in chapter.steps if step.words[0] == "up"]
        downs = [step.words[1] for step in chapter.steps if step.always and step.words[0] == "down"]
        assert sorted(ups) == sorted(downs) == sorted(chapter.services)


def test_without_a_network_what_is_not_here_is_skipped_with_its_reason() -> None:
    found = chapters(cpu_machine(), offline=True)
    assert "not on this machine" in (found["profile cpu-minilm"].absent or "")


def test_profiles_named_are_the_only_ones() -> None:
    found = chapters(cpu_machine(), "cpu-minilm")
    assert list(found) == ["machine", "profile cpu-minilm", "table"]
    assert "--baseline" in words(found["table"])[0]


def test_a_profile_that_cannot_run_here_is_refused() -> None:
    with pytest.raises(QlaunchError, match="t4-fp16 does not run on this machine") as error:
        chapters(cpu_machine(), "t4-fp16")
    assert error.value.exit_code == 4


# --- an earlier proof ----------------------------------------------------------------------------

HERE = proving.facts(
    msgspec.structs.replace(
        cpu_machine(gpus=(gpu("NVIDIA L4", (8, 9)),)), driver_version="580.95.05"
    )
)


@pytest.mark.parametrize(
    ("change", "goes_on"),
    [
        ({}, True),
        ({"memory_bytes": 1}, True),
        ({"cards": (msgspec.structs.replace(HERE.cards[0], memory_free_bytes=5),)}, True),
        ({"cards": (msgspec.structs.replace(HERE.cards[0], name="Tesla T4"),)}, False),
        ({"cards": ()}, False),
        ({"driver": "590.1"}, False),
        ({"cpu": "another"}, False),
    ],
)
def test_a_proof_goes_on_on_the_machine_that_it_was_begun_on_alone(
    change: dict[str, Any], goes_on: bool, tmp_path: Path
) -> None:
    begun = Proof(
        id="a", qlaunch=__version__, began="2026-11-27", minutes=1, device="cuda", machine=HERE
    )
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "proof.json").write_bytes(msgspec.json.encode(begun))
    found = proving.unfinished(tmp_path, "cuda", msgspec.structs.replace(HERE, **change))
    assert (found is not None) is goes_on
    assert proving.unfinished(tmp_path, "cpu", HERE) is None
