"""The command as a process: found servers, signals, kill -9 under load, its errors."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.checkpoints import make_bert
from tests.cli.commandline import Run
from tests.cli.conftest import run
from tests.gateway.conftest import Start
from tests.gateway.harness import numbers
from tests.gateway.scripted_server import truth
from tests.patience import PATIENCE_S, eventually

__all__ = ["run"]

ROOT = Path(__file__).parents[2]
SERVER = """
import asyncio, sys
from tests.gateway.scripted_server import ScriptedServer
async def main():
    server = ScriptedServer()
    server.delay_s = float(sys.argv[2])
    async with server.running(int(sys.argv[1])):
        print(server.url, flush=True)
        await asyncio.sleep(3600)
asyncio.run(main())
"""


class Process:
    """A program that says its URL on the first line."""

    def __init__(self, words: list[str], home: Path) -> None:
        env = {**os.environ, "QLAUNCH_HOME": str(home), "PYTHONPATH": str(ROOT)}
        self.log = home / f"{words[0][-8:].replace('/', '-')}-{os.urandom(4).hex()}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words],
                stdout=subprocess.PIPE,
                stderr=log,
                env=env,
                cwd=ROOT,
                text=True,
            )
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        assert self.line, self.log.read_text()

    @property
    def url(self) -> str:
        """What it said."""
        return self.line.split()[-1].strip()

    def end(self, number: int = signal.SIGKILL) -> int:
        """Signal it and wait."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


Spawn = Callable[..., Process]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    made = tmp_path / "home"
    made.mkdir()
    return made


@pytest.fixture
def spawn(home: Path) -> Iterator[Spawn]:
    running: list[Process] = []

    def start(*words: str) -> Process:
        running.append(Process(list(words), home))
        return running[-1]

    yield start
    for one in running:
        if one.process.poll() is None:
            one.end()
        elif one.process.stdout is not None:
            one.process.stdout.close()


@pytest.fixture
def server(spawn: Spawn) -> Process:
    return spawn("-c", SERVER, "0", "0")


@pytest.fixture
def gateway(spawn: Spawn) -> Spawn:
    def start(*words: str) -> Process:
        made = spawn("-m", "launcher", "gateway", "--port", "0", "--cache-wait-ms", "1000", *words)
        eventually(lambda: requests.get(made.url[:-2] + "ready", timeout=PATIENCE_S).ok)
        return made

    return start


def ask(url: str, texts: list[str], **fields: Any) -> requests.Response:
    body = {"model": "m", "input": texts, **fields}
    return requests.post(f"{url}/embeddings", json=body, timeout=PATIENCE_S)


def hits(url: str) -> int:
    return int(ask(url, ["1"]).headers["X-Cache-Hits"])


def right(answer: requests.Response, texts: list[str]) -> bool:
    assert answer.status_code == 200, answer.text
    data = answer.json()["data"]
    assert [numbers(item["embedding"]) for item in data] == [truth(text) for text in texts]
    return True


def test_it_answers_keeps_and_ends_in_order(gateway: Spawn, server: Process, home: Path) -> None:
    first = gateway(server.url)
    assert right(ask(first.url, ["a", "b"]), ["a", "b"])
    assert first.end(signal.SIGTERM) == 0
    second = gateway(server.url)
    answer = ask(second.url, ["b", "a"], encoding_format="base64")
    assert right(answer, ["b", "a"])
    assert answer.headers["X-Cache-Hits"] == "2"
    assert second.end(signal.SIGINT) == 0
    assert {f.stat().st_mode & 0o077 for f in (home / "cache" / "gateway").iterdir()} == {0}


def test_requests_under_way_are_finished_when_it_is_ended(spawn: Spawn, gateway: Spawn) -> None:
    slow = spawn("-c", SERVER, "0", "2")
    made = gateway(f"m={slow.url}")
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, made.url, [str(n)]) for n in range(4)]
        metrics = made.url[:-2] + "metrics"
        eventually(
            lambda: (
                'open_calls{model="m"' in (page := requests.get(metrics, timeout=PATIENCE_S).text)
                and f'server="{slow.url}"}} 4.0' in page
            )
        )
        assert made.end(signal.SIGTERM) == 0
        assert all(right(job.result(), [str(n)]) for n, job in enumerate(asked))
    assert "draining" in made.log.read_text()


def test_pages_of_other_origins_are_refused_unless_they_are_named(
    gateway: Spawn, server: Process
) -> None:
    """The gateway by itself answered every page, and a service's own guard none."""

    def status(made: Process, origin: str) -> int:
        return requests.post(
            f"{made.url}/embeddings",
            json={"input": "a"},
            headers={"Origin": origin},
            timeout=PATIENCE_S,
        ).status_code

    plain = gateway(f"m={server.url}")
    assert status(plain, "https://app.example") == 403
    assert right(ask(plain.url, ["a"]), ["a"])  # programs that are no pages name no origin
    told = gateway(f"m={server.url}", "--allow-origin", "https://app.example")
    assert status(told, "https://app.example") == 200
    assert status(told, "https://evil.example") == 403


