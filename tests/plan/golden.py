"""The golden table of recommendations: every fixture machine, every shipped profile.

Rewrite it with `python -m tests.plan.golden` and read the difference before committing it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from launcher.config.loading import list_profiles, load_profile
from launcher.engine.release import Engine, Release
from launcher.engine.releases import Host
from launcher.errors import QlaunchError
from launcher.hardware.inventory import Hardware
from launcher.model.cards import load_card
from launcher.model.shape import from_card
from launcher.plan.recommend import Judged, judge_all, recommend
from launcher.plan.suitability import Candidate, World
from launcher.verify.thresholds import parity_min
from tests.nvml.machines import MACHINES, machine
from tests.samples import machine as sample

GOLDEN = Path(__file__).with_name("golden_machines.json")
_QUICK = """
import msgspec, sys
from launcher.hardware.detect import detect
sys.stdout.buffer.write(msgspec.json.encode(detect(timeout_s=0.5)))
"""
"""A driver that hangs need not be waited for in full."""
NOWHERE = Path("/nonexistent")
HOST = Host(python=(3, 11, 9), machine="x86_64", glibc="2.39")


def engine(release: Release) -> Engine:
    """A release as it would be installed."""
    root = Path("/engines") / release.name
    return Engine(
        release=release, python=root / "bin" / "python", version=release.version, root=root
    )


def world(hardware: Hardware, host: Host = HOST) -> World:
    """`hardware` with nothing installed and no run recorded."""
    return World(hardware=hardware, host=host, engine=engine, parity_min=parity_min)


def candidates() -> list[Candidate]:
    """Every shipped profile, its model known by its card."""
    found = []
    for ref in list_profiles(NOWHERE):
        loaded = load_profile(ref.name, NOWHERE)
        card = load_card(loaded.profile.model, None)
        need = loaded.profile.checkpoint
        found.append(
            Candidate(
                loaded, card, from_card(card, quantization=need.quantization[0] if need else None)
            )
        )
    return found


def read(name: str, folder: Path) -> Hardware:
    """A fixture machine as the real pynvml reads it, with a processor and RAM that never change."""
    if name == "driver-hangs":
        answer = machine(name).run(folder, _QUICK)
        found = msgspec.convert(answer, Hardware)
    else:
        found = machine(name).detect(folder)
    fixed = sample()
    return msgspec.structs.replace(found, cpu=fixed.cpu, memory=fixed.memory)


def row(hardware: Hardware) -> dict[str, Any]:
    """What is golden of a machine: the recommendation, and each profile's bucket."""
    here = world(hardware)
    judged = judge_all(candidates(), here)
    try:
        best = recommend(judged, here, [])
        said: dict[str, Any] = {
            "profile": best.profile,
            "release": best.release,
            "dtype": best.dtype,
            "gpu": best.env.get("CUDA_VISIBLE_DEVICES"),
        }
    except QlaunchError as error:
        said = {"refused": error.message}
    return {"recommended": said, "profiles": {j.verdict.profile: _short(j) for j in judged}}


def _short(judged: Judged) -> str:
    verdict = judged.verdict
    if verdict.bucket == "runs":
        return f"runs on {verdict.release}"
    if verdict.bucket == "one_change":
        assert verdict.change
        # The value moves with the memory model, which has tests of its own.
        return f"runs on {verdict.release} with a smaller {verdict.change.split()[0]}"
    return f"cannot: {verdict.reason}"


def table() -> dict[str, Any]:
    """The whole table."""
    with tempfile.TemporaryDirectory() as folder:
        return {name: row(read(name, Path(folder))) for name in MACHINES}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(table(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
