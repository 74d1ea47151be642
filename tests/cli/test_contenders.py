"""Contenders with processes: started, measured, stopped, and nothing left of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from launcher.app import contenders
from launcher.app.prepare import Prepared, Request, prepare
from launcher.bench import unsupervised
from launcher.bench.load import Bounds
from launcher.bench.peers import catalogue, installing, names
from launcher.bench.test_machine import Machine
from launcher.bench.trial import Life, live
from launcher.documents.comparison import Level, Mode
from launcher.linux import processes
from launcher.service import ports
from tests.cli.conftest import SetMachine
from tests.samples import machine
from tests.service.home import ENGINE, Home

LEVEL = Level(clients=2, batch=2, tokens=16)


def tools(ram: Callable[[], int | None] = lambda: None) -> Machine:
    return Machine(
        bounds=lambda _level: Bounds(requests=10, limit_s=10.0, warmup=1),
        ram=ram,
        gpu=lambda: None,
        say=lambda _line: None,
        now=lambda _line: None,
    )


def server(home: Path, *switches: str) -> contenders.BareContender:
    plan = Home(home).plan()
    facts = Mode(name="plain", kind="baseline", outcome="not_reached")

    def argv(port: int) -> Sequence[str]:
        words = [sys.executable, "-S", str(ENGINE), "--port", str(port), "--dimensions", "8"]
        return [*words, *switches]

    return contenders.BareContender(facts, argv, {}, plan, model="fake", log=home / "log")


def marked() -> list[str]:
    return [
        processes.describe(one) for one in processes.marked(f"{unsupervised.MARK}={os.getpid()}")
    ]


def lived(contender: contenders.BareContender) -> Life:
    return live(contender, [LEVEL], tools())


def test_a_server_by_hand(home: Path) -> None:
    life = lived(server(home))
    assert life.failure is None
    row = life.rows[0]
    assert (row.mode, row.requests, row.errors) == ("plain", 10, 0)
    assert row.tokens_counted == 16
    assert row.ram_peak_bytes is not None
    assert life.running is not None
    assert life.running.ready_s is not None
    assert life.ended.ram_peak_bytes is not None
    assert marked() == []


def test_a_server_that_does_not_start_says_its_last_words(home: Path) -> None:
    life = lived(server(home, "--exit-code", "3"))
    assert life.rows == []
    assert "start_failed" in str(life.failure)
    assert marked() == []


def test_a_program_that_is_not_there(home: Path) -> None:
    plan = Home(home).plan()
    facts = Mode(name="x", kind="peer", outcome="not_reached")
    contender = contenders.BareContender(
        facts, lambda _port: ["/no/such/program"], {}, plan, model="m", log=home / "log"
    )
    assert "cannot be started" in str(lived(contender).failure)


def test_tokens_that_a_server_does_not_count_are_ours(home: Path) -> None:
    contender = server(home)
    machine_tools = tools()
    first = live(contender, [LEVEL], machine_tools)  # finds the words; the next has them already
    contender._counts = False
    life = live(contender, [LEVEL], machine_tools)
    row = life.rows[0]
    assert first.rows[0].tokens_counted == 16
    assert row.tokens_counted is None
    assert row.embeddings_per_s is not None
    assert row.tokens_per_s == pytest.approx(16 * row.embeddings_per_s, rel=1e-6)


def test_memory_that_does_not_come_back_is_said(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launcher.bench.test_machine.BACK_S", 0.3)
    left = iter([8 << 30, *[5 << 30] * 50])
    found = tools(lambda: next(left))
    assert found.settle() is None
    assert found.settle() == "3.22 GB less RAM is available than at the beginning"
    patient = iter([8 << 30, 5 << 30, 8 << 30])
    back = tools(lambda: next(patient))
    assert (back.settle(), back.settle()) == (None, None)


@pytest.fixture
def minilm(ready: Path) -> Prepared:
    return prepare(Request("cpu-minilm", {}, fetch=False), lambda _: None)


def test_the_plain_command_of_a_profile(minilm: Prepared, tmp_path: Path) -> None:
    found = contenders.plain_contender(minilm, tmp_path)
    argv = found.facts.argv
    assert argv[1:] == (
        *("serve", "--model-path", minilm.plan.model_path, "--is-embedding"),
        *("--device", "cpu", "--port", "0"),
    )
    assert found.facts.kind == "baseline"
    assert found.facts.predicted == {}
    assert "sglang_plugin" not in found._env["PYTHONPATH"]
    assert "OMP_NUM_THREADS" not in found._env


def test_peers_have_the_profile_s_model_and_threads(minilm: Prepared, tmp_path: Path) -> None:
    serve = [spec for spec in names.SPECS if catalogue.choose(spec).peer.models[0] == "encoder"]
    assert len(serve) >= 4
    for spec in serve:
        found = contenders.peer_contender(spec, minilm, tmp_path)
        assert isinstance(found, contenders.BareContender), found.facts.reason
        assert any(minilm.plan.model_path in word for word in found.facts.argv) or any(
            "/exports/" in word for word in found.facts.argv
        )
        assert found.facts.name == spec
        assert found._env["OMP_NUM_THREADS"] == "4"


@pytest.mark.parametrize(
    ("spec", "dtype"),
    [
        ("infinity", "bfloat16"),
        ("sentence-transformers", "bfloat16"),
        ("onnxruntime", "float32"),
        ("onnxruntime:int8", "int8"),
        ("llama.cpp", "Q8_0"),
        ("accelerate:disk", "bfloat16"),
    ],
)
def test_a_peer_computes_in_the_profile_s_format_or_its_own(
    minilm: Prepared, tmp_path: Path, spec: str, dtype: str
) -> None:
    assert minilm.plan.expectation.dtype == "bfloat16"
    assert contenders.peer_contender(spec, minilm, tmp_path).facts.dtype == dtype


def test_a_peer_that_cannot_serve_is_refused_before_anything_is_installed(
    minilm: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installing, "install", lambda *_, **__: pytest.fail("installed"))
    on_gpu = replace(minilm, plan=msgspec.structs.replace(minilm.plan, device="cuda"))
    decoder = replace(
        minilm,
        checkpoint=msgspec.structs.replace(minilm.checkpoint, encoder=False, model_type="qwen3"),
    )
    for spec, found, said in (
        ("infinity", on_gpu, "for the CPU only"),
        ("onnxruntime", decoder, "set up for encoders, and this model is a decoder"),
    ):
        refused = contenders.peer_contender(spec, found, tmp_path)
        assert isinstance(refused, contenders.CannotRun)
        assert refused.facts.outcome == "cannot_run"
        assert said in str(refused.facts.reason)


def test_a_service_of_somebody_else_is_not_stopped(home: Path) -> None:
    """`launch` refuses a name that is taken; what it did not start is not ours to stop."""
    plan = Home(home).plan(port=ports.pick_free("127.0.0.1"))
    facts = contenders.facts_of(plan, "x", "profile")
    contender = contenders.ProfileContender(facts, plan)
    ended = contender.stop()
    assert ended.left == ()


def test_names_with_dots_stay_whole(home: Path, on: SetMachine) -> None:
    on(machine())
    found, _ = contenders.profile_contender(
        "cpu-qwen3-0.6b", lambda _: None, command_name="compare", fetch=False
    )
    assert (found.facts.name, found.facts.outcome) == ("cpu-qwen3-0.6b", "cannot_run")
    assert found.facts.reason is not None
    assert contenders.bare_name("./my/file.v2.yaml") == "file.v2"
    assert contenders.service_name("x" * 80, "compare") == f"compare-{'x' * 56}"
