"""Tell why an engine failed from its log: the first specific message in the earliest traceback.

The signatures are data (`failures.yaml`), read once, and only when something failed. The order of
evidence is:

1. specific messages inside a traceback, the earliest first (what a failing start prints after it
   are consequences: children dying, the front killing its tree);
2. the kernel's own count of out-of-memory kills, which the caller hands in;
3. specific messages elsewhere, then broad ones (`ModuleNotFoundError`, `CUDA error`);
4. exit codes that say something (an illegal instruction), then SGLang's "a child failed" lines,
   then the exit codes that say little: SGLang sends itself SIGKILL on every failure, so -9 and
   137 prove nothing about the kernel. An ordinary error code says less than a message that is a
   warning elsewhere, or the last line that calls itself an error.

Memory advice depends on the phase in which a message stands, read from the log's own markers: the
same text means a larger memory fraction while the KV pool is sized, a smaller one later on.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from launcher.engine.failures.log import LINE_LIMIT, SHOWN_LIMIT, Log, Phase, Traceback, safe
from launcher.errors import QlaunchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SIGNATURES = Path(__file__).with_name("failures.yaml")
HITS = 100
"""Places tried per needle from each end: a flooded log costs no more than a long one."""
SIGNALLED = 128
"""Exit codes from here on say that a signal ended the process, as a shell has them."""

Tier = Literal["specific", "broad", "generic"]
TIERS = ("specific", "broad", "generic")
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
_ERROR = re.compile(
    r"\b(?:[A-Za-z_][\w.]{0,80}(?:Error|Exception)|ERROR|CRITICAL|FATAL|[Ee]rror|[Ff]atal)\]?:"
)
"""Before a message: a line that says it is an error, though the traceback is cut or was none."""


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
    """Only inside a traceback, or on a line that says it is an error: elsewhere the engine prints
    the text as a mere warning, which counts where nothing else tells why it ended with an error."""
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
    error: str | None
    """What the engine itself said, on one line: the exception that a traceback ends with."""
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
    from launcher.yaml_reader import load_typed

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
    log = Log.read(text, PHASES.get(phase, "start"))
    ended = next((e for e in known.exits if returncode in e.returncodes), None)
    telling = _exited(ended, log) if ended and ended.telling else None
    if log.phase == "stop":
        # Children that die while we stop the engine are our own doing; a crash is not.
        return telling
    found = sorted(_hits(log, known), key=lambda hit: hit.rank)
    hits = [hit for hit in found if not hit.warning]
    warnings = [hit for hit in found if hit.warning]
    best = hits[0] if hits else None
    if best and best.signature.tier == "specific" and best.traceback:
        return _match(best, log)
    if oom_killed:
        return _exited(known.oom_killed, log)
    if best and best.signature.tier != "generic":
        return _match(best, log)
    strange = telling or _unclassified(known.unclassified, log, hits)
    if strange:
        return strange
    if warnings and returncode is not None and 0 < returncode < SIGNALLED:
        return _match(warnings[0], log)
    if best:
        return _match(best, log)
    words = _last_error(log) if ended and 0 < ended.returncodes[0] < SIGNALLED else None
    if words is not None:
        return _quoted(known.unclassified, log, words)
    return _exited(ended, log) if ended else None


# --- signatures on the log -----------------------------------------------------------------------


@dataclass(frozen=True)
class _Hit:
    """A signature that matched a line."""

    signature: Signature
    position: int
    traceback: Traceback | None
    groups: Mapping[str, str | None]
    rank: tuple[int, ...]
    """The smallest is the best evidence."""

    @property
    def warning(self) -> bool:
        """Whether it stands where the engine prints it without ending of it."""
        return self.rank[0] == 1


def _hits(log: Log, known: Signatures) -> Iterator[_Hit]:
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
    signature: Signature, position: int, order: int, log: Log, benign: tuple[str, ...]
) -> _Hit | None:
    """The signature's match at a place where one of its needles stands, if it is one."""
    span = log.span_of(position)
    traceback = None if span is None else log.tracebacks[span]
    if traceback and any(low <= position < high for low, high in traceback.frames):
        return None
    if signature.frame and not (traceback and traceback.calls(signature.frame, log.text)):
        return None
    phase = log.phase_at(position)
    if signature.phases and phase not in signature.phases:
        return None
    line = log.window(position)
    match = _compiled(signature.pattern).search(line) if signature.pattern else None
    if (signature.pattern and not match) or any(words in line for words in benign):
        return None
    warning = signature.exception and traceback is None and not _says_error(line, signature)
    groups = match.groupdict() if match else {}
    # While serving, errors of single requests print tracebacks too; the one that a process says it
    # died of goes first.
    passing = int(phase == "serve" and traceback is not None and not traceback.fatal)
    line_start = log.line_start(position)
    where = (1, 0, 0) if span is None else (0, passing, span)
    rank = (int(warning), TIERS.index(signature.tier), *where, line_start, order)
    return _Hit(signature, position, traceback, groups, rank)


