"""Cards by the names people say, and machines one does not sit at."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.errors import QlaunchError
from launcher.hardware.cards import bare_name, find_card, hypothetical, known_cards
from tests.samples import GIB, gpu, machine

MIB = 1 << 20


@pytest.mark.parametrize(
    ("said", "card"),
    [
        ("T4", "T4"),
        ("tesla t4", "T4"),
        ("rtx3060", "RTX 3060"),
        ("3060", "RTX 3060"),
        ("1660 ti", "GTX 1660 Ti"),
        ("NVIDIA A10G", "A10G"),
        ("A10", "A10"),
        ("A100-SXM4-80GB", "A100"),
        ("NVIDIA GeForce RTX 3050 Laptop GPU", "RTX 3050"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "H100"),
        ("Tesla V100-SXM2-16GB", "V100"),
        ("Tesla P100-PCIE-16GB", "P100"),
        ("MX450 2 GB", "MX450"),
        ("Quadro RTX 4000", "Quadro RTX 4000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "RTX PRO 6000"),
        ("NVIDIA GeForce GTX 1650 with Max-Q Design", "GTX 1650"),
        ("NVIDIA H100 NVL", "H100"),
        ("5070 Ti", "RTX 5070 Ti"),
    ],
)
def test_names_are_read_loosely(said: str, card: str) -> None:
    assert find_card(said).name == card


@pytest.mark.parametrize(
    ("said", "near"), [("RTX 3061", "RTX 3060"), ("T5", "T4"), ("A10000", "A100")]
)
def test_an_unknown_card_names_the_nearest(said: str, near: str) -> None:
    with pytest.raises(QlaunchError, match=rf"did you mean .*\b{near}\b") as caught:
        find_card(said)
    assert (caught.value.code, caught.value.exit_code) == ("gpu_unknown", 2)


@pytest.mark.parametrize("said", ["", "   ", "GPU", "NVIDIA", "\x1b[31m", "т4"])
def test_what_is_no_name_is_an_unknown_card(said: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        find_card(said)
    assert caught.value.code == "gpu_unknown"
    assert "\x1b" not in caught.value.message


@given(st.text(max_size=60))
def test_any_text_is_a_card_or_an_error_of_ours(text: str) -> None:
    with contextlib.suppress(QlaunchError):
        assert find_card(text).name


def test_bare_names_are_unique() -> None:
    assert len(known_cards()) == len({card.name for card in known_cards().values()})
    assert all(bare_name(card.name) == key for key, card in known_cards().items())


def test_a_machine_with_another_card() -> None:
    here = machine(gpus=(gpu(), gpu()))
    found = hypothetical("A100 80GB", None, here)
    (card,) = found.gpus
    assert (card.name, card.compute_capability) == ("A100", (8, 0))
    assert card.memory_total_bytes == 81_920 * MIB
    assert card.memory_free_bytes is None
    assert found.gpu_status == "ok"
    assert found.cpu == here.cpu
    assert found.driver_version == "580"
    assert any("driver is taken as new enough" in said for said in found.assumed)
    assert not here.assumed


def test_a_card_known_by_its_memory_alone() -> None:
    found = hypothetical(None, 4 * GIB, machine())
    assert found.gpus[0].memory_total_bytes == 4 * GIB
    assert found.gpus[0].compute_capability == (8, 6)
    assert any("8.6" in said for said in found.assumed)


def test_memory_given_outright_goes_before_the_cards_own() -> None:
    assert hypothetical("T4", 8 * GIB, machine()).gpus[0].memory_total_bytes == 8 * GIB


def test_a_driver_that_is_given_is_no_assumption() -> None:
    found = hypothetical("L4", None, machine(), driver="535.183.01")
    assert found.driver_version == "535.183.01"
    assert not any("driver" in said for said in found.assumed)


def test_a_driver_alone_keeps_the_machines_own_cards() -> None:
    found = hypothetical(None, None, machine(gpus=(gpu(),)), driver="535")
    assert [card.name for card in found.gpus] == ["Tesla T4"]
    without = hypothetical(None, None, machine(), driver="535")
    assert (without.gpus, without.gpu_status) == ((), machine().gpu_status)


@pytest.mark.parametrize("driver", ["", "new", "12.8", "5350", "535;", "535.1.2.3.4"])
def test_a_driver_that_is_no_version_is_refused(driver: str) -> None:
    with pytest.raises(QlaunchError) as caught:
        hypothetical("T4", None, machine(), driver=driver)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("name", "vram"), [("RTX 3060 99GB", None), ("T4", 17)])
def test_a_size_that_no_card_has_is_refused(name: str, vram: int | None) -> None:
    with pytest.raises(QlaunchError) as caught:
        hypothetical(name, vram, machine())
    assert (caught.value.code, caught.value.exit_code) == ("usage", 2)
