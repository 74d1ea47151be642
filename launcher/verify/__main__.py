"""The smoke as a process of its own: `python -m launcher.verify`, started by the supervisor.

Protocol, one line each: the request as JSON on stdin; `{"event": "prepared", …}` on stdout; `go` on
stdin; `{"event": "report", "report": {…}, "beat": …}` on stdout and exit 0, whatever the verdict.
`beat` is the vector that later beats are compared with (base64 of float32, or null). End of stdin
before `go` ends it quietly. A bug ends it with `{"event": "error", "message": …}` and exit 1. The
API key comes in the environment variable QLAUNCH_VERIFY_KEY and is never printed.
"""

from __future__ import annotations

import array
import base64
import os
import queue
import signal
import sys
import threading
import time

import msgspec

from launcher.documents.smoke import (
    KEY_VARIABLE,
    Broken,
    Prepared,
    Reported,
    SmokeEvent,
    VerifyRequest,
)
from launcher.verify import texts
from launcher.verify.embedding_client import EmbeddingClient
from launcher.verify.reference import obtain
from launcher.verify.smoke import prove


def main() -> int:
    """Serve one request; the exit status."""
    # The default action ends the process at once, and the kernel then kills a reference child,
    # which asked for that itself.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    key = os.environ.pop(KEY_VARIABLE, None) or None
    os.environ.pop("OPENAI_LOG", None)  # at `debug` the client would log texts and vectors
    line = sys.stdin.buffer.readline()
    if not line:
        return 0
    try:
        _serve(msgspec.json.decode(line, type=VerifyRequest), key)
    except Exception as error:  # noqa: BLE001 - the last line of defence: one line, no traceback
        message = f"{type(error).__name__}: {error}"[:400]
        _say(Broken(message=message.replace(key, "***") if key else message))
        return 1
    return 0


def _serve(request: VerifyRequest, key: str | None) -> None:
    go: queue.SimpleQueue[None] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(go,), daemon=True, name="stdin").start()
    began = time.monotonic()
    client = EmbeddingClient(request.endpoint, request.model, key)
    outcome = obtain(request, texts.TEXTS)
    if outcome.not_cached is not None:
        sys.stderr.write(f"the reference could not be cached: {outcome.not_cached}\n")
    seconds = round(time.monotonic() - began, 3)
    _say(Prepared(reference=outcome.status, seconds=seconds))
    go.get()
    report, beat = prove(request, outcome, client)
    packed = None if beat is None else base64.b64encode(array.array("f", beat).tobytes()).decode()
    _say(Reported(report=report, beat=packed))


def _listen(go: queue.SimpleQueue[None]) -> None:
    """Wait for `go` beside the preparation; a supervisor that went away ends the process."""
    for line in sys.stdin.buffer:
        if line.strip() == b"go":
            go.put(None)
            return
    os._exit(0)


def _say(event: SmokeEvent) -> None:
    try:
        sys.stdout.buffer.write(msgspec.json.encode(event) + b"\n")
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os._exit(1)  # nobody is left to read it


if __name__ == "__main__":
    sys.exit(main())
