"""Each peer for real: exported or converted, served, and held to the checkpoint in float32.

Peers are gigabytes, so nothing is installed here: those are tried that `qlaunch compare --peer`
has installed in the user's own data folder (or in that of QLAUNCH_PEERS_HOME).
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.app import contenders
from launcher.bench.peers import catalogue, exports, installing, names
from launcher.bench.peers.catalogue import Serving
from launcher.bench.unsupervised import bare_engine, whole_environment
from launcher.engine.environments import tools
from launcher.service import ports

TEXTS = (
    "importance of life",
    "The committee published its findings in March, and nobody outside the ministry read them.",
    "a",
)
LEAST = {"int8": 0.98, "Q8_0": 0.998, "Q4_K_M": 0.93, "bfloat16": 0.9995}
"""Cosine with float32 by number format; what computes in float32 is held to 0.99999."""
START_S = 240.0
REFERENCE = """
import json, sys, torch
from transformers import AutoModel, AutoTokenizer
path, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(path)
model = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
found = []
for text in texts:
    batch = tokenizer([text], return_tensors="pt")
    with torch.inference_mode():
        mean = model(**batch).last_hidden_state[0].mean(0)
    found.append((mean / mean.norm()).tolist())
print(json.dumps(found))
"""


def data() -> Path:
    default = Path.home() / ".local" / "share" / "qlaunch"
    named = os.environ.get("QLAUNCH_PEERS_HOME")
    return Path(named) / "data" if named else default


def minilm() -> Path:
    for found in data().glob("models/*all-minilm-l6-v2*"):
        return found
    pytest.skip("all-MiniLM-L6-v2 is not here: qlaunch model pull all-minilm-l6-v2")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("spec", names.SPECS)
def test_a_peer_s_vectors_are_the_checkpoint_s(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path / "home"))
    chosen = catalogue.choose(spec)
    peer, root = chosen.peer, installing.find(chosen.peer, data())
    if root is None:
        pytest.skip(f"{peer.name} is not installed: qlaunch compare cpu-minilm --peer {spec}")
    if chosen.variant in peer.needs_build and not contenders.can_build():
        pytest.skip("there are no cmake and compiler")
    model = minilm()
    form = chosen.format or "float32"
    serving = Serving(
        model_path=str(model),
        model="m",
        variant=chosen.variant or form,
        dtype=form,
        threads=2,
        pooling="mean",
        normalize=True,
        longest=256,
        native=peer.builds and contenders.can_build(),
        texts=str(contenders.CALIBRATION),
        fingerprint="tests",
    )
    env = catalogue.environment(peer, 2)
    export = ""
    if peer.export:
        export = str(exports.export(peer, root, serving, whole_environment(env), lambda _: None))
    port = ports.pick_free("127.0.0.1")
    argv = catalogue.command(peer, root, serving, export=export, port=port)
    with bare_engine(argv, env, port, tmp_path / "log") as engine:
        engine.wait_healthy(START_S)
        together, alone = ask(port, list(TEXTS)), [ask(port, [text])[0] for text in TEXTS]
    wanted = reference(tools.python(root), env, model)
    for vectors in (together, np.array(alone)):
        cosines = (vectors * wanted).sum(axis=1) / np.linalg.norm(vectors, axis=1)
        assert cosines.min() >= LEAST.get(form, 0.99999), cosines


def ask(port: int, texts: list[str]) -> Any:
    import urllib.request

    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/embeddings",
        json.dumps({"model": "m", "input": texts, "encoding_format": "float"}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        document = json.load(answer)
    return np.array([item["embedding"] for item in document["data"]])


def reference(python: Path, env: dict[str, str], model: Path) -> Any:
    argv = [str(python), "-c", REFERENCE, str(model), json.dumps(TEXTS)]
    done = subprocess.run(
        argv, env=whole_environment(env), capture_output=True, text=True, check=True
    )
    return np.array(json.loads(done.stdout.splitlines()[-1]))
