"""Named machines for tests: what NVML would say on them, read by the real pynvml and real code.

The driver's library is replaced by `nvml.c` beside this file, compiled on first use. It is loaded
in a child process only (LD_LIBRARY_PATH), so the test process itself never has a driver.

    hardware = machine("t4").detect(tmp_path)
    answer = machine("gpu-lost").run(tmp_path, "print(json.dumps(…))")
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher.hardware.inventory import Hardware
from tests.patience import PATIENCE_S

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]

_DETECT = """
import msgspec, sys
from launcher.hardware.detect import detect

sys.stdout.buffer.write(msgspec.json.encode(detect()))
"""


@dataclass(frozen=True)
class Slice:
    """One MIG slice."""

    name: str
    total: int
    used: int = 0
    processes: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """One GPU; bytes, `mig` -1 not supported, 0 off, 1 on; `processes`: pid → bytes, -1 hidden."""

    name: str
    capability: tuple[int, int]
    total: int
    used: int = 0
    mig: int = -1
    slices: tuple[Slice, ...] = ()
    processes: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """A machine as its NVML describes it; without a driver version there is no driver."""

    cards: tuple[Card, ...] = ()
    driver: str | None = None
    cuda: int = 0
    """As NVML encodes it: 12080 is CUDA 12.8."""
    orders: tuple[str, ...] = ()
    """Further script lines (`fail|nvmlInitWithFlags|18`), see nvml.c."""

    def script(self) -> str:
        """The text that the stand-in answers from."""
        lines = [f"driver|{self.driver}", f"cuda|{self.cuda}"]
        for index, card in enumerate(self.cards):
            lines.append(_fields("card", card.name, uuid(index), *card.capability, card.total,
                                 card.used, card.mig))  # fmt: skip
            lines += [_fields("process", index, pid, n) for pid, n in card.processes.items()]
            for place, part in enumerate(card.slices):
                lines.append(_fields("mig", index, place, mig_uuid(index, place), part.name,
                                     part.total, part.used))  # fmt: skip
                lines += [
                    _fields("mig_process", index, place, pid, n)
                    for pid, n in part.processes.items()
                ]
        return "\n".join([*lines, *self.orders, ""])

    def environment(self, folder: Path) -> dict[str, str]:
        """Write the script into `folder`; the environment in which a program sees this machine."""
        env = {key: value for key, value in os.environ.items() if key != "CUDA_VISIBLE_DEVICES"}
        if self.driver is None:
            if Path("/proc/driver/nvidia").exists():
                pytest.skip("this machine has a real NVIDIA driver")
            return env
        path = folder / "nvml.script"
        path.write_text(self.script())
        return env | {
            "QLAUNCH_TEST_NVML": str(path),
            "LD_LIBRARY_PATH": os.pathsep.join(
                [str(library()), *filter(None, [env.get("LD_LIBRARY_PATH")])]
            ),
        }

    def run(self, folder: Path, code: str, **extra: str) -> Any:
        """What the Python program `code` prints as JSON, when run on this machine."""
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=self.environment(folder) | extra,
            cwd=ROOT,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        assert not done.stderr, done.stderr.decode()
        return json.loads(done.stdout)

    def detect(self, folder: Path, **extra: str) -> Hardware:
        """`launcher.hardware.detect.detect()` on this machine, `extra` added to the environment."""
        return msgspec.convert(self.run(folder, _DETECT, **extra), Hardware)


def machine(name: str, **changes: Any) -> Machine:
    """One of MACHINES by name, with fields of Machine changed."""
    return replace(MACHINES[name], **changes)


def uuid(card: int) -> str:
    """The uuid of a card of any machine here."""
    return f"GPU-{card:08x}-1111-2222-3333-444455556666"


def mig_uuid(card: int, place: int) -> str:
    """The uuid of a MIG slice of any machine here."""
    return f"MIG-{card:04x}{place:04x}-aaaa-bbbb-cccc-ddddeeeeffff"


@functools.cache
def library() -> Path:
    """The folder of the compiled stand-in, removed at exit; skips the test without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to build the stand-in NVML with")
    folder = Path(tempfile.mkdtemp(prefix="qlaunch-nvml-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    target, source = folder / "libnvidia-ml.so.1", Path(__file__).with_name("nvml.c")
    options = ["-std=gnu11", "-O1", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1"]
    subprocess.run(
        [compiler, *options, "-o", str(target), str(source)], check=True, timeout=PATIENCE_S
    )
    return folder


def _fields(*values: object) -> str:
    return "|".join(str(value) for value in values)


T4 = Card("Tesla T4", (7, 5), 15360 * MIB, 105 * MIB)
H100 = Card("NVIDIA H100 80GB HBM3", (9, 0), 81559 * MIB, 4 * MIB, mig=0)

MACHINES: dict[str, Machine] = {
    "no-driver": Machine(),
    "t4": Machine((T4,), "535.183.01", 12020),
    "gtx1660": Machine(
        (Card("NVIDIA GeForce GTX 1660", (7, 5), 6144 * MIB, 420 * MIB),), "550.120", 12040
    ),
    "rtx3050-4gb": Machine(
        (Card("NVIDIA GeForce RTX 3050 Laptop GPU", (8, 6), 4096 * MIB, 300 * MIB),),
        "580.95.05",
        13000,
    ),
    "rtx3060": Machine(
        (Card("NVIDIA GeForce RTX 3060", (8, 6), 12288 * MIB, 500 * MIB),), "570.86.15", 12080
    ),
    "a10g": Machine(
        (Card("NVIDIA A10G", (8, 6), 23028 * MIB, 4 * MIB, mig=0),), "535.183.01", 12020
    ),
    "l4": Machine((Card("NVIDIA L4", (8, 9), 23034 * MIB, 4 * MIB),), "580.95.05", 13000),
    "h100": Machine((H100,), "570.133.20", 12080),
    "h100-shared": Machine(
        (replace(H100, used=60000 * MIB, processes={4242: 59990 * MIB}),), "580.95.05", 13000
    ),
    "h100-mig": Machine(
        (
            replace(
                H100,
                mig=1,
                slices=tuple(
                    Slice("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9856 * MIB, 12 * MIB)
                    for _ in range(7)
                ),
            ),
        ),
        "580.95.05",
        13000,
    ),
    "h100-mig-empty": Machine((replace(H100, mig=1),), "580.95.05", 13000),
    "2xt4": Machine((T4, T4), "550.90.07", 12040),
    "8xh100": Machine((H100,) * 8, "580.95.05", 13000),
    "v100": Machine((Card("Tesla V100-SXM2-16GB", (7, 0), 16384 * MIB),), "535.183.01", 12020),
    "driver-mismatch": Machine((T4,), "535.183.01", 12020, ("fail|nvmlInitWithFlags|18",)),
    "driver-not-loaded": Machine((T4,), "535.183.01", 12020, ("fail|nvmlInitWithFlags|9",)),
    "no-permission": Machine((T4,), "535.183.01", 12020, ("fail|nvmlInitWithFlags|4",)),
    "no-card": Machine((), "535.183.01", 12020),
    "one-of-two-lost": Machine((T4, T4), "550.90.07", 12040, ("fail_card|1|*|15",)),
    "gpu-lost": Machine((T4,), "535.183.01", 12020, ("lose_after|12",)),
    "driver-hangs": Machine((T4,), "535.183.01", 12020, ("hang|nvmlInitWithFlags|30",)),
}