def test_of_what_is_no_http_nothing_is_logged_but_that_it_came(
    gateway: Spawn, server: Process
) -> None:
    made = gateway(f"m={server.url}")
    address = made.url.removeprefix("http://").removesuffix("/v1").split(":")
    for data in (b"Authorization: Bearer secret\0key", b"secret"):
        with socket.create_connection((address[0], int(address[1])), PATIENCE_S) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n")
            assert b" 400 " in connection.makefile("rb").readline()
    eventually(lambda: "Error handling request" in made.log.read_text())
    assert "secret" not in made.log.read_text()
    assert "Traceback" not in made.log.read_text()


def test_what_is_known_of_a_model_at_a_url_by_its_checkpoint(
    gateway: Spawn, server: Process, tmp_path: Path
) -> None:
    folder = make_bert(tmp_path / "bert", pooling="mean")
    prompts = {"prompts": {"query": "q: ", "STS": "compare: "}}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    words = ["--checkpoint", f"m={folder}", "--truncate", "end", "--alias", "small=m"]
    made = gateway(server.url, *words, "--texts-per-minute", "12")
    assert right(ask(made.url, ["a"], model="small"), ["a"])
    answer = ask(made.url, ["a"], prompt_name="query")
    assert numbers(answer.json()["data"][0]["embedding"]) == truth("q: a")
    refused = ask(made.url, ["a"], prompt_name="passage")
    assert refused.status_code == 400
    assert "of this model: STS, query" in refused.text
    long = ask(made.url, ["the sun shines " * 500, "b"])
    assert (long.status_code, long.headers["X-Truncated-Inputs"]) == (200, "1")
    assert ask(made.url, ["the sun shines " * 500], truncate="none").status_code == 400
    described = requests.get(made.url[:-2] + "openapi.json", timeout=PATIENCE_S).text
    assert '"STS"' in described
    limited = ask(made.url, ["x"] * 12)
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(limited.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_killed_under_load_it_leaves_no_wrong_vector(
    kind: str, gateway: Spawn, server: Process, start_cache: Start, tmp_path: Path
) -> None:
    """kill -9 of gateways under load, and of Redis between: only what was in flight is lost."""
    cache = start_cache("redis") if kind == "redis" else None
    url = cache.url if cache is not None else str(tmp_path / "cache" / "v.db")
    answered = 0
    for life in range(3):
        made = gateway(server.url, "--cache", url, "--cache-memory", "0")
        stop = threading.Event()

        def load(seed: int, url: str = made.url, stop: threading.Event = stop) -> int:
            count = 0
            while not stop.is_set():
                texts = [f"{(seed + count + n) % 50}" for n in range(8)]
                try:
                    answer = ask(url, texts)
                except requests.RequestException:
                    break
                right(answer, texts)
                count += 1
            return count

        with ThreadPoolExecutor(4) as pool:
            jobs = [pool.submit(load, 7 * n + life) for n in range(4)]
            eventually(partial(hits, made.url))
            if cache is not None and life == 1:
                cache.process.kill()
                cache.process.wait()
                cache = start_cache("redis", port=cache.port)
                eventually(partial(hits, made.url))
            made.end(signal.SIGKILL)
            stop.set()
            answered += sum(job.result() for job in jobs)
    assert answered > 0


def test_a_server_that_comes_back_as_another_model_has_none_of_the_old_vectors(
    spawn: Spawn, gateway: Spawn
) -> None:
    first = spawn("-c", SERVER, "0", "0")
    port = first.url.split(":")[-1].split("/")[0]
    made = gateway(f"m={first.url}")
    assert right(ask(made.url, ["a"]), ["a"])
    assert int(ask(made.url, ["a"]).headers["X-Cache-Hits"]) == 1
    first.end()
    assert ask(made.url, ["new"]).status_code == 503
    other = SERVER.replace("server.delay_s", "server.model = 'n'; server.delay_s")
    spawn("-c", other, port, "0")

    def new() -> bool:
        answer = ask(made.url, ["a"])
        if answer.status_code != 200:
            return False
        assert numbers(answer.json()["data"][0]["embedding"]) == truth("a", model="n")
        return True

    eventually(new)


def command(home: Path, *words: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "launcher", *words, "--json"],
        env={**os.environ, "QLAUNCH_HOME": str(home), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    return done.returncode, document


@pytest.mark.parametrize(
    ("words", "code", "exit_code"),
    [
        (["absent"], "no_such_service", 3),
        (["http://h/v1,absent"], "bad_target", 2),
        (["a=http://h/v1", "a=http://i/v1"], "bad_target", 2),
        (["http://h/v1", "--host", "0.0.0.0"], "unauthenticated_bind", 2),
        (["http://h/v1", "--cache", "ftp://x"], "bad_cache", 2),
        (["m=http://h/v1", "--alias", "x"], "bad_target", 2),
        (["m=http://h/v1", "--alias", "x=n"], "bad_target", 2),
        (["m=http://h/v1", "--checkpoint", "m=/absent"], "model_not_found", 2),
        (["m=http://h/v1", "--checkpoint", "n=/absent"], "bad_target", 2),
        (["http://h/v1", "--openai-vocabulary", "/absent"], "bad_vocabulary", 2),
        (["http://h/v1", "--texts-per-minute", "0"], "usage", 2),
        (["http://h/v1", "--cache-max-bytes", "1MB"], "bad_cache", 2),
        (["http://h/v1", "--cache-max-bytes", "much"], "size_invalid", 2),
        (["http://h/v1", "--api-key-file", "/absent"], "bad_api_key_file", 2),
        (["http://h/v1", "--upstream-key-file", "/absent"], "bad_api_key_file", 2),
        (["http://h/v1", "--tls-cert", "/absent", "--tls-key", "/absent"], "bad_tls", 2),
        (["http://h/v1", "--tls-cert", "/absent"], "usage", 2),
        (["http://h/v1", "--allow-origin", "https://app.example/path"], "usage", 2),
        (["http://h/v1", "--host", "192.0.2.1", "--allow-unauthenticated"], "bad_address", 2),
    ],
)
def test_what_it_refuses(
    home: Path,
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: str,
    exit_code: int,
) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(home))
    answer = run("gateway", "--port", "0", *words, "--json")
    assert (answer.code, answer.error["code"]) == (exit_code, code)
    assert answer.error["fix"]


def test_a_port_that_is_taken(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        returned, document = command(home, "gateway", "http://h/v1", "--port", port)
    assert document["errors"][0]["code"] == "port_taken"
    assert returned == 9


def test_a_cache_that_cannot_be_opened_can_be_purged(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "v.db"
    made = sqlite3.connect(file)
    made.executescript("CREATE TABLE entries (id INTEGER); PRAGMA user_version = 7;")
    made.close()
    assert command(home, "cache", "stats", "--cache", str(file))[0] == 1
    code, document = command(home, "cache", "purge", "--cache", str(file))
    assert (code, document["data"]["removed"], file.exists()) == (0, None, False)
    code, document = command(home, "cache", "purge", "--cache", "memcached://127.0.0.1:9")
    assert "--cache-key-file" in document["errors"][0]["fix"]  # it said to see that it runs
    file.write_text("somebody's")
    code, document = command(home, "cache", "purge", "--cache", str(file))
    assert (code, document["errors"][0]["code"]) == (1, "cache_unusable")
    assert file.read_text() == "somebody's"


def test_warm_stats_and_purge(gateway: Spawn, server: Process, home: Path, tmp_path: Path) -> None:
    made = gateway(server.url, "--cache-memory", "0")
    (tmp_path / "texts.jsonl").write_text('"one\\ntwo"\n"three"\n\n"three"\n')
    words = ["--model", "m", "--gateway", made.url]
    code, document = command(home, "cache", "warm", str(tmp_path / "texts.jsonl"), *words)
    assert (code, document["data"]) == (0, {"texts": 3, "hits": 0, "made": 3})
    answer = ask(made.url, ["one\ntwo", "three"])
    assert right(answer, ["one\ntwo", "three"])
    assert answer.headers["X-Cache-Hits"] == "2"
    eventually(lambda: command(home, "cache", "stats")[1]["data"]["entries"] == 3)
    assert command(home, "cache", "purge")[1]["data"]["removed"] == 3
    assert ask(made.url, ["three"]).headers["X-Cache-Hits"] == "0"
    (tmp_path / "bad.jsonl").write_text('"fine"\nnot json\n')
    code, document = command(home, "cache", "warm", str(tmp_path / "bad.jsonl"), *words)
    assert code == 2
    assert "line 2" in document["errors"][0]["message"]
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe")
    code, document = command(home, "cache", "warm", str(tmp_path / "bytes.txt"), *words)
    assert (code, document["errors"][0]["message"]) == (
        2,
        f"{tmp_path / 'bytes.txt'} cannot be read: it is not UTF-8",
    )
    (tmp_path / "spaces.txt").write_text("one\n \t\n\nthree\n")
    code, document = command(home, "cache", "warm", str(tmp_path / "spaces.txt"), *words)
    assert (code, document["data"]["texts"]) == (0, 2)  # it ended at the second line
    code, document = command(
        home, "cache", "warm", str(tmp_path / "spaces.txt"), *words[:3], server.url
    )
    assert code == 1  # it said that two vectors were made
    assert "is not a gateway" in document["errors"][0]["message"]
    code, document = command(
        home, "cache", "warm", str(tmp_path / "texts.jsonl"), "--model", "x", "--gateway", made.url
    )
    assert (code, document["errors"][0]["code"]) == (1, "gateway_refused")
    made.end(signal.SIGTERM)
    code, document = command(home, "cache", "warm", str(tmp_path / "texts.jsonl"), *words)
    assert (code, document["errors"][0]["code"]) == (3, "gateway_unreachable")
