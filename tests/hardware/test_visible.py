"""CUDA_VISIBLE_DEVICES as CUDA reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.hardware.inventory import Gpu, MigDevice
from launcher.hardware.visible import usable_gpus, visible_gpus


def gpu(index: int, uuid: str, slices: tuple[str, ...] = (), *, mig: bool = False) -> Gpu:
    return Gpu(
        index=index,
        uuid=uuid,
        name="card",
        compute_capability=(9, 0),
        memory_total_bytes=80,
        memory_free_bytes=70,
        mig=mig or bool(slices),
        mig_devices=tuple(
            MigDevice(uuid=part, name="slice", memory_total_bytes=10, memory_free_bytes=9)
            for part in slices
        ),
    )


THREE = (gpu(0, "GPU-aaa1"), gpu(1, "GPU-aaa2"), gpu(2, "GPU-bbb1"))
MIG = (gpu(0, "GPU-full"), gpu(1, "GPU-cut", ("MIG-one", "MIG-two")))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, [0, 1, 2]),
        ("0", [0]),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("", []),
        ("-1", []),
        ("none", []),
        ("NoDevFiles", []),
        ("0,-1,2", [0]),
        ("0,7,2", [0]),
        ("0,,2", [0]),
        ("1gpu,2x", [1, 2]),
        ("+1", [1]),
        ("0,0", []),
        ("1,2,1", []),
        ("GPU-bbb1", [2]),
        ("GPU-b", [2]),
        ("GPU-aaa2,GPU-aaa1", [1, 0]),
        ("GPU-aaa", []),
        ("GPU-zzz", []),
        ("GPU-bbb1,0", [2, 0]),
        ("gpu-bbb1", []),
        ("9" * 5000, []),
    ],
)
def test_indices_and_uuids(value: str | None, shown: list[int]) -> None:
    assert [found.index for found in visible_gpus(THREE, value)] == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, ["MIG-one"]),
        ("0", ["GPU-full"]),
        ("1", ["MIG-one"]),
        ("MIG-two", ["MIG-two"]),
        ("MIG-tw", ["MIG-two"]),
        ("MIG-", []),
        ("GPU-cut", ["MIG-one"]),
        ("MIG-two,MIG-one", ["MIG-two"]),
        ("0,MIG-one", ["MIG-one"]),
        ("MIG-none", []),
    ],
)
def test_a_process_gets_one_mig_slice(value: str | None, shown: list[str]) -> None:
    assert [found.uuid for found in visible_gpus(MIG, value)] == shown


def test_a_slice_has_its_own_memory() -> None:
    (part,) = visible_gpus(MIG, "MIG-two")
    assert (part.memory_total_bytes, part.memory_free_bytes, part.mig) == (10, 9, True)
    assert (part.index, part.name, part.mig_devices) == (1, "slice", ())


def test_a_card_in_mig_mode_without_slices_shows_nothing() -> None:
    assert visible_gpus((gpu(0, "GPU-cut", mig=True),), None) == ()
    assert visible_gpus((gpu(0, "GPU-cut", mig=True),), "0") == ()


def test_a_chosen_slice_stays_visible_when_asked_again() -> None:
    once = visible_gpus(MIG, "MIG-two")
    assert visible_gpus(once, None) == once


@given(st.text(alphabet="0123,-+ GPUMIG-ab1", max_size=30))
def test_any_text_shows_known_cards_once_each(value: str) -> None:
    shown = visible_gpus(THREE, value)
    assert len({found.uuid for found in shown}) == len(shown)
    assert set(shown) <= set(THREE)


def test_an_engine_may_be_given_any_slice_where_nobody_chose_one() -> None:
    every = [found.uuid for found in usable_gpus(MIG, None)]
    assert every == ["GPU-full", "MIG-one", "MIG-two"]
    assert usable_gpus(MIG, "1") == visible_gpus(MIG, "1")
    assert usable_gpus(THREE, None) == THREE
