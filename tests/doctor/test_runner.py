"""Running checks: together, each in its own process, each within its limit."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor.runner import DoctorCheck, Finding, ok, problem, run, unavailable, warning
from launcher.linux import processes
from tests.patience import HANG_S, PATIENCE_S, eventually, no_hang


def sleeping(seconds: float, name: str = "slow") -> DoctorCheck:
    def look() -> Iterator[Finding]:
        time.sleep(seconds)
        yield ok(name, "done")

    return DoctorCheck(name, look)


def shown(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.name, finding.status) for finding in findings]


def test_findings_come_in_the_order_of_the_checks() -> None:
    def several() -> list[Finding]:
        return [warning("b", "why", "fix"), problem("c", "why"), unavailable("d", "why")]

    found = run([sleeping(0.05, "a"), DoctorCheck("x", several), DoctorCheck("none", list)])
    assert shown(found) == [
        ("a", "ok"),
        ("b", "warning"),
        ("c", "problem"),
        ("d", "unavailable"),
    ]
    assert found[1].fix == "fix"
    assert 0.05 <= found[0].seconds < PATIENCE_S


def test_no_checks_find_nothing() -> None:
    assert run([]) == []


def test_checks_run_at_the_same_time() -> None:
    together = multiprocessing.get_context("fork").Barrier(8)

    def meets() -> list[Finding]:
        together.wait(PATIENCE_S)  # raises unless all eight are there
        return [ok("met", "")]

    found = run([DoctorCheck(str(number), meets, limit_s=PATIENCE_S) for number in range(8)])
    assert shown(found) == [("met", "ok")] * 8


def test_a_check_that_hangs_is_cut_at_its_limit_and_the_others_are_whole() -> None:
    hanging = DoctorCheck(
        "disk", sleeping(HANG_S).look, limit_s=0.3, if_cut="problem", fix_if_cut="see the disk"
    )
    with no_hang():
        found = run([hanging, sleeping(0.01, "other")])
    assert shown(found) == [("disk", "problem"), ("other", "ok")]
    assert found[0].message == "there was no answer within 0.3 s"
    assert found[0].fix == "see the disk"
    assert found[0].seconds >= 0.3


def test_cutting_ends_what_the_check_started(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    def look() -> Iterator[Finding]:
        child = subprocess.Popen([sys.executable, "-S", "-c", "import time; time.sleep(60)"])
        note.write_text(str(child.pid))
        child.wait()
        yield ok("never", "")

    limit_s = 0.5
    while not (note.exists() and note.read_text()):  # cut before it had started anything
        assert shown(run([DoctorCheck("child", look, limit_s=limit_s)])) == [("child", "warning")]
        limit_s *= 2
    pid = int(note.read_text())
    eventually(lambda: processes.process_id(pid) is None)


def test_a_check_that_ignores_signals_is_cut_too() -> None:
    def look() -> Iterator[Finding]:
        for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(signum, signal.SIG_IGN)
        time.sleep(HANG_S)
        yield ok("never", "")

    with no_hang():
        run([DoctorCheck("stubborn", look, limit_s=0.2)])


def test_a_check_that_raises_says_what() -> None:
    def look() -> Iterator[Finding]:
        yield ok("first", "")
        raise ValueError("odd file")

    (found,) = run([DoctorCheck("odd", look)])
    assert (found.name, found.status) == ("odd", "warning")
    assert found.message == "this could not be checked: ValueError: odd file"


def test_a_check_that_crashes_takes_nothing_with_it() -> None:
    def look() -> Iterator[Finding]:
        faulthandler.disable()
        os.kill(os.getpid(), signal.SIGSEGV)
        yield ok("never", "")

    found = run([DoctorCheck("library", look), sleeping(0.01, "other")])
    assert shown(found) == [("library", "problem"), ("other", "ok")]
    assert found[0].message == "the check itself crashed (signal 11)"


def test_a_check_that_leaves_early_does_not_run_on_in_the_callers_code() -> None:
    def look() -> list[Finding]:
        sys.exit(3)

    before = os.getpid()
    found = run([DoctorCheck("exit", look)])
    assert os.getpid() == before
    assert found[0].message == "the check itself crashed (no answer)"


def test_a_long_answer_is_read_whole() -> None:
    def look() -> list[Finding]:
        return [ok(f"card {number}", "x" * 1000) for number in range(2000)]

    found = run([DoctorCheck("many", look)])
    assert len(found) == 2000
    assert all(len(finding.message) == 1000 for finding in found)


def test_a_hanging_check_does_not_hold_the_output_open() -> None:
    program = (
        "import time\n"
        "from launcher.doctor.runner import *\n"
        "import launcher.doctor.runner as c\n"
        "c.os.killpg = c.os.kill = lambda *_: None\n"  # as if it hung in the kernel
        "print(run([DoctorCheck('x', lambda: time.sleep(60), limit_s=0.2)])[0].status)\n"
    )
    with no_hang(55):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
    assert done.stdout == "warning\n"
