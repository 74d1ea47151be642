"""`embed --ray`: the same output as without, from workers of a real Ray of this machine.

Ray has 600 MB, so it is not installed here: what `python -m venv build/ray` and
`build/ray/bin/python -m pip install -e '.[embed,ray]'` made is used. The rest needs no Ray.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.app import corpus_ray_worker
from launcher.app.corpus_ray_worker import OwnService
from launcher.corpus.packing import packed, unpacked, vector
from launcher.corpus.records import Problem
from launcher.errors import QlaunchError
from launcher.linux import processes as procs
from launcher.service import control, store
from tests.cli.commandline import Run
from tests.corpus.server import Server
from tests.corpus.test_command import left, refused, write
from tests.corpus.test_resume import ROOT, texts, whole
from tests.fleet.plans import origin
from tests.patience import HANG_S, PATIENCE_S, eventually
from tests.service.home import Home

PYTHON = ROOT / "build" / "ray" / "bin" / "python"
numbers = st.lists(st.floats(width=32, allow_nan=False), max_size=4)
problems = st.builds(Problem, st.sampled_from(["refused", "too_long"]), st.text())


@given(st.lists(st.one_of(numbers, problems), max_size=5))
def test_answers_are_the_same_after_their_way(answers: list[list[float] | Problem]) -> None:
    from array import array

    made = [each if isinstance(each, Problem) else array("f", each) for each in answers]
    assert unpacked(packed(made)) == made
    for each in made:
        if not isinstance(each, Problem):
            assert vector(each.tobytes()).tobytes() == each.tobytes()


def test_without_the_extra_one_sentence_says_what_to_install(
    server: Callable[..., Server], run: Run, tmp_path: Path
) -> None:
    if importlib.util.find_spec("ray") is not None:
        pytest.skip("Ray is installed here")
    source = write(tmp_path / "i.jsonl", texts(20))
    words = ("embed", str(source), "-o", str(tmp_path / "o.jsonl"), "--url", server().url)
    answer = run(*words, "--ray", "local", "--json")
    assert refused(answer) == (2, "extra_missing")
    assert "Ray Data, which is not installed" in answer.error["message"]
    assert "qlaunch[ray]" in answer.error["fix"]
    assert left(tmp_path) == {"i.jsonl"}
    assert run(*words, "--ray-workers", "2").code == 2


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))
    made = Home(tmp_path)
    yield made
    for name in store.list_services():
        control.down(name)
    made.assert_nothing_left()


def test_a_service_of_this_machine_is_none_of_a_cluster(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from launcher.cli.main import main

    home.up(home.plan())
    source = write(tmp_path / "i.txt", ["a"])
    code = main(["embed", str(source), "-o", str(tmp_path / "o.npy"), "svc", "--ray", "auto"])
    assert code == 2
    assert "svc runs on this machine, where workers do not reach it" in capsys.readouterr().err


def own(home: Home, monkeypatch: pytest.MonkeyPatch, *switches: str) -> tuple[str, ...]:
    """A program that starts services with the fake engine, as a worker would start real ones."""
    plan = msgspec.structs.replace(home.plan(*switches), origin=origin(settings={"port": 0}))
    path = home.root / "own-plan.json"
    path.write_bytes(msgspec.json.encode(plan))
    program = (sys.executable, "-m", "tests.corpus.own_up", home.entry[2], str(path))
    monkeypatch.setattr(corpus_ray_worker, "PROGRAM", program)
    monkeypatch.chdir(ROOT)
    return program


def test_workers_of_one_machine_have_services_of_their_own(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    own(home, monkeypatch)
    plan = msgspec.structs.replace(home.plan(), origin=origin(settings={"port": 0}))
    services = [OwnService(plan) for _ in range(2)]
    assert [each.plan.service for each in services] == ["svc-ray-1", "svc-ray-2"]
    states = [control.status(each.plan.service) for each in services]
    assert [state.state for state in states] == ["ready", "ready"]
    assert len({state.endpoint for state in states}) == 2
    for each in services:
        each.stop()
        assert control.status(each.plan.service).state == "stopped"


def test_a_start_that_fails_says_why(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    own(home, monkeypatch, "--exit-code", "1")
    plan = msgspec.structs.replace(home.plan(), origin=origin(settings={"port": 0}))
    with pytest.raises(QlaunchError, match="a worker's own service: ") as caught:
        OwnService(plan)
    assert caught.value.exit_code in (5, 6)


def test_a_worker_s_service_ends_with_it_by_whatever_death(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = own(home, monkeypatch)
    text = f"""
