"""What was measured on, and how quiet it was. Nothing here names the machine."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from typing import Any

from launcher import __version__
from launcher.hardware.cpu import read_cpu
from launcher.hardware.idle import idle_share
from launcher.hardware.memory import read_memory

QUIET = 0.9
"""Share of the processors that should be idle before a benchmark begins."""
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "bf16")


def facts() -> dict[str, Any]:
    """CPU, memory, Python, and the share of the processors that was idle over one second."""
    cpu, memory = read_cpu(), read_memory()
    return {
        "cpu": cpu.model,
        "instruction_sets": [name for name in _INSTRUCTION_SETS if name in cpu.flags],
        "masks": list(cpu.masks),
        "threads": cpu.usable,
        "ram_bytes": memory.limit_bytes or memory.total_bytes,
        "system": platform.system(),
        "machine": cpu.machine,
        "idle_before": idle_share(1.0),
    }


def look_again(facts: dict[str, Any]) -> None:
    """Keep the least idle share in `facts`: between measurements nobody else should be at work."""
    seen = [facts["idle_before"], idle_share(1.0)]
    facts["idle_before"] = min((share for share in seen if share is not None), default=None)


def versions(engine: dict[str, str | None] | None = None) -> dict[str, str | None]:
    """Our own version and Python's, and the engine's as far as one was used."""
    return {"qlaunch": __version__, "python": platform.python_version(), **(engine or {})}


def now() -> str:
    """The time of day, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
