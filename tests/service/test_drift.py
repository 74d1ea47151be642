"""Readiness is not a moment: a service whose vectors are others now is failed, and says so."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState
from launcher.paths import dirs
from launcher.service import control
from launcher.service.supervisor.drift import Proof
from launcher.service.supervisor.http_probe import HttpAnswer, embedding_request, embeddings
from launcher.service.supervisor.liveness_probe import texts_for
from tests.service.home import Home, eventually

WIDTH = 16


def unit(seed: int, width: int = WIDTH) -> list[float]:
    source = random.Random(seed)
    found = [source.gauss(0, 1) for _ in range(width)]
    length = math.sqrt(sum(x * x for x in found))
    return [x / length for x in found]


def turned(vector: list[float], cosine: float) -> list[float]:
    """A unit vector at this cosine with `vector`."""
    aside = unit(99)
    along = sum(a * b for a, b in zip(vector, aside, strict=True))
    across = [a - along * b for a, b in zip(aside, vector, strict=True)]
    length = math.sqrt(sum(x * x for x in across))
    sine = math.sqrt(1 - cosine**2)
    return [cosine * v + sine * a / length for v, a in zip(vector, across, strict=True)]


def proof(dtype: str = "bfloat16", proved: list[float] | None = None) -> Proof:
    return Proof(proved or unit(1), dimensions=WIDTH, dtype=dtype)


# The comparison ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "cosine", "same"),
    [
        ("bfloat16", 0.9995, True),
        ("bfloat16", 0.9985, False),
        ("float16", 0.9995, True),
        ("int8", 0.9995, True),
        ("int8", 0.9985, False),
        ("float32", 0.99995, True),
        ("float32", 0.9998, False),
    ],
)
def test_rounding_is_no_drift_and_more_than_rounding_is(
    dtype: str, cosine: float, same: bool
) -> None:
    finding = proof(dtype).look([turned(unit(1), cosine)])
    assert finding.cosine == pytest.approx(cosine, abs=1e-6)
    assert (finding.fault == "") is same
    assert same or f"{cosine:.5f}"[:6] in finding.fault


def test_the_length_counts_where_the_direction_is_the_same() -> None:
    plain = [3 * x for x in unit(1)]  # a checkpoint that does not normalise
    assert proof(proved=plain).look([[1.005 * x for x in plain]]).fault == ""
    assert (
        "its length is 3.1500, and was 3.0000"
        in proof(proved=plain).look([[1.05 * x for x in plain]]).fault
    )


@pytest.mark.parametrize(
    ("vector", "words"),
    [
        ([math.nan, *unit(1)[1:]], "not finite"),
        ([math.inf, *unit(1)[1:]], "not finite"),
        ([10**400, *unit(1)[1:]], "not finite"),
        ([True, *unit(1)[1:]], "not finite"),
        ([None] * WIDTH, "not finite"),
        ([0.0] * WIDTH, "every number is 0"),
        (unit(1)[:-1], "does not have 16 dimensions"),
        (None, "does not have 16 dimensions"),
        ("AAAA", "does not have 16 dimensions"),
    ],
)
def test_what_is_no_vector_is_no_proved_vector(vector: Any, words: str) -> None:
    assert words in proof().look([vector]).fault


def test_one_wrong_replica_among_right_ones_is_seen() -> None:
    assert proof().look([unit(1), unit(2), unit(1), unit(1)]).fault
    assert not proof().look([unit(1)] * 4).fault
    assert proof().look([]).fault == "no vector came"


def test_without_a_proved_vector_the_first_sound_one_is_taken() -> None:
    fresh = Proof(None, dimensions=WIDTH, dtype="bfloat16")
    assert fresh.look([[0.0] * WIDTH]).fault
    assert not fresh.look([unit(1)]).fault
    assert fresh.look([unit(2)]).fault


def test_a_doubt_ends_with_a_right_answer_and_is_counted() -> None:
    one = proof()
    finding = one.look([unit(2)])
    one.doubt(finding)
    assert one.in_doubt
    assert one.clear() == finding
    assert (one.in_doubt, one.odd) == (False, 1)
    assert one.clear() is None
    assert one.odd == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(JSON)
def test_no_answer_whatever_ends_the_look(body: Any) -> None:
    """Values of any kind, where vectors should be: a fault or a reason, never an exception."""
    for document in (body, {"data": body}, {"data": [{"embedding": body}]}):
        found = embeddings(HttpAnswer("http", status=200, body=json.dumps(document).encode()))
        if isinstance(found, list):
            assert proof().look(found).fault
        else:
            assert found == "the response is not an embedding"


def test_every_replica_is_asked() -> None:
    assert [texts_for(count) for count in (0, 1, 2, 4, 64)] == [1, 1, 4, 8, 32]
    asked = json.loads(embedding_request("m", texts_for(2)))
    assert asked["input"] == ["still here"] * 4


# The service -------------------------------------------------------------------------------------


def watched(home: Home, flag: Path, *switches: str, **expected: Any) -> Plan:
    home.options["timing"] |= {"beat_s": 0.2}
    plan = home.plan("--other-vectors", str(flag), *switches)
    expectation = msgspec.structs.replace(plan.expectation, **expected)
    return msgspec.structs.replace(plan, expectation=expectation)


def events(state: ServiceState) -> list[str]:
    lines = (dirs().runs / state.run / "events.ndjson").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("other", "its cosine with the proved vector is"),
        ("nan", "not finite"),
        ("null", "does not have 8 dimensions"),
        ("zero", "every number is 0"),
        ("short", "does not have 8 dimensions"),
        ("long", "its length is 3.0000, and was 1.0000 when proved"),
    ],
)
def test_vectors_changed_behind_our_back_fail_the_service(
    home: Home, tmp_path: Path, kind: str, words: str
) -> None:
    flag = tmp_path / "flag"
    first = home.up(watched(home, flag))
    flag.write_text(kind)
    state = home.wait_for("failed")
    assert state.failure is not None
    assert (state.failure.code, state.failure.exit_code) == ("vectors_changed", 7)
    assert state.failure.failure_class == "drift"
    assert words in state.failure.message
    assert "the weights or the engine's state changed while it ran" in state.failure.message
    assert state.restarts == 0  # a restart would hide it
    assert state.smoke is not None
    assert state.smoke.ok is False
    assert state.smoke.checks[-1].name == "unchanged"
    assert state.smoke.suspect == "weights"
    assert "drifted" in events(first)
    run = json.loads((dirs().runs / first.run / "run.json").read_text())
    assert (run["outcome"], run["failure"]["code"]) == ("failed", "vectors_changed")
    home.assert_nothing_left()


def test_a_service_with_others_calls_in_its_log_is_looked_at_all_the_same(
    home: Home, tmp_path: Path
) -> None:
    """Answered calls of others prove that it answers, and nothing about what."""
    flag = tmp_path / "flag"
    home.up(watched(home, flag, "--access-log"))
    flag.write_text("other")
    assert home.wait_for("failed").failure.exit_code == 7  # type: ignore[union-attr]


def test_a_second_look_that_finds_it_right_is_an_event_and_no_verdict(
    home: Home, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    first = home.up(watched(home, flag))
    flag.write_text("once other")
    eventually(lambda: "odd_vector" in events(first))
    state = control.status("svc")
    assert (state.state, state.restarts) == ("ready", 0)


def test_vectors_that_are_wrong_now_and_then_fail_the_service_too(
    home: Home, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    first = home.up(watched(home, flag))
    for count in (1, 2, 3):
        new = tmp_path / "new"
        new.write_text("once other")
        new.replace(flag)  # never seen half written
        if count < 3:
            eventually(lambda count=count: events(first).count("odd_vector") == count)  # type: ignore[misc]
    state = home.wait_for("failed")
    assert state.failure is not None
    assert "3 answers were wrong, others right" in state.failure.message


def test_one_replica_of_two_that_changed_fails_the_service(home: Home, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    home.up(watched(home, flag, replicas=2))
    flag.write_text("half")
    assert home.wait_for("failed").failure.code == "vectors_changed"  # type: ignore[union-attr]


def test_rounding_leaves_it_ready_and_the_last_check_says_how_close(
    home: Home, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    home.up(watched(home, flag))
    flag.write_text("slight")
    checked = eventually(
        lambda: (s := home.state()) and 0.9999 < (s.last_check.cosine or 0) < 1 and s
    )
    assert checked.state == "ready"
    assert control.status_of(checked).last_check == checked.last_check


def test_each_life_has_a_proof_of_its_own(home: Home, tmp_path: Path) -> None:
    """An engine that came back after a death is compared with its own smoke, not the first."""
    flag = tmp_path / "flag"
    once = tmp_path / "once"
    first = home.up(watched(home, flag, "--die-once", str(once)))
    again = eventually(lambda: (s := home.state()) and s.restarts and s.state == "ready" and s)
    assert again.engine != first.engine
    flag.write_text("other")
    assert home.wait_for("failed").failure.code == "vectors_changed"  # type: ignore[union-attr]