import msgspec, time
from launcher.app import corpus_ray_worker as worker
from launcher.documents.plan import Plan
worker.PROGRAM = {program!r}
with open({program[-1]!r}, "rb") as file:
    plan = msgspec.json.decode(file.read(), type=Plan)
print(worker.OwnService(plan).plan.service, flush=True)
time.sleep(1000)
"""
    argv = [sys.executable, "-c", text]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "svc-ray-1\n"
        process.kill()
    eventually(lambda: control.status("svc-ray-1").state == "stopped")


def embed(home: Path, *words: str) -> subprocess.Popen[str]:
    if not PYTHON.exists():
        pytest.skip("Ray is not there: python -m venv build/ray, and pip install -e '.[embed,ray]'")
    return subprocess.Popen(
        [PYTHON, "-m", "launcher", "embed", *words, "--batch", "5", "--json"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "QLAUNCH_HOME": str(home / "q")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> int:
    _, err = process.communicate(timeout=HANG_S)
    assert "Traceback" not in err
    return process.returncode


RAY = ("--ray", "local", "--ray-workers", "2")


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "npy"])
def test_a_cluster_s_output_is_that_of_one_process(
    suffix: str, server: Callable[..., Server], tmp_path: Path
) -> None:
    """Bad rows, refusals and truncation included."""
    asked = server(decide=lambda batch: (400, "no") if any("7 w" in t for t in batch) else None)
    source = write(tmp_path / "i.jsonl", texts(2000))
    outs = [tmp_path / f"{name}.{suffix}" for name in ("here", "there")]
    for out, more in zip(outs, ((), RAY), strict=True):
        words = (str(source), "-o", str(out), "--url", asked.url, "--truncate", *more)
        assert ended(embed(tmp_path, *words)) == 10
    assert whole(outs[0]) == whole(outs[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_a_cluster_began_this_machine_goes_on_with(
    number: int, server: Callable[..., Server], tmp_path: Path
) -> None:
    asked = server()
    source, out, plain = write(tmp_path / "i.jsonl", texts(20_000)), tmp_path / "o.jsonl", None
    words = (str(source), "--url", asked.url)
    process = embed(tmp_path, *words, "-o", str(out), *RAY)
    part = Path(f"{out}.part")
    eventually(lambda: part.exists() and part.stat().st_size > 50_000, HANG_S)
    process.send_signal(number)
    assert ended(process) == (130 if number == signal.SIGINT else -number)
    assert not out.exists()
    again = embed(tmp_path, *words, "-o", str(out))
    output, err = again.communicate(timeout=HANG_S)
    assert again.returncode == 10, err
    plain = tmp_path / "plain.jsonl"
    assert ended(embed(tmp_path, *words, "-o", str(plain))) == 10
    assert whole(out) == whole(plain)
    if number == signal.SIGINT:  # the other death may have come before the first commit
        assert json.loads(output)["data"]["resumed_rows"] > 0
    mark = f"QLAUNCH_HOME={tmp_path / 'q'}"
    eventually(lambda: not procs.marked(mark), PATIENCE_S)


def test_no_cluster_is_one_sentence(server: Callable[..., Server], tmp_path: Path) -> None:
    source = write(tmp_path / "i.jsonl", texts(20))
    words = (str(source), "-o", str(tmp_path / "o.jsonl"), "--url", server().url)
    for address, code, exit_code in (
        ("127.0.0.1:1", "ray_unreachable", 1),
        ("ray://127.0.0.1:1", "ray_client", 2),
    ):
        out, err = embed(tmp_path, *words, "--ray", address).communicate(timeout=HANG_S)
        [error] = json.loads(out)["errors"]
        assert error["code"] == code, err
        assert json.loads(out)["exit_code"] == exit_code
    assert left(tmp_path) == {"i.jsonl"}
