"""Deaths at any moment: what a run that goes on leaves is what one without a death leaves."""

from __future__ import annotations

import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.children import ignoring
from tests.cli.commandline import Run
from tests.corpus.server import Server
from tests.corpus.test_command import left, refused, write
from tests.patience import HANG_S, PATIENCE_S, eventually

OFTEN = "import launcher.corpus.writing as writing; writing.COMMIT_S = {commit_s}; "
ENTRY = "from launcher.cli.main import entry; entry()"
ROOT = Path(__file__).parents[2]


def texts(count: int) -> list[str]:
    """Some of them bad: a bad row must be once in its file, too."""
    return ["" if at % 17 == 5 else f"text {at} {'word ' * (at % 7)}" for at in range(count)]


def start(
    home: Path, *words: str, commit_s: float = 0.05, ignored: tuple[signal.Signals, ...] = ()
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            *ignoring(*ignored),
            sys.executable,
            "-c",
            OFTEN.format(commit_s=commit_s) + ENTRY,
            *words,
        ],
        env={**os.environ, "QLAUNCH_HOME": str(home)},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def whole(out: Path) -> tuple[bytes, bytes]:
    """Both files of a run that is over, and proof that nothing else of it is left."""
    beside = {path.name for path in out.parent.iterdir() if path.name.startswith(out.name)}
    assert beside == {out.name, f"{out.name}.bad.jsonl"}
    return out.read_bytes(), Path(f"{out}.bad.jsonl").read_bytes()


def has_come_to(process: subprocess.Popen[bytes], out: Path, size: int) -> bool:
    """Whether a run has written so much, or is over."""
    part = Path(f"{out}.part")
    grown = part.exists() and part.stat().st_size >= size
    return grown or out.exists() or process.poll() is not None


@pytest.mark.parametrize(
    ("suffix", "rows", "batch"), [("jsonl", 1500, 5), ("parquet", 1500, 5), ("npy", 20_000, 64)]
)
def test_killed_at_ten_random_moments(
    suffix: str, rows: int, batch: int, engine: str, tmp_path: Path
) -> None:
    assert killed(suffix, rows, batch, engine, tmp_path) >= 5


