"""Comparisons: order, failures, interrupts, the winner, and the verdict in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher.bench import store, verdict
from launcher.bench.compare import Comparing, Course, Header, failed
from launcher.bench.plain import plain_argv, plain_environment
from launcher.documents.comparison import Comparison, Level, Quality, Row
from tests.bench.scripted import MANY, ONE, Scripted, ScriptedTools

GOOD = Quality(cosine_mean=0.9999, cosine_min=0.9998, recall_at_10=0.48)
WRONG = Quality(cosine_mean=0.6, cosine_min=0.44, recall_at_10=0.2)


def compare(
    contenders: list[Scripted],
    events: list[str],
    *,
    levels: tuple[Level, ...] = (ONE, MANY),
    repeats: int = 3,
    course: dict[str, Any] | None = None,
    seen: list[Comparison] | None = None,
    **tools: Any,
) -> Comparison:
    comparing = Comparing(
        contenders,
        Course(levels, repeats, **(course or {})),
        Header(id="c", made="2026-01-01T00:00:00Z"),
        ScriptedTools(contenders, events, **tools),
        write=(seen if seen is not None else []).append,
        idle=lambda: 0.9,
    )
    return comparing.run()


def always(rate: float) -> Callable[[int, Level], float]:
    return lambda _life, _level: rate


def three(events: list[str], **changes: Any) -> list[Scripted]:
    rates = {"a": 60.0, "b": 50.0, "c": 8.0}
    made = [Scripted(n, events, rate=always(r)) for n, r in rates.items()]
    for name, change in changes.items():
        each = next(one for one in made if one.name == name)
        for key, value in change.items():
            setattr(each, key, value)
    return made


def test_modes_take_turns_and_the_order_turns_round() -> None:
    events: list[str] = []
    found = compare(three(events), events)
    starts = [event.removeprefix("start ") for event in events if event.startswith("start")]
    assert starts == ["a", "b", "c", "c", "b", "a", "a", "b", "c", "a"]  # the winner once more
    assert found.complete
    assert [mode.outcome for mode in found.modes] == ["measured"] * 3
    assert found.winner == "a"
    assert found.remeasured is not None
    assert (found.remeasured.first, found.remeasured.again) == (60.0, 60.0)
    assert found.modes[0].runs == ("run-a-1", "run-a-2", "run-a-3", "run-a-4")
    assert found.machine.idle_before == 0.9


def test_one_at_a_time() -> None:
    events: list[str] = []
    compare(three(events), events)
    running: list[str] = []
    for event in events:
        what, _, name = event.partition(" ")
        if what == "start":
            assert running == []
            running.append(name)
        elif what == "stop":
            assert running == [name]
            running.remove(name)
    assert running == []


def test_every_level_is_written_before_the_next() -> None:
    events: list[str] = []
    seen: list[Comparison] = []
    compare(three(events), events, seen=seen)
    measured = [sum(len(mode.rows) for mode in each.modes) for each in seen]
    assert measured == sorted(measured)
    assert set(range(1, 19)) <= set(measured)  # 3 modes, 2 levels, 3 repeats
    assert not any(each.complete for each in seen[:-1])


def test_spreads_and_noise() -> None:
    events: list[str] = []
    noisy = {1: 40.0, 2: 60.0, 3: 50.0}
    made = three(events, b={"rate": lambda life, _level: noisy[life]})
    found = compare(made, events)
    cell = found.modes[1].cells[1]
    assert cell.embeddings_per_s is not None
    assert (cell.embeddings_per_s.median, cell.embeddings_per_s.count) == (50.0, 3)
    assert cell.embeddings_per_s.noisy
    assert any("repeats of b lie more than 15 % apart" in each for each in found.verdict)
    assert any("a and b do not differ beyond the noise" in each for each in found.verdict)
    assert any("a answers 7.5 × as many texts a second as c" in each for each in found.verdict)


def test_a_mode_that_does_not_start_is_not_tried_again() -> None:
    events: list[str] = []
    found = compare(three(events, b={"fails": lambda _life: "out of memory"}), events)
    assert events.count("start b") == 1
    assert found.modes[1].outcome == "failed"
    assert found.modes[1].reason == "out of memory (start_failed); try: try less"
    assert found.modes[1].rows == ()
    assert all(cell.p50_ms is None for cell in found.modes[1].cells)
    assert [mode.name for mode in failed(found)] == ["b"]
    assert found.winner == "a"
    assert found.complete


def test_a_mode_that_fails_in_a_later_repeat_keeps_what_was_measured() -> None:
    events: list[str] = []
    late = {"fails": lambda life: "it died" if life == 2 else None}
    found = compare(three(events, b=late), events)
    assert found.modes[1].outcome == "partial"
    assert len(found.modes[1].rows) == 2
    assert found.modes[1].cells[0].embeddings_per_s is not None


def test_an_engine_that_dies_in_a_level_ends_its_life() -> None:
    events: list[str] = []

    def dies(found: Row) -> Row:
        if found.mode != "b" or found.clients == 1:
            return found
        return msgspec.structs.replace(
            found, errors=5, error="the connection broke off", reason="ended early: it broke off"
        )

    levels = (ONE, MANY, Level(clients=32))
    found = compare(three(events), events, levels=levels, bend=dies)
    assert events.count("level b") == 2
    assert found.modes[1].outcome == "partial"
    assert "5 requests failed: the connection broke off" in str(found.modes[1].reason)
    assert found.modes[1].cells[0].embeddings_per_s is not None
    assert found.modes[1].cells[1].embeddings_per_s is None  # cut short: no figure
    assert found.modes[1].cells[1].errors == 5


def test_a_level_that_is_impossible_for_a_mode_fails_nobody() -> None:
    events: list[str] = []

    def too_long(found: Row) -> Row:
        if found.mode != "b" or found.clients == 1:
            return found
        return msgspec.structs.replace(found, reason="too long", embeddings_per_s=None)

    found = compare(three(events), events, bend=too_long)
    assert found.modes[1].outcome == "measured"
    assert found.modes[1].cells[1].embeddings_per_s is None


def test_what_cannot_run_is_shown_without_a_figure_and_is_no_failure() -> None:
    events: list[str] = []
    found = compare(three(events, b={"outcome": "cannot_run"}), events)
    assert "start b" not in events
    assert found.modes[1].outcome == "cannot_run"
    assert found.modes[1].cells == ()
    assert failed(found) == ()
    assert "b cannot run here: it needs a GPU." in found.verdict


@pytest.mark.parametrize("at", [1, 2, 5, 18, 19])
def test_an_interrupt_anywhere_keeps_what_was_measured(at: int) -> None:
    events: list[str] = []
    seen: list[Comparison] = []
    found = compare(three(events), events, seen=seen, interrupt_at=at)
    assert found.interrupted is not None
    assert not found.complete
    assert found.remeasured is None
    assert seen[-1] == found
    good = [row for mode in found.modes for row in mode.rows if row.reason is None]
    assert len(good) == at - 1
    assert sum(event.startswith("start") for event in events) == sum(
        event.startswith("stop") for event in events
    )
    assert events[-1].startswith("stop")
    if at == 1:
        assert [mode.outcome for mode in found.modes] == ["not_reached"] * 3
    if at == 5:
        assert [mode.outcome for mode in found.modes] == ["partial", "partial", "not_reached"]
    if at == 19:  # while the winner was measured again: the modes are whole
        assert [mode.outcome for mode in found.modes] == ["measured"] * 3


def test_a_second_interrupt_does_not_leave_it_half_stopped() -> None:
    events: list[str] = []
    made = three(events)
    stops: list[int] = []
    orderly = made[0].stop

    def stop() -> Any:
        stops.append(1)
        if len(stops) == 1:
            raise KeyboardInterrupt
        return orderly()

    made[0].stop = stop  # type: ignore[method-assign]
    found = compare(made, events, interrupt_at=1)
    assert len(stops) == 2
    assert found.interrupted == "interrupted during a"


def test_a_stop_that_leaves_something_fails_the_mode() -> None:
    events: list[str] = []
    found = compare(three(events, c={"left": ("process 7 (x)",)}), events)
    assert found.modes[2].outcome == "partial"
    assert found.modes[2].reason == "its stop left process 7 (x)"


def test_wrong_vectors_cannot_win() -> None:
    events: list[str] = []
    made = three(events, a={"quality": WRONG, "kind": "baseline"}, b={"quality": GOOD})
    found = compare(made, events)
    assert found.winner == "b"
    assert any("a cannot win: its vectors are not the model's" in each for each in found.verdict)
    assert any("a is 1.2 × as fast as b" in each for each in found.verdict)
    assert found.modes[0].quality == WRONG


def test_latency_is_decided_by_the_lightest_load() -> None:
    events: list[str] = []
    rates: dict[str, Callable[[int, Level], float]] = {
        "a": lambda _life, level: 10.0 if level.clients == 1 else 100.0,
        "b": lambda _life, level: 20.0 if level.clients == 1 else 50.0,
    }
    made = [Scripted(name, events, rate=rate) for name, rate in rates.items()]
    found = compare(made, events, course={"objective": "latency"})
    assert found.winner == "b"
    assert found.remeasured is not None
    assert (found.remeasured.figure, found.remeasured.again) == ("p50_ms", 50.0)
    assert any("b answers 2.0 × as fast as a" in each for each in found.verdict)


def test_the_winner_measured_again_is_another_figure() -> None:
    events: list[str] = []
    made = three(events, a={"rate": lambda life, _level: 60.0 if life < 4 else 45.0})
    found = compare(made, events)
    assert found.remeasured is not None
    assert found.remeasured.again == 45.0
    assert found.modes[0].cells[1].embeddings_per_s is not None
    assert found.modes[0].cells[1].embeddings_per_s.count == 3  # not mixed with the others
    assert found.verdict[-1] == (
        "Measured again in a fresh life, a gave 45.0 texts/s instead of 60.0 (-25.0%)."
    )


def test_a_machine_that_is_not_clean_is_noted() -> None:
    events: list[str] = []
    found = compare(three(events), events, notes=["1.00 GB of RAM less are available"])
    assert found.notes == ("before a: 1.00 GB of RAM less are available",)


def test_one_repeat_says_that_noise_is_not_known() -> None:
    events: list[str] = []
    found = compare(three(events), events, repeats=1)
    assert "one repeat, so its noise is not known" in found.verdict[0]
    assert verdict.noise() is None


def test_the_document_is_read_back(tmp_path: Path) -> None:
    events: list[str] = []
    kept = store.Store(tmp_path / "state" / "comparisons", "compare")
    found = compare(three(events), events)
    kept.write(found)
    assert kept.folder.stat().st_mode & 0o077 == 0
    again = store.read(kept.folder)
    assert again == msgspec.structs.replace(found, id=kept.id)
    assert store.list_comparisons(tmp_path / "state" / "comparisons") == [again]
    kept.path.write_text(json.dumps({"version": 9}))
    (tmp_path / "state" / "comparisons" / "z").mkdir()
    assert store.list_comparisons(tmp_path / "state" / "comparisons") == []
    assert store.list_comparisons(tmp_path / "nowhere") == []


def test_a_full_disk_does_not_end_a_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = store.Store(tmp_path / "comparisons", "compare")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_atomic", full)
    kept.write(compare(three([]), []))
    assert "No space left" in str(kept.problem)


def test_the_plain_command_has_only_what_it_needs() -> None:
    assert plain_argv(["sglang", "serve"], "/m", 1) == [
        *("sglang", "serve", "--model-path", "/m", "--is-embedding"),
        *("--device", "cpu", "--port", "1"),
    ]
    assert "--device" not in plain_argv(["sglang", "serve"], "/m", 1, "cuda")
    given = {"PYTHONPATH": "/standins", "OMP_NUM_THREADS": "2", "SGLANG_USE_CPU_ENGINE": "1"}
    assert plain_environment(given) == {"PYTHONPATH": "/standins", "SGLANG_USE_CPU_ENGINE": "1"}


@pytest.mark.parametrize(("idle", "said"), [(0.95, False), (0.4, True), (None, False)])
def test_a_machine_that_is_not_quiet_is_said(idle: float | None, said: bool) -> None:
    events: list[str] = []
    made = three(events)
    tools = ScriptedTools(made, events)
    header = Header(id="c", made="2026-01-01T00:00:00Z")
    found = Comparing(made, Course((ONE,), 1), header, tools, idle=lambda: idle).run()
    assert any("not quiet: 40%" in each for each in found.verdict) is said


def test_what_failed_on_the_way_cannot_win() -> None:
    events: list[str] = []
    late = {"fails": lambda life: "it died" if life == 2 else None}
    found = compare(three(events, a=late), events)
    assert found.winner == "b"
    assert any("a is 1.2 × as fast as b" in each for each in found.verdict)
    assert any("does not count: it was not measured completely" in each for each in found.verdict)
    events.clear()
    alone = compare(three(events, a=late, b=late, c=late), events)
    assert (alone.winner, alone.complete, alone.remeasured) == (None, True, None)
