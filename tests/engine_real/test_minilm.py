"""MiniLM as a person starts it, with an API key: one engine start for all of these."""

from __future__ import annotations

import json
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from launcher.linux import processes as procs
from launcher.service.supervisor.batch_counter import prefill_batch
from tests.engine_real.qlaunch import (
    UP_S,
    Finished,
    Home,
    alive,
    assert_port_is_free,
    texts_of,
    tree,
)

KEY = "canary-4f9a1c7e2b8d"


class Service:
    """The running service of this module."""

    def __init__(self, home: Home, up: Finished) -> None:
        self.home, self.up = home, up
        self.endpoint = str(up.data["endpoint"])

    def post(self, key: str | None) -> tuple[int, Any]:
        """(HTTP status, document) of a plain POST."""
        request = urllib.request.Request(
            f"{self.endpoint}/embeddings",
            json.dumps({"model": "all-minilm-l6-v2", "input": ["a plain POST"]}).encode(),
            {"Content-Type": "application/json"}
            | ({"Authorization": f"Bearer {key}"} if key else {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=UP_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, None


@pytest.fixture(scope="module")
def service(new_home: Callable[[str], Home]) -> Iterator[Service]:
    home = new_home("minilm")
    key_file = home.root / "key"
    key_file.touch(mode=0o600)
    key_file.write_text(f"{KEY}\n", encoding="ascii")
    arguments = ("up", "cpu-minilm", "--port", "0", "--api-key-file", str(key_file), "--json")
    yield Service(home, home.run(*arguments).ok())
    home.sweep()


def test_up_returns_verified(service: Service) -> None:
    data = service.up.data
    assert data["state"] == "ready"
    assert all(service.up.checks.values())
    assert {"count", "finite", "repeatable", "overflow", "parity"} <= service.up.checks.keys()
    # bfloat16 or float32, as this CPU computes: both must pass the 16-bit line.
    assert data["smoke"]["worst_cosine"] >= 0.999
    assert data["smoke"]["reference"] in ("computed", "cached")
    assert 0 < data["timings"]["ready_s"] <= data["timings"]["verified_s"]


def test_its_memory_is_measured_over_the_tree(service: Service) -> None:
    measured = service.up.data["memory"]["measured"]
    assert measured["method"]["ram"] == "pss"
    # Three processes with torch in them, less than a plain start with its 14 GB of cache.
    assert 3e8 < measured["ram_peak_bytes"] < 4e9
    assert measured["gpu_peak_bytes"] is None


def test_clients_get_384_numbers(service: Service) -> None:
    client = openai.OpenAI(base_url=service.endpoint, api_key=KEY, max_retries=0, timeout=UP_S)
    with client:
        answer = client.embeddings.create(model="all-minilm-l6-v2", input=["one", "two"])
    assert [len(each.embedding) for each in answer.data] == [384, 384]
    status, document = service.post(KEY)
    assert status == 200
    assert len(document["data"][0]["embedding"]) == 384


@pytest.mark.parametrize("kind", ["texts", "token ids"])
def test_all_inputs_of_a_call_are_computed_in_one_batch(service: Service, kind: str) -> None:
    """They came one by one: the first was a batch of its own, and the others waited for it."""
    texts: list[str] = [f"text number {number}" for number in range(7)]
    ids: list[list[int]] = [[101, 2000 + number, 102] for number in range(7)]
    before = len(service.home.log("cpu-minilm").splitlines())
    client = openai.OpenAI(base_url=service.endpoint, api_key=KEY, max_retries=0, timeout=UP_S)
    with client:
        given = texts if kind == "texts" else ids
        answer = client.embeddings.create(model="all-minilm-l6-v2", input=given)
    assert len(answer.data) == 7
    lines = service.home.log("cpu-minilm").splitlines()[before:]
    assert 7 in [batch.texts for line in lines if (batch := prefill_batch(line))]


def test_a_large_call_fills_batches_and_keeps_its_order(service: Service) -> None:
    """Read in slices, sent in one message."""
    texts = [f"{'word ' * (number % 5)}number {number}" for number in range(150)]
    before = len(service.home.log("cpu-minilm").splitlines())
    client = openai.OpenAI(base_url=service.endpoint, api_key=KEY, max_retries=0, timeout=UP_S)
    with client:
        whole = client.embeddings.create(model="all-minilm-l6-v2", input=texts).data
        some = (0, 63, 64, 127, 128, 149)
        asked = [texts[number] for number in some]
        alone = client.embeddings.create(model="all-minilm-l6-v2", input=asked).data
    assert len(whole) == 150
    for number, one in zip(some, alone, strict=True):
        products = zip(whole[number].embedding, one.embedding, strict=True)
        assert sum(a * b for a, b in products) > 0.999
    lines = service.home.log("cpu-minilm").splitlines()[before:]
    batches = [batch.texts for line in lines if (batch := prefill_batch(line))]
    assert 64 in batches[:2]  # the first, but for a look of the supervisor's


def test_the_gateway_before_it_answers_the_same_from_its_cache(service: Service) -> None:
    """Clients need no key of the engine's; what was asked before is answered without it."""
    process = service.home.start("gateway", "cpu-minilm", "--port", "0", "--cache-wait-ms", "1000")
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        url = process.stdout.readline().split()[-1]
        direct = openai.OpenAI(base_url=service.endpoint, api_key=KEY, max_retries=0)
        front = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        ids = [[101, 2054, 102], [101, 7592, 2088, 102]]
        with direct, front:
            for value in (["bridges", "and ships", "bridges"], "one", ids, ids[0]):
                expected = vectors(direct, value)
                first, second = vectors(front, value), vectors(front, value)
                assert first == second
                for ours, engines in zip(first, expected, strict=True):
                    assert sum(a * b for a, b in zip(ours, engines, strict=True)) > 0.999
            raw = front.embeddings.with_raw_response.create(
                model="all-minilm-l6-v2", input=["ships", "bridges"]
            )
            assert raw.headers["X-Cache-Hits"] == "1"
            with pytest.raises(openai.BadRequestError):
                front.embeddings.create(model="all-minilm-l6-v2", input="word " * 2000)
    finally:
        process.terminate()
        _out, errors = process.communicate(timeout=UP_S)
    assert process.returncode == 0
    assert KEY not in errors


def vectors(client: openai.OpenAI, value: Any) -> list[list[float]]:
    answer = client.embeddings.create(model="all-minilm-l6-v2", input=value)
    return [item.embedding for item in answer.data]


@pytest.mark.parametrize("key", [None, "canary-wrong"])
def test_without_the_key_it_refuses(service: Service, key: str | None) -> None:
    assert service.post(key) == (401, None)


def test_the_key_is_in_no_file_and_no_command_line(service: Service) -> None:
    wanted = KEY.encode()
    holders = [path for path, data in texts_of(service.home.root).items() if wanted in data]
    assert service.home.root / "key" in holders
    for path in holders:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert path.name in ("key", "engine-secrets.yaml"), path
    data = service.up.data
    pids = [p.pid for p in (*tree(data["pid"]), *tree(data["supervisor_pid"]))]
    assert len(pids) > 3
    for pid in pids:
        assert wanted not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_the_log_tells_that_children_are_forked(service: Service) -> None:
    log = service.home.log("cpu-minilm")
    assert "qlaunch: children are forked" in log
    assert "qlaunch: pooling mean" in log
    assert "modules.json" in log
    assert KEY not in log
    # SGLang asked itself to freeze its heap before it listened, and wrote why that failed.
    assert "Traceback" not in log
    last = service.home.run("logs", "cpu-minilm", "-n", "2", "--json").ok().data["lines"]
    assert len(last) == 2


def test_status_and_ps_show_it(service: Service) -> None:
    data = service.home.run("status", "cpu-minilm", "--json").ok().data
    assert (data["state"], data["endpoint"]) == ("ready", service.endpoint)
    assert data["engine"]["release"] == "cpu"
    (row,) = service.home.run("ps", "--json").ok().data["services"]
    assert row["service"] == "cpu-minilm"


def test_a_second_up_of_the_name_conflicts(service: Service) -> None:
    second = service.home.run("up", "cpu-minilm", "--port", "0", "--json")
    assert second.code == 9
    assert second.document["errors"][0]["code"] == "already_running"


def test_smoke_passes_again_with_the_cached_reference(service: Service) -> None:
    again = service.home.run("smoke", "cpu-minilm", "--json").ok()
    assert all(again.checks.values())
    assert again.data["smoke"]["reference"] == "cached"


def test_an_over_long_text_is_refused_and_the_next_served(service: Service) -> None:
    client = openai.OpenAI(base_url=service.endpoint, api_key=KEY, max_retries=0, timeout=UP_S)
    with client:
        with pytest.raises(openai.BadRequestError, match=r"at most|context length"):
            client.embeddings.create(model="all-minilm-l6-v2", input="word " * 600)
        client.embeddings.create(model="all-minilm-l6-v2", input="word")


def test_it_is_measured_under_load_with_texts_of_exact_length(service: Service) -> None:
    words = ("--clients", "1,4", "--batch", "1,2", "--tokens", "128,513", "--requests", "12")
    found = service.home.run("bench", "cpu-minilm", *words, "--json")
    assert found.code == 10, found.stderr  # 513 tokens are one too many for it
    rows = found.data["rows"]
    measured = [row for row in rows if row["tokens"] == 128]
    assert len(measured) == 4
    for row in measured:
        assert (row["requests"], row["errors"], row["tokens_counted"]) == (12, 0, 128.0)
        assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
        assert row["embeddings_per_s"] > 0
        assert 3e8 < row["ram_peak_bytes"] < 4e9
        assert row["memory_method"]["ram"] == "pss"
        assert not row["saturated"]
    for row in rows:
        if row not in measured:
            assert row["p50_ms"] is None
            assert row["reason"] == "the longest text it takes has 512 tokens"
    record = service.home.run("runs", "show", found.data["run"], "--json").ok().data
    assert [each["rows"][0] for each in record["bench"]] == rows


def test_down_leaves_no_process_no_port_and_a_record(service: Service) -> None:
    """The last of this module: the service is gone after it."""
    data = service.up.data
    processes = tree(data["supervisor_pid"])
    assert data["pid"] in {process.pid for process in processes}
    service.home.run("down", "cpu-minilm", "--json").ok()
    assert alive(processes) == []
    assert procs.marked(f"QLAUNCH_HOME={service.home.root}") == []
    assert_port_is_free(service.endpoint)
    assert not list(service.home.root.rglob("engine-secrets.yaml"))
    record = service.home.run("runs", "show", data["run"], "--json").ok().data
    assert record["outcome"] == "stopped"
    assert record["peak"]["method"]["ram"] == "pss"
    assert record["peak"]["ram_peak_bytes"] >= data["memory"]["measured"]["ram_peak_bytes"]
    assert record["smoke"]["ok"] is True
    wanted = KEY.encode()
    holders = {path.name for path, found in texts_of(service.home.root).items() if wanted in found}
    assert holders == {"key"}
