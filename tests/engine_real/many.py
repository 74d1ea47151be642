"""Runs with the engine's Python: whole engines, one after the other, for the price of one import.

    python many.py < questions > answers

A question is a JSON line. `{"argv": [...], "env": {...}, "texts": [...]}` starts the engine with
these options, as `sglang serve` does, asks it for the texts' vectors and stops it.
`{"request": {...}, "worker": PATH}` computes a reference with launcher/verify/reference_worker.py.
Each is answered by a process forked from this one, which has imported SGLang and transformers and
computed nothing: nothing that one row changes is there for the next.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import sys
import tempfile
import traceback
from typing import Any

TEXT_LIMIT = 4000
"""Characters of a traceback's end that go into an answer."""


def engine(question: dict[str, Any]) -> Any:
    """Vectors and tokens of each text, by an engine started with `argv`."""
    os.environ.update(question["env"])
    from sglang.srt.models.registry import ModelRegistry
    from sglang.srt.plugins import load_plugins

    if package := question["env"].get("SGLANG_EXTERNAL_MODEL_PACKAGE"):
        ModelRegistry.register(package, overwrite=True, strict=True)
    load_plugins()
    from sglang.srt.entrypoints.engine import Engine
    from sglang.srt.server_args import prepare_server_args

    served = Engine(server_args=prepare_server_args(question["argv"]))
    try:
        together = served.encode(question["texts"])
        alone = [served.encode([text])[0] for text in question["texts"][:2]]
    finally:
        served.shutdown()
    return {
        "vectors": [each["embedding"] for each in together],
        "alone": [each["embedding"] for each in alone],
        "tokens": [each["meta_info"]["prompt_tokens"] for each in together],
    }


def reference(question: dict[str, Any]) -> Any:
    """What transformers computes from the same files."""
    spec = importlib.util.spec_from_file_location("reference_worker", question["worker"])
    assert spec is not None
    assert spec.loader is not None
    worker = importlib.util.module_from_spec(spec)
    sys.modules["reference_worker"] = worker
    spec.loader.exec_module(worker)
    return worker.compute(question["request"])


def answer(question: dict[str, Any], file: int) -> None:
    """In a process of its own: write the answer to `file`, whatever happens."""
    try:
        found = engine(question) if "argv" in question else reference(question)
    except BaseException as error:  # noqa: BLE001 - the test shows it
        trace = traceback.format_exc()[-TEXT_LIMIT:]
        found = {"error": f"{type(error).__name__}: {error}", "trace": trace}
    with os.fdopen(file, "w", encoding="utf-8") as out:
        json.dump(found, out)


def main() -> None:
    """Import everything, then answer one question after the other."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in ("sglang.srt.managers.scheduler", "sglang.srt.entrypoints.engine"):
        importlib.import_module(name)
    for line in sys.stdin:
        with tempfile.TemporaryFile("w+", encoding="utf-8") as file:
            pid = os.fork()
            if pid == 0:
                answer(json.loads(line), os.dup(file.fileno()))
                os._exit(0)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            file.seek(0)
            found = file.read() or json.dumps({"error": f"ended with status {status}"})
        answers.write(found + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
