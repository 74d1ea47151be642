"""The golden table of CPU plans: every processor of tests/processors, the CPU profiles, and int8.

Rewrite it with `python -m tests.plan.golden_cpus` and read the difference before committing it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from launcher.config.profile import Profile
from launcher.engine.releases import Host
from launcher.hardware.inventory import Cpu, Hardware
from launcher.plan.suitability import Candidate, judge
from tests.plan.golden import candidates, world
from tests.processors import PROCESSORS, cpu
from tests.samples import machine

GOLDEN: Final = Path(__file__).with_name("golden_cpus.json")
PROFILES: Final = ("cpu-minilm", "cpu-qwen3-0.6b")
WORDS: Final = ("dtype", "AVX2", "not tested on")
"""Of the reasons that a processor decides; the others have tests of their own."""
MASKS: Final[Mapping[str, tuple[str, dict[str, str]]]] = {
    "zen4 masked to AVX2": ("zen4", {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}),
    "sapphire-rapids masked to VNNI": ("sapphire-rapids", {"DNNL_MAX_CPU_ISA": "avx512_core_vnni"}),
}
"""Rows of processors that the environment keeps below what they have."""


def of(processor: Cpu) -> Hardware:
    """A machine with this processor, 32 GiB and no GPU."""
    return msgspec.structs.replace(machine(), cpu=processor)


def row(hardware: Hardware) -> dict[str, Any]:
    """What is golden of a processor: what each CPU profile would run, as it is and in int8."""
    wanted = {each.profile.name: each for each in candidates() if each.profile.name in PROFILES}
    found: dict[str, Any] = {}
    for name in PROFILES:
        found[name] = _plan(wanted[name], hardware)
        found[f"{name}, int8"] = _plan(_asking(wanted[name], dtype="int8"), hardware)
    return found


def _asking(candidate: Candidate, **changes: Any) -> Candidate:
    profile: Profile = msgspec.structs.replace(candidate.profile.profile, **changes)
    loaded = replace(candidate.profile, profile=profile)
    return Candidate(loaded, candidate.card, candidate.checkpoint)


def _plan(candidate: Candidate, hardware: Hardware) -> dict[str, Any] | str:
    host = Host(python=(3, 11, 9), machine=hardware.cpu.machine, glibc="2.39")
    verdict = judge(candidate, world(hardware, host))
    if verdict.plan is None:
        return f"{verdict.bucket}: {verdict.reason}"
    plan = verdict.plan
    argv = plan.engine.argv
    return {
        "release": plan.engine.release,
        "engine_dtype": argv[argv.index("--dtype") + 1],
        "plugin_dtype": plan.engine.env.get("QLAUNCH_DTYPE"),
        "threads": plan.engine.env["OMP_NUM_THREADS"],
        "parity_min": plan.expectation.parity_min,
        "reasons": [each for each in plan.reasons if any(word in each for word in WORDS)],
    }


def table() -> dict[str, Any]:
    """The whole table."""
    with tempfile.TemporaryDirectory() as folder:
        rows = {name: of(cpu(name, Path(folder))) for name in PROCESSORS}
        for title, (name, environ) in MASKS.items():
            rows[title] = of(cpu(name, Path(folder), environ))
    return {name: row(hardware) for name, hardware in rows.items()}


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(table(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
