"""llama.cpp's own server on a GGUF: the program that was built here, or the one in a wheel.

16 slots share one context, as its guide has it for embeddings. A batch of 2048 tokens computes a
text whole: longer ones are refused by it.
"""

from __future__ import annotations

import os
import time
from typing import Final

from qlaunch_peers import settings
from qlaunch_peers.export_llama_cpp import GGUF, program
from qlaunch_peers.settings import Settings

SLOTS: Final = 16
BATCH: Final = 2048
CONTEXT: Final = 8192


def main() -> None:
    """Serve until the process is ended."""
    asked = settings.read()
    if asked.native:
        argv = native(asked)
        os.execv(argv[0], argv)  # noqa: S606 - as wanted: an argv list, no shell
    prebuilt(asked)


def native(asked: Settings) -> list[str]:
    """The command of the server that was built here."""
    return [
        *(str(program("llama-server")), "-m", str(asked.folder / GGUF)),
        *("--embedding", "--pooling", asked.pooling, "--embd-normalize", _norm(asked)),
        *("-c", str(CONTEXT), "-b", str(BATCH), "-ub", str(BATCH)),
        *("-np", str(SLOTS), "--kv-unified"),
        *("-t", str(asked.threads), "-tb", str(asked.threads)),
        *("--host", "127.0.0.1", "--port", str(asked.port), "--offline"),
    ]


def _norm(asked: Settings) -> str:
    return "2" if asked.normalize else "-1"


def prebuilt(asked: Settings) -> None:
    """The same server inside this process, from the wheel `xllamacpp`."""
    import xllamacpp

    types = xllamacpp.llama_pooling_type
    given = xllamacpp.CommonParams()
    given.model.path = str(asked.folder / GGUF)
    given.embedding = True
    given.pooling_type = getattr(types, f"LLAMA_POOLING_TYPE_{asked.pooling.upper()}")
    given.embd_normalize = int(_norm(asked))
    given.n_ctx, given.n_parallel, given.kv_unified = CONTEXT, SLOTS, True
    given.n_batch = given.n_ubatch = BATCH
    given.cpuparams.n_threads = given.cpuparams_batch.n_threads = asked.threads
    given.hostnames, given.port = ["127.0.0.1"], asked.port
    server = xllamacpp.Server(given)
    while server is not None:
        time.sleep(3600)


if __name__ == "__main__":
    main()
