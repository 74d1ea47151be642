"""Failure classes: each by the text its source prints, in order, in phase, and never raising.

`logs/` holds whole logs of SGLang 0.5.23 on a CPU, each named after its class: engines that were
started with a wrong flag, a cut checkpoint, a taken port and so on, and killed in part.
`failure_texts.txt` holds the other messages, in the words of their sources.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.engine.failures.classify import classify, signatures
from launcher.engine.failures.log import SHOWN_LIMIT

HERE = Path(__file__).parent
LOGS = {path.stem: path.read_text(encoding="utf-8") for path in HERE.glob("logs/*.log")}
FUZZED = int(os.environ.get("QLAUNCH_FUZZ_LOGS", "1500"))
"""How many logs each fuzzing test (test_failure_shapes.py) tries; `make soak` sets 100000."""

LOADED = (
    "[2026-11-22 13:50:15] Load weight end. elapsed=0.04 s, type=BertModel, avail mem=21.60 GB\n"
)
LOADING = "[2026-11-22 13:50:15] Load weight begin. avail mem=21.64 GB\n"
CAPTURING = "[2026-11-22 13:50:15] Capture target prefill CUDA graph begin. backend=breakable\n"
READY = "[2026-11-22 13:50:16] The server is fired up and ready to roll!\n"
MARKERS = {"load": LOADING, "pool": LOADED, "capture": CAPTURING, "serve": READY}
SIGQUIT = (
    "\n[2026-11-22 13:45:04] Received sigquit from a child process. It usually means the child "
    "failed.\n[2026-11-22 13:45:04] kill_process_tree called: parent_pid=13994\n"
)
CUDA_OOM = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total "
    "capacity of 3.81 GiB of which 11.38 MiB is free."
)


def raised(error: str, *, frame: str = "srt/managers/scheduler.py", fatal: bool = True) -> str:
    """A traceback that ends with `error`, as a process of the engine logs it."""
    head = "[2026-11-22 13:45:04] Scheduler hit an exception: " if fatal else ""
    return (
        f"{head}Traceback (most recent call last):\n"
        f'  File "/engines/cpu/sglang/{frame}", line 6, in run\n    raise RuntimeError(message)\n'
        f"    ^^^^^^^^^^^^^^^^^^^^^^^^^^^\n{error}\n"
    )


RAISED = "raise RuntimeError(message) (scheduler.py, line 6)"
"""The line of code above it."""
FRAMES = {"offloader": "srt/utils/offloader.py", "triton": "triton/runtime/build.py"}

Block = tuple[str, str, tuple[str, ...], str]
"""Class, kind, phases and text of one block of failure_texts.txt."""


def _block(block: str) -> Block:
    head, _, body = block.partition("\n")
    expected, kind, *phases = head.split()
    return expected, kind, tuple(phases), body.strip("\n")


def _example(block: Block) -> tuple[str, str]:
    """Class and log of one block."""
    expected, kind, phases, text = block
    if kind != "line":
        frame = FRAMES.get(kind, "srt/managers/scheduler.py")
        text = raised(text, frame=frame, fatal=kind != "front").rstrip("\n")
    return expected, "".join(MARKERS[phase] for phase in phases) + text + "\n"


TEXT_BLOCKS = [
    _block(block)
    for block in (HERE / "failure_texts.txt").read_text(encoding="utf-8").split("\n## ")[1:]
]
TEXTS = [_example(block) for block in TEXT_BLOCKS]


@pytest.mark.parametrize(("expected", "text"), TEXTS)
def test_a_message_gets_its_class_whatever_follows_it(expected: str, text: str) -> None:
    found = classify(text + SIGQUIT, phase="starting", returncode=-9)
    assert found is not None
    assert found.failure_class == expected
    assert found.message
    assert found.fix
    assert found.lines
    assert "{" not in found.message + found.fix


@pytest.mark.parametrize("name", sorted(set(LOGS) - {"healthy-start-and-stop"}))
def test_a_real_log_gets_the_class_it_is_named_after(name: str) -> None:
    found = classify(LOGS[name], phase="starting", returncode=-9)
    assert found is not None
    assert found.failure_class == name.partition("-")[0]
    assert 1 <= len(found.lines) <= 5


def test_every_class_of_the_data_has_an_example() -> None:
    known = signatures()
    shown = {expected for expected, _ in TEXTS} | {"input_too_long"}
    assert {s.failure_class for s in known.signatures} == shown - {"exception"} | {"bad_flag_value"}
    assert len(shown) >= 45


def test_the_data_is_well_formed() -> None:
    for signature in signatures().signatures:
        assert all(len(needle) >= 6 for needle in signature.needles)
        assert len(set(signature.needles)) == len(signature.needles)
        assert signature.cause.endswith((".", "}"))
        assert signature.fix.endswith(".")
        groups = set(re.findall(r"{(\w+)}", signature.cause + signature.fix))
        assert groups <= {*re.compile(signature.pattern or "").groupindex, "error"}


# --- what is quoted ------------------------------------------------------------------------------

CAUSE = "\nThe above exception was the direct cause of the following exception:\n\n"
HANDLING = "\nDuring handling of the above exception, another exception occurred:\n\n"
DENIED = "PermissionError: [Errno 13] Permission denied: '/triton/backends/nvidia/bin/ptxas'"


def quoted(text: str) -> str | None:
    found = classify(text, phase="warming")
    assert found is not None
    return found.error


def test_a_scheduler_s_traceback_is_quoted_by_its_exception_with_the_path() -> None:
    """The log of a first run on an H100, whose wheels were unpacked without their x bits."""
    found = classify(LOGS["permission_denied-ptxas"], phase="warming", returncode=None)
    assert found is not None
    ptxas = "/engines/cuda13/lib/python3.12/site-packages/triton/backends/nvidia/bin/ptxas"
    assert found.error == f"PermissionError: [Errno 13] Permission denied: '{ptxas}'"
    assert found.message.endswith(found.error)


@pytest.mark.parametrize(
    ("errors", "expected"),
    [
        ((DENIED,), DENIED),
        ((DENIED + "\n\n[2026-11-26 14:24:22] SIGQUIT received.",), DENIED),
        ((DENIED, CAUSE, "OSError: no compiler"), f"{DENIED}; then OSError: no compiler"),
        ((DENIED, CAUSE, "LaunchError"), DENIED),
        ((DENIED, CAUSE, DENIED), DENIED),
        ((DENIED, HANDLING, f"RuntimeError: ptxas: {DENIED}"), f"RuntimeError: ptxas: {DENIED}"),
        (("KeyError: 'x'", HANDLING, "ValueError: no model x"), "ValueError: no model x"),
        (("KeyError: 'x'",), "KeyError: 'x'"),
        (("OSError: it failed:\n  two things\nand more",), "OSError: it failed: two things"),
        (("AssertionError\n",), f"AssertionError: {RAISED}"),
        (("AssertionError\n", CAUSE, "LaunchError"), f"AssertionError: {RAISED}"),
    ],
)  # fmt: skip
def test_a_chain_is_quoted_by_its_first_cause_and_what_a_later_one_adds(
    errors: tuple[str, ...], expected: str
) -> None:
    assert quoted("".join(e if e.startswith("\n") else raised(e) for e in errors)) == expected


ASSERTED = (
    "Traceback (most recent call last):\n"
    '  File "/x/sglang/launch_server.py", line 9, in run\n'
    "    start()\n"
    '  File "/x/sglang/srt/server_args.py", line 812, in check\n'
    "    assert self.tp_size % self.dp_size == 0\n"
    "           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
    "AssertionError\n"
)


@pytest.mark.parametrize("prefix", ["", "[rank1]: "])
def test_an_exception_without_words_is_quoted_with_the_line_that_raised_it(prefix: str) -> None:
    """`AssertionError` was all that a start with --enable-dp-attention said."""
    text = "".join(prefix + line for line in ASSERTED.splitlines(keepends=True))
    expected = "assert self.tp_size % self.dp_size == 0 (server_args.py, line 812)"
    found = classify(text, phase="starting")
    assert found is not None
    assert found.error == f"AssertionError: {expected}"
    assert found.message.endswith(found.error)


def test_a_long_exception_is_cut() -> None:
    found = quoted(raised(f"RuntimeError: {'x' * 5000}"))
    assert found is not None
    assert 200 < len(found) <= 400


def test_a_traceback_that_is_still_being_written_quotes_nothing() -> None:
    found = classify(LOADED + raised("x").rpartition("x")[0], phase="warming")
    assert found is None or found.error is None


# --- order ---------------------------------------------------------------------------------------


def test_the_earliest_traceback_wins_over_later_ones_and_over_lines_before_it() -> None:
    warning = "[2026-11-22 13:00:00] could not write the cache: No space left on device\n"
    first = raised("RuntimeError: SGLang only supports sm75 and above.")
    later = raised(CUDA_OOM)
    found = classify(warning + first + later + SIGQUIT, phase="starting", returncode=-9)
    assert found is not None
    assert found.failure_class == "gpu_too_old"


def test_in_a_chain_of_exceptions_the_root_cause_wins() -> None:
    chain = (
        raised(CUDA_OOM)
        + "\nThe above exception was the direct cause of the following exception:\n\n"
        + raised("Exception: Capture cuda graph failed: CUDA out of memory.\nPossible solutions:")
    )
    found = classify(LOADING + LOADED + CAPTURING + chain, phase="starting")
    assert found is not None
    assert found.failure_class == "gpu_oom_capture"


def test_source_lines_of_frames_are_no_messages() -> None:
    text = (
        "Traceback (most recent call last):\n"
        '  File "/x/scheduler.py", line 1, in run\n'
        '    raise RuntimeError("SGLang only supports sm75 and above.")\n'
        "KeyError: 'weight'\n"
    )
    found = classify(text, phase="starting", returncode=1)
    assert found is not None
    assert found.failure_class == "exception"
    assert "KeyError: 'weight'" in found.message


def test_a_specific_line_beats_broad_and_generic_tracebacks() -> None:
    text = "[Errno 98] error while attempting to bind: address already in use\n" + raised(
        "ModuleNotFoundError: No module named 'x'"
    )
    found = classify(text + SIGQUIT, phase="starting", returncode=1)
    assert found is not None
    assert found.failure_class == "port_taken"


def test_generic_lines_count_only_when_nothing_else_does() -> None:
    found = classify(SIGQUIT, phase="starting", returncode=-9)
    assert found is not None
    assert found.failure_class == "child_failed"


def test_while_serving_the_traceback_a_process_died_of_beats_errors_of_single_requests() -> None:
    request = raised("PermissionError: [Errno 13] Permission denied: '/x'", fatal=False)
    text = LOADING + LOADED + READY + request + raised(CUDA_OOM) + SIGQUIT
    found = classify(text, phase="ready", returncode=-9)
    assert found is not None
    assert found.failure_class == "gpu_oom_runtime"


def test_tracebacks_with_a_rank_before_each_line_are_read() -> None:
    lines = raised("RuntimeError: operator torchvision::nms does not exist", fatal=False)
    text = "".join(f"[rank0]: {line}\n" for line in lines.splitlines())
    found = classify(text, phase="starting")
    assert found is not None
    assert found.failure_class == "torchvision_mismatch"


def test_colour_codes_and_carriage_returns_do_not_hide_a_message() -> None:
    text = (
        "10%|#  \r20%|## \r\x1b[1;31mRuntimeError: Not enough \x1b[0mmemory. Please try to increase"
    )
    found = classify(text + " --mem-fraction-static.", phase="loading")
    assert found is not None
    assert found.failure_class == "kv_budget"
    assert not any("\x1b" in line or "20%" in line for line in found.lines[-1:])


# --- phases and memory ---------------------------------------------------------------------------


def test_memory_advice_goes_up_while_the_pool_is_sized_and_down_later() -> None:
    sizing = classify(LOGS["kv_budget"], phase="loading", returncode=-9)
    assert sizing is not None
    assert "Raise --mem-fraction-static" in sizing.fix
    serving = classify(LOADING + LOADED + READY + raised(CUDA_OOM), phase="ready")
    assert serving is not None
    assert "Lower --mem-fraction-static" in serving.fix
    loading = classify(LOADING + raised(CUDA_OOM), phase="starting")
    assert loading is not None
    assert "the memory fraction does not matter" in loading.fix


def test_the_log_knows_the_phase_better_than_the_caller() -> None:
    found = classify(LOADING + raised(CUDA_OOM), phase="ready")
    assert found is not None
    assert (found.failure_class, found.phase) == ("gpu_oom_load", "load")


@pytest.mark.parametrize(
    ("phase", "expected"),
    [("starting", "load"), ("loading", "load"), ("ready", "runtime"), ("degraded", "runtime")],
)
def test_without_markers_the_callers_phase_decides(phase: str, expected: str) -> None:
    found = classify(raised(CUDA_OOM), phase=phase)
    assert found is not None
    assert found.failure_class == f"gpu_oom_{expected}"


def test_a_long_input_explains_a_request_but_never_an_engine() -> None:
    text = "The input (900 tokens) is longer than the model's context length (512 tokens)."
    request = classify(text, phase="request")
    assert request is not None
    assert request.failure_class == "input_too_long"
    assert classify(READY + text, phase="ready") is None


def test_an_unknown_phase_is_taken_for_the_start() -> None:
    found = classify(raised(CUDA_OOM), phase="no such phase")
    assert found is not None
    assert found.phase == "start"


# --- exit codes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returncode", "expected"),
    [
        (0, "exited_early"), (1, "exception"), (2, "usage"), (-2, "interrupted"),
        (-3, "child_failed"),
        (-4, "illegal_instruction"), (132, "illegal_instruction"), (-6, "aborted"),
        (-7, "bus_error"), (-9, "killed"), (137, "killed"), (-11, "segfault"), (139, "segfault"),
        (-15, "terminated"), (143, "terminated"),
    ],
)  # fmt: skip
def test_exit_codes_speak_when_the_log_does_not(returncode: int, expected: str) -> None:
    found = classify("", phase="starting", returncode=returncode)
    assert found is not None
    assert found.failure_class == expected
    assert found.lines == ()


def test_an_unknown_exit_code_or_none_says_nothing() -> None:
    assert classify("", phase="starting", returncode=77) is None
    assert classify("", phase="starting") is None


def test_sigkill_is_the_oom_killer_only_if_the_kernel_says_so() -> None:
    log = LOGS["killed-scheduler"]
    killed = classify(log, phase="ready", returncode=-9)
    by_kernel = classify(log, phase="ready", returncode=-9, oom_killed=True)
    assert killed is not None
    assert by_kernel is not None
    assert (killed.failure_class, by_kernel.failure_class) == ("killed", "host_oom")


def test_a_specific_traceback_beats_the_kernels_counter_but_a_stray_line_does_not() -> None:
    raised_oom = classify(LOADING + raised(CUDA_OOM), phase="loading", oom_killed=True)
    stray = classify("cache: No space left on device\n", phase="loading", oom_killed=True)
    assert raised_oom is not None
    assert stray is not None
    assert (raised_oom.failure_class, stray.failure_class) == ("gpu_oom_load", "host_oom")


def test_a_telling_exit_code_beats_child_failed() -> None:
    found = classify(SIGQUIT, phase="starting", returncode=-4)
    assert found is not None
    assert found.failure_class == "illegal_instruction"


# --- benign --------------------------------------------------------------------------------------


@pytest.mark.parametrize("phase", ["starting", "loading", "warming", "verifying", "ready"])
def test_a_healthy_log_says_nothing(phase: str) -> None:
    assert "Fail to set RLIMIT_NOFILE" in LOGS["healthy-start-and-stop"]
    assert "Ignore import error when loading" in LOGS["healthy-start-and-stop"]
    assert classify(LOGS["healthy-start-and-stop"], phase=phase) is None


@pytest.mark.parametrize("returncode", [0, -9, 137, -15, 143, None])
def test_children_that_die_while_we_stop_the_engine_are_no_failure(returncode: int | None) -> None:
    assert classify(LOGS["terminated"], phase="stopping", returncode=returncode) is None


def test_a_crash_while_stopping_is_still_a_crash() -> None:
    found = classify(LOGS["terminated"], phase="stopping", returncode=-11)
    assert found is not None
    assert found.failure_class == "segfault"


@pytest.mark.parametrize(
    "line",
    [
        "[t] Ignore import error when loading sglang.srt.models.x: No module named 'sgl_kernel'",
        "[t] Fail to set RLIMIT_NOFILE: [Errno 13] Permission denied",
        "[t] server_args={'trust_remote_code': True, 'x': 'address already in use'}",
        "[t] User-specified context_length (9) is greater than the derived context_length (5)",
        "[t] The memory capacity is unbalanced. Some GPUs may be occupied by other processes.",
        "[t] Detokenizer watchdog timeout (self.watchdog_timeout=300, self.soft=True)",
        "[t] The current platform does not support Intel AMX, will fallback to torch_native.",
    ],
)
def test_benign_lines_never_match(line: str) -> None:
    assert classify(line + "\n", phase="starting") is None


# --- evidence ------------------------------------------------------------------------------------


def test_evidence_is_short_and_safe_on_a_terminal() -> None:
    text = (
        "a\x07b\x9b31m\u202e\t"
        + "x" * 9000
        + "[Errno 98] address already in use\x00\x1b]0;title\x07"
        + "y" * 9000
    )
    found = classify(f"one\ntwo\n{text}\nthree\n", phase="starting")
    assert found is not None
    assert all(line.isprintable() for line in found.lines)
    assert all(len(line) <= 4 * SHOWN_LIMIT for line in found.lines)
    assert any("[Errno 98] address already in use" in line for line in found.lines)


def test_what_a_message_quotes_is_cut_and_safe_too() -> None:
    text = "sglang serve: error: unrecognized arguments: --" + "z" * 500 + "\n"
    found = classify(text, phase="starting", returncode=2)
    assert found is not None
    assert len(found.message) < 300


def test_the_source_says_whether_it_was_verified() -> None:
    seen = classify(LOGS["kv_budget"], phase="starting")
    hearsay = classify(
        raised("ValueError: Bfloat16 is only supported on GPUs with compute capability"),
        phase="starting",
    )
    assert seen is not None
    assert hearsay is not None
    assert seen.source.endswith("(verified)")
    assert hearsay.source.endswith("(unverified)")


# --- hostile logs --------------------------------------------------------------------------------


@given(st.text(), st.sampled_from(["starting", "ready", "stopping", "?"]), st.integers(-20, 260))
@settings(max_examples=200, deadline=None)
def test_any_text_is_classified_without_raising(text: str, phase: str, returncode: int) -> None:
    found = classify(text, phase=phase, returncode=returncode, oom_killed=returncode % 2 == 0)
    assert found is None or found.failure_class


NEEDLES = st.sampled_from([n for s in signatures().signatures for n in s.needles])
PIECES = st.one_of(
    NEEDLES,
    st.sampled_from(
        ["\n", "\r", "  File x\n", "Traceback (most recent call last):", READY, SIGQUIT,
         "[rank0]: ", "During handling of the above exception", "\x1b[31", "error: argument --a: "]
    ),
    st.text(max_size=8),
)  # fmt: skip


@given(st.lists(PIECES, max_size=30))
@settings(max_examples=300, deadline=None)
def test_any_mixture_of_known_pieces_is_classified_without_raising(pieces: list[str]) -> None:
    found = classify("".join(pieces), phase="loading", returncode=-9)
    assert found is not None
    assert all(line.isprintable() for line in found.lines)


@pytest.mark.parametrize(
    "piece",
    [
        "Traceback (most recent call last):\n",
        "Traceback (most recent call last):\n  File x\nE: During handling of the above exception\n",
        "Killed\n",
        "Capture ",
        "\x1b[",
        "error: argument --" + "a" * 1980 + "\n",
        "quantization method " + "a" * 30 + " ",
        " ",
        "\n",
        "x",
    ],
)
def test_a_hostile_log_costs_linear_time(piece: str) -> None:
    """Six million characters in well under the seconds that quadratic work would take."""
    began = time.process_time()  # of this process alone: a busy machine changes nothing
    classify(piece * (6_000_000 // len(piece)), phase="loading", returncode=1)
    assert time.process_time() - began < 5


def test_the_cause_is_found_at_either_end_of_a_huge_log() -> None:
    flood = "[t] Prefill batch, #new-seq: 1\n" * 300_000
    first = classify(LOADING + raised(CUDA_OOM) + flood, phase="ready")
    last = classify(LOADING + flood + raised(CUDA_OOM), phase="ready")
    assert first is not None
    assert last is not None
    assert (first.failure_class, last.failure_class) == ("gpu_oom_load", "gpu_oom_runtime")


def test_a_message_repeated_a_thousand_times_does_not_hide_the_last_one() -> None:
    refused = "[t] 401 CUDA out of memory. in a request\n" * 1000
    found = classify(LOADING + LOADED + READY + refused + raised(CUDA_OOM) + SIGQUIT, phase="ready")
    assert found is not None
    assert found.lines[-2].startswith("torch.OutOfMemoryError")
