"""Tell why an engine failed from its log: the first specific message in the earliest traceback.

The signatures are data (`failures.yaml`), read once, and only when something failed. The order of
evidence is:

1. specific messages inside a traceback, the earliest first (what a failing start prints after it
   are consequences: children dying, the front killing its tree);
2. the kernel's own count of out-of-memory kills, which the caller hands in;
3. specific messages elsewhere, then broad ones (`ModuleNotFoundError`, `CUDA error`);
4. exit codes that say something (an illegal instruction), then SGLang's "a child failed" lines,
   then the exit codes that say little: SGLang sends itself SIGKILL on every failure, so -9 and
   137 prove nothing about the kernel.

Memory advice depends on the phase in which a message stands, read from the log's own markers: the
same text means a larger memory fraction while the KV pool is sized, a smaller one later on.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from launcher.errors import QlaunchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SIGNATURES = Path(__file__).with_name("failures.yaml")
HALF = 2_000_000
"""Characters read from each end of a log: the cause stands at the start, the end at the end."""
LINE_LIMIT = 2_000
"""Characters of a line, around the words searched for, that a pattern sees."""
SHOWN_LIMIT = 400
"""Characters of a line given as evidence."""
HITS = 100
"""Places tried per needle from each end: a flooded log costs no more than a long one."""
TRACEBACK = "Traceback (most recent call last)"
TRACEBACK_LINES = 4_000
MESSAGE_LINES = 60

Tier = Literal["specific", "broad", "generic"]
TIERS = ("specific", "broad", "generic")
Phase = Literal["start", "load", "pool", "capture", "serve", "request", "stop"]
"""start: until weights load. load: weights. pool: KV cache sized and taken. capture: CUDA graphs.
serve: the scheduler is up: forward passes, the warm-up's included. request: an answer to one call.
stop: our own doing."""

PHASES: dict[str, Phase] = {
    "starting": "start",
    "loading": "load",
    "warming": "serve",
    "verifying": "serve",
    "ready": "serve",
    "degraded": "serve",
    "serving": "serve",
    "running": "serve",
    "stopping": "stop",
    "stopped": "stop",
    **{p: p for p in ("start", "load", "pool", "capture", "serve", "request", "stop")},
}
"""What callers call a phase (service states, and the names above); anything else is `start`."""

_MARKERS: tuple[tuple[Phase, str], ...] = (
    ("load", r"Load weight begin"),
    ("pool", r"Load weight end"),
    ("capture", r"Capture [^\n]{0,80}begin"),
    ("serve", r"\] max_total_num_tokens=\d|Prefill batch|The server is fired up and ready"),
)
"""Log lines that begin a phase, in order; every release of the catalogue prints them."""
_ANSI = re.compile(r"\x1b(?:\[[0-9;?]{0,32}[ -/]{0,4}[@-~]|\][^\x07\x1b]{0,200}\x07?)?")
_CHAIN = ("During handling of the above exception", "direct cause of the following exception")
_LOG_LINE = re.compile(r"\[?\d{4}-\d\d-\d\d[ T]|(?:DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")


class Signature(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message and what it means; see the head of failures.yaml."""

    failure_class: str = msgspec.field(name="class")
    needles: tuple[str, ...]
    """Plain texts, one of which the line contains: a search for them is all a long log costs."""
    pattern: str | None = None
    """A regular expression the line must match too; its named groups fill `cause` and `fix`."""
    tier: Tier = "specific"
    phases: tuple[Phase, ...] = ()
    """Phases in which the line must stand; none means any."""
    exception: bool = False
    """Only inside a traceback: elsewhere the engine prints the text as a mere warning."""
    frame: str = ""
    """Text that the traceback's frames must contain."""
    cause: str
    fix: str
    source: str
    verified: bool
    """Whether the text was read in that source's code or seen from it; false is hearsay."""


