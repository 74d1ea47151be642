"""Runs on services: found, started and stopped, waited for while their engine starts again."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from launcher.app import corpus_servers
from launcher.documents.service_state import UP
from launcher.model.checkpoint import Prompts
from launcher.service import control, store
from tests.cli.commandline import Answer
from tests.corpus.test_command import wanted, write
from tests.corpus.test_resume import ROOT
from tests.patience import PATIENCE_S, eventually
from tests.service.home import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    made = Home(tmp_path)
    yield made
    for name in store.list_services():
        control.down(name)
    made.assert_nothing_left()


def embed(capsys: pytest.CaptureFixture[str], *words: str) -> Answer:
    from launcher.cli.main import main

    capsys.readouterr()
    code = main(["embed", *words])
    return Answer(code, *capsys.readouterr())


def test_a_service_that_runs_is_named_or_the_only_one(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home.up(home.plan())
    source = str(write(tmp_path / "i.txt", ["a", "b"]))
    for at, more in enumerate([["svc"], ["--service", "svc"], []]):
        out = tmp_path / f"{at}.npy"
        answer = embed(capsys, source, "-o", str(out), *more, "--json")
        assert answer.data["endpoints"] == ["svc"]
        assert answer.data["model"] == "fake"
        assert np.array_equal(np.load(out), wanted(["a", "b"]))
    assert control.status("svc").state in UP
    answer = embed(capsys, source, "-o", str(tmp_path / "x.npy"), "--service", "absent", "--json")
    assert (answer.code, answer.error["code"]) == (2, "profile_unknown")


def test_a_service_that_does_not_run_is_started_and_stopped(
    home: Home,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    home.up(home.plan())
    control.down("svc")
    launch = functools.partial(control.launch, entry=home.entry)
    monkeypatch.setattr(control, "launch", launch)
    source = str(write(tmp_path / "i.txt", ["a", "b"]))
    out = tmp_path / "o.npy"
    answer = embed(capsys, source, "-o", str(out), "svc")
    assert answer.code == 0
    assert "svc: stopped in" in answer.err
    assert np.array_equal(np.load(out), wanted(["a", "b"]))
    assert control.status("svc").state == "stopped"
    # What is refused is refused before anything starts.
    answer = embed(capsys, source, "-o", str(out), "svc")
    assert answer.code == 9
    assert "starting" not in answer.err


def test_nothing_runs_and_nothing_is_named(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(write(tmp_path / "i.txt", ["a"]))
    answer = embed(capsys, source, "-o", str(tmp_path / "o.npy"), "--json")
    assert (answer.code, answer.error["code"]) == (2, "service_unnamed")


def test_prompts_of_the_model_stand_before_every_text(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = home.plan()
    named = {"query": "query: ", "document": "passage: ", "STS": "like: "}
    prompts = Prompts(named=named)
    changed = msgspec.structs.replace(plan.expectation, prompts=prompts)
    home.up(msgspec.structs.replace(plan, expectation=changed))
    source = str(write(tmp_path / "i.txt", ["a", "b"]))
    for name, prompt in (*named.items(), (None, "passage: ")):
        out = tmp_path / f"{name}.npy"
        words = ["--prompt", name] if name else []
        assert embed(capsys, source, "-o", str(out), *words).code == 0
        assert np.array_equal(np.load(out), wanted(["a", "b"], prompt))
    answer = embed(capsys, source, "-o", str(tmp_path / "x.npy"), "--prompt", "STX", "--json")
    assert (answer.code, answer.error["code"]) == (2, "prompt_unknown")


def beside(out: Path, source: Path, *words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", "embed", str(source), "-o", str(out), "svc", *words],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_an_engine_that_dies_meanwhile_is_waited_for(home: Home, tmp_path: Path) -> None:
    state = home.up(home.plan())
    texts = [f"text {at}" for at in range(3000)]
    source, out = write(tmp_path / "i.txt", texts), tmp_path / "o.npy"
    run = beside(out, source, "--batch", "5", "--concurrency", "2")
    part = Path(f"{out}.part")
    eventually(lambda: part.exists() and part.stat().st_size > 1000)
    assert state.engine is not None
    os.kill(state.engine.pid, signal.SIGKILL)
    _, err = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 0, err
    assert np.array_equal(np.load(out), wanted(texts))
    assert control.status("svc").engine != state.engine


def test_a_service_that_is_stopped_meanwhile_ends_the_run(home: Home, tmp_path: Path) -> None:
    home.up(home.plan())
    texts = [f"text {at}" for at in range(3000)]
    source, out = write(tmp_path / "i.txt", texts), tmp_path / "o.npy"
    words = ("--batch", "5", "--concurrency", "2", "--json")
    run = beside(out, source, *words)
    part = Path(f"{out}.part")
    eventually(lambda: part.exists() and part.stat().st_size > 1000)
    control.down("svc")
    said, _ = run.communicate(timeout=PATIENCE_S)
    assert run.returncode == 3
    assert json.loads(said)["errors"][0]["code"] == "not_running"
    home.up(home.plan())  # another port: the run is the same
    again = beside(out, source, *words)
    said, err = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, err
    assert json.loads(said)["data"]["resumed_rows"] > 0
    assert np.array_equal(np.load(out), wanted(texts))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_was_started_is_stopped_after_any_interruption(
    number: signal.Signals, home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At once after Ctrl-C; after kill -9, by the run that goes on."""
    home.up(home.plan())
    control.down("svc")
    source = write(tmp_path / "i.txt", [f"text {at}" for at in range(3000)])
    out = tmp_path / "o.npy"
    entry = f"import functools, sys; sys.argv[1:] = {['embed', str(source), '-o', str(out), 'svc']}"
    program = (
        f"{entry} + ['--batch', '5', '--concurrency', '1']\n"
        "from launcher.service import control\n"
        f"control.launch = functools.partial(control.launch, entry={home.entry!r})\n"
        "from launcher.cli.main import entry\n"
        "entry()\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    part = Path(f"{out}.part")
    eventually(lambda: run.poll() is not None or (part.exists() and part.stat().st_size > 1000))
    run.send_signal(number)
    _, err = run.communicate(timeout=PATIENCE_S)
    assert part.exists()
    if number == signal.SIGINT:
        assert run.returncode == 130, err
        assert b"svc: stopped in" in err
        assert b"run the same command again to go on" in err
    else:
        assert run.returncode == -number
        answer = embed(capsys, str(source), "-o", str(out), "svc", "--batch", "5")
        assert answer.code == 0
        assert "going on after" in answer.err
        assert "svc: stopped in" in answer.err
    assert control.status("svc").state == "stopped"


def test_a_profile_that_runs_already_is_asked_as_a_service(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It advised `--name`, which `embed` does not have, after the input was read."""
    plan = home.plan()
    home.up(plan)
    monkeypatch.setattr(corpus_servers, "_prepared", lambda *_words, **_options: plan)
    source = str(write(tmp_path / "i.txt", ["a"]))
    answer = embed(capsys, source, "-o", str(tmp_path / "x.npy"), "--profile", "svc", "--json")
    assert (answer.code, answer.error["code"]) == (9, "already_running")
    assert "--service svc" in answer.error["fix"]
    assert "reading the input" not in answer.err
