"""A stand-in for SGLang: one script, standard library only, that can misbehave on request.

It speaks `/health`, `/model_info`, `/get_model_info`, `/v1/models` and `/v1/embeddings` as SGLang
does, prints SGLang's log lines, and serves unit vectors made from a hash of each text, so that
the same text gives the same vector and texts that share words are closer than texts that do not.
Every switch is one way in which a real engine has been seen to go wrong.
"""

from __future__ import annotations

import argparse
import base64
import ctypes
import hashlib
import json
import math
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WORDS = re.compile(r"[a-z0-9]+|[^\x00-\x7f]")
SYNONYMS = {"kitten": "cat", "naps": "sleeping", "window": "windowsill", "sunny": "warm"}
"""As much of a meaning as the smoke's own texts ask for."""


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description="a stand-in for SGLang, for tests")
    p.add_argument("--host", default="127.0.0.1")
    p.add_argument("--port", type=int, required=True)
    p.add_argument("--model-path", default="/models/fake")
    p.add_argument("--config", help='YAML file with `api-key: "…"`')
    p.add_argument("--dimensions", type=int, default=384)
    p.add_argument("--max-running-requests", type=int, default=64)
    p.add_argument("--context-length", type=int, default=512)

    start = p.add_argument_group("the start")
    start.add_argument("--slow-start", type=float, default=0.0, help="seconds before it listens")
    start.add_argument("--warm-up", type=float, default=0.0, help="seconds of /health 503")
    start.add_argument("--never-ready", action="store_true", help="/health stays 503")
    start.add_argument("--never-listen", action="store_true", help="load for ever")
    start.add_argument("--exit-code", type=int, help="end with it instead of listening")
    start.add_argument("--refuse-flag", metavar="FILE", help="end with 3 while FILE exists")
    start.add_argument("--print", metavar="FILE", help="print a real failure text first")
    start.add_argument("--old-info", action="store_true", help="only /get_model_info")
    start.add_argument("--wrong-model", action="store_true", help="names another model")
    start.add_argument("--generates", action="store_true", help="is_generation: true")
    start.add_argument("--errno-98", action="store_true", help="cannot bind, and does not end")
    start.add_argument("--scheduler-dies", type=float, help="logs an exception in two parts")
    start.add_argument("--max-total-tokens", type=int, default=0)
    start.add_argument("--room-for", type=int, help="tokens above which the start is out of memory")
    start.add_argument("--print-key", action="store_true", help="log the key, as SGLang does")

    serve = p.add_argument_group("serving")
    serve.add_argument("--health-lies", action="store_true", help="200, but embeddings hang")
    serve.add_argument("--health-status", type=int, help="what /health answers once up")
    serve.add_argument("--health-drips", action="store_true", help="one byte a second")
    serve.add_argument("--health-flag", metavar="FILE", help="/health is 503 while FILE exists")
    serve.add_argument("--hang-after", type=int, help="embedding calls after which it hangs")
    serve.add_argument("--die-after", type=float, help="seconds until it dies")
    serve.add_argument("--die-once", metavar="FILE", help="as --die-after 0.5, if FILE is new")
    serve.add_argument("--hang-flag", metavar="FILE", help="embeddings hang while FILE exists")
    serve.add_argument("--access-log", action="store_true", help="others' calls are answered")
    serve.add_argument("--busy-flag", metavar="FILE", help="long batches while FILE exists")
    serve.add_argument(
        "--other-vectors",
        metavar="FILE",
        help="while FILE exists: what it says, other, slight, half, nan, null, zero, short or"
        " long; `once KIND` in one answer only",
    )
    serve.add_argument("--nan", action="store_true")
    serve.add_argument("--zero", action="store_true", help="all vectors zero")
    serve.add_argument("--not-normalized", action="store_true")
    serve.add_argument("--wrong-dim", action="store_true")
    serve.add_argument("--out-of-order", action="store_true")
    serve.add_argument("--drop-one", action="store_true", help="one vector too few")
    serve.add_argument("--leak", type=int, default=0, help="MB to hold")
    serve.add_argument("--flood", type=int, default=0, help="MB of log lines before listening")
    serve.add_argument("--flood-line", type=int, default=0, help="MB without a newline")
    serve.add_argument("--garbage", action="store_true", help="log NUL, escapes, broken UTF-8")

    tree = p.add_argument_group("processes")
    tree.add_argument("--workers", action="store_true", help="a scheduler and a detokenizer")
    tree.add_argument(
        "--worker-leak-flag", metavar="FILE", help="the scheduler leaks while it exists"
    )
    tree.add_argument("--ignore-sigterm", action="store_true")
    tree.add_argument("--drain", type=float, default=0.0, help="seconds from SIGTERM to the end")
    tree.add_argument(
        "--fork-grandchild", action="store_true", help="in the session, does not follow"
    )
    tree.add_argument("--setsid-grandchild", action="store_true", help="in a session of its own")
    tree.add_argument("--hold-pipe", action="store_true", help="the grandchild keeps our stdout")
    options = p.parse_args(argv)
    for name, value in vars(options).items():
        if isinstance(value, str):  # a FILE of one replica: `flag-$REPLICA`
            setattr(options, name, os.path.expandvars(value))
    return options


