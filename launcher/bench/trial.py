"""One life of a way to serve: brought up on a clean machine, loaded, and brought down again.

Who starts what is not known here: a `Contender` is built by the command line. Whatever happens in
between, a failure or Ctrl-C, it is stopped, and what was measured until then is returned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from launcher.bench.load import Interrupted, Target, TextError, TextSource
from launcher.documents.comparison import Level, Mode, Quality, Row
from launcher.errors import QlaunchError
from launcher.units import counted, length

Say = Callable[[str], None]


@dataclass(frozen=True)
class Running:
    """A contender that serves."""

    target: Target
    model_path: str | None
    """Folder of the checkpoint, for texts of an exact length."""
    ready_s: float | None = None
    """From its start to the first `/health` 200."""
    verified_s: float | None = None
    """From its start until its vectors were proved right; None where nobody proves them."""
    run: str | None = None
    """The run record."""
    argv: tuple[str, ...] = ()
    """As executed."""
    counts_tokens: bool = True
    """Whether `usage` counts tokens; some servers count characters."""
    quality: Callable[[Say], Quality] | None = None
    """Compares its vectors with the reference."""


@dataclass(frozen=True)
class Ended:
    """What is known of a life when it is over."""

    left: tuple[str, ...] = ()
    """What could not be ended, named; empty is a clean stop."""
    ram_peak_bytes: int | None = None
    gpu_peak_bytes: int | None = None
    verified_ram_bytes: int | None = None
    memory_method: dict[str, str] = field(default_factory=dict)


class Contender(Protocol):
    """A way to serve, to be measured."""

    @property
    def facts(self) -> Mode:
        """What is known before it runs; its outcome is `cannot_run` where it never will here."""

    def start(self, say: Say) -> Running:
        """Bring it up, and return when it serves.

        Raises:
            QlaunchError: it does not come up; with what to do about it.
        """

    def stop(self) -> Ended:
        """Bring it down; also where it did not come up, and once more after an interrupt."""


class Tools(Protocol):
    """What a life needs of the machine; the real ones are `launcher.bench.test_machine.Machine`."""

    def say(self, line: str) -> None:
        """Tell people, one line at a time."""

    def now(self, line: str) -> None:
        """Tell people what is going on this moment."""

    def settle(self) -> str | None:
        """Wait until the machine is as free as at the beginning; what is not, in a sentence."""

    def texts(self, model_path: str | None, target: Target) -> TextSource:
        """Texts of an exact length; raises TextError."""

    def measure(
        self,
        target: Target,
        level: Level,
        texts: TextSource,
        progress: Callable[[int, float], None],
    ) -> Row:
        """One level; raises Interrupted with what was measured."""


@dataclass
class Life:
    """What came of one life."""

    rows: list[Row] = field(default_factory=list)
    """One a level, in the order of the levels; fewer where it did not come so far."""
    running: Running | None = None
    ended: Ended = field(default_factory=Ended)
    quality: Quality | None = None
    failure: str | None = None
    """Why not everything was measured; None: it was."""
    interrupted: bool = False
    notes: list[str] = field(default_factory=list)


def live(
    contender: Contender,
    levels: Sequence[Level],
    tools: Tools,
    *,
    quality: bool = False,
    on_row: Callable[[Life], object] = lambda _: None,
) -> Life:
    """One whole life. Ctrl-C is not raised but noted in the result, after the stop.

    Args:
        levels: measured in this order.
        quality: also compare its vectors, after the levels.
        on_row: called after each level with the life so far.
    """
    life = Life()
    try:
        try:
            _serve(contender, levels, tools, life, quality=quality, on_row=on_row)
        finally:
            life.ended = _stopped(contender)
    except KeyboardInterrupt:
        life.interrupted = True
    except QlaunchError as error:
        life.failure = life.failure or in_words(error)
    if life.ended.left:
        life.failure = life.failure or f"its stop left {', '.join(life.ended.left)}"
    return life


def in_words(error: QlaunchError) -> str:
    """An error as the reason of a mode: what happened, and what to try."""
    return f"{error.message} ({error.code})" + (f"; try: {error.fix}" if error.fix else "")


def _serve(
    contender: Contender,
    levels: Sequence[Level],
    tools: Tools,
    life: Life,
    *,
    quality: bool,
    on_row: Callable[[Life], object],
) -> None:
    name = contender.facts.name
    note = tools.settle()
    if note is not None:
        life.notes.append(f"before {name}: {note}")
    tools.say(f"{name}: starting")
    running = contender.start(tools.say)
    life.running = running
    if running.ready_s is not None:
        tools.say(f"{name}: serves after {running.ready_s:.1f} s")
    try:
        texts = tools.texts(running.model_path, running.target)
    except TextError as error:
        life.failure = str(error)
        return
    for level in levels:
        if not _level(level, running, texts, tools, life, on_row):
            return
    if quality and running.quality is not None:
        tools.say(f"{name}: comparing its vectors with the reference")
        life.quality = running.quality(tools.now)


def _level(
    level: Level,
    running: Running,
    texts: TextSource,
    tools: Tools,
    life: Life,
    on_row: Callable[[Life], object],
) -> bool:
    """Measure one level; False where the engine is not worth another."""
    name, words = running.target.mode, label(level)

    def progress(requests: int, seconds: float) -> None:
        tools.now(f"{name}: {words}: {requests} answered in {seconds:.0f} s")

    try:
        row = _counted(tools.measure(running.target, level, texts, progress), running)
    except Interrupted as stopped:
        life.rows.append(_counted(stopped.row, running))
        on_row(life)
        raise
    life.rows.append(row)
    if row.errors:
        life.failure = f"{words}: {counted(row.errors, 'request')} failed: {row.error}"
    on_row(life)
    if row.embeddings_per_s is not None:
        tools.say(f"{name}: {words}: {row.embeddings_per_s:.1f} texts/s, p50 {row.p50_ms:.1f} ms")
    # A level that is impossible (a text too long) has a reason and no error: the next may do.
    return not (row.errors and row.reason)


def _counted(row: Row, running: Running) -> Row:
    """A row with our own count of tokens where the server counts something else."""
    if running.counts_tokens:
        return row
    tokens = row.tokens if row.tokens_asked is None else row.tokens_asked
    rate = None if row.embeddings_per_s is None else round(row.embeddings_per_s * tokens, 3)
    return msgspec.structs.replace(row, tokens_per_s=rate, tokens_counted=None)


def _stopped(contender: Contender) -> Ended:
    """Stop it. A second Ctrl-C does not leave it half stopped; a third does what it says."""
    try:
        return contender.stop()
    except KeyboardInterrupt:
        contender.stop()
        raise


def label(level: Level) -> str:
    """A level in words: `16 clients, 1 text of 128 tokens`."""
    clients = "1 client" if level.clients == 1 else f"{level.clients} clients"
    texts = "1 text" if level.batch == 1 else f"{level.batch} texts"
    rate = f" at {level.rate:g} requests/s" if level.loop == "open" and level.rate else ""
    tokens = length(level.tokens, level.shortest, to=" to ")
    return f"{clients}{rate}, {texts} of {tokens} tokens"
