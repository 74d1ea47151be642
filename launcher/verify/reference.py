"""The model's own vectors: computed once in the engine's environment, then cached by fingerprint.

The launcher has neither torch nor transformers, so `reference_worker.py` runs with the engine's
Python. The cache holds numbers and hashes only, no texts, and loads in milliseconds.
"""

from __future__ import annotations

import array
import base64
import binascii
import hashlib
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from launcher import child_environment
from launcher.errors import QlaunchError
from launcher.linux.files import read_bounded, write_atomic
from launcher.paths import dirs, private_dir

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from launcher.documents.smoke import VerifyRequest
    from launcher.verify.texts import Text

Vector = list[float]
WORKER = Path(__file__).with_name("reference_worker.py")
_CACHE_LIMIT = 64 << 20
_INHERITED = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "LD_LIBRARY_PATH", "XDG_CACHE_HOME"),
    # Instruction sets that the engine is kept from, the reference is kept from.
    *("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS"),
)


class WorkerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker prints, and what the cache keeps; vectors are base64 float32."""

    dimensions: int
    vectors: list[str]
    alternatives: dict[str, list[str]]
    tokens: list[int]
    pooling: list[str]
    normalize: bool
    dense: int
    versions: dict[str, str]
    ids: list[list[int]]
    appended: list[str]
    declared_end: str | None


class _Refusal(msgspec.Struct):
    error: str


@dataclass(frozen=True)
class Reference:
    """The checkpoint's own float32 vectors, by text name."""

    vectors: Mapping[str, Vector]
    alternatives: Mapping[str, Mapping[str, Vector]]
    """Vectors of an engine that errs in one thing, by its name: `cls`, `mean`, `no_dense`, …"""
    pooling: tuple[str, ...]
    versions: Mapping[str, str]
    tokens: Mapping[str, int] = field(default_factory=dict)
    """Tokens of each text, by name, cut off at the context length."""
    ids: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Token ids of each text, by name, with the tokenizer's own marks around it."""
    appended: tuple[str, ...] | None = None
    """Tokens that the tokenizer puts after every text; None where that is not known."""
    declared_end: str | None = None
    """Token that the tokenizer's files say ends every text; None where they name none."""


@dataclass(frozen=True)
class Outcome:
    """A reference, or why there is none."""

    reference: Reference | None
    status: str
    """`cached`, `computed`, or `unavailable: reason`."""
    not_cached: str | None = None
    """Why a computed reference could not be kept, which costs the next start its time again."""


class ReferenceUnavailableError(Exception):
    """The reference could not be computed; the message is one clause of facts."""


def obtain(request: VerifyRequest, texts: Sequence[Text]) -> Outcome:
    """The reference for `texts`: from the cache, else computed and put there.

    Never raises for a reason outside this program: no Python, no memory, a broken checkpoint or
    cache come back as `unavailable: reason`, and the parity check says so.
    """
    path = cache_path(request, texts)
    cached = load(path, texts)
    if cached is not None:
        return Outcome(cached, "cached")
    if request.parity_min <= 0:
        return Outcome(None, "unavailable: not asked for")
    try:
        answer = compute(request, [each.text for each in texts])
        reference = decode(answer, texts)
    except ReferenceUnavailableError as error:
        return Outcome(None, f"unavailable: {error}")
    return Outcome(reference, "computed", _store(path, answer))


def cache_path(request: VerifyRequest, texts: Sequence[Text]) -> Path:
    """File of the cached reference: another checkpoint, text, limit or worker has another name."""
    mark = hashlib.sha256(WORKER.read_bytes())
    asked = [(each.name, each.text) for each in texts]
    mark.update(msgspec.json.encode((request.pooling, request.context_length, asked)))
    name = request.fingerprint
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", name):
        name = hashlib.sha256(name.encode()).hexdigest()
    return Path(request.reference_cache) / f"{name}-{mark.hexdigest()[:16]}.json"


def load(path: Path, texts: Sequence[Text]) -> Reference | None:
    """The reference cached in `path`; None where it is absent, unreadable or corrupt."""
    try:
        return decode(
            msgspec.json.decode(read_bounded(path, _CACHE_LIMIT), type=WorkerAnswer), texts
        )
    except (OSError, ValueError, ReferenceUnavailableError):
        return None


