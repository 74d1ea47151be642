"""`up hf:ORG/NAME` and `modelscope:ORG/NAME` against a hub that refuses, limits, or breaks off: one
sentence, the right exit code, and no service left. What serves in the end is in tests/engine_real.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.network.causes import HUGGING_FACE, MODELSCOPE
from tests.checkpoints import make_bert, make_qwen3
from tests.checkpoints.hub import Hub, commit, serve
from tests.network import servers
from tests.network.test_downloads import KINDS, SHARD, answer
from tests.network.test_fetch_failures import environment
from tests.patience import PATIENCE_S

TOKENS = {"hf": HUGGING_FACE.token, "modelscope": MODELSCOPE.token}


@pytest.fixture(scope="module")
def revisions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("model")
    return {
        "main": make_qwen3(folder / "main", shards=2),
        "v2": make_bert(folder / "v2", pooling="mean"),
    }


@pytest.fixture
def hub(revisions: dict[str, Path]) -> Iterator[Hub]:
    with serve(Hub(repos={"acme/tiny": revisions})) as server:
        yield server
        server.go_on.set()


def start(hub: Hub, folder: Path, *words: str, **changes: str) -> subprocess.Popen[str]:
    """A command in a process of its own; what pip would fetch cannot be reached."""
    nowhere = f"http://127.0.0.1:{servers.free_port()}/simple"
    changes = {"PIP_INDEX_URL": nowhere, **changes}
    return subprocess.Popen(
        [sys.executable, "-m", "launcher", *words, "--json"],
        env=environment(folder, hub.endpoint, changes),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def up(hub: Hub, folder: Path, *words: str, **changes: str) -> tuple[int, dict[str, Any]]:
    """Exit code and first error of an `up`, which left no service."""
    code, document = answer(start(hub, folder, "up", *words, **changes))
    assert not list((folder / "home").glob("state/services/*"))
    assert list((folder / "home").rglob("*.partial")) == []
    error: dict[str, Any] = document["errors"][0]
    return code, error


@pytest.mark.parametrize("kind", KINDS)
def test_a_repository_that_is_gated_names_the_token(kind: str, hub: Hub, tmp_path: Path) -> None:
    hub.gated.add("acme/tiny")
    code, error = up(hub, tmp_path, f"{kind}:acme/tiny")
    assert (code, error["code"]) == (2, "model_gated"), error
    assert TOKENS[kind] in error["fix"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["acme/tiny@v9", "acme/none"])
def test_a_repository_or_revision_that_is_not_there(
    kind: str, source: str, hub: Hub, tmp_path: Path
) -> None:
    code, error = up(hub, tmp_path, f"{kind}:{source}")
    assert (code, error["code"]) == (2, "model_not_found"), error
    assert source in error["message"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("status", "name"), [(429, "rate_limited"), (503, "server_failed")])
def test_a_hub_that_limits_or_fails(
    kind: str, status: int, name: str, hub: Hub, tmp_path: Path
) -> None:
    hub.status = status
    code, error = up(hub, tmp_path, f"{kind}:acme/tiny")
    assert (code, error["code"]) == (1, name), error
    assert hub.endpoint in error["message"]  # the mirror that was configured, not the hub itself


@pytest.mark.parametrize("kind", KINDS)
def test_offline_asks_nobody(kind: str, hub: Hub, tmp_path: Path) -> None:
    code, error = up(hub, tmp_path, f"{kind}:acme/tiny", "--offline")
    assert (code, error["code"]) == (1, "model_unreachable"), error
    assert "offline" in error["message"]
    assert hub.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_only_prints_asks_nobody(kind: str, hub: Hub, tmp_path: Path) -> None:
    for words in (("plan",), ("up", "--dry-run"), ("export", "systemd")):
        code, document = answer(start(hub, tmp_path, *words, f"{kind}:acme/tiny"))
        assert code == 2
        assert document["errors"][0]["fix"] == f"qlaunch model pull {kind}:acme/tiny"
    assert hub.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_interrupted_up_is_taken_up_where_it_was(
    kind: str, hub: Hub, revisions: dict[str, Path], tmp_path: Path
) -> None:
    hub.stall = {SHARD: 50_000}
    long = {"HF_HUB_DOWNLOAD_TIMEOUT": "600", "MODELSCOPE_DOWNLOAD_TIMEOUT": "600"}
    child = start(hub, tmp_path, "up", f"{kind}:acme/tiny", **long)
    assert hub.stalled.wait(PATIENCE_S)
    child.send_signal(signal.SIGINT)
    code, document = answer(child)
    assert (code, document["errors"][0]["code"]) == (130, "interrupted")
    assert not list((tmp_path / "home").glob("state/services/*"))
    hub.go_on.set()
    # The model comes; then the engine cannot, which is another sentence.
    code, error = up(hub, tmp_path, f"{kind}:acme/tiny")
    assert (code, error["code"]) == (5, "connection_failed"), error
    data = answer(start(hub, tmp_path, "plan", f"{kind}:acme/tiny"))[1]["data"]
    assert [each["kind"] for each in data["absent"]] == ["engine"]
    path = Path(data["model_path"])
    assert (path / SHARD).read_bytes() == (revisions["main"] / SHARD).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_revision_is_what_it_names(kind: str, hub: Hub, tmp_path: Path) -> None:
    revision = commit("acme/tiny", "v2") if kind == "hf" else "v2"
    word = f"{kind}:acme/tiny@{revision}"
    assert answer(start(hub, tmp_path, "model", "pull", word))[0] == 0
    data = answer(start(hub, tmp_path, "plan", word))[1]["data"]
    assert json.loads((Path(data["model_path"]) / "config.json").read_text())["model_type"] == (
        "bert"
    )
    assert data["profile"] == "cpu-minilm"
