"""A proof that is ended: what it runs ends in order too, also where a shell had SIGINT ignored."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from launcher.documents.proof import Proof
from launcher.linux import processes
from launcher.prove import calls, run
from tests.children import ignoring, running
from tests.patience import PATIENCE_S, eventually

BACKGROUND = (signal.SIGINT, signal.SIGHUP)
"""What `nohup COMMAND &` of a shell without job control has ignored."""

STAND_IN = """#!{python}
import sys, time
from pathlib import Path
folder, words = Path({folder!r}), sys.argv[4:]
(folder / words[0]).touch()
try:
    time.sleep(0 if words[0] == "down" else 600)
except KeyboardInterrupt:
    (folder / "ended").touch()
    sys.exit(130)
"""
"""What is called instead of Python with `-P -m launcher WORDS`: all but `down` hangs."""

PROOF = """
import sys, time
from pathlib import Path
from launcher.app.interrupts import ends_by_interrupt
from launcher.documents.proof import Proof, ProvedMachine
from launcher.prove import run
from launcher.prove.agenda import Chapter, Step
sys.executable = sys.argv[1]
machine = ProvedMachine(cpu="c", memory_bytes=1)
begun = Proof(id="p", qlaunch="0", began="then", minutes=1.0, device="cpu", machine=machine)
chapter = Chapter("a", "a", (Step("vectors", ("verify", "a"), 600.0),), services=("a",))
try:
    with ends_by_interrupt():
        run.run(begun, [chapter], Path(sys.argv[2]), time.monotonic() + 600, lambda _: None)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("ignored", [(), BACKGROUND], ids=["terminal", "background"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_proof_in_the_background_is_ended_and_takes_down_what_it_began(
    number: signal.Signals, ignored: tuple[signal.Signals, ...], tmp_path: Path
) -> None:
    """`kill` of `nohup qlaunch prove &` did nothing; its call was killed after a minute."""
    program = tmp_path / "program"
    program.write_text(STAND_IN.format(python=sys.executable, folder=str(tmp_path)))
    program.chmod(0o700)
    argv = [*ignoring(*ignored), sys.executable, "-c", PROOF, str(program), str(tmp_path)]
    with running(argv, stderr=subprocess.PIPE) as proof:
        eventually(lambda: (tmp_path / "verify").exists() or proof.poll() is not None)
        proof.send_signal(number)
        _, err = proof.communicate(timeout=PATIENCE_S)
    assert proof.returncode == 130, err
    assert (tmp_path / "ended").exists(), "the call was not interrupted but killed"
    assert (tmp_path / "down").exists()
    cut = msgspec.json.decode((tmp_path / run.DOCUMENT).read_bytes(), type=Proof)
    assert [chapter.outcome for chapter in cut.chapters] == ["interrupted"]


STUBBORN = """
import signal, subprocess, sys, time
from pathlib import Path
def end(*_):
    sys.exit(143)
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, end if sys.argv[2] == "term" else signal.SIG_IGN)
below = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
try:
    Path(sys.argv[1]).write_text(str(below.pid))
    while True:  # a signal just before a sleep is acted on after it: no long ones
        time.sleep(0.05)
finally:
    below.kill()
"""


@pytest.mark.parametrize(("listens_to", "code"), [("term", 143), ("nothing", -9)])
def test_a_call_that_does_not_listen_to_ctrl_c_is_terminated_then_killed_with_its_children(
    listens_to: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grace_s = 0.2 if listens_to == "nothing" else PATIENCE_S
    monkeypatch.setattr(calls, "_ENDINGS", ((signal.SIGINT, 0.2), (signal.SIGTERM, grace_s)))
    below = tmp_path / "below"
    argv = [sys.executable, "-c", STUBBORN, str(below), listens_to]
    with running(argv, start_new_session=True) as child:
        eventually(lambda: below.exists() and below.read_text())
        calls._end(child)
        assert child.returncode == code
    found = processes.process_id(int(below.read_text()))
    assert found is None or eventually(lambda: not processes.is_alive(found))


HALF_MADE = """
import asyncio, os, signal, sys
from launcher.app.interrupts import ends_by_interrupt
class Loop(asyncio.SelectorEventLoop):
    def _make_self_pipe(self):
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pthread_sigmask(signal.SIG_BLOCK, ())  # Python looks for signals
        super()._make_self_pipe()
try:
    with ends_by_interrupt():
        if sys.argv[1:] == ["inside"]:
            try:
                Loop()
            except KeyboardInterrupt:
                pass
            sys.exit(130)
        Loop()
except KeyboardInterrupt:
    pass
sys.exit(130)
"""


@pytest.mark.parametrize("where", ["inside", "outside"])
def test_a_loop_that_was_being_made_when_the_signal_came_prints_no_traceback(where: str) -> None:
    """Seen in a `compare` that was ended: the loop's own end failed, and Python said so."""
    done = subprocess.run(
        [sys.executable, "-c", HALF_MADE, where], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (130, "")
