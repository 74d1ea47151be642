"""A stand-in for the quantiser's environment: answers as the program does, with vectors as told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import msgspec

from launcher.engine.environments import tools
from launcher.linux.files import write_atomic
from launcher.quantize import environment
from tests.samples import pinned_packages

PROGRAM = """\
#!{python}
import array, base64, hashlib, json, pathlib, random, shutil, sys, time
told = json.loads(pathlib.Path(__file__).with_name("told.json").read_text())
asked = json.load(sys.stdin)
sys.stderr.write("noise of a library\\nstep: quantising to " + asked["to"] + "\\n")
sys.stderr.flush()
target = pathlib.Path(asked["target"])
if told.get("fails"):
    print(json.dumps({{"error": told["fails"]}})); sys.exit(1)
if told.get("dies"):
    sys.stderr.write("ImportError: no such thing\\n"); sys.exit(3)
if told.get("hangs"):
    pathlib.Path(told["hangs"]).write_text(str(target)); time.sleep(600)
source = pathlib.Path(asked["source"])
shutil.copyfile(source / "model.safetensors", target / "model.safetensors")
config = json.loads((source / "config.json").read_text())
method = "awq" if asked["to"] == "int4" else "compressed-tensors"
config["quantization_config"] = {{"quant_method": method}}
(target / "config.json").write_text(json.dumps(config))
def vector(text, noise):
    seed = random.Random(hashlib.sha256(text.encode()).digest())
    plain = [seed.gauss(0, 1) for _ in range(64)]
    return [x + noise * seed.gauss(0, 1) for x in plain]
def b64(numbers):
    return base64.b64encode(array.array("f", numbers).tobytes()).decode()
noise = told.get("noise", 0.01)
print(json.dumps({{
    "reference": [b64(vector(t, 0)) for t in asked["texts"]],
    "vectors": [b64(vector(t, noise)) for t in asked["texts"]],
    "matrices": 14, "seconds": {{"quantise": 1.0, "check": 2.0}},
    "versions": {{"llmcompressor": "0"}},
}}))
"""


def put(data: Path, **told: object) -> Path:
    """An environment under the data folder, whole to all that looks; returns its folder."""
    root = environment.folder(data)
    program = root / "bin" / "python"
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(PROGRAM.format(python=sys.executable))
    program.chmod(0o755)
    (program.parent / "told.json").write_text(json.dumps(told))
    pinned_packages(root, (*environment.TOOL.requirements, *environment.TOOL.then))
    marker = tools.Installed(
        name=environment.TOOL.name,
        version=environment.TOOL.version,
        identity=tools.identity(environment.TOOL),
    )
    write_atomic(root / tools.MARKER, msgspec.json.encode(marker), mode=0o644)
    assert os.access(program, os.X_OK)
    return root
