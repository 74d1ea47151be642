"""The real pynvml and our code against a scripted driver, machine by machine."""

from __future__ import annotations

import ctypes.util
import threading
import time
from pathlib import Path

import pytest

from launcher.hardware import nvml
from launcher.hardware.bounded import BoundedCaller
from launcher.hardware.nvml import Unavailable, open_nvml
from tests.nvml.machines import MACHINES, MIB, Card, Slice, machine, mig_uuid, uuid
from tests.patience import HANG_S, no_hang

MISMATCH = "the NVIDIA kernel driver and its library differ in version (updated without a reboot?)"

EXPECTED: dict[str, tuple[str, list[tuple[str, tuple[int, int], int]]]] = {
    "no-driver": ("no NVIDIA driver: libnvidia-ml.so.1 is not installed", []),
    "t4": ("ok", [("Tesla T4", (7, 5), 15360)]),
    "gtx1660": ("ok", [("NVIDIA GeForce GTX 1660", (7, 5), 6144)]),
    "rtx3050-4gb": ("ok", [("NVIDIA GeForce RTX 3050 Laptop GPU", (8, 6), 4096)]),
    "rtx3060": ("ok", [("NVIDIA GeForce RTX 3060", (8, 6), 12288)]),
    "a10g": ("ok", [("NVIDIA A10G", (8, 6), 23028)]),
    "l4": ("ok", [("NVIDIA L4", (8, 9), 23034)]),
    "h100": ("ok", [("NVIDIA H100 80GB HBM3", (9, 0), 81559)]),
    "h100-shared": ("ok", [("NVIDIA H100 80GB HBM3", (9, 0), 81559)]),
    "h100-mig": ("ok", [("NVIDIA H100 80GB HBM3 MIG 1g.10gb", (9, 0), 9856)] * 7),
    "h100-mig-empty": (
        "every GPU is in MIG mode, and none has a slice that can be used",
        [],
    ),
    "2xt4": ("ok", [("Tesla T4", (7, 5), 15360)] * 2),
    "8xh100": ("ok", [("NVIDIA H100 80GB HBM3", (9, 0), 81559)] * 8),
    "v100": ("ok", [("Tesla V100-SXM2-16GB", (7, 0), 16384)]),
    "driver-mismatch": (MISMATCH, []),
    "driver-not-loaded": ("the NVIDIA kernel driver is not loaded", []),
    "no-permission": (
        "no permission to use the NVIDIA driver (is /dev/nvidiactl readable for this user?)",
        [],
    ),
    "no-card": ("the NVIDIA driver lists no GPU", []),
    "one-of-two-lost": (
        "GPU 1 cannot be read: the GPU is lost: the driver can no longer reach it",
        [("Tesla T4", (7, 5), 15360)],
    ),
    "gpu-lost": ("ok", [("Tesla T4", (7, 5), 15360)]),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_a_named_machine_reads_as_expected(name: str, tmp_path: Path) -> None:
    status, cards = EXPECTED[name]
    found = machine(name).detect(tmp_path)
    assert found.gpu_status == status
    assert [
        (gpu.name, gpu.compute_capability, gpu.memory_total_bytes // MIB) for gpu in found.gpus
    ] == cards


def test_every_named_machine_is_expected_somewhere() -> None:
    assert set(MACHINES) == {*EXPECTED, "driver-hangs"}


def test_versions_uuids_and_free_memory(tmp_path: Path) -> None:
    found = machine("2xt4").detect(tmp_path)
    assert found.driver_version == "550.90.07"
    assert found.cuda_driver_version == (12, 4)
    assert [gpu.uuid for gpu in found.gpus] == [uuid(0), uuid(1)]
    assert [gpu.memory_free_bytes for gpu in found.gpus] == [(15360 - 105) * MIB] * 2
    assert not any(gpu.mig for gpu in found.gpus)


def test_cuda_visible_devices_chooses_among_the_cards(tmp_path: Path) -> None:
    found = machine("8xh100").detect(tmp_path, CUDA_VISIBLE_DEVICES=f"5,{uuid(2)}")
    assert [gpu.index for gpu in found.gpus] == [5, 2]
    hidden = machine("2xt4").detect(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert hidden.gpus == ()
    assert hidden.gpu_status == "CUDA_VISIBLE_DEVICES='' hides all 2 GPUs of this machine"
    assert hidden.driver_version == "550.90.07"


def test_cuda_visible_devices_chooses_a_mig_slice(tmp_path: Path) -> None:
    found = machine("h100-mig").detect(tmp_path, CUDA_VISIBLE_DEVICES=mig_uuid(0, 3))
    assert [(gpu.uuid, gpu.mig) for gpu in found.gpus] == [(mig_uuid(0, 3), True)]


def test_a_driver_that_does_not_answer_is_given_up_on(tmp_path: Path) -> None:
    with no_hang():
        status = machine("driver-hangs").run(
            tmp_path,
            "import json; from launcher.hardware.detect import detect\n"
            "print(json.dumps(detect(timeout_s=0.3).gpu_status))",
        )
    assert status == "the NVIDIA driver did not answer within 0.3 s"


PROBE = """
import json, os, pathlib
from launcher.hardware.nvml import open_nvml, Unavailable
now = 0.0
nvml = open_nvml(clock=lambda: now)
def show(answer):
    return {"unavailable": answer.reason} if isinstance(answer, Unavailable) else answer
def script(text):
    pathlib.Path(os.environ["QLAUNCH_TEST_NVML"]).write_text(text)
"""


def test_process_memory_is_summed_over_cards(tmp_path: Path) -> None:
    cards = (  # two cards that share process 7; process 9 has no figure
        Card("A", (8, 0), 100, processes={7: 10, 8: 1}),
        Card("B", (8, 0), 100, processes={7: 20, 9: -1}),
    )
    box = machine("2xt4", cards=cards)
    answer = box.run(tmp_path, PROBE + "print(json.dumps(nvml.process_memory()))")
    assert answer == {"7": 30, "8": 1, "9": None}


def test_device_used_by_uuid(tmp_path: Path) -> None:
    box = machine("h100-mig")
    answer = box.run(tmp_path, PROBE + "print(json.dumps(nvml.device_used()))")
    assert answer == {uuid(0): 4 * MIB}


def test_an_old_driver_answers_version_2_of_the_process_call(tmp_path: Path) -> None:
    card = Card("A", (7, 5), 100, processes={7: 10})
    call = "nvmlDeviceGetComputeRunningProcesses_v3"
    box = machine("t4", cards=(card,), orders=(f"fail|{call}|13",))
    assert box.run(tmp_path, PROBE + "print(json.dumps(nvml.process_memory()))") == {"7": 10}


def test_a_card_in_mig_mode_that_may_not_be_asked_is_asked_slice_by_slice(tmp_path: Path) -> None:
    slices = (
        Slice("slice", 100, processes={7: 10}),
        Slice("slice", 100, processes={7: 5, 8: 2}),
    )
    card = Card("H100", (9, 0), 200, mig=1, slices=slices)
    order = "fail_whole|0|nvmlDeviceGetComputeRunningProcesses_v3|4"
    box = machine("h100-mig", cards=(card,), orders=(order,))
    assert box.run(tmp_path, PROBE + "print(json.dumps(nvml.process_memory()))") == {
        "7": 15,
        "8": 2,
    }


@pytest.mark.parametrize("code", [3, 4, 13, 15, 17, 999, 31])
def test_any_error_is_a_reason_and_never_zero(tmp_path: Path, code: int) -> None:
    calls = ("ComputeRunningProcesses_v3", "ComputeRunningProcesses_v2", "MemoryInfo")
    box = machine("t4", orders=tuple(f"fail|nvmlDeviceGet{call}|{code}" for call in calls))
    answer = box.run(
        tmp_path,
        PROBE + "print(json.dumps([show(nvml.process_memory()), show(nvml.device_used())]))",
    )
    assert all(set(part) == {"unavailable"} and part["unavailable"] for part in answer)


def test_a_card_whose_memory_cannot_be_read_is_reported(tmp_path: Path) -> None:
    box = machine("t4", orders=("fail|nvmlDeviceGetMemoryInfo|3",))
    found = box.detect(tmp_path)
    assert found.gpus == ()
    assert found.gpu_status == (
        "GPU 0 cannot be read: the driver does not support this question for this card"
    )


def test_unknown_versions_are_none(tmp_path: Path) -> None:
    orders = ("fail|nvmlSystemGetDriverVersion|999", "fail|nvmlSystemGetCudaDriverVersion_v2|999")
    found = machine("t4", orders=orders).detect(tmp_path)
    assert (found.driver_version, found.cuda_driver_version) == (None, None)
    assert found.gpu_status == "ok"


def test_a_gpu_lost_in_mid_run_is_unavailable_and_comes_back_sparingly(tmp_path: Path) -> None:
    good = machine("t4").script()
    lost = good + "fail_card|0|*|15\n"
    answer = machine("t4").run(
        tmp_path,
        PROBE
        + f"good, lost = {good!r}, {lost!r}\n"
        + """
seen = [show(nvml.device_used())]
script(lost); seen.append(show(nvml.device_used()))
script(good); seen.append(show(nvml.device_used()))       # not asked again yet
script(lost); now = 31.0; seen.append(show(nvml.device_used()))
script(good); now = 60.0; seen.append(show(nvml.device_used()))  # the second wait is longer
now = 200.0; seen.append(show(nvml.device_used()))
print(json.dumps(seen))
""",
    )
    used = {uuid(0): 105 * MIB}
    gone = {"unavailable": "the GPU is lost: the driver can no longer reach it"}
    still = {"unavailable": f"GPU 0 cannot be read: {gone['unavailable']}"}
    assert answer[0] == used
    assert answer[1] == answer[2] == gone
    assert answer[3] == answer[4] == still
    assert answer[5] == used


def test_a_driver_unloaded_in_mid_run_is_unavailable(tmp_path: Path) -> None:
    good = machine("t4").script()
    answer = machine("t4").run(
        tmp_path,
        PROBE
        + f"script({good!r} + 'fail|nvmlDeviceGetMemoryInfo|1\\nfail|nvmlInitWithFlags|18\\n')\n"
        + "seen = [show(nvml.device_used())]\nnow = 40.0\nseen.append(show(nvml.device_used()))\n"
        + "now = 50.0\nseen.append(show(nvml.device_used()))\nnvml.close()\n"
        + "print(json.dumps(seen))",
    )
    assert answer[0]["unavailable"].startswith("NVML error 1")
    assert answer[1] == answer[2] == {"unavailable": MISMATCH}


@pytest.mark.skipif(
    ctypes.util.find_library("nvidia-ml") is not None, reason="there is a driver here"
)
def test_without_a_driver_nothing_is_opened() -> None:
    assert open_nvml() == Unavailable("no NVIDIA driver: libnvidia-ml.so.1 is not installed")


def test_a_file_that_is_no_library_is_named(tmp_path: Path) -> None:
    box = machine("t4")
    (tmp_path / "libnvidia-ml.so.1").write_text("not a library")
    env_path = str(tmp_path)
    reason = box.run(
        tmp_path,
        "import json; from launcher.hardware.nvml import open_nvml\n"
        "print(json.dumps(open_nvml().reason))",
        LD_LIBRARY_PATH=env_path,
    )
    assert reason.startswith("the NVIDIA driver's library cannot be loaded: ")


class TestBoundedCaller:
    def test_it_returns_results_and_raises_errors(self) -> None:
        caller = BoundedCaller()
        assert caller.call(lambda: 5, 1.0) == 5
        with pytest.raises(KeyError):
            caller.call(lambda: dict[str, int]()["absent"], 1.0)
        assert caller.call(lambda: None, 1.0) is None
        caller.close()

    def test_a_call_that_hangs_is_left_behind_and_its_late_result_dropped(self) -> None:
        caller, gate = BoundedCaller(), threading.Event()
        with pytest.raises(TimeoutError):
            caller.call(lambda: gate.wait(HANG_S), 0.02)
        with no_hang(), pytest.raises(TimeoutError):
            caller.call(lambda: 1, HANG_S)
        gate.set()
        for _ in range(200):
            try:
                assert caller.call(lambda: "fresh", 1.0) == "fresh"
                break
            except TimeoutError:
                time.sleep(0.005)
        else:
            pytest.fail("the caller never became free again")
        caller.close()

    def test_it_counts_cpu_time(self) -> None:
        caller = BoundedCaller()
        caller.call(lambda: sum(range(300_000)), 5.0)
        assert 0 < caller.spent_s < 5
        caller.close()


def test_a_container_without_utility_is_told_so_and_not_that_there_is_no_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tmp_path / "version"
    monkeypatch.setattr(nvml, "KERNEL_PART", loaded)
    monkeypatch.setattr(nvml, "LIBRARY", "libnvidia-ml-of-nowhere.so.1")
    without = open_nvml()
    loaded.write_text("NVRM version: 580.95.05")
    within = open_nvml()
    assert isinstance(without, Unavailable)
    assert isinstance(within, Unavailable)
    assert without.reason.startswith("no NVIDIA driver")
    assert within.reason.startswith("the NVIDIA driver's kernel part is loaded")
    assert nvml.remedy(without.reason) is None
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in (nvml.remedy(within.reason) or "")


@pytest.mark.parametrize(("code", "said"), [(999, "in a container: start it again"), (17, "WSL")])
def test_what_nvml_fails_with_in_containers_and_under_wsl_has_a_remedy(
    code: int, said: str, tmp_path: Path
) -> None:
    found = machine("t4", orders=(f"fail|nvmlInitWithFlags|{code}",)).detect(tmp_path)
    assert found.gpus == ()
    assert "NVML error" not in found.gpu_status
    assert said in (nvml.remedy(found.gpu_status) or "")
