"""One installed CUDA release, tried on the CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from launcher import child_environment
from launcher.argv import FlagValue
from launcher.config.loading import list_profiles, load_profile
from launcher.engine import command
from launcher.engine.environments import install, stub_driver
from launcher.engine.options import flags, own_options
from launcher.engine.release import Engine, InstalledEngine, Release
from launcher.paths import dirs
from launcher.plan import sizes
from launcher.service import ports
from launcher.service.supervisor.batch_counter import prefill_batch
from tests.checkpoints import make_qwen3

HERE: Final = Path(__file__).parent
START_S: Final = 900.0
TEXTS: Final = (
    "How are you today",
    "The weather is nice.",
    "def area(radius): return 3 * radius ** 2",
    "Der schnelle braune Fuchs springt über den faulen Hund",
    "word " * 300,
    "x",
)
IDS: Final = [[5, 6, 7], [8, 9], [10]]
"""A call of token ids, which some releases refuse with some options."""
_REFERENCE: Final = """
import json, sys, torch, transformers
path, texts, pooling = json.load(sys.stdin)
tokenizer = transformers.AutoTokenizer.from_pretrained(path)
model = transformers.AutoModel.from_pretrained(path).float().eval()
vectors = []
for text in texts:
    tokens = tokenizer(text, return_tensors="pt", truncation=True)  # to the model's own most
    with torch.no_grad():
        states = model(**tokens).last_hidden_state[0]
        vectors.append((states.mean(0) if pooling == "mean" else states[-1]).tolist())
sys.stdout.write("\\n" + json.dumps(vectors))
"""


@dataclass(frozen=True)
class Model:
    """A checkpoint that a release is started with."""

    path: Path
    package: str
    """The plugin's, as the launcher would name it."""
    pooling: str


def models(folder: Path) -> dict[str, Model]:
    """MiniLM with its real weights, and a small Qwen3 with made ones, written to `folder`."""
    minilm = next(
        path for path in dirs().models.glob("*minilm*") if (path / "config.json").exists()
    )
    return {
        "minilm": Model(minilm, "qlaunch_sglang.encoders", "mean"),
        "qwen3": Model(make_qwen3(folder / "qwen3"), "qlaunch_sglang.decoders", "last"),
    }


def of(release: Release, engines: Path) -> dict[str, Any]:
    """What was seen of an installed release."""
    engine = install.find(release, engines)
    assert engine is not None
    assert engine.root is not None
    marker = msgspec.json.decode((engine.root / install.MARKER).read_bytes(), type=InstalledEngine)
    seen: dict[str, Any] = {"torch": engine.torch, "imported_with": marker.imported_with}
    seen["profiles"] = parsed(engine)
    seen["differences"] = differences(engine)
    with tempfile.TemporaryDirectory() as folder:
        for name, model in models(Path(folder)).items():
            seen[name] = served(engine, name, model)
    refused = [name for name, why in seen["profiles"].items() if why]
    least = min(min(seen[name].get("cosines") or [0.0]) for name in ("minilm", "qwen3"))
    seen["passed"] = not refused and not seen["differences"] and least >= 0.9999
    return seen


def environment(engine: Engine, **more: str) -> dict[str, str]:
    """Variables for a CUDA release on the CPU: stand-ins, plugin and stub driver on the paths."""
    env = child_environment.foreign_python(os.environ)
    env |= command.base_environment(engine.release, plugin=True)
    env["PYTHONPATH"] += f":{HERE / 'standins'}"
    env |= stub_driver.environment(engine.release, engine.python, env)
    env |= {"SGLANG_USE_CPU_ENGINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "2"}
    env["QLAUNCH_IMPORTS"] = "all"  # also what only a card would run
    env |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "OPENBLAS_NUM_THREADS": "1"}
    return env | more


def profile_arguments(release: Release) -> dict[str, list[str]]:
    """The options of every shipped GPU profile that is not pinned to another release."""
    listed = {}
    for ref in list_profiles(Path("/nonexistent")):
        profile = load_profile(ref.name, Path("/nonexistent")).profile
        if profile.hardware.device != "cuda" or profile.engine not in ("auto", release.name):
            continue
        options = {**profile.flags, **profile.flags_by_engine.get(release.name, {})}
        for fallback in ({}, *profile.fallback):
            name = ref.name + "".join(f" {key}={value}" for key, value in fallback.items())
            words = command.render({**options, **fallback})
            listed[name] = ["--model-path", "/model", "--is-embedding", *words]
    return listed