def _says_error(line: str, signature: Signature) -> bool:
    """Whether the line calls itself an error before it says what a needle looks for."""
    at = min((found for n in signature.needles if (found := line.find(n)) >= 0), default=0)
    return _ERROR.search(line[:at]) is not None


def _match(hit: _Hit, log: Log) -> Match:
    signature = hit.signature
    verified = "verified" if signature.verified else "unverified"
    error = log.raised(hit.traceback) if hit.traceback else None
    groups = {"error": error or log.words(hit.position), **hit.groups}
    return Match(
        failure_class=signature.failure_class,
        message=_filled(signature.cause, groups),
        fix=_filled(signature.fix, groups),
        lines=log.lines_around(hit.position),
        error=error,
        source=f"{signature.source} ({verified})",
        phase=log.phase_at(hit.position),
    )


def _exited(ended: Exit, log: Log) -> Match:
    return Match(
        failure_class=ended.failure_class,
        message=ended.cause,
        fix=ended.fix,
        lines=(),
        error=None,
        source=ended.source,
        phase=log.phase_at(len(log.text)),
    )


def _unclassified(known: Exit, log: Log, hits: list[_Hit]) -> Match | None:
    """The error of a traceback that no signature knows: the fatal one, or the first at a start."""
    serving = log.phase_at(len(log.text)) == "serve"
    # A traceback whose own message is generic ("scheduler died") says less than that signature.
    generic = {h.traceback.start for h in hits if h.traceback and h.traceback.holds(h.position)}
    strange = [t for t in log.tracebacks if t.start not in generic and not t.is_group(log.text)]
    found = next((t for t in strange if t.fatal), None)
    found = found or next((t for t in strange if not serving), None)
    if found is None or not found.frames or found.frames[-1][1] >= found.end:
        return None
    return _quoted(known, log, found.frames[-1][1], log.raised(found))


def _last_error(log: Log) -> int | None:
    """Where the last line stands that calls itself an error, though no traceback is above it."""
    tail = max(0, len(log.text) - 50 * SHOWN_LIMIT)
    for found in reversed(list(_ERROR.finditer(log.text, tail))):
        if log.line(found.end())[1] - found.end() > 1:
            return found.start()
    return None


def _quoted(known: Exit, log: Log, error: int, words: str | None = None) -> Match:
    """The unclassified error whose line is around `error`, in these words or its own."""
    if words is None:
        start, end = log.line(error)
        words = safe(log.text[start : min(end, start + LINE_LIMIT)]).strip()
    return Match(
        failure_class=known.failure_class,
        message=_filled(known.cause, {"error": words}),
        fix=known.fix,
        lines=log.lines_around(error),
        error=words,
        source=known.source,
        phase=log.phase_at(error),
    )


def _filled(text: str, groups: Mapping[str, str | None]) -> str:
    """`text` with `{name}` replaced by what the pattern's group of that name matched."""
    for name, value in groups.items():
        text = text.replace("{" + name + "}", safe(value or "?").strip())
    return text
