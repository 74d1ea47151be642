"""What a process gives back before it is forked, and what it must keep."""

from __future__ import annotations

import subprocess
import sys

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import fork_start


@pytest.mark.parametrize(
    ("line", "span"),
    [
        ("7f00-8000 r-xp 00000000 fe:00 3270166 /usr/lib/libm.so.6", (0x7F00, 0x8000)),
        ("7f00-8000 r--p 00000000 fe:00 3270166 /a path/with spaces", (0x7F00, 0x8000)),
        ("7f00-8000 rw-p 00000000 fe:00 3270166 /usr/lib/libm.so.6", None),
        ("7f00-8000 r--s 00000000 fe:00 3270166 /dev/shm/shared", None),
        ("7f00-8000 r-xp 00000000 00:00 0 [vdso]", None),
        ("7f00-8000 r--p 00000000 00:00 0", None),
    ],
)
def test_only_what_a_file_can_give_again_is_let_go(line: str, span: tuple[int, int] | None) -> None:
    where, _, rest = line.partition(" ")
    assert fork_start._of_file(where, rest) == span


def test_pages_of_its_own_keep_a_mapping_in_memory_and_swapped_out() -> None:
    """A relocated table that was swapped out is no page of the file either."""
    head = "{}-{} r--p 00000000 fe:00 3270166 /usr/lib/libm.so.6\nRss: 8 kB\n"
    smaps = "".join(
        head.format(f"{n}000", f"{n + 1}000")
        + f"Anonymous: {own} kB\nSwap: {out} kB\nVmFlags: rd\n"
        for n, (own, out) in enumerate([(0, 0), (4, 0), (0, 4), (0, 0)], 1)
    )
    spans = fork_start.unchanged(smaps.splitlines())
    assert spans == [(0x1000, 0x2000), (0x4000, 0x5000)]


def test_a_process_goes_on_after_it_has_let_go() -> None:
    """Code, constants and relocated tables are all there: what was mapped comes back."""
    code = (
        "import ctypes, decimal, json, os, re, ssl, sqlite3\n"
        "from qlaunch_sglang import fork_start\n"
        "spans = fork_start._unchanged()\n"
        "assert spans\n"
        "fork_start.trim()\n"
        "assert sqlite3.connect(':memory:').execute('select 40 + 2').fetchone() == (42,)\n"
        "assert ssl.create_default_context() and decimal.Decimal('1.5') * 2 == 3\n"
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    os._exit(7 if re.fullmatch('a+', 'aaa') else 1)\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(command.PLUGIN)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "7"), done.stderr
