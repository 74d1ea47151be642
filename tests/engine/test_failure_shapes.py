"""The known messages in every shape in which a log can hold them, and whatever else it can hold."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from launcher.engine.failures.classify import classify
from tests.engine.test_failures import FUZZED, LOGS, MARKERS, READY, SIGQUIT, TEXT_BLOCKS, raised

STAMP = "[2026-11-22 13:45:04 TP0] "
FRAME = '  File "/x/scheduler.py", line 6, in run\n    run()\n'


def in_a_group(error: str) -> str:
    """As Python prints an error out of a task group (PEP 654)."""
    inner = (FRAME + error).replace("\n", "\n    | ")
    return (
        "  + Exception Group Traceback (most recent call last):\n"
        '  |   File "/x/server.py", line 9, in serve\n  |     serve()\n'
        "  | ExceptionGroup: unhandled errors in a TaskGroup (1 sub-exception)\n"
        "  +-+---------------- 1 ----------------\n"
        f"    | Traceback (most recent call last):\n    | {inner}\n"
        "    +------------------------------------\n"
    )


def stamped(error: str) -> str:
    """Every line logged by itself."""
    lines = ("Traceback (most recent call last):\n" + FRAME + error).split("\n")
    return "".join(f"{STAMP}{line}\n" for line in lines)


SHAPES: dict[str, Callable[[str], str]] = {
    "group": in_a_group,
    "stamped": stamped,
    "spawned": lambda e: f"Process Spawn-1:\nTraceback (most recent call last):\n{FRAME}{e}\n",
    "windows": lambda e: raised(e, fatal=False).replace("\n", "\r\n"),
    "coloured": lambda e: f"\x1b[1;31m{raised(e, fatal=False)}\x1b[0m",
    "header cut off": lambda e: f"    run()\n{e}\n",
    "logged": lambda e: f"{STAMP}ERROR: {e}\n",
    "indented": lambda e: f"      {e}\n",
    "its words alone": lambda e: f"{STAMP}{e.partition('Error: ')[2] or e}\n",
}
BY_NAME = {"engine_broken", "exception"}
"""Told by the name of the exception alone."""


@pytest.mark.parametrize("shape", SHAPES)
def test_every_message_gets_its_class_in_any_shape(shape: str) -> None:
    wrong = []
    for expected, kind, phases, error in TEXT_BLOCKS:
        if kind not in {"fatal", "front"} or (shape == "its words alone" and expected in BY_NAME):
            continue
        text = "".join(MARKERS[phase] for phase in phases) + SHAPES[shape](error)
        found = classify(text, phase="ready" if "serve" in phases else "loading", returncode=1)
        if found is None or found.failure_class != expected or not found.lines:
            wrong.append((expected, found))
    assert wrong == []


@pytest.mark.parametrize("returncode", [None, -9, 137, -15])
def test_a_warning_explains_no_death_by_a_signal(returncode: int | None) -> None:
    warning = (
        "[t] User-specified context_length (9) is greater than the derived context_length (5)\n"
    )
    found = classify(warning + READY, phase="ready", returncode=returncode)
    assert found is None or found.failure_class in {"killed", "terminated"}


def test_a_warning_explains_an_exit_that_nothing_else_does() -> None:
    warning = (
        "[t] The memory capacity is unbalanced. Some GPUs may be occupied by other processes.\n"
    )
    alone = classify(warning, phase="loading", returncode=1)
    beside = classify(warning + raised("KeyError: 'x'"), phase="loading", returncode=1)
    assert alone is not None
    assert beside is not None
    assert (alone.failure_class, beside.failure_class) == ("gpu_shared", "exception")


def test_an_engine_that_cannot_reach_itself_while_it_stops_has_no_network_problem() -> None:
    """0.5.23 asks its own /freeze_gc from a thread, and prints a traceback if it came too late."""
    error = (
        "requests.exceptions.ConnectionError: HTTPConnectionPool(host='127.0.0.1', port=2519): "
        "Max retries exceeded with url: /freeze_gc (Caused by NewConnectionError())"
    )
    text = MARKERS["load"] + READY + raised(error, fatal=False) + SIGQUIT
    found = classify(text, phase="ready", returncode=-9)
    assert found is not None
    assert found.failure_class == "child_failed"


def test_a_text_known_by_its_frames_says_nothing_without_them() -> None:
    for text in ("TypeError: 'NoneType' object is not callable\n", "KeyError: 'added_tokens'\n"):
        found = classify(text, phase="starting", returncode=1)
        assert found is not None
        assert (found.failure_class, found.lines) == ("exception", (text.strip(),))


def test_a_damaged_tokenizer_is_told_by_the_frames() -> None:
    frame = "transformers/tokenization_utils_tokenizers.py"
    found = classify(raised("KeyError: 'added_tokens'", frame=frame), phase="starting")
    assert found is not None
    assert found.failure_class == "tokenizer"


NEVER_SEEN = [
    "ZeroDivisionError: division by zero",
    "sglang.srt.errors.SomethingNew: no such thing was seen before",
    "pydantic_core._pydantic_core.ValidationError: 3 validation errors for ServerArgs",
    "AssertionError",
    "KeyError: 'model.layers.0.mlp.weight'",
    "RuntimeError: The size of tensor a (384) must match the size of tensor b (512)",
    "UnicodeDecodeError: 'utf-8' codec can't decode byte 0xff in position 0",
]


@pytest.mark.parametrize("error", NEVER_SEEN)
@pytest.mark.parametrize("shape", ["spawned", "stamped", "windows", "coloured", "group"])
def test_an_error_never_seen_before_is_quoted(error: str, shape: str) -> None:
    found = classify(SHAPES[shape](error) + SIGQUIT, phase="loading", returncode=-9)
    assert found is not None
    assert found.failure_class == "exception"
    assert error[:60] in found.message
    assert any(error[:60] in line for line in found.lines)


JUNK = ["\x00", "\udc80", "\n", "\r", "é", "\x1b[", "Traceback (most recent call last):\n", "'"]


def test_mutated_logs_never_raise(pytestconfig: pytest.Config) -> None:
    """QLAUNCH_FUZZ_LOGS of them; `make soak` tries 100,000, and 100,000 random ones."""
    dice = random.Random(5)
    logs = sorted(LOGS.values()) + [in_a_group(block[3]) for block in TEXT_BLOCKS]
    for _ in range(FUZZED):
        log = dice.choice(logs)
        low = dice.randrange(len(log))
        text = log[low : low + dice.randrange(3000)]
        for _ in range(dice.randrange(6)):
            at = dice.randrange(len(text) + 1)
            text = text[:at] + dice.choice(JUNK) + text[at + dice.randrange(20) :]
        judged(text, dice)
    tried(pytestconfig, "mutated")


def test_random_logs_never_raise(pytestconfig: pytest.Config) -> None:
    dice = random.Random(6)
    pieces = [*JUNK, *(block[3] for block in TEXT_BLOCKS), *MARKERS.values(), "  | ", "  File x\n"]
    for _ in range(FUZZED):
        text = dice.randbytes(dice.randrange(400)).decode("utf-8", "replace")
        for _ in range(dice.randrange(5)):
            at = dice.randrange(len(text) + 1)
            text = text[:at] + dice.choice(pieces) + text[at:]
        judged(text, dice)
    tried(pytestconfig, "random")


def tried(config: pytest.Config, kind: str) -> None:
    """Keep the most that were tried, for docs/reliability.md."""
    assert config.cache is not None
    most = config.cache.get(f"reliability/fuzz/{kind}", 0)
    config.cache.set(f"reliability/fuzz/{kind}", max(FUZZED, most))


def judged(text: str, dice: random.Random) -> None:
    found = classify(
        text,
        phase=dice.choice(["loading", "ready", "stopping", "?"]),
        returncode=dice.choice([None, 0, 1, -9, 137, dice.randrange(-70, 300)]),
        oom_killed=dice.random() < 0.1,
    )
    assert found is None or all(line.isprintable() for line in found.lines)