def log(text: str) -> None:
    sys.stdout.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')}] {text}\n")
    sys.stdout.flush()


def vector(text: str, dimensions: int) -> list[float]:
    """A unit vector: the normalised sum of a pseudo-random vector a word, and some of the whole.

    Shared words pull two texts together, so that related pairs are closer than unrelated ones.
    """
    total = [0.0] * dimensions
    words = [SYNONYMS.get(word, word) for word in WORDS.findall(text.lower())] or [text]
    for weight, part in [(1.0, word) for word in words] + [(0.3, "\0" + text)]:
        stream = hashlib.shake_128(part.encode("utf-8", "surrogatepass")).digest(2 * dimensions)
        for at, value in enumerate(struct.unpack(f"<{dimensions}h", stream)):
            total[at] += weight * value
    norm = math.sqrt(sum(value * value for value in total)) or 1.0
    return [value / norm for value in total]


class Engine(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    allow_reuse_address = True

    def __init__(self, options: argparse.Namespace, key: str | None) -> None:
        if ":" in options.host:
            self.address_family = socket.AF_INET6
        super().__init__((options.host, options.port), Handler)
        self.options, self.key = options, key
        self.listening_since = time.monotonic()
        self.calls = 0
        self.stopping = False

    def warm(self) -> bool:
        flag = self.options.health_flag
        if self.options.never_ready or self.stopping or (flag and Path(flag).exists()):
            return False
        if busy(self.options):
            return False
        return time.monotonic() - self.listening_since >= float(self.options.warm_up)


class Handler(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        pass

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        options = self.server.options
        if path in {"/health", "/health_generate"}:
            self.health()
        elif not self.may_enter():
            self.answer(401, {"error": "Unauthorized"})
        elif path == "/get_model_info" or (path == "/model_info" and not options.old_info):
            named = "/models/another" if options.wrong_model else options.model_path
            self.answer(200, {"model_path": named, "is_generation": options.generates})
        elif path == "/v1/models":
            self.answer(200, {"object": "list", "data": [{"id": options.model_path}]})
        else:
            self.answer(404, {"detail": "Not Found"})

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        if self.path != "/v1/embeddings":
            self.answer(404, {"detail": "Not Found"})
        elif not self.may_enter():
            self.answer(401, {"error": "Unauthorized"})
        else:
            self.embed(json.loads(body))

    def may_enter(self) -> bool:
        key = self.server.key
        return key is None or self.headers.get("Authorization") == f"Bearer {key}"

    def health(self) -> None:
        options = self.server.options
        if not self.server.warm():
            self.answer(503, None)
        elif options.health_drips:
            self.connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                time.sleep(0.5)
                self.connection.sendall(b".")
        else:
            self.answer(options.health_status or 200, None)

    def embed(self, request: dict[str, Any]) -> None:
        options = self.server.options
        self.server.calls += 1
        hangs = options.hang_after is not None and self.server.calls > options.hang_after
        if options.health_lies or hangs:
            time.sleep(3600)
        while busy(options) or (options.hang_flag and Path(options.hang_flag).exists()):
            time.sleep(0.02)
        given = request.get("input")
        texts = given if isinstance(given, list) else [given]
        texts = [" ".join(map(str, each)) if isinstance(each, list) else each for each in texts]
        if not texts or any(not isinstance(text, str) or not text.strip() for text in texts):
            self.answer(400, {"object": "error", "message": "Input cannot be empty or whitespace"})
            return
        if max(len(str(text).split()) for text in texts) >= options.context_length:
            self.answer(400, {"object": "error", "message": "The input is longer than the context"})
            return
        rows = [self.row(index, text, request) for index, text in enumerate(texts)]
        if options.other_vectors:
            change(rows, Path(options.other_vectors), options.dimensions)
        if options.out_of_order and len(rows) > 1:
            vectors = [row["embedding"] for row in rows]
            for row, moved in zip(rows, vectors[1:] + vectors[:1], strict=True):
                row["embedding"] = moved
        if options.drop_one and len(rows) > 1:
            rows.pop()
        tokens = sum(len(str(text).split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        self.answer(200, {"object": "list", "model": "fake", "data": rows, "usage": usage})

    def row(self, index: int, text: str, request: dict[str, Any]) -> dict[str, Any]:
        options = self.server.options
        found = vector(text, options.dimensions - (1 if options.wrong_dim else 0))
        if options.nan:
            found[0] = math.nan
        if options.zero:
            found = [0.0] * len(found)
        if options.not_normalized:
            found = [3.0 * value for value in found]
        served: Any = found
        if request.get("encoding_format") == "base64":
            served = base64.b64encode(struct.pack(f"<{len(found)}f", *found)).decode()
        return {"object": "embedding", "index": index, "embedding": served}

    def answer(self, status: int, body: Any) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if "REQUEST_GUARD" in os.environ:
            self.send_header("X-Qlaunch-Guard", "1")
        self.end_headers()
        self.wfile.write(data)


def change(rows: list[dict[str, Any]], flag: Path, dimensions: int) -> None:
    """Serve other vectors than before, as an engine would whose weights were changed."""
    try:
        said = flag.read_text().split()
    except FileNotFoundError:
        return
    if not said:
        return
    if said[0] == "once":
        flag.unlink()
    for row in rows[1 if said[-1] == "half" else 0 :: 2 if said[-1] == "half" else 1]:
        found = row["embedding"]
        if isinstance(found, str):
            found = list(struct.unpack(f"<{dimensions}f", base64.b64decode(found)))
        row["embedding"] = {
            "other": vector("other weights", dimensions),
            "half": vector("other weights", dimensions),
            "slight": [value + 1e-6 for value in found],
            "nan": [math.nan, *found[1:]],
            "null": None,
            "zero": [0.0] * dimensions,
            "short": found[:-1],
            "long": [3 * value for value in found],
        }[said[-1]]


def grandchild(options: argparse.Namespace, *, own_session: bool) -> None:
    """A process that nobody waits for and that does not follow its parent."""
    code = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        + ("os.setsid()\n" if own_session else "")
        + "time.sleep(600)\n"
    )
    out = None if options.hold_pipe else subprocess.DEVNULL
    command = [sys.executable, "-S", "-c", code]
    # Through a shell that ends at once, so that it loses its parent.
    middle = subprocess.Popen(
        [sys.executable, "-S", "-c", f"import subprocess; subprocess.Popen({command!r})"],
        stdout=out,
        stderr=out,
    )
    middle.wait()


def busy(options: argparse.Namespace) -> bool:
    return bool(options.busy_flag) and Path(options.busy_flag).exists()


def work(options: argparse.Namespace) -> None:
    """Log batches of other callers for as long as the flag is there, and answers to them."""
    while True:
        time.sleep(0.02)
        if options.access_log:
            log('INFO:     127.0.0.1:4711 - "POST /v1/embeddings HTTP/1.1" 200 OK')
        if busy(options):
            log("Prefill batch, #new-seq: 8, #new-token: 4096, #cached-token: 0")


def worker(name: str, leak_flag: str | None = None) -> None:
    """A child that carries a title of SGLang's and dies with us."""
    libc = ctypes.CDLL(None)
    if os.fork() == 0:
        libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
        libc.prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME
        held = []
        while True:
            if leak_flag is None:
                time.sleep(60)
            elif Path(leak_flag).exists():
                held.append(b"x" * 2**24)
            else:
                time.sleep(0.02)


def read_key(path: str | None) -> str | None:
    if path is None:
        return None
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "api-key":
            return str(json.loads(value))
    return None


def noise(options: argparse.Namespace) -> None:
    """What a log can hold, before anything useful."""
    if options.print:
        sys.stdout.write(Path(options.print).read_text(encoding="utf-8"))
        sys.stdout.flush()
    line = (b"x" * 99 + b"\n") * 10486  # one MiB
    for _ in range(options.flood):
        sys.stdout.buffer.write(line)
    for _ in range(options.flood_line):
        sys.stdout.buffer.write(b"y" * 1024 * 1024)
    if options.garbage:
        sys.stdout.buffer.write(b"\x00\xff\xfe\x1b[31mred\x1b]0;title\x07\x1b[2J caf\xc3\n\r\x9b\n")
    sys.stdout.buffer.flush()


def arrange_signals(options: argparse.Namespace) -> None:
    if options.ignore_sigterm:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif options.drain:

        def drain(signum: int, frame: object) -> None:
            log("Gracefully exiting")
            time.sleep(options.drain)
            os._exit(0)

        signal.signal(signal.SIGTERM, drain)


def arrange_death(options: argparse.Namespace) -> None:
    after = options.die_after
    if options.die_once and not Path(options.die_once).exists():
        Path(options.die_once).touch()
        after = 0.5
    if after is not None:
        threading.Thread(target=die, args=[after], daemon=True).start()


def die(after: float) -> None:
    """End `after` seconds from the start, and in a test's home from when the service is ready: how
    long its checks take depends on what else the machine does."""
    home = os.environ.get("QLAUNCH_TEST_HOME")
    states = "state/services/*/state.json"
    while home and not any(b'"state":"ready"' in read(path) for path in Path(home).glob(states)):
        time.sleep(0.02)
    time.sleep(after)
    os._exit(3)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it is replaced, or removed with its home
        return b""


def main() -> int:
    options = parse()
    arrange_signals(options)
    key = read_key(options.config)
    log(f"server_args=ServerArgs(api_key={key if options.print_key else '***'!r})")
    noise(options)
    if options.fork_grandchild:
        grandchild(options, own_session=False)
    if options.setsid_grandchild:
        grandchild(options, own_session=True)
    log("Load weight begin. avail mem=20.00 GB")
    if options.room_for is not None and options.max_total_tokens > options.room_for:
        log("Load weight end. elapsed=0.01 s, type=BertModel")
        log("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 9.00 GiB.")
        return 1
    if options.workers:
        worker("sglang::scheduler", options.worker_leak_flag)
        worker("sglang::detokenizer")
    held = bytearray(os.urandom(1)) * (options.leak * 1024 * 1024)
    while options.never_listen:  # a signal just before a sleep is acted on after it: no long ones
        time.sleep(0.05)
    time.sleep(options.slow_start)
    if options.refuse_flag and Path(options.refuse_flag).exists():
        return 3
    if options.exit_code is not None:
        return int(options.exit_code)
    log("Load weight end. elapsed=0.01 s, type=BertModel")
    if options.errno_98:
        log("[Errno 98] error while attempting to bind on address: address already in use")
        time.sleep(600)
    if options.scheduler_dies is not None:
        log("Scheduler hit an exception: Traceback (most recent call last):")
        print('  File "/triton/knobs.py", line 185, in from_path\n    run([path])', flush=True)
        time.sleep(options.scheduler_dies)
        print("PermissionError: [Errno 13] Permission denied: '/triton/ptxas'", flush=True)
        time.sleep(600)
    server = Engine(options, key)
    arrange_death(options)
    if options.busy_flag or options.access_log:
        threading.Thread(target=work, args=[options], daemon=True).start()
    log(f"Uvicorn running on http://{options.host}:{options.port} (Press CTRL+C to quit)")
    if not options.never_ready:
        log("The server is fired up and ready to roll!")
    server.serve_forever(poll_interval=0.1)
    return len(held)


if __name__ == "__main__":
    sys.exit(main())
