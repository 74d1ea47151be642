"""Try what can be tried of the CUDA releases on a machine without a GPU: `make engines`.

    python -m tests.engines_cuda [RELEASE...] [--keep] [--report-only]

Each release is installed for real, one after the other (9 to 12 GB, removed again unless `--keep`),
and asked: does its own parser take what the shipped profiles give it; does it start on the CPU,
with the driver's stand-in and stand-ins for what its CPU branch asks of others; does our plugin
register in its scheduler; do `/health` and the model-info path answer; are the vectors of MiniLM
and of a small Qwen3 with made weights those of a float32 reference. What was seen is written to
`docs/gpu/RELEASE.json`, and the page `docs/gpu.md` made from it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from launcher.engine.environments import install
from launcher.engine.release import Release
from launcher.engine.releases import release, releases
from launcher.paths import dirs
from tests.engines_cuda import page, trial

ROOT: Final = Path(__file__).resolve().parents[2]
RAW: Final = ROOT / "docs" / "gpu"


def main() -> int:
    """Run what is asked; 1 where something of it failed."""
    cuda = [name for name, found in releases().items() if found.device == "cuda"]
    parser = argparse.ArgumentParser(prog="tests.engines_cuda")
    parser.add_argument("releases", nargs="*", metavar="RELEASE", help=", ".join(cuda))
    parser.add_argument("--keep", action="store_true", help="leave the environments installed")
    parser.add_argument("--report-only", action="store_true", help="only make the page anew")
    asked = parser.parse_args()
    results = []
    if not asked.report_only:
        results = [tried(release(name), keep=asked.keep) for name in asked.releases or cuda]
    page.write(RAW, ROOT / "docs" / "gpu.md")
    return 0 if all(result["passed"] for result in results) else 1


def tried(wanted: Release, *, keep: bool) -> dict[str, Any]:
    """Install a release, try it, write down what was seen."""
    was_there = install.find(wanted, dirs().engines) is not None
    began = time.monotonic()
    argv = [sys.executable, "-m", "launcher", "engine", "install", wanted.name, "--anyway"]
    code = subprocess.run(argv, cwd=ROOT, check=False).returncode
    seen: dict[str, Any] = {
        "release": wanted.name,
        "sglang": wanted.version,
        "date": datetime.now(UTC).date().isoformat(),
        "install": {
            "exit_code": code,
            "seconds": None if was_there else round(time.monotonic() - began),
            "bytes": install.size_bytes(wanted, dirs().engines),
        },
        "passed": False,
    }
    if code == 0:
        seen |= trial.of(wanted, dirs().engines)
    if not (keep or was_there):
        subprocess.run([*argv[:4], "remove", wanted.name], cwd=ROOT, check=False)
    RAW.mkdir(parents=True, exist_ok=True)
    (RAW / f"{wanted.name}.json").write_text(json.dumps(seen, indent=1) + "\n", "utf-8")
    return seen


if __name__ == "__main__":
    sys.exit(main())
