"""Several fronts take the memory of as many processes, and of as many clients' requests."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.documents.plan import MemoryPrediction
from launcher.plan import option_terms
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs
from tests.samples import GIB, gpu, machine


def _predicted(count: str) -> MemoryPrediction:
    return make_plan(inputs(extra=("--tokenizer-worker-num", count))).predicted


@pytest.mark.parametrize(("count", "measured"), [(2, 1_373_273_088), (3, 1_702_349_824)])
def test_each_of_them_is_predicted(count: int, measured: int) -> None:
    """751 MB were predicted for either; the figures are those of MiniLM's whole tree."""
    ram = _predicted(str(count)).ram_bytes
    assert ram is not None
    assert measured <= ram <= 1.05 * measured


def test_each_holds_as_many_requests_as_the_guard_lets_in() -> None:
    def requests(count: str) -> int:
        return sum(t.bytes for t in _predicted(count).terms if t.kind == "requests")

    assert requests("3") == 3 * requests("1")
    assert (
        _predicted("1").terms == make_plan(inputs(flags={option_terms.FRONTS: 1})).predicted.terms
    )


def test_one_front_is_the_first_process_itself() -> None:
    assert [
        option_terms.fronts({option_terms.FRONTS: given}) for given in (0, 1, 2, "2", True)
    ] == [0, 0, 2, 0, 0]
    assert not any(term.kind == "options" for term in _predicted("1").terms)


def test_a_card_s_ram_is_not_predicted_by_a_cpu_s_figures() -> None:
    hardware = machine(gpus=(gpu("NVIDIA A10", (8, 6), 24 * GIB),))
    plan = make_plan(inputs(hardware=hardware, release="cuda13", flags={option_terms.FRONTS: 2}))
    assert not any(term.kind == "options" for term in plan.predicted.terms)


@pytest.mark.parametrize(
    "wanted", [{"flags": {"enable-torch-compile": True}}, {"extra": ("--enable-torch-compile",)}]
)
def test_imports_that_are_wanted_after_all_are_counted(wanted: dict[str, Any]) -> None:
    """661 MB were predicted, and 815 measured."""
    ram, without = make_plan(inputs(**wanted)).predicted.ram_bytes, make_plan(inputs()).predicted
    assert ram is not None
    assert without.ram_bytes is not None
    assert ram - without.ram_bytes == option_terms.IMPORTS_BYTES
    assert 815_000_000 <= ram + 30_000_000 <= 1.1 * 815_000_000


def test_a_backend_that_compiles_is_counted() -> None:
    """611 MB were predicted, and 652 measured."""
    ram = make_plan(
        inputs(flags={"decode-attention-backend": "flex_attention"})
    ).predicted.ram_bytes
    without = make_plan(inputs()).predicted.ram_bytes
    assert ram is not None
    assert without is not None
    assert ram - without == option_terms.IMPORTS_BYTES
