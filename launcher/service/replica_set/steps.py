"""How a set becomes another one while it serves: which replica is begun, replaced, ended, and when.
Pure.

New ones first, then those that run something else, one after another, then those that leave: at no
time fewer serve than the smaller of the two numbers less one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.documents.plan import Plan
from launcher.service.replica_set.naming import replica_plan, runs_the_same

Kind = Literal["begin", "replace", "end"]


@dataclass(frozen=True, slots=True)
class Step:
    """One replica that changes."""

    kind: Kind
    number: int
    """From 1."""
    plan: Plan | None = None
    """What it runs from then on; None for one that leaves."""


def steps(
    running: Sequence[Plan], plan: Plan, *, afresh: bool, given_up: Sequence[int] = ()
) -> list[Step]:
    """The steps from what runs to `plan`.

    Args:
        running: what the replicas run now, by number.
        plan: of the set to be.
        afresh: whether those that would run the same are started again too.
        given_up: numbers of replicas that do not run any more: they are begun again in any case.
    """
    assert plan.replica_set is not None
    count = plan.replica_set.count
    wanted = {number: replica_plan(plan, number) for number in range(1, count + 1)}
    begin = [Step("begin", number, wanted[number]) for number in range(len(running) + 1, count + 1)]
    replace = [
        Step("replace", number, wanted[number])
        for number, before in enumerate(running[:count], 1)
        if afresh or number in given_up or not runs_the_same(before, wanted[number])
    ]
    end = [Step("end", number) for number in range(len(running), count, -1)]
    return [*begin, *replace, *end]
