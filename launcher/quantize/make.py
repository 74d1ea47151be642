"""Making a quantised checkpoint: quantise beside its place, measure, and only then keep it."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from launcher.errors import ExitCode, QlaunchError
from launcher.linux import locks
from launcher.linux.files import FULL, SAYS_FULL, write_atomic
from launcher.linux.removal import discard
from launcher.model.checkpoint import Checkpoint
from launcher.model.inspect import inspect
from launcher.quantize import quality, worker
from launcher.quantize.formats import GROUP, WORD, Format
from launcher.units import now, size
from launcher.verify import reference
from launcher.verify.instruction import Wording

RECORD: Final = ".quantized.json"
"""Beside the weights, hidden: it is no part of what makes the vectors, nor of the fingerprint."""
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".gguf")
_CONTEXT: Final = 512
"""Tokens of the longest text that is compared; the set's own are shorter."""

Progress = Callable[[str], None]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """`.quantized.json`: how a quantised checkpoint was made and what it was measured to be."""

    version: int = 1
    model: str
    to: str
    title: str
    source: str
    source_fingerprint: str
    fingerprint: str
    source_bytes: int
    weight_bytes: int
    matrices: int
    measured: quality.Measured
    worst_cosine_asked: float
    mean_cosine_asked: float
    recall_loss_asked: float
    seconds: dict[str, float]
    versions: dict[str, str]
    made: str


@dataclass(frozen=True)
class Order:
    """What is to be made of what."""

    model: str
    """The source as the user wrote it."""
    checkpoint: Checkpoint
    wording: Wording
    wanted: Format
    target: Path
    """Folder that the result is kept in."""
    python: Path
    """Of the quantiser's environment."""
    again: bool = False
    """Make it also where another call has just made the same."""


def made(target: Path) -> Record | None:
    """The record of the quantised checkpoint in `target`; None where there is no whole one."""
    try:
        return msgspec.json.decode((target / RECORD).read_bytes(), type=Record)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None


def same(target: Path, source: Checkpoint, wanted: Format) -> Record | None:
    """The record of what is in `target`, if it was made of the same and is good enough."""
    record = made(target)
    if record is None or record.to != wanted.name:
        return None
    if record.source_fingerprint != source.fingerprint:
        return None
    return None if quality.shortfalls(record.measured, wanted) else record


def check(checkpoint: Checkpoint, wanted: Format) -> None:
    """Refuse what cannot be quantised for these engines.

    Raises:
        QlaunchError: `checkpoint_unsuitable` (exit 2).
    """
    why, fix = None, "give the model's own checkpoint of a decoder, in 16 or 32 bits"
    if checkpoint.encoder:
        why = "is an encoder, which the engines serve unquantised only"
    elif checkpoint.quantization is not None:
        why = f"is quantised already ({checkpoint.quantization})"
    elif wanted.name == "int4" and (odd := _undivided(checkpoint)) is not None:
        why = f"has {odd}, which its layout cannot store"
        fix = "quantise it to int8 or fp8, which store each weight by itself"
    if why is not None:
        raise QlaunchError(f"{checkpoint.path} {why}", code="checkpoint_unsuitable", fix=fix)


def _undivided(checkpoint: Checkpoint) -> str | None:
    """The first width of a layer's matrices that int4 does not divide into its words and groups."""
    heads, of_head = checkpoint.num_attention_heads, checkpoint.head_dim
    into = {
        "hidden_size": checkpoint.hidden_size,
        "intermediate_size": checkpoint.intermediate_size,
        "num_attention_heads x head_dim": heads * of_head,
    }
    for name, width in into.items():
        if width % GROUP:
            return f"matrices of {width} columns ({name}), not whole groups of {GROUP}"
    rows = checkpoint.num_kv_heads * of_head
    if rows % WORD:
        return f"matrices of {rows} rows (num_key_value_heads x head_dim), not a multiple of {WORD}"
    return None


def make(order: Order, progress: Progress) -> Record:
    """Quantise, measure and keep; what was in the target before stays until then.

    Raises:
        QlaunchError: `quantize_failed` (exit 1); `quality_too_low` (exit 7): nothing is kept;
            `disk_full` and `models_dir_unusable` (exit 1).
    """
    folder = order.target.parent
    with _usable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(folder, order.checkpoint)
        lock = folder / f".{order.target.name}.lock"
        waiting = f"another command is making {order.target.name}"
        with locks.held(lock, lambda: progress(waiting)):
            if not order.again and (found := same(order.target, order.checkpoint, order.wanted)):
                return found
            require_ours(order.target)
            for left in folder.glob(f".{order.target.name}.partial-*"):
                shutil.rmtree(left)
            draft = Path(tempfile.mkdtemp(prefix=f".{order.target.name}.partial-", dir=folder))
            try:
                return _keep(order, draft, _fill(order, draft / "model", progress))
            finally:
                shutil.rmtree(draft, ignore_errors=True)


