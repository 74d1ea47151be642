"""Processors by name: what /proc/cpuinfo prints of the first of each, and what they compute.

The texts in `cpuinfo/` were printed by such machines (virtual ones, most of them), cut to the lines
that say what the processor is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from launcher.hardware.cpu import read_cpu
from launcher.hardware.inventory import Cpu

FOLDER = Path(__file__).with_name("cpuinfo")


@dataclass(frozen=True)
class Processor:
    """What is known of one, by its maker."""

    machine: str
    bf16: bool
    int8: bool
    vectors: bool = True
    """At least AVX2, on x86-64."""


PROCESSORS: dict[str, Processor] = {
    "kvm64": Processor("x86_64", bf16=False, int8=False, vectors=False),
    "broadwell": Processor("x86_64", bf16=False, int8=False),
    "zen3": Processor("x86_64", bf16=False, int8=False),
    "alder-lake": Processor("x86_64", bf16=False, int8=True),
    "skylake-server": Processor("x86_64", bf16=False, int8=False),
    "cascade-lake": Processor("x86_64", bf16=False, int8=True),
    "zen4": Processor("x86_64", bf16=True, int8=True),
    "sapphire-rapids": Processor("x86_64", bf16=True, int8=True),
    "graviton2": Processor("aarch64", bf16=False, int8=False),
    "graviton3": Processor("aarch64", bf16=True, int8=False),
}


def cpu(name: str, folder: Path, environ: Mapping[str, str] | None = None, threads: int = 4) -> Cpu:
    """The processor as `read_cpu` reads it, with so many threads.

    Args:
        folder: where the tree is put that stands in for the machine.
        environ: variables that hide instruction sets.
    """
    (folder / "proc").mkdir(parents=True, exist_ok=True)
    (folder / "proc/cpuinfo").write_text((FOLDER / f"{name}.txt").read_text("utf-8"))
    found = read_cpu(
        folder, affinity=threads, environ=environ or {}, machine=PROCESSORS[name].machine
    )
    return msgspec.structs.replace(found, logical=threads, usable=threads, usable_source="machine")