def _store(path: Path, answer: WorkerAnswer) -> str | None:
    """Cache `answer`; the reason where that is not possible."""
    try:
        private_dir(path.parent)
        write_atomic(path, msgspec.json.encode(answer))
    except (OSError, QlaunchError) as error:
        return str(error)
    return None


def compute(request: VerifyRequest, texts: Sequence[str]) -> WorkerAnswer:
    """Run the worker with the engine's Python, bounded by `reference_timeout_s`.

    Raises:
        ReferenceUnavailableError: no Python was given, it cannot start, ran out of time or memory,
            or the checkpoint cannot be computed.
    """
    if request.engine_python is None:
        raise ReferenceUnavailableError("no engine environment was given to compute it with")
    question = {
        "model_path": request.model_path,
        "texts": list(texts),
        "max_tokens": request.context_length,
        "threads": _threads(request.engine_env),
        "fallback_pooling": request.pooling,
    }
    argv = [request.engine_python, str(WORKER.absolute()), str(os.getpid())]
    try:
        done = subprocess.run(
            argv,
            input=msgspec.json.encode(question),
            capture_output=True,
            env=worker_environment(request.engine_env),
            timeout=request.reference_timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        limit = f"{request.reference_timeout_s:g} s"
        raise ReferenceUnavailableError(f"it was not computed within {limit}") from error
    except OSError as error:
        why = f"{request.engine_python} does not start: {error.strerror}"
        raise ReferenceUnavailableError(why) from error
    return _read(done)


def _read(done: subprocess.CompletedProcess[bytes]) -> WorkerAnswer:
    """The worker's answer, or its refusal as an error."""
    if done.returncode == 0:
        try:
            return msgspec.json.decode(done.stdout, type=WorkerAnswer)
        except ValueError as error:
            raise ReferenceUnavailableError("the worker's answer is unreadable") from error
    try:
        raise ReferenceUnavailableError(msgspec.json.decode(done.stdout, type=_Refusal).error)
    except ValueError:
        pass
    if done.returncode == -9:
        raise ReferenceUnavailableError("its process was killed, most likely for want of memory")
    last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][:300]
    raise ReferenceUnavailableError(f"its process ended with status {done.returncode}: {last}")


def _threads(env: Mapping[str, str]) -> int | None:
    """Threads for torch: half of the processors; None where the environment already says.

    A scheduler on a card polls for requests with a whole processor. As many threads as there are
    processors wait for the one beside it at every product: MiniLM's reference took minutes so on 16
    processors, which is seconds' work.
    """
    return None if "OMP_NUM_THREADS" in env else max(1, len(os.sched_getaffinity(0)) // 2)


def worker_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The worker's environment: few variables, no network, no GPU, no secrets."""
    env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    env |= child_environment.for_engines(env, dirs().cache, hosts=())
    env |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONSAFEPATH": "1",
        **child_environment.SPINS,
    }
    return env | dict(extra)


def decode(answer: WorkerAnswer, texts: Sequence[Text]) -> Reference:
    """Vectors of `answer` by text name.

    Raises:
        ReferenceUnavailableError: counts or widths do not agree with `texts` and each other.
    """
    names = [each.name for each in texts]

    def by_name(encoded: list[str], width: int | None) -> dict[str, Vector]:
        vectors = [decode_vector(one) for one in encoded]
        if len(vectors) != len(names) or any(len(one) != (width or len(one)) for one in vectors):
            raise ReferenceUnavailableError("its vectors do not fit the texts")
        return dict(zip(names, vectors, strict=True))

    try:
        return Reference(
            by_name(answer.vectors, answer.dimensions),
            {name: by_name(each, None) for name, each in answer.alternatives.items()},
            tuple(answer.pooling),
            answer.versions,
            dict(zip(names, answer.tokens, strict=True)),
            dict(zip(names, answer.ids, strict=True)),
            tuple(answer.appended),
            answer.declared_end,
        )
    except (binascii.Error, ValueError) as error:
        raise ReferenceUnavailableError("its vectors are not base64 of float32") from error


def decode_vector(encoded: str) -> Vector:
    """Numbers of base64 text holding little-endian float32.

    Raises:
        ValueError: not base64, or not a whole number of elements.
    """
    numbers = array.array("f")
    numbers.frombytes(base64.b64decode(encoded, validate=True))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()
