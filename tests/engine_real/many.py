"""Runs with the engine's Python: whole engines, one after the other, for the price of one import.

    python many.py < questions > answers

A line is a JSON list of questions. `{"argv": [...], "env": {...}, "texts": [...]}` starts the
engine with these options, as `sglang serve` does, asks it for the texts' vectors (together, again,
in reverse, each alone) and stops it. `{"request": {...}, "worker": PATH}` computes a reference
with launcher/verify/reference_worker.py. Each is answered by a process forked from this one, those
of a line at the same time. This one has imported SGLang and transformers and computed nothing:
nothing that one row changes is there for the next.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import json
import os
import sys
import tempfile
import traceback
from typing import IO, Any

PRELOAD = (
    "sglang.srt.managers.scheduler",
    "sglang.srt.managers.tp_worker",
    "sglang.srt.model_executor.model_runner",
    "sglang.srt.entrypoints.engine",
    "qlaunch_sglang.encoders.bert",
    "qlaunch_sglang.decoders",
    "transformers.models.auto.modeling_auto",
)
"""What every row would import after its fork."""
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
        texts = question["texts"]
        asked = {"together": served.encode(texts), "again": served.encode(texts)}
        asked["turned"] = served.encode(texts[::-1])
        asked["alone"] = [served.encode([text])[0] for text in texts]
    finally:
        served.shutdown()
    tokens = [each["meta_info"]["prompt_tokens"] for each in asked["together"]]
    return {"tokens": tokens} | {
        name: [each["embedding"] for each in answers] for name, answers in asked.items()
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


def begin(question: dict[str, Any]) -> tuple[int, IO[str]]:
    """A process that works on the question, and the file that gets its answer."""
    file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - `end` closes it
    pid = os.fork()
    if pid == 0:
        answer(question, os.dup(file.fileno()))
        os._exit(0)
    return pid, file


def end(pid: int, file: IO[str]) -> Any:
    """The answer, when the process has ended."""
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with file:
        file.seek(0)
        return json.loads(file.read() or json.dumps({"error": f"ended with status {status}"}))


def main() -> None:
    """Import everything, then answer one line of questions after the other."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for name in PRELOAD:
        importlib.import_module(name)
    from sglang.srt.models.registry import ModelRegistry

    ModelRegistry.get_supported_archs()  # finds every class: a second that each row would take
    gc.collect()
    gc.freeze()  # what is here is never garbage: collections of the rows need not look at it
    for line in sys.stdin:
        begun = [begin(question) for question in json.loads(line)]
        answers.write(json.dumps([end(*each) for each in begun]) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
