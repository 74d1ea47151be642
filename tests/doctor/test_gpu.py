"""What doctor says of driver and GPUs on every machine of tests/nvml/machines.py."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launcher.doctor import gpu as gpu_checks
from launcher.hardware.inventory import Gpu, GpuProcess
from launcher.hardware.nvml import Devices, Unavailable
from launcher.hardware.visible import misread
from tests.nvml.machines import MACHINES, MIB, T4, Card, Machine, Slice, machine, mig_uuid, uuid

PROGRAM = """
import json, os, msgspec
from pathlib import Path
from launcher.engine import releases as catalogue
from launcher.doctor import engines as engine_checks, gpu as gpu_checks
from launcher.hardware.nvml import Unavailable

def look(script, environ, wait=10.0):
    Path(os.environ["QLAUNCH_TEST_NVML"]).write_text(script)
    devices, users = gpu_checks.read(wait)
    nowhere = Path("/nothing-is-here")
    found = [*gpu_checks.gpu_findings(devices, users, environ, root=nowhere)]
    if not isinstance(devices, Unavailable):
        releases = catalogue.releases().values()
        found += engine_checks.gpu_findings(devices.gpus, devices.driver_version, releases)
    return {finding.name: msgspec.to_builtins(finding) for finding in found}

"""
"""The stand-in reads its script at every call: one process can be on many machines in turn."""

Found = dict[str, dict[str, Any]]


def findings(box: Machine, folder: Path) -> Found:
    found: Found = box.run(folder, PROGRAM + f"print(json.dumps(look({box.script()!r}, {{}})))")
    return found


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Found]:
    """What is found on every machine that has a driver which answers."""
    scripts = {name: box.script() for name, box in MACHINES.items() if box.driver}
    program = PROGRAM + (
        f"scripts = {scripts!r}\n"
        "hangs = scripts.pop('driver-hangs')\n"
        "found = {name: look(script, {}) for name, script in scripts.items()}\n"
        "found['driver-hangs'] = look(hangs, {}, 0.5)\n"
        "print(json.dumps(found))"
    )
    found: dict[str, Found] = machine("t4").run(tmp_path_factory.mktemp("nvml"), program)
    return found


def well(count: int = 1) -> dict[str, str]:
    """A driver, cards with nothing wrong, and releases for each."""
    return (
        {"nvidia driver": "ok"}
        | {f"gpu {index}": "ok" for index in range(count)}
        | {"CUDA_VISIBLE_DEVICES": "ok"}
        | {f"engines for gpu {index}": "ok" for index in range(count)}
    )


GOLDEN: dict[str, dict[str, str]] = {
    "no-driver": {"nvidia driver": "unavailable"},
    "t4": well(),
    "gtx1660": well(),
    "rtx3050-4gb": well(),
    "rtx3060": well(),
    "a10g": well(),
    "l4": well(),
    "h100": well(),
    "h100-shared": well(),
    "h100-mig": well(),
    "h100-mig-empty": well() | {"gpu 0": "warning"},
    "2xt4": well(2),
    "8xh100": well(8),
    "v100": well() | {"engines for gpu 0": "warning"},
    "driver-mismatch": {"nvidia driver": "problem"},
    "driver-not-loaded": {"nvidia driver": "problem"},
    "no-permission": {"nvidia driver": "problem"},
    "no-card": {"nvidia driver": "warning"},
    "one-of-two-lost": well() | {"gpu 1": "problem"},
    "gpu-lost": well(),
    "driver-hangs": {"nvidia driver": "problem"},
}


@pytest.mark.parametrize("name", [name for name in GOLDEN if name != "no-driver"])
def test_every_named_machine(name: str, everywhere: dict[str, Found]) -> None:
    found = everywhere[name]
    assert {key: finding["status"] for key, finding in found.items()} == GOLDEN[name]
    for finding in found.values():
        assert finding["message"]
        needs_fix = finding["status"] in ("warning", "problem")
        assert bool(finding["fix"]) == needs_fix, finding


def test_a_machine_without_a_driver(tmp_path: Path) -> None:
    none = Unavailable("no NVIDIA driver: libnvidia-ml.so.1 is not installed")
    found = {f.name: f.status for f in gpu_checks.gpu_findings(none, none, {}, root=tmp_path)}
    assert found == GOLDEN["no-driver"]


def test_the_table_has_every_machine() -> None:
    assert set(GOLDEN) == set(MACHINES)


def test_a_card_is_told_with_its_figures(everywhere: dict[str, Found]) -> None:
    found = everywhere["t4"]
    assert found["nvidia driver"]["message"] == "driver 535.183.01, CUDA up to 12.2"
    assert found["gpu 0"]["message"] == (
        f"Tesla T4 ({uuid(0)}), compute capability 7.5, 16.0 GB of 16.1 GB free; "
        "no compute process uses it"
    )
    assert found["engines for gpu 0"]["message"].startswith("turing; not ")


def test_who_uses_a_card_is_named(tmp_path: Path) -> None:
    mine = os.getpid()
    card = replace(T4, used=14000 * MIB, processes={mine: 13 << 30, 999_999_999: -1})
    found = findings(machine("t4", cards=(card,)), tmp_path)["gpu 0"]
    assert found["status"] == "warning"
    assert f"process {mine}" in found["message"]
    assert "with 14.0 GB" in found["message"]
    assert "process 999999999" in found["message"]
    assert "with a hidden amount" in found["message"]


def test_processes_on_mig_slices_are_those_of_their_card(tmp_path: Path) -> None:
    parts = (Slice("slice", 100, processes={7: 1 << 30}), Slice("slice", 100))
    card = Card("H100", (9, 0), 200, mig=1, slices=parts)
    order = "fail_whole|0|nvmlDeviceGetComputeRunningProcesses_v3|4"
    found = findings(machine("h100-mig", cards=(card,), orders=(order,)), tmp_path)["gpu 0"]
    assert "with 1.07 GB" in found["message"]
    assert mig_uuid(0, 1) in found["message"]


def test_processes_that_cannot_be_asked_for_hide_nothing_else(tmp_path: Path) -> None:
    calls = ("v3", "v2")
    orders = tuple(f"fail|nvmlDeviceGetComputeRunningProcesses_{v}|3" for v in calls)
    found = findings(machine("t4", orders=orders), tmp_path)["gpu 0"]
    assert found["status"] == "ok"
    assert "who uses it is unknown (the driver does not support" in found["message"]


def test_a_driver_too_old_for_a_card_is_a_warning_that_says_update(tmp_path: Path) -> None:
    found = findings(machine("a10g", driver="470.82.01"), tmp_path)["engines for gpu 0"]
    assert found["status"] == "warning"
    assert found["fix"] == "update the driver"
    assert "it needs driver 525 or newer, this is 470.82.01" in found["message"]


VISIBLE = [
    ("0", "ok", "shows GPU 0"),
    (f"{uuid(1)},0", "ok", "shows GPU 1, 0"),
    ("", "ok", "shows none"),
    ("0,7", "warning", "entry '7' names no GPU"),
    ("7", "problem", "entry '7' names no GPU"),
    ("0,0", "problem", "twice"),
    ("GPU-none", "problem", "'GPU-none' names no GPU"),
]


def test_cuda_visible_devices(tmp_path: Path) -> None:
    box = machine("2xt4")
    values = [value for value, _status, _said in VISIBLE]
    found = box.run(
        tmp_path,
        PROGRAM + f"print(json.dumps([look({box.script()!r}, {{'CUDA_VISIBLE_DEVICES': value}})"
        f"['CUDA_VISIBLE_DEVICES'] for value in {values!r}]))",
    )
    for (value, status, said), finding in zip(VISIBLE, found, strict=True):
        assert finding["status"] == status, value
        assert said in finding["message"], value


def card(index: int, **changes: Any) -> Gpu:
    values: dict[str, Any] = {
        "index": index,
        "uuid": f"GPU-{index}",
        "name": "card",
        "compute_capability": (8, 0),
        "memory_total_bytes": 8 << 30,
        "memory_free_bytes": 8 << 30,
    }
    return Gpu(**(values | changes))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("0,1", None),
        ("", None),
        ("-1", None),
        ("none", None),
        ("0,", None),
        ("0,-1", None),
        ("0,5,1", "entry '5' names no GPU of this machine, and CUDA ignores what follows it"),
        ("1,5", "entry '5' names no GPU of this machine"),
        ("1,GPU-1", "names GPU-1 twice"),
        ("x", "entry 'x' names no GPU"),
    ],
)
def test_what_a_writer_can_hardly_have_meant(value: str, said: str | None) -> None:
    found = misread((card(0), card(1)), value)
    assert (found is None) == (said is None)
    if found is not None and said is not None:
        assert found.endswith(said) or said in found


@pytest.mark.parametrize(
    ("total", "free", "status"),
    [(4, 3.7, "ok"), (4, 1.9, "warning"), (80, 21, "ok"), (80, 3.9, "warning"), (80, None, "ok")],
)
def test_how_much_must_be_free(total: int, free: float | None, status: str) -> None:
    bytes_free = None if free is None else int(free * (1 << 30))
    gpu = card(0, memory_total_bytes=total << 30, memory_free_bytes=bytes_free)
    devices = Devices((gpu,), (), "580.1", (13, 0))
    found = {f.name: f for f in gpu_checks.gpu_findings(devices, {}, {})}
    assert found["gpu 0"].status == status


def test_a_card_on_the_bus_without_a_driver_is_a_problem(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030000\n")
    none = Unavailable("no NVIDIA driver: libnvidia-ml.so.1 is not installed")
    (found,) = gpu_checks.gpu_findings(none, none, {}, root=tmp_path)
    assert found.status == "problem"
    (device / "class").write_text("0x040300\n")  # the sound device of such a card
    (found,) = gpu_checks.gpu_findings(none, none, {}, root=tmp_path)
    assert found.status == "unavailable"


def test_a_card_without_the_library_that_computes_is_a_problem() -> None:
    """NVML listed the cards, and every start ended: a container with `utility` alone."""
    devices = Devices((card(0),), (), "580.1", (13, 0))
    found = {f.name: f for f in gpu_checks.gpu_findings(devices, {}, {}, computes=False)}
    assert found["nvidia driver"].status == "ok"
    assert found["cuda driver"].status == "problem"
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in str(found["cuda driver"].fix)


def test_process_ids_of_another_namespace_are_not_given_names_of_ours() -> None:
    rows = (GpuProcess(pid=os.getpid(), used_bytes=1), GpuProcess(pid=2**31, used_bytes=1))
    devices = Devices((card(0),), (), "580.1", (13, 0))
    host = Path("/proc/self/ns/pid").readlink() == Path("pid:[4026531836]")
    found = {f.name: f for f in gpu_checks.gpu_findings(devices, {"GPU-0": rows}, {})}["gpu 0"]
    assert ("of the host or another container" in found.message) == (not host)
