"""The real hub clients against a hub on loopback: what arrives, and what is said when nothing does.

The libraries read their environment when they are imported, so each case is a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make_bert, make_qwen3
from tests.checkpoints.hub import Hub, commit, serve
from tests.checkpoints.weights import write_json
from tests.patience import PATIENCE_S

_PROGRAM = """
import json, sys
from pathlib import Path
from launcher.errors import QlaunchError
from launcher.model.fetch import locate, pull
from launcher.model.source import parse_source

answers = []
for text, offline in json.loads(sys.argv[1]):
    source = parse_source(text)
    try:
        folder = pull(source, models_dir=Path(sys.argv[2]), offline=offline).path
        answers.append({"folder": str(folder)})
    except QlaunchError as error:
        answers.append({"code": error.code, "exit": error.exit_code, "message": error.message,
                        "fix": error.fix})
    located = locate([source], models_dir=Path(sys.argv[2]))
    answers[-1]["located"] = located and str(located)
print(json.dumps(answers))
"""
KINDS = ["hf", "modelscope"]


class Client:
    """Pulls in processes of their own, against one hub and with caches of their own."""

    def __init__(self, hub: Hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder

    def start(self, *asked: tuple[str, bool], **environment: str) -> subprocess.Popen[str]:
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("HF_", "MODELSCOPE_", "HUGGING")) and "proxy" not in key.lower()
        }
        own = {
            "HOME": str(self.folder),
            "HF_ENDPOINT": self.hub.endpoint,
            "HF_HOME": str(self.folder / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "MODELSCOPE_ENDPOINT": self.hub.endpoint,
            "MODELSCOPE_CACHE": str(self.folder / "modelscope"),
            "MODELSCOPE_HOME": str(self.folder / "modelscope-home"),
        }
        return subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(asked), str(self.folder / "models")],
            env={**inherited, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def pull(self, *asked: tuple[str, bool], **environment: str) -> list[dict[str, Any]]:
        """The answers to (source, offline) pairs, asked one after the other."""
        child = self.start(*asked, **environment)
        out, err = child.communicate(timeout=PATIENCE_S)
        assert child.returncode == 0, err
        assert "Traceback" not in err
        answers: list[dict[str, Any]] = json.loads(out)  # nothing else may be on stdout
        return answers


@pytest.fixture(scope="session")
def revisions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("revisions")
    extra = folder / "main" / "onnx"
    made = {
        "main": make_qwen3(folder / "main", shards=2),
        "v2": make_bert(folder / "v2", pooling="mean", dense=16),
    }
    extra.mkdir()
    (extra / "config.json").write_text("{}", encoding="utf-8")
    (folder / "main" / "pytorch_model.bin").write_bytes(b"not fetched")
    return made


@pytest.fixture
def client(tmp_path: Path, revisions: dict[str, Path]) -> Iterator[Client]:
    with serve(Hub(repos={"acme/tiny": revisions})) as hub:
        yield Client(hub, tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_is_fetched_once_and_then_found_offline(
    client: Client, revisions: dict[str, Path], kind: str
) -> None:
    name = f"{kind}:acme/tiny"
    # Hugging Face's cache knows commits; ModelScope's takes the revision's name.
    second = commit("acme/tiny", "v2") if kind == "hf" else "v2"
    asked = (name, True), (name, False), (name, True), (f"{name}@{second}", False)
    before, fetched, again, other, absent = client.pull(*asked, (f"{name}@v9", False))
    assert (before["code"], before["exit"]) == ("model_unreachable", 1)
    assert "offline" in before["message"]
    assert before["located"] is None
    folder = Path(fetched["folder"])
    for path in revisions["main"].glob("*.safetensors"):
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert (folder / "1_Pooling" / "config.json").is_file()
    assert not (folder / "onnx").exists()
    assert not (folder / "pytorch_model.bin").exists()
    assert again["folder"] == fetched["folder"] == fetched["located"]
    assert Path(other["folder"]).name == second
    assert "Dense" in (Path(other["folder"]) / "modules.json").read_text(encoding="utf-8")
    assert (Path(other["folder"]) / "2_Dense" / "model.safetensors").is_file()
    assert (absent["code"], absent["exit"]) == ("model_not_found", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_repositories_that_are_not_there_or_closed(
    client: Client, revisions: dict[str, Path], kind: str
) -> None:
    client.hub.repos["acme/closed"] = revisions
    client.hub.gated.add("acme/closed")
    token = "HF_TOKEN" if kind == "hf" else "MODELSCOPE_API_TOKEN"
    asked = (f"{kind}:acme/nothing", False), (f"{kind}:acme/closed", False)
    absent, gated = client.pull(*asked, **{token: "hf_secretsecret"})
    assert "secretsecret" not in json.dumps([absent, gated])
    assert (absent["code"], absent["exit"]) == ("model_not_found", 2)
    assert token in absent["fix"]
    assert (gated["code"], gated["exit"]) == ("model_gated", 2)
    assert token in gated["fix"]


def test_a_hub_that_answers_with_errors(client: Client) -> None:
    client.hub.status = 503
    (answer,) = client.pull(("hf:acme/tiny", False))
    assert (answer["code"], answer["exit"]) == ("server_failed", 1)
    assert "503" in answer["message"]


@pytest.mark.parametrize(
    "page",
    ["{}", "[]", "null", '{"sha": null}', "<html>Sign in</html>"],
    ids=["object", "list", "null", "without-files", "login"],
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_hub_that_answers_with_something_else(client: Client, kind: str, page: str) -> None:
    client.hub.page = page.encode()
    (answer,) = client.pull((f"{kind}:acme/tiny", False))
    assert answer["code"] in {"unexpected_answer", "model_unsupported"}
    assert client.hub.endpoint in answer["message"]
    assert ("HF_ENDPOINT" if kind == "hf" else "MODELSCOPE_ENDPOINT") in answer["fix"]
    assert answer["located"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_no_network_falls_back_to_nothing_but_says_so(client: Client, kind: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{taken.getsockname()[1]}"
    client.hub.endpoint = nowhere
    # The shortest retries ModelScope's client can be told to make.
    fast = {"MODELSCOPE_REPO_TREE_LIST_TIMEOUT_SECONDS": "1"}
    (answer,) = client.pull((f"{kind}:acme/tiny", False), **fast)
    assert (answer["code"], answer["exit"]) == ("connection_failed", 1)
    assert f"{nowhere} cannot be reached" in answer["message"]


def test_the_librarys_own_offline_switch_is_honoured(client: Client) -> None:
    (answer,) = client.pull(("hf:acme/tiny", False), HF_HUB_OFFLINE="1")
    assert answer["code"] == "model_unreachable"
    assert "offline" in answer["message"]
    assert client.hub.requests == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_that_breaks_is_taken_up_again(
    client: Client, revisions: dict[str, Path], kind: str
) -> None:
    shard = "model-00001-of-00002.safetensors"
    client.hub.cut = {shard: 50_000}
    (answer,) = client.pull((f"{kind}:acme/tiny", False))
    found = (Path(answer["folder"]) / shard).read_bytes()
    assert found == (revisions["main"] / shard).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_download_does_not_count_and_is_completed_by_the_next(
    client: Client, revisions: dict[str, Path], kind: str
) -> None:
    shard = "model-00001-of-00002.safetensors"
    client.hub.stall = {shard: 50_000}
    child = client.start((f"{kind}:acme/tiny", False))
    assert client.hub.stalled.wait(PATIENCE_S)
    child.kill()
    child.communicate()
    client.hub.go_on.set()
    half, whole = client.pull((f"{kind}:acme/tiny", True), (f"{kind}:acme/tiny", False))
    assert (half["code"], half["exit"]) == ("model_unreachable", 1)
    assert half["located"] is None
    found = (Path(whole["folder"]) / shard).read_bytes()
    assert found == (revisions["main"] / shard).read_bytes()


def test_a_repository_without_safetensors_is_refused_by_name(
    client: Client, tmp_path: Path
) -> None:
    folder = make_bert(tmp_path / "bin")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    client.hub.repos["acme/old"] = {"main": folder}
    (answer,) = client.pull(("hf:acme/old", False))
    assert (answer["code"], answer["exit"]) == ("model_unsupported", 2)


def test_a_repository_without_a_file_that_serving_needs(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "gguf"
    folder.mkdir()
    (folder / "model.gguf").write_bytes(b"GGUF")
    client.hub.repos["acme/gguf"] = {"main": folder}
    (answer,) = client.pull(("hf:acme/gguf", False))
    assert (answer["code"], answer["exit"]) == ("model_unsupported", 2)


def _refused_before_weights(client: Client, tmp_path: Path, model: str) -> Any:
    (answer,) = client.pull((model, False))
    assert (answer["code"], answer["exit"]) == ("model_unsupported", 2)
    assert not list((tmp_path / "hf").rglob("*.safetensors"))
    assert not list((tmp_path / "modelscope").rglob("*.safetensors"))
    return answer


@pytest.mark.parametrize("kind", KINDS)
def test_a_repository_of_other_modules_without_config_json_is_told_by_them(
    client: Client, tmp_path: Path, kind: str
) -> None:
    static = make_bert(tmp_path / "static")
    (static / "config.json").unlink()
    module = {"type": "sentence_transformers.models.StaticEmbedding", "name": "0"}
    write_json(static / "modules.json", [module | {"path": "0_StaticEmbedding"}])
    client.hub.repos["acme/static"] = {"main": static}
    answer = _refused_before_weights(client, tmp_path, f"{kind}:acme/static")
    assert "begins with the module StaticEmbedding" in answer["message"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_served_is_refused_before_its_weights_come(
    client: Client, tmp_path: Path, kind: str
) -> None:
    bare = make_bert(tmp_path / "bare")
    (bare / "modules.json").unlink()
    shutil.rmtree(bare / "1_Pooling")
    client.hub.repos["acme/bare"] = {"main": bare}
    answer = _refused_before_weights(client, tmp_path, f"{kind}:acme/bare")
    assert "1_Pooling/config.json" in answer["fix"]
    # What the refusal says to write, where it says to, serves the model.
    (folder,) = (each.parent for each in tmp_path.rglob("config.json") if bare not in each.parents)
    assert str(folder) in answer["message"]
    pooling = {"word_embedding_dimension": 64, "pooling_mode": "mean"}
    write_json(folder / "1_Pooling" / "config.json", pooling)
    (answer,) = client.pull((f"{kind}:acme/bare", False))
    assert answer["located"] == answer["folder"] == str(folder)