class Exit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an exit code says when the log says nothing."""

    failure_class: str = msgspec.field(name="class")
    returncodes: tuple[int, ...] = ()
    telling: bool = False
    """It says more than SGLang's own "a child failed" lines do."""
    cause: str
    fix: str
    source: str


class Signatures(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of failures.yaml."""

    benign: tuple[str, ...]
    """Texts of lines that never explain a failure."""
    oom_killed: Exit
    unclassified: Exit
    signatures: tuple[Signature, ...]
    exits: tuple[Exit, ...]


@dataclass(frozen=True)
class Match:
    """Why the engine failed, as far as it can be told."""

    failure_class: str
    message: str
    """What happened, in one sentence."""
    fix: str
    """The one thing to try."""
    lines: tuple[str, ...]
    """The lines that prove it, terminal-safe; empty where an exit code is all there is."""
    source: str
    """Where the text comes from, and whether it was verified there."""
    phase: str
    """The phase in which it happened."""


@cache
def signatures() -> Signatures:
    """The signatures, read on first use.

    Raises:
        QlaunchError: `failures_unreadable`: this installation is damaged.
    """
    from launcher.yamlfile import load_typed

    return load_typed(
        SIGNATURES, Signatures, what="failure signatures", code="failures_unreadable"
    ).value


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def classify(
    text: str, *, phase: str, returncode: int | None = None, oom_killed: bool = False
) -> Match | None:
    """Why an engine with this log failed; None where neither log nor exit code says.

    Never raises, whatever the text holds, and costs time linear in at most 4 MB of it.

    Args:
        text: the log of this one life of the engine, already scrubbed of secrets.
        phase: the service's state, or a `Phase`, when it ended; the log's own markers go first.
        returncode: as `subprocess` has it (-9 for SIGKILL) or as a shell has it (137).
        oom_killed: the kernel's counters say that it killed a process of this engine for memory.
    """
    try:
        known = signatures()
    except QlaunchError:
        return None
    log = _Log.read(text, PHASES.get(phase, "start"))
    ended = next((e for e in known.exits if returncode in e.returncodes), None)
    telling = _exited(ended, log) if ended and ended.telling else None
    if log.phase == "stop":
        # Children that die while we stop the engine are our own doing; a crash is not.
        return telling
    hits = list(_hits(log, known))
    best = min(hits, key=lambda hit: hit.rank, default=None)
    if best and best.signature.tier == "specific" and best.traceback:
        return _match(best, log)
    if oom_killed:
        return _exited(known.oom_killed, log)
    if best and best.signature.tier != "generic":
        return _match(best, log)
    found = telling or _unclassified(known.unclassified, log, hits)
    if found:
        return found
    if best:
        return _match(best, log)
    return _exited(ended, log) if ended else None


# --- the log -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Traceback:
    """Where a traceback (a whole chain of them) stands, and which part is frames, not message."""

    start: int
    end: int
    frames: tuple[tuple[int, int], ...]
    fatal: bool
    """A process of the engine died of it, by its own words."""

    def holds(self, position: int) -> bool:
        """Whether `position` is past the header: in the frames or the message."""
        return bool(self.frames) and position >= self.frames[0][0]

    def calls(self, words: str, text: str) -> bool:
        """Whether the frames contain `words`."""
        return any(text.find(words, low, high) >= 0 for low, high in self.frames)


@dataclass
class _Log:
    """A bounded log with its phases and tracebacks."""

    text: str
    phase: Phase
    """The caller's."""
    markers: list[tuple[int, Phase]] = field(default_factory=list)
    tracebacks: list[_Traceback] = field(default_factory=list)

    @classmethod
    def read(cls, text: str, phase: Phase) -> _Log:
        if len(text) > 2 * HALF:
            text = f"{text[:HALF]}\n{text[-HALF:]}"
        text = _ANSI.sub("", text).replace("\r", "\n")
        log = cls(text, phase)
        for name, pattern in _MARKERS:
            found = _compiled(pattern).search(text)
            if found:
                log.markers.append((found.start(), name))
        log.tracebacks = list(_tracebacks(text))
        return log

    def phase_at(self, position: int) -> Phase:
        """The phase in which a line stands: the furthest marker before it, else the caller's."""
        if self.phase == "request" or not self.markers:
            return self.phase
        passed = [name for at, name in self.markers if at < position]
        return passed[-1] if passed else "start"

    def line(self, position: int) -> tuple[int, int]:
        """Start and end of the line around `position`."""
        start = self.text.rfind("\n", 0, position) + 1
        end = self.text.find("\n", position)
        return start, len(self.text) if end < 0 else end

    def line_start(self, position: int) -> int:
        """Where the line around `position` starts, or half of LINE_LIMIT before it if later."""
        low = max(0, position - LINE_LIMIT // 2)
        return self.text.rfind("\n", low, position) + 1 or low

    def window(self, position: int) -> str:
        """At most LINE_LIMIT characters of the line around `position`."""
        low = self.line_start(position)
        end = self.text.find("\n", position, low + LINE_LIMIT)
        return self.text[low : low + LINE_LIMIT if end < 0 else end]

    def span_of(self, position: int) -> int | None:
        """Index of the traceback around `position`; None outside all of them."""
        index = bisect_right(self.tracebacks, position, key=lambda t: t.start) - 1
        return index if index >= 0 and position < self.tracebacks[index].end else None

    def lines_around(self, position: int) -> tuple[str, ...]:
        """The line at `position`, two before and two after, made safe for a terminal."""
        before = self.text[max(0, position - 4 * LINE_LIMIT) : position].split("\n")[-3:]
        after = self.text[position : position + 4 * LINE_LIMIT].split("\n")[:3]
        head = (
            before[-1]
            if len(before[-1]) <= SHOWN_LIMIT // 2
            else "…" + before[-1][-SHOWN_LIMIT // 2 :]
        )
        lines = [*before[:-1], head + after[0], *after[1:]]
        return tuple(_safe(line) for line in lines if line.strip())


def _safe(line: str) -> str:
    from launcher.yamlfile import shown

    return shown(line.replace("\t", "    ").rstrip(), SHOWN_LIMIT)


def _tracebacks(text: str) -> Iterator[_Traceback]:
    """The tracebacks of a log; one that chains to the next is one with it."""
    position = text.find(TRACEBACK)
    while position >= 0:
        found = _traceback(text, position)
        yield found
        position = text.find(TRACEBACK, found.end)


def _traceback(text: str, header: int) -> _Traceback:
    start = text.rfind("\n", 0, header) + 1
    prefix = text[start:header] if header - start < 200 else ""
    frames: list[tuple[int, int]] = []
    position = _after(text, header)
    if not text.startswith(prefix, position):
        prefix = ""
    in_frames, chained, message = True, False, 0
    begun = position
    for _ in range(TRACEBACK_LINES):
        if position >= len(text) or message > MESSAGE_LINES:
            break
        end = _after(text, position)
        line = text[position : min(end, position + 300)].removeprefix(prefix)
        if in_frames and line[:1] not in (" ", "\t", "\n", ""):
            frames.append((begun, position))
            in_frames = False
        if not in_frames:
            message += 1
            chained = chained or any(words in line for words in _CHAIN)
            if TRACEBACK in line:
                if not chained:
                    break
                in_frames, chained, message, begun = True, False, 0, end
            elif _LOG_LINE.match(line):
                break
        position = end
    if in_frames:
        frames.append((begun, position))
    fatal = "hit an exception" in text[start:header][-200:]
    return _Traceback(start, max(position, header + len(TRACEBACK)), tuple(frames), fatal)


def _after(text: str, position: int) -> int:
    """Start of the next line."""
    found = text.find("\n", position)
    return len(text) if found < 0 else found + 1


# --- signatures on the log -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Hit:
    """A signature that matched a line."""

    signature: Signature
    position: int
    traceback: _Traceback | None
    groups: Mapping[str, str | None]
    rank: tuple[int, ...]
    """The smallest is the best evidence."""


def _hits(log: _Log, known: Signatures) -> Iterator[_Hit]:
    for order, signature in enumerate(known.signatures):
        for needle in signature.needles:
            for position in _found(needle, log.text):
                hit = _hit(signature, position, order, log, known.benign)
                if hit:
                    yield hit


def _found(needle: str, text: str) -> Iterator[int]:
    """Where `needle` stands: the first HITS places, and the last, of a text that repeats it."""
    position, last = text.find(needle), -1
    for _ in range(HITS):
        if position < 0:
            return
        yield position
        last, position = position, text.find(needle, position + len(needle))
    position = text.rfind(needle)
    for _ in range(HITS):
        if position <= last:
            return
        yield position
        position = text.rfind(needle, 0, position)


def _hit(
    signature: Signature, position: int, order: int, log: _Log, benign: tuple[str, ...]
) -> _Hit | None:
    """The signature's match at a place where one of its needles stands, if it is one."""
    span = log.span_of(position)
    traceback = None if span is None else log.tracebacks[span]
    if signature.exception and traceback is None:
        return None
    if traceback and any(low <= position < high for low, high in traceback.frames):
        return None
    if traceback and signature.frame and not traceback.calls(signature.frame, log.text):
        return None
    phase = log.phase_at(position)
    if signature.phases and phase not in signature.phases:
        return None
    line = log.window(position)
    match = _compiled(signature.pattern).search(line) if signature.pattern else None
    if (signature.pattern and not match) or any(words in line for words in benign):
        return None
    groups = match.groupdict() if match else {}
    # While serving, errors of single requests print tracebacks too; the one that a process says it
    # died of goes first.
    passing = int(phase == "serve" and traceback is not None and not traceback.fatal)
    line_start = log.line_start(position)
    where = (1, 0, 0) if span is None else (0, passing, span)
    rank = (TIERS.index(signature.tier), *where, line_start, order)
    return _Hit(signature, position, traceback, groups, rank)


def _match(hit: _Hit, log: _Log) -> Match:
    signature = hit.signature
    verified = "verified" if signature.verified else "unverified"
    return Match(
        failure_class=signature.failure_class,
        message=_filled(signature.cause, hit.groups),
        fix=_filled(signature.fix, hit.groups),
        lines=log.lines_around(hit.position),
        source=f"{signature.source} ({verified})",
        phase=log.phase_at(hit.position),
    )


def _exited(ended: Exit, log: _Log) -> Match:
    return Match(
        failure_class=ended.failure_class,
        message=ended.cause,
        fix=ended.fix,
        lines=(),
        source=ended.source,
        phase=log.phase_at(len(log.text)),
    )


def _unclassified(known: Exit, log: _Log, hits: list[_Hit]) -> Match | None:
    """The error of a traceback that no signature knows: the fatal one, or the first at a start."""
    serving = log.phase_at(len(log.text)) == "serve"
    # A traceback whose own message is generic ("scheduler died") says less than that signature.
    generic = {h.traceback.start for h in hits if h.traceback and h.traceback.holds(h.position)}
    strange = [t for t in log.tracebacks if t.start not in generic]
    found = next((t for t in strange if t.fatal), None)
    found = found or next((t for t in strange if not serving), None)
    if found is None or not found.frames or found.frames[-1][1] >= found.end:
        return None
    error = found.frames[-1][1]
    start, end = log.line(error)
    line = _safe(log.text[start : min(end, start + LINE_LIMIT)])
    return Match(
        failure_class=known.failure_class,
        message=_filled(known.cause, {"error": line}),
        fix=known.fix,
        lines=log.lines_around(error),
        source=known.source,
        phase=log.phase_at(error),
    )


def _filled(text: str, groups: Mapping[str, str | None]) -> str:
    """`text` with `{name}` replaced by what the pattern's group of that name matched."""
    for name, value in groups.items():
        text = text.replace("{" + name + "}", _safe(value or "?").strip())
    return text
