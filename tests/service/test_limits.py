"""Limits of the operating system (`ulimit`), met on the way: a sentence, and nothing left."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.linux import limits
from launcher.service import control, failures
from tests.cli.commandline import Run
from tests.cli.conftest import run
from tests.patience import PATIENCE_S
from tests.service.home import Home

__all__ = ["run"]
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EMFILE, "Too many open files"), "no more files can be opened"),
        (OSError(errno.EAGAIN, "again"), "no more processes or threads"),
        (RuntimeError("can't start new thread"), "no more processes or threads"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory"),
        (MemoryError(), "memory"),
        (ImportError("x.so: failed to map segment from shared object"), "memory"),
        (OSError(errno.EFBIG, "File too large", "/x/y"), "larger than"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "at /x/y"),
    ],
)
def test_a_shortage_is_a_sentence_with_what_to_do(error: Exception, words: str) -> None:
    """They were "unexpected OSError" and "unexpected MemoryError"."""
    found = limits.explain(error)
    assert found is not None
    assert (found.code, found.exit_code) == ("resource_limit", 1)
    assert words in found.message
    assert found.fix
    assert failures.internal(error, "log").message == found.message


def test_a_fault_of_ours_is_no_shortage() -> None:
    for error in (ValueError("x"), OSError(errno.ENOENT, "none", "/x"), ImportError("no module")):
        assert limits.explain(error) is None
        assert "the supervisor failed" in failures.internal(error, "log").message


def test_an_engine_that_may_not_be_started_says_which_limit() -> None:
    found = failures.not_started(OSError(errno.EAGAIN, "Resource temporarily unavailable"), "py")
    assert (found.code, found.exit_code) == ("resource_limit", 6)
    assert "cannot start py: no more processes or threads" in found.message


def test_the_last_resort_of_every_command_knows_shortages(run: Run, home: Home) -> None:
    with pytest.MonkeyPatch.context() as patch:

        def short() -> list[object]:
            raise MemoryError

        patch.setattr(control, "services", short)
        answer = run("ps", "--json")
    assert (answer.code, answer.error["code"]) == (1, "resource_limit")


def limited(code: str, *lowered: str) -> subprocess.CompletedProcess[str]:
    words = ["prlimit", *lowered, sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(autouse=True)
def _prlimit() -> None:
    if shutil.which("prlimit") is None:
        pytest.skip("prlimit is not installed here")


@pytest.mark.parametrize(
    ("lowered", "words"),
    [
        ("--nofile=64", "may open 64 files (ulimit -n), and an engine needs 128"),
        ("--as=1500000000", "may map 1.50 GB (ulimit -v), and an engine maps 2.50 GB"),
        ("--cpu=60", "is ended after 60 s of processor time (ulimit -t)"),
        ("--fsize=10240", "may not be larger than 10240 bytes (ulimit -f)"),
        ("--fsize=65536", "None"),
        ("--core=0", "None"),
    ],
)
def test_limits_too_low_for_an_engine_are_seen_before_a_start(lowered: str, words: str) -> None:
    done = limited("from launcher.linux import limits; print(limits.too_low(None))", lowered)
    assert words in done.stdout, done.stderr


def test_a_larger_engine_needs_more_addresses() -> None:
    code = "from launcher.linux import limits; print(limits.too_low(9 * 10**9))"
    assert "maps 9.00 GB" in limited(code, "--as=8000000000").stdout


def test_soft_limits_are_raised_to_the_hard_ones() -> None:
    code = (
        "import resource\nfrom launcher.linux import limits\nlimits.raise_soft()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE), resource.getrlimit(resource.RLIMIT_AS))"
    )
    done = limited(code, "--nofile=64:4096", "--as=4000000000:8000000000")
    assert done.stdout.strip() == "(4096, 4096) (8000000000, 8000000000)", done.stderr


def test_a_soft_limit_above_ours_is_left_alone() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        limits.raise_soft()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(before[1], 65536)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_an_inherited_descriptor_above_the_limit_stops_no_start(home: Home) -> None:
    """`posix_spawn` refuses to close a number above the limit: "unexpected OSError"."""
    plan = home.plan("--workers")
    within = ["bash", "-c", 'exec 251</dev/null; ulimit -n 128; exec "$@"', "bash"]
    with home.starter(plan, within=within) as started:
        out, _ = started.communicate(timeout=PATIENCE_S)
    assert started.returncode == 0, out
    state = control.status("svc")
    assert state.state == "ready"
    assert state.supervisor is not None
    assert "251" not in os.listdir(f"/proc/{state.supervisor.pid}/fd")  # noqa: PTH208 - names


def test_files_that_may_not_grow_leave_gaps_in_the_record_and_no_more(home: Home) -> None:
    """`ulimit -f`: the engine's log is cut, the service goes on."""
    with home.starter(home.plan("--leak", "5"), within=["prlimit", "--fsize=65536"]) as started:
        out, _ = started.communicate(timeout=PATIENCE_S)
    assert started.returncode == 0, out
    assert control.status("svc").state == "ready"
    assert control.down("svc").left == ()


def test_no_processes_left_is_a_sentence() -> None:
    """`ulimit -u`, which root is exempt from: as another user, where one can be taken."""
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("only root can become another user")
    words = ["setpriv", "--reuid=54321", "--clear-groups", "prlimit", "--nproc=1"]
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\nimport subprocess\n"
        "from launcher.linux import limits\n"
        "try:\n    subprocess.run(['true'])\n"
        "except OSError as e:\n    print(limits.explain(e).message)"
    )
    done = subprocess.run(
        [*words, sys.executable, "-c", code, str(ROOT)], capture_output=True, text=True, check=False
    )
    if "Permission denied" in done.stderr or "failed to execute" in done.stderr:
        pytest.skip("the interpreter is in a folder of root's own")
    assert "no more processes or threads can be started (ulimit -u" in done.stdout, done.stderr


def test_every_command_answers_with_its_streams_closed(home: Home) -> None:
    code = "import sys; from launcher.cli.main import main; sys.exit(main(sys.argv[1:]))"
    for words in (["ps"], ["status", "none"], ["logs", "none"]):
        quoted = " ".join(words)
        line = f'"$0" -c "$1" {quoted} <&- >&- 2>&-'
        done = subprocess.run(["sh", "-c", line, sys.executable, code], cwd=ROOT, check=False)
        assert done.returncode == (0 if words == ["ps"] else 3)
