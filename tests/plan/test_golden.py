"""The recommendation on every fixture machine, read by the real pynvml from a scripted driver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.config.loading import list_profiles
from tests.nvml.machines import MACHINES
from tests.plan.golden import GOLDEN, NOWHERE, read, row

TABLE: dict[str, Any] = json.loads(GOLDEN.read_text("utf-8"))


def test_every_machine_and_every_profile_is_in_the_table() -> None:
    assert set(TABLE) == set(MACHINES)
    assert len(TABLE) >= 14
    shipped = {ref.name for ref in list_profiles(NOWHERE)}
    for name, golden in TABLE.items():
        assert set(golden["profiles"]) == shipped, name


@pytest.mark.parametrize("name", MACHINES)
def test_the_golden_answer(name: str, tmp_path: Path) -> None:
    found = row(read(name, tmp_path))
    assert found == TABLE[name], "if that is right: python -m tests.plan.golden"
    # The order is part of the answer: best first.
    assert list(found["profiles"]) == list(TABLE[name]["profiles"])


def test_the_answers_that_the_table_must_keep_whoever_rewrites_it() -> None:
    best = {name: golden["recommended"]["profile"] for name, golden in TABLE.items()}
    assert best["t4"] == best["2xt4"] == best["one-of-two-lost"] == "t4-fp16"
    assert best["gtx1660"] == "gtx1660-fp16"
    assert best["rtx3050-4gb"] == "rtx3050-bf16"
    assert best["rtx3060"] == "rtx3060-bf16"
    assert best["a10g"] == "a10-bf16"
    assert best["l4"] == "l4-bf16"
    assert best["h100"] == best["8xh100"] == "h100-bf16"
    assert best["h100-shared"] == best["h100-mig"] == "h100-shared"
    for name in ("no-driver", "v100", "driver-mismatch", "no-permission", "h100-mig-empty"):
        assert best[name] == "cpu-minilm", name


def test_releases_follow_the_card_and_the_driver() -> None:
    release = {name: golden["recommended"]["release"] for name, golden in TABLE.items()}
    assert release["t4"] == release["gtx1660"] == "turing"
    assert release["rtx3060"] == release["a10g"] == release["h100"] == "cuda12"  # R535 to R570
    assert release["rtx3050-4gb"] == release["l4"] == release["8xh100"] == "cuda13"  # R580
    assert release["no-driver"] == "cpu"


def test_one_card_of_several_is_shown_to_the_engine() -> None:
    card = {name: golden["recommended"]["gpu"] for name, golden in TABLE.items()}
    assert card["t4"] is None
    assert card["2xt4"] == card["8xh100"] == "0"
    assert card["one-of-two-lost"] == "0"  # CUDA would fail on the other
    assert card["h100-mig"].startswith("MIG-")
