"""Processors as /proc/cpuinfo prints them, and what the environment hides of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.doctor import host
from launcher.hardware import isa
from launcher.hardware.cpu import under
from launcher.service.supervisor.engine_environment import allowed
from launcher.verify import reference
from tests.processors import FOLDER, PROCESSORS, cpu

AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2"}


def test_every_text_is_of_a_processor_in_the_table() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(PROCESSORS)


@pytest.mark.parametrize(("name", "known"), PROCESSORS.items())
def test_what_a_processor_computes(name: str, known: Any, tmp_path: Path) -> None:
    found = cpu(name, tmp_path)
    assert (found.computes_bf16, found.computes_int8) == (known.bf16, known.int8)
    assert found.vector_kernels == known.vectors
    assert (found.hidden, found.masks) == ((), ())
    assert found.machine == known.machine
    assert found.model != "unknown"
    if known.machine == "aarch64":  # its kernel prints no name
        assert found.model.startswith("Arm implementer 0x41 part 0xd")


@pytest.mark.parametrize(
    ("level", "bf16", "int8", "vectors"),
    [
        ("SSE41", False, False, False),
        ("AVX", False, False, False),
        ("AVX2", False, False, True),
        ("avx2", False, False, True),
        ("AVX2_VNNI", False, True, True),
        ("AVX2_VNNI_2", False, True, True),
        ("AVX512_CORE", False, False, True),
        ("AVX512_CORE_VNNI", False, True, True),
        ("AVX512_CORE_BF16", True, True, True),
        ("AVX512_CORE_FP16", True, True, True),
        ("AVX512_CORE_AMX", True, True, True),
        ("AVX512_CORE_AMX_FP16", True, True, True),
        ("AVX10_1_512", True, True, True),
        ("DEFAULT", True, True, True),
        ("ALL", True, True, True),
        ("", True, True, True),
        ("no such level", True, True, True),
    ],
)
@pytest.mark.parametrize("variable", isa.ONEDNN)
def test_each_level_leaves_what_onednn_uses_at_it(
    variable: str, level: str, bf16: bool, int8: bool, vectors: bool, tmp_path: Path
) -> None:
    whole = cpu("sapphire-rapids", tmp_path)  # it has every instruction set that is asked about
    found = cpu("sapphire-rapids", tmp_path, {variable: level})
    assert (found.computes_bf16, found.computes_int8) == (bf16, int8)
    assert found.vector_kernels == vectors
    assert set(found.flags) | set(found.hidden) == set(whole.flags)
    assert not set(found.flags) & set(found.hidden)
    assert found.masks == ((f"{variable}={level}",) if found.hidden else ())


def test_the_newer_name_wins_and_an_empty_one_does_not_count(tmp_path: Path) -> None:
    both = {"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"}
    assert cpu("zen4", tmp_path, both).computes_bf16
    assert not cpu("zen4", tmp_path, both | {"ONEDNN_MAX_CPU_ISA": ""}).computes_bf16


def test_a_mask_that_hides_nothing_is_not_told_of(tmp_path: Path) -> None:
    for name in ("zen3", "broadwell", "kvm64"):
        found = cpu(name, tmp_path, AVX2 | {"ATEN_CPU_CAPABILITY": "avx2"})
        assert (found.hidden, found.masks) == ((), ())
        assert found == cpu(name, tmp_path)


@pytest.mark.parametrize("name", ["graviton2", "graviton3"])
def test_levels_of_x86_hide_nothing_of_an_arm_processor(name: str, tmp_path: Path) -> None:
    assert cpu(name, tmp_path, AVX2) == cpu(name, tmp_path)


@pytest.mark.parametrize(
    ("value", "told"), [("avx2", True), ("default", True), ("avx512", False), ("AVX2", False)]
)
def test_pytorch_s_own_mask_leaves_bfloat16_which_is_onednn_s(
    value: str, told: bool, tmp_path: Path
) -> None:
    found = cpu("zen4", tmp_path, {"ATEN_CPU_CAPABILITY": value})
    assert found.computes_bf16
    assert found.masks == ((f"ATEN_CPU_CAPABILITY={value}",) if told else ())


def test_a_program_with_variables_of_its_own_sees_less(tmp_path: Path) -> None:
    whole = cpu("zen4", tmp_path)
    assert under(whole, {"OMP_NUM_THREADS": "2"}) is whole
    assert under(whole, AVX2) == cpu("zen4", tmp_path, AVX2)
    twice = under(under(whole, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}), AVX2)
    assert twice.flags == cpu("zen4", tmp_path, AVX2).flags
    assert "avx512_bf16" in twice.hidden


@pytest.mark.parametrize("name", [*isa.ONEDNN, isa.ATEN, "MKL_ENABLE_INSTRUCTIONS"])
def test_what_hides_instruction_sets_reaches_the_engine_and_the_reference(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "AVX2")
    assert allowed(name)
    assert reference.worker_environment({})[name] == "AVX2"
    assert reference.worker_environment({name: "AVX"})[name] == "AVX"  # the plan's comes on top


def test_doctor_says_what_is_masked_and_how_to_undo_it(tmp_path: Path) -> None:
    cpu("zen4", tmp_path)
    both = AVX2 | {"ATEN_CPU_CAPABILITY": "avx2"}
    found = {
        finding.name: finding for finding in host.cpu_findings(tmp_path, affinity=2, environ=both)
    }["cpu"]
    assert found.status == "warning"
    assert "no bfloat16 arithmetic" in found.message
    masks = "masked by ONEDNN_MAX_CPU_ISA=AVX2 and ATEN_CPU_CAPABILITY=avx2"
    assert found.message.endswith(masks)
    assert found.fix == "unless that is meant: unset ONEDNN_MAX_CPU_ISA ATEN_CPU_CAPABILITY"