def require_ours(target: Path) -> None:
    """Refuse to replace what lies in the copy's place and was not made by us.

    Raises:
        QlaunchError: `model_exists` (exit 9).
    """
    if os.path.lexists(target) and made(target) is None:
        raise QlaunchError(
            f"{target} is there already, and qlaunch did not make it",
            code="model_exists",
            exit_code=ExitCode.CONFLICT,
            fix="move it away, or give the copy another name with --name",
        )


@contextlib.contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise _disk_full(folder) from error
        raise QlaunchError(
            f"cannot write {error.filename or folder}: {error.strerror or error}",
            code="models_dir_unusable",
            exit_code=ExitCode.UNEXPECTED,
            fix="make that folder writable, or set QLAUNCH_HOME to a folder of your own",
        ) from error


def _fill(order: Order, draft: Path, progress: Progress) -> Record:
    """The whole checkpoint in `draft`, measured."""
    source, wanted = order.checkpoint, order.wanted
    copy_others(source.path, draft)
    asked = quality.texts(order.wording)
    question = worker.Question(
        source=str(source.path),
        target=str(draft),
        to=wanted.name,
        group_size=GROUP,
        calibration=quality.calibration(),
        texts=[each.text for each in asked],
        max_tokens=min(source.context_length, _CONTEXT),
        fallback_pooling=source.pooling,
        threads=len(os.sched_getaffinity(0)),
    )
    try:
        answer = worker.run(order.python, question, progress)
    except QlaunchError as error:
        if SAYS_FULL.search(error.message):
            raise _disk_full(draft.parent.parent) from error
        raise
    measured = quality.measure(asked, _decoded(answer.reference), _decoded(answer.vectors))
    result = inspect(draft)
    return Record(
        model=order.model,
        to=wanted.name,
        title=wanted.title,
        source=str(source.path),
        source_fingerprint=source.fingerprint,
        fingerprint=result.fingerprint,
        source_bytes=source.weight_bytes,
        weight_bytes=result.weight_bytes,
        matrices=answer.matrices,
        measured=measured,
        worst_cosine_asked=wanted.worst_cosine,
        mean_cosine_asked=wanted.mean_cosine,
        recall_loss_asked=wanted.recall_loss,
        seconds=answer.seconds,
        versions=answer.versions,
        made=now(),
    )


def _decoded(vectors: list[str]) -> list[list[float]]:
    return [reference.decode_vector(one) for one in vectors]


def _keep(order: Order, draft: Path, record: Record) -> Record:
    """Put the draft in its place, if its vectors are still the model's."""
    failed = quality.shortfalls(record.measured, order.wanted)
    if failed:
        raise QlaunchError(
            f"{order.model} in {order.wanted.name} was not kept: {'; '.join(failed)}",
            code="quality_too_low",
            exit_code=ExitCode.VERIFY_FAILED,
            fix="quantise to more bits, or allow less with --min-cosine and --max-recall-loss",
            data={"measured": msgspec.to_builtins(record.measured)},
        )
    folder = draft / "model"
    write_atomic(folder / RECORD, msgspec.json.format(msgspec.json.encode(record)), mode=0o644)
    discard(order.target)
    folder.rename(order.target)
    return record


def copy_others(source: Path, target: Path) -> None:
    """Everything of a checkpoint but its transformer's weights: tokenizer, modules, prompts.

    Links to nowhere, pipes and sockets, which no checkpoint needs, are left.
    """
    target.mkdir()
    for path in sorted(source.iterdir()):
        if path.name.startswith(".") or path.name.lower() in ("onnx", "openvino"):
            continue
        if path.is_dir():
            shutil.copytree(path, target / path.name, ignore=_not_copied)
        elif path.is_file() and not _is_weights(path.name):
            shutil.copyfile(path, target / path.name)


def _is_weights(name: str) -> bool:
    return name.endswith((*_WEIGHTS, ".index.json"))


def _not_copied(folder: str, names: list[str]) -> set[str]:
    """What is left of a module's folder: weights, where the module is the transformer; no files."""
    transformer = "tokenizer.json" in names or "sentence_bert_config.json" in names
    paths = {name: Path(folder, name) for name in names}
    odd = {name for name, path in paths.items() if not (path.is_file() or path.is_dir())}
    return odd | {name for name in names if transformer and _is_weights(name)}


def _disk_full(folder: Path) -> QlaunchError:
    return QlaunchError(
        f"the copy was not made: the disk of {folder}, or that of temporary files, is full",
        code="disk_full",
        exit_code=ExitCode.UNEXPECTED,
        fix="free space there, or set QLAUNCH_HOME (TMPDIR) to a folder on a larger disk",
    )


def _check_space(folder: Path, checkpoint: Checkpoint) -> None:
    free, needed = shutil.disk_usage(folder).free, int(1.5 * checkpoint.weight_bytes)
    if free < needed:
        raise QlaunchError(
            f"quantising needs {size(needed)} in {folder}, which has {size(free)} free",
            code="disk_full",
            exit_code=ExitCode.UNEXPECTED,
            fix="free space there, or set QLAUNCH_HOME to a folder on a larger disk",
        )
