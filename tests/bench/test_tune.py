"""The search: what it tries, what it keeps, what it never does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.bench.compare import Comparing, Course, Header
from launcher.bench.tune import Aim, Dimension, Overlay, Search, Trial, beats, measured
from launcher.documents.comparison import Level
from tests.bench.scripted import MANY, Scripted, ScriptedTools, row


def by_life(rates: list[float]) -> Callable[[int, Level], float]:
    return lambda life, _level: rates[life - 1]


def option(name: str, value: int) -> Overlay:
    return Overlay(flags={name: value})


@st.composite
def spaces(draw: st.DrawFn) -> tuple[list[Dimension], dict[str, float], set[str]]:
    """Dimensions, a factor for each option, and the options that do not fit."""
    dimensions, factors, refused = [], {}, set()
    for number in range(draw(st.integers(0, 4))):
        options = []
        for value in range(draw(st.integers(1, 4))):
            each = option(f"d{number}", value)
            options.append(each)
            factors[each.words] = draw(st.floats(0.2, 3.0))
            if draw(st.booleans()):
                refused.add(each.words)
        dimensions.append(Dimension(f"d{number}", tuple(options)))
    return dimensions, factors, refused


@given(spaces(), st.integers(1, 8), st.one_of(st.none(), st.floats(10, 3000)))
@settings(max_examples=150, deadline=None)
def test_never_what_does_not_fit_and_never_worse_than_the_default(
    space: tuple[list[Dimension], dict[str, float], set[str]], trials: int, limit: float | None
) -> None:
    dimensions, factors, refused = space
    aim = Aim(limit)

    def evaluate(overlay: Overlay) -> Trial:
        parts = [option(name, value).words for name, value in overlay.flags.items()]  # type: ignore[arg-type]
        if any(part in refused for part in parts):
            return Trial(overlay=overlay, outcome="refused", reason="it does not fit")
        rate = 10.0
        for part in parts:
            rate *= factors[part]
        return Trial(overlay=overlay, outcome="measured", row=row("x", MANY, rate))

    def may_go_on(done: Any) -> str | None:
        return "enough" if len(done) >= trials else None

    search = Search(evaluate, aim, may_go_on)
    best = search.run(dimensions)
    assert best is not None
    assert best.row is not None
    assert best.outcome == "measured"
    assert not {option(n, v).words for n, v in best.overlay.flags.items()} & refused  # type: ignore[arg-type]
    default = search.trials[0]
    assert default.row is not None
    assert aim.score(best.row) >= aim.score(default.row)
    assert len(search.trials) <= max(trials, 1)
    tried = [trial.overlay for trial in search.trials]
    assert len(tried) == len({each.words for each in tried})


def test_each_dimension_goes_on_from_the_best_so_far() -> None:
    rates = {"as it is": 10.0, "a 1": 20.0, "a 2": 15.0, "a 1, b 1": 5.0, "a 1, b 2": 30.0}
    asked = []

    def evaluate(overlay: Overlay) -> Trial:
        asked.append(overlay.words)
        return Trial(overlay=overlay, outcome="measured", row=row("x", MANY, rates[overlay.words]))

    best = Search(evaluate).run(
        [
            Dimension("a", (option("a", 1), option("a", 2))),
            Dimension("b", (option("b", 1), option("b", 2))),
        ]
    )
    assert asked == list(rates)
    assert best is not None
    assert best.overlay.words == "a 1, b 2"


def test_a_little_better_is_noise() -> None:
    def evaluate(overlay: Overlay) -> Trial:
        rate = 10.2 if overlay.flags else 10.0
        return Trial(overlay=overlay, outcome="measured", row=row("x", MANY, rate))

    best = Search(evaluate).run([Dimension("a", (option("a", 1),))])
    assert best is not None
    assert best.overlay == Overlay()


def test_a_limit_comes_before_speed() -> None:
    slow, quick = row("x", MANY, 10.0, p95_ms=90.0), row("x", MANY, 100.0, p95_ms=400.0)
    assert Aim().better(quick, slow)
    assert Aim(100.0).better(slow, quick)
    assert Aim(500.0).better(quick, slow)
    both = row("x", MANY, 1.0, p95_ms=300.0)
    assert Aim(100.0).better(both, quick)  # neither keeps it: the nearer one


def test_without_the_default_there_is_no_search() -> None:
    search = Search(lambda o: Trial(overlay=o, outcome="failed", reason="it died"))
    assert search.run([Dimension("a", (option("a", 1),))]) is None
    assert len(search.trials) == 1


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "measured"),
        ({"outcome": "cannot_run"}, "refused"),
        ({"fails": lambda _life: "smoke failed: parity"}, "failed"),
    ],
    ids=["measured", "refused", "wrong"],
)
def test_what_comes_of_a_candidate(changes: dict[str, Any], outcome: str) -> None:
    events: list[str] = []
    contender = Scripted("x", events, **changes)
    trial = measured(Overlay(), contender, MANY, ScriptedTools([contender], events))
    assert trial.outcome == outcome
    assert (trial.row is None) == (outcome != "measured")
    assert (trial.reason is None) == (outcome == "measured")
    assert events.count("start x") == events.count("stop x") == (outcome != "refused")


def test_an_interrupted_candidate_is_stopped() -> None:
    events: list[str] = []
    contender = Scripted("x", events)
    with pytest.raises(KeyboardInterrupt):
        measured(Overlay(), contender, MANY, ScriptedTools([contender], events, interrupt_at=1))
    assert events[-1] == "stop x"


@pytest.mark.parametrize(
    ("default", "pick", "wins"),
    [
        ([10.0, 11.0], [12.0, 13.0], True),
        ([10.0, 12.5], [12.0, 13.0], False),
        ([10.0, 11.0], [9.0, 30.0], False),
    ],
)
def test_a_pick_wins_only_in_every_repeat(
    default: list[float], pick: list[float], wins: bool
) -> None:
    events: list[str] = []
    rates = {"p": default, "p-tuned": pick}
    made = [Scripted(name, events, rate=by_life(seen)) for name, seen in rates.items()]
    found = Comparing(
        made,
        Course((MANY,), 2, again=False),
        Header(id="t", made="2026-01-01T00:00:00Z"),
        ScriptedTools(made, events),
    ).run()
    assert beats(found, "p-tuned", "p", Aim()) is wins