def killed(suffix: str, rows: int, batch: int, engine: str, tmp_path: Path) -> int:
    """Hold a run with ten deaths to one without, byte by byte; how many came amid the work."""
    source = str(write(tmp_path / "i.jsonl", texts(rows)))
    words = ("embed", source, "--url", engine, "--batch", str(batch), "--concurrency", "2", "-o")
    plain = tmp_path / f"plain.{suffix}"
    once = start(tmp_path, *words, str(plain))
    assert once.wait(HANG_S) == 10, once.communicate()
    once.communicate()
    out = tmp_path / f"killed.{suffix}"
    part, journal = Path(f"{out}.part"), Path(f"{out}.journal")
    chance = random.Random(suffix)
    kills = 0
    for _ in range(10):
        process = start(tmp_path, *words, str(out))
        before = part.stat().st_size if part.exists() else 0
        # Most deaths are amid the work, some before it begins or as it ends.
        grown = before + chance.randrange(1, 1 + plain.stat().st_size // 10)
        eventually(functools.partial(has_come_to, process, out, grown), HANG_S)
        time.sleep(chance.random() / 100)
        process.kill()
        kills += process.wait(PATIENCE_S) == -signal.SIGKILL
        process.communicate()
        if out.exists() and not journal.exists():
            break
    if not out.exists() or journal.exists():
        last = start(tmp_path, *words, str(out))
        assert last.wait(HANG_S) == 10, last.communicate()
        last.communicate()
    assert whole(out) == whole(plain)
    return kills


class Death(BaseException):
    """The process ends here; nothing after it happens."""


class Mortal:
    """Lets a run die at one of the moments at which it changes something on the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = -1
        self.torn = False
        for owner, name in (
            (os, "fsync"),
            (os, "open"),
            (Path, "replace"),
            (Path, "unlink"),
        ):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*words: Any, **more: Any) -> Any:
            self._step()
            result = real(*words, **more)
            self._step()
            return result

        return call

    def _step(self) -> None:
        if self.left == 0:
            os._exit(77)
        self.left -= 1


@pytest.mark.parametrize("suffix", ["jsonl", "npy", "parquet"])
def test_killed_at_every_step_on_the_disk(
    suffix: str, engine: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every fsync, rename and removal, before and after it, with half a line written behind."""
    monkeypatch.setattr("launcher.corpus.writing.COMMIT_S", 0.0)
    source = str(write(tmp_path / "i.jsonl", texts(40)))
    words = ("embed", source, "--url", engine, "--batch", "10", "--quiet", "-o")
    plain = tmp_path / f"plain.{suffix}"
    assert run(*words, str(plain)).code == 10
    wanted = whole(plain)
    mortal = Mortal(monkeypatch)
    for step in range(1000):
        out = tmp_path / f"{step}.{suffix}"
        if not died(run, mortal, step, (*words, str(out))):
            break
        for ending in (".part", ".bad.part", ".journal"):
            torn = Path(f"{out}{ending}")
            if torn.exists() and (ending == ".journal" or Path(f"{out}.journal").stat().st_size):
                with torn.open("ab") as file:
                    file.write(b'00000000 {"posi')
        if out.exists() and not Path(f"{out}.journal").exists():
            assert run(*words, str(out)).code == 9
        else:
            assert run(*words, str(out)).code == 10
        assert whole(out) == wanted, f"died at step {step}"
    assert step > 20


def died(run: Run, mortal: Mortal, step: int, words: tuple[str, ...]) -> bool:
    """Run a command in a child that ends at one step; whether it came so far."""
    child = os.fork()
    if child == 0:
        mortal.left = step
        try:
            run(*words)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 77


@pytest.mark.parametrize(
    ("number", "ignored"),
    [(signal.SIGINT, ()), (signal.SIGTERM, ()), (signal.SIGTERM, (signal.SIGINT, signal.SIGHUP))],
    ids=["int", "term", "term-in-the-background"],
)
def test_an_interrupt_keeps_what_was_done(
    number: signal.Signals, ignored: tuple[signal.Signals, ...], engine: str, tmp_path: Path
) -> None:
    source = str(write(tmp_path / "i.jsonl", texts(1500)))
    words = ("embed", source, "--url", engine, "--batch", "5", "--concurrency", "2", "-o")
    out = tmp_path / "o.jsonl"
    process = start(tmp_path, *words, str(out), commit_s=1000, ignored=ignored)
    part = Path(f"{out}.part")
    eventually(lambda: part.exists() and part.stat().st_size > 10_000)
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130, err
    assert b"rows, which are kept" in err
    assert not out.exists()
    assert part.stat().st_size > 10_000
    process = start(tmp_path, *words, str(out))
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 10, err
    assert b"going on after" in err
    lines = out.read_bytes().splitlines()
    assert len(set(lines)) == len(lines) == sum(map(bool, texts(1500)))


def interrupted(run: Run, server: Callable[..., Server], source: Path, out: Path) -> Server:
    """A run that ended in the middle, and its server, which works again."""
    asked = server()
    asked.decide = lambda batch: (404, "gone") if any("35" in text for text in batch) else None
    words = ("--url", asked.url, "--batch", "5", "--concurrency", "1", "--json")
    answer = run("embed", str(source), "-o", str(out), *words)
    assert refused(answer) == (1, "embed_failed")
    assert Path(f"{out}.journal").exists()
    asked.decide = lambda _: None
    return asked


def test_a_run_goes_on_only_as_it_was_begun(
    server: Callable[..., Server], run: Run, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "i.jsonl", texts(60)), tmp_path / "o.jsonl"
    asked = interrupted(run, server, source, out)

    def go(*more: str) -> tuple[int, str]:
        words = ("embed", str(source), "-o", str(out), "--url", asked.url, "--batch", "5")
        return (lambda answer: (answer.code, answer.err))(run(*words, *more))

    code, said = go("--column", "id")
    assert code == 9
    assert "--column was 'text', and is 'id'" in said
    code, said = go("--truncate")
    assert code == 9
    assert "--truncate was False, and is True" in said
    code, said = go("--batch", "6")
    assert "--batch was 5, and is 6" in said
    asked.decide = lambda batch: [[1.0] * 7 + [float(len(text))] for text in batch]
    code, said = go()
    assert code == 9
    assert "the same text has another vector now" in said
    asked.decide = lambda _: None
    data = source.read_bytes()
    source.write_bytes(data.replace(b"text 3", b"test 3"))
    code, said = go()
    assert code == 9
    assert f"{source} has changed since" in said
    source.write_bytes(data)  # other times, and the same bytes
    code, said = go()
    assert code == 10
    assert "going on after" in said
    assert len(out.read_bytes().splitlines()) == sum(map(bool, texts(60)))
    assert "another run" not in said


def test_restart_begins_anew(server: Callable[..., Server], run: Run, tmp_path: Path) -> None:
    source, out = write(tmp_path / "i.jsonl", texts(60)), tmp_path / "o.jsonl"
    asked = interrupted(run, server, source, out)
    source.write_text('{"text": "only"}\n')
    words = ("embed", str(source), "-o", str(out), "--url", asked.url, "--restart", "--json")
    answer = run(*words)
    assert (answer.code, answer.data["rows"], answer.data["resumed_rows"]) == (0, 1, None)
    assert left(tmp_path) == {"i.jsonl", "o.jsonl"}


def test_parts_that_lost_what_was_written_are_told(
    server: Callable[..., Server], run: Run, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "i.jsonl", texts(60)), tmp_path / "o.jsonl"
    asked = interrupted(run, server, source, out)
    os.truncate(f"{out}.part", 10)
    answer = run("embed", str(source), "-o", str(out), "--url", asked.url, "--batch", "5", "--json")
    assert refused(answer) == (9, "embed_damaged")


@pytest.mark.parametrize("what", ["the part", "the bad rows", "the folder", "another file"])
def test_a_part_that_is_taken_away_meanwhile_is_told(
    what: str, server: Callable[..., Server], run: Run, tmp_path: Path
) -> None:
    """The run ended well, with a sentence about an output that was not there."""
    folder = tmp_path / "folder"
    folder.mkdir()
    source, out = write(tmp_path / "i.jsonl", texts(60)), folder / "o.jsonl"
    part, bad = Path(f"{out}.part"), Path(f"{out}.bad.part")

    def takes(batch: list[str]) -> None:
        if len(asked.calls) == 5:
            if what == "the folder":
                folder.rename(tmp_path / "elsewhere")
            elif what == "another file":
                part.rename(folder / "mine")
                part.write_text("yours")
            else:
                (part if what == "the part" else bad).unlink()

    asked = server(decide=takes)
    answer = run("embed", str(source), "-o", str(out), "--url", asked.url, "--batch", "5", "--json")
    assert refused(answer) == (9, "embed_damaged")
    assert not out.exists()


def test_a_whole_run_without_its_part_and_output_is_told(
    server: Callable[..., Server], run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.corpus.encoders import JsonlEncoder

    source, out = write(tmp_path / "i.jsonl", texts(9)), tmp_path / "o.jsonl"
    words = ("embed", str(source), "-o", str(out), "--url", server().url, "--json")

    def fails(*_words: object) -> Path:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(JsonlEncoder, "finish", fails)
        assert refused(run(*words)) == (1, "not_written")
    Path(f"{out}.part").unlink()
    assert refused(run(*words)) == (9, "embed_damaged")


def test_two_runs_of_one_output(server: Callable[..., Server], run: Run, tmp_path: Path) -> None:
    source, out = write(tmp_path / "i.jsonl", texts(60)), tmp_path / "o.jsonl"
    slow = server()
    slow.decide = lambda batch: time.sleep(0.2) if len(batch) > 1 else None
    words = ("embed", str(source), "-o", str(out), "--url", slow.url, "--batch", "5")
    first = start(tmp_path, *words, "--concurrency", "1")
    try:
        eventually(Path(f"{out}.part").exists)
        assert refused(run(*words, "--json")) == (9, "embed_busy")
    finally:
        first.kill()
        first.communicate()


def test_an_input_that_changes_meanwhile_is_told(
    server: Callable[..., Server], run: Run, tmp_path: Path
) -> None:
    source, out = write(tmp_path / "i.jsonl", texts(60)), tmp_path / "o.jsonl"

    def appends(batch: list[str]) -> None:
        with source.open("a") as file:
            file.write("\n")

    url = server(decide=appends).url
    answer = run("embed", str(source), "-o", str(out), "--url", url, "--json")
    assert refused(answer) == (9, "input_changed")
    assert not out.exists()


def test_a_disk_that_is_full_is_one_sentence(
    engine: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    source, out = write(tmp_path / "i.jsonl", texts(60)), tmp_path / "o.jsonl"
    real, calls = os.fsync, []

    def full(fd: int) -> None:
        calls.append(fd)
        if 4 < len(calls) < 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(fd)

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("launcher.corpus.writing.COMMIT_S", 0.0)
    words = ("embed", str(source), "-o", str(out), "--url", engine, "--batch", "5")
    answer = run(*words, "--json")
    assert refused(answer) == (1, "not_written")
    assert "No space left" in answer.error["message"]
    calls += [0] * 10
    assert run(*words).code == 10
    assert len(out.read_bytes().splitlines()) == sum(map(bool, texts(60)))