def parsed(engine: Engine) -> dict[str, str | None]:
    """What the release's own parser says of each profile's options; None where it takes them."""
    done = subprocess.run(
        [str(engine.python), str(HERE / "parser_worker.py")],
        input=json.dumps(profile_arguments(engine.release)),
        env=environment(engine),
        capture_output=True,
        text=True,
        check=True,
    )
    verdicts: dict[str, str | None] = json.loads(done.stdout)
    return verdicts


def differences(engine: Engine) -> list[str]:
    """Where the release's own parser differs from the table that is shipped."""
    shipped = flags.table(engine.version)
    assert shipped is not None
    own = own_options.stored(engine) or own_options.read_parser(engine.release, engine.python)
    return own_options.differences(shipped, own)


def served(engine: Engine, name: str, model: Model) -> dict[str, Any]:
    """Start it with a model in float32 on the CPU; what it answers, and the end of its log."""
    port = ports.pick_free("127.0.0.1")
    env = environment(
        engine,
        QLAUNCH_MODEL_PATH=str(model.path),
        QLAUNCH_START_METHOD="spawn",
        SGLANG_EXTERNAL_MODEL_PACKAGE=model.package,
    )
    options: dict[str, FlagValue] = {
        "device": "cpu",
        "attention-backend": "torch_native",
        "disable-radix-cache": True,
        "chunked-prefill-size": -1,
        "mem-fraction-static": 0.3,
        "max-total-tokens": 16384,
        "max-running-requests": 16,
        "disable-overlap-schedule": True,
    }
    options |= sizes.together(options, engine, plugin=True)
    argv = command.argv(
        engine,
        model_path=str(model.path),
        served_name="m",
        host="127.0.0.1",
        port=str(port),
        dtype="float32",
        flags=options,
    )
    log = dirs().cache / f"engines-cuda-{engine.release.name}-{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            argv, env=env, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        seen = _asked(engine, process, f"http://127.0.0.1:{port}", model, env)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lines = log.read_text("utf-8", "replace").splitlines()
    pooling = [line for line in lines if "qlaunch: pooling" in line]
    batches = [batch.texts for line in lines if (batch := prefill_batch(line))]
    words = pooling[0].partition("qlaunch: ")[2].partition(" (")[0] if pooling else "not seen"
    told = {"plugin": words, "batches": batches}
    return {**seen, **told, "log": _without_places(lines[-40:], model.path, engine)}


def _without_places(lines: list[str], model: Path, engine: Engine) -> list[str]:
    """Log lines without this machine's folders."""
    places = {str(model): "MODEL", str(engine.root): "ENGINE", str(HERE.parents[1]): "QLAUNCH"}
    for place, word in places.items():
        lines = [line.replace(place, word) for line in lines]
    return [line[:400] for line in lines]


def _asked(
    engine: Engine, process: subprocess.Popen[bytes], base: str, model: Model, env: dict[str, str]
) -> dict[str, Any]:
    began = time.monotonic()
    while _get(f"{base}/health")[0] != 200:
        if process.poll() is not None:
            return {"start": f"it ended with {process.returncode}"}
        if time.monotonic() - began > START_S:
            return {"start": f"no /health within {START_S:.0f} s"}
        time.sleep(1)
    path = engine.release.model_info_path
    status, body = _get(base + path)
    says = status == 200 and json.loads(body).get("model_path") == str(model.path)
    sent = json.dumps({"model": "m", "input": list(TEXTS)}).encode()
    answer = json.loads(_get(f"{base}/v1/embeddings", sent)[1])
    vectors = np.array([row["embedding"] for row in answer["data"]])
    ids = json.dumps({"model": "m", "input": IDS}).encode()
    return {
        "start": f"/health answered 200 after {time.monotonic() - began:.0f} s",
        "health": "200",
        "model_info": f"`{path}`: {status}, {'names the model' if says else 'another model'}",
        "token_ids": f"{_get(base + '/v1/embeddings', ids)[0]}",
        "cosines": cosines(vectors, reference(engine, model, env)),
    }


def _get(url: str, body: bytes | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(url, data=body, headers={"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=300) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


def reference(engine: Engine, model: Model, env: dict[str, str]) -> Any:
    """The pooled float32 vectors of `TEXTS`, by transformers: [texts, width]."""
    done = subprocess.run(
        [str(engine.python), "-c", _REFERENCE],
        input=json.dumps([str(model.path), TEXTS, model.pooling]),
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    return np.array(json.loads(done.stdout.splitlines()[-1]))


def cosines(served: Any, right: Any) -> list[float]:
    """The cosine of each row with the same row of the other."""
    products = (served * right).sum(axis=1)
    lengths = np.linalg.norm(served, axis=1) * np.linalg.norm(right, axis=1)
    return [round(float(value), 7) for value in products / lengths]
