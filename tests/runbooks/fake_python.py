"""The Python of a made engine environment, and its `sglang`: `fake_python.py NAME WORDS…`.

Serving is `tests/fake_engine.py` with what it understands of SGLang's options, and with the
switches in the file `switches` beside `bin/`. The float32 reference is made of the same vectors, so
that the real smoke passes, and fails where the fake engine is told to serve others. All else is the
real Python's work.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2]))
from tests import fake_engine  # noqa: E402 - by its folder: this runs without site-packages

KNOWN = (
    *("--host", "--port", "--model-path", "--config", "--context-length"),
    *("--max-running-requests", "--max-total-tokens"),
)


def serve(root: Path, words: list[str]) -> None:
    """Become the fake engine."""
    options = [word for pair in itertools.pairwise(words) if pair[0] in KNOWN for word in pair]
    model = Path(options[options.index("--model-path") + 1])
    width = json.loads((model / "config.json").read_text())["hidden_size"]
    switches = root / "switches"
    more = switches.read_text().split() if switches.exists() else []
    engine = str(HERE.parents[1] / "fake_engine.py")
    os.execv(
        sys.executable,
        [sys.executable, "-S", engine, *options, "--dimensions", str(width), *more],
    )


def reference() -> None:
    """Answer as `launcher/verify/reference_worker.py` does."""
    request = json.load(sys.stdin)
    width = json.loads((Path(request["model_path"]) / "config.json").read_text())["hidden_size"]
    texts = request["texts"]
    packed = [struct.pack(f"<{width}f", *fake_engine.vector(text, width)) for text in texts]
    counts = [len(text.split()) for text in texts]
    answer = {
        "dimensions": width,
        "vectors": [base64.b64encode(each).decode() for each in packed],
        "alternatives": {},
        "tokens": counts,
        "ids": [[5] * count for count in counts],
        "appended": [],
        "declared_end": None,
        "pooling": ["mean"],
        "normalize": True,
        "dense": 0,
        "versions": {},
    }
    json.dump(answer, sys.stdout)


def main(called: str, words: list[str]) -> None:
    """Do what the program of that name would."""
    root = Path(called).parent.parent
    if words[:2] == ["-m", "qlaunch_sglang.template"]:
        called, words = words[2], words[3:]
    if Path(called).name == "sglang":
        serve(root, words[1:])
    if words and words[0].endswith("reference_worker.py"):
        reference()
        return
    if "-c" in words and "importlib.metadata" in words[words.index("-c") + 1]:
        marker = json.loads((root / "installed.json").read_text())
        alone = "m.version('sglang')" in words[words.index("-c") + 1]
        versions = {name: marker[name] for name in ("sglang", "torch")}
        json.dump(versions["sglang"] if alone else versions, sys.stdout)
        return
    os.execv(sys.executable, [sys.executable, *words])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
