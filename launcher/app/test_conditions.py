"""What a measurement was taken on and with: machine and versions. Nothing names the host."""

from __future__ import annotations

import platform
from collections.abc import Callable

from launcher import __version__
from launcher.bench.compare import Header
from launcher.bench.load import Bounds
from launcher.bench.store import Store
from launcher.bench.test_machine import Machine
from launcher.documents.comparison import Level, MachineFacts
from launcher.hardware.detect import detect
from launcher.hardware.idle import idle_share
from launcher.hardware.inventory import Hardware
from launcher.hardware.memory import read_memory
from launcher.plan import fit
from launcher.units import now

IDLE_S = 0.5
_INSTRUCTION_SETS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "bf16")


def header(store: Store, hardware: Hardware) -> Header:
    """The circumstances of a comparison that begins now."""
    return Header(
        id=store.id,
        made=now(),
        machine=facts(hardware),
        versions={"qlaunch": __version__, "python": platform.python_version()},
    )


def facts(hardware: Hardware) -> MachineFacts:
    """The machine, as far as figures depend on it."""
    cpu = hardware.cpu
    return MachineFacts(
        cpu=cpu.model,
        instruction_sets=tuple(name for name in _INSTRUCTION_SETS if name in cpu.flags),
        masks=tuple(cpu.masks),
        threads=cpu.usable,
        ram_bytes=hardware.memory.usable_bytes,
        gpus=tuple(gpu.name for gpu in hardware.gpus),
        gpu_status=hardware.gpu_status,
        driver_version=hardware.driver_version,
        kernel=platform.release(),
        machine=cpu.machine,
    )


def tools(
    bounds: Callable[[Level], Bounds],
    hardware: Hardware,
    *,
    say: Callable[[str], None],
    now: Callable[[str], None],
) -> Machine:
    """The real machine, for `launcher.bench`; `say` and `now` show progress."""
    has_gpu = bool(hardware.gpus)
    return Machine(
        bounds=bounds,
        ram=lambda: read_memory().available_bytes,
        gpu=(lambda: sum(map(fit.free_bytes, detect().gpus))) if has_gpu else (lambda: None),
        say=say,
        now=now,
    )


def idle() -> float | None:
    """Share of the processors that is idle now, 0 to 1; looked at for half a second."""
    return idle_share(IDLE_S)
