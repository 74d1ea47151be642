"""Writing a run record: never larger than a few MB, and never in the way of the service."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

import msgspec

from launcher.documents.run import Run, Sample
from launcher.linux.files import write_atomic
from launcher.record.bounded_lines import LINE_LIMIT_BYTES, BoundedLines
from launcher.record.peak import merge
from launcher.record.scrub import Scrubber
from launcher.units import now

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

RUN, SAMPLES, EVENTS, LOG = "run.json", "samples.ndjson", "events.ndjson", "engine.log"

SAMPLES_LIMIT_BYTES = 2_000_000
"""At about 500 bytes a sample every 10 s: ten hours at full resolution before the first merging."""

EVENTS_LIMIT_BYTES = 512_000

DROPPED = "events_dropped"
"""The event that stands where others were dropped; its `count` says how many."""

_KEEP_RECENT = 0.25
"""The share of the samples that is left at full resolution when the older are merged."""

_TEXT_LIMIT = 4000


class RunWriter:
    """Writes one run's folder. No method raises: what goes wrong is counted, see `problem`.

    Args:
        directory: the run's own folder, `runs/RUN_ID`; created here (0700) if it is not there.
        began: the clock's value when the run began; now if None.
        clock: monotonic seconds.
        secrets: what must not reach the record, in any of its usual forms.
    """

    def __init__(
        self,
        directory: Path,
        *,
        began: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        secrets: Iterable[str] = (),
    ) -> None:
        self.directory = directory
        self.lost = 0
        """Writes that failed."""
        self._first_error: str | None = None
        self._clock = clock
        self._began = clock() if began is None else began
        self._scrub = Scrubber(secrets)
        self._samples = BoundedLines(directory / SAMPLES, SAMPLES_LIMIT_BYTES, compact_samples)
        self._events = BoundedLines(directory / EVENTS, EVENTS_LIMIT_BYTES, compact_events)
        self._made = False
        with contextlib.suppress(OSError):  # every write tries again, and counts
            self._make()

    @property
    def problem(self) -> str | None:
        """What went wrong first and how much is missing, None while all is written."""
        if self._first_error is None:
            return None
        return f"the run record is incomplete: {self._first_error} ({self.lost} writes lost)"

    def sample(self, sample: Sample) -> None:
        """Add a sample; when the file is full, older samples are merged, keeping the maxima."""
        self._try(lambda: self._samples.append(msgspec.json.encode(sample)))

    def event(self, name: str, /, **fields: Any) -> None:
        """Add `{"t_s": …, "at": …, "event": name, **fields}`; when full, the middle is dropped."""
        event = {
            "t_s": round(self._clock() - self._began, 3),
            "at": now(),
            "event": name,
        }
        event |= {key: value for key, value in fields.items() if key not in event}
        self._try(lambda: self._events.append(self._encode_event(event)))

    def write(self, run: Run) -> None:
        """Replace `run.json`."""

        def replace() -> None:
            plain = self._scrub.values(msgspec.to_builtins(run, enc_hook=str))
            write_atomic(self.directory / RUN, msgspec.json.format(msgspec.json.encode(plain)))

        self._try(replace)

    def _encode_event(self, event: dict[str, Any]) -> bytes:
        plain = self._scrub.values(_cut(msgspec.to_builtins(event, enc_hook=str)))
        line = msgspec.json.encode(plain)
        if len(line) <= LINE_LIMIT_BYTES // 4:
            return line
        kept = {key: event[key] for key in ("t_s", "at", "event")}
        return msgspec.json.encode(
            {**kept, "event": self._scrub(kept["event"][:200]), "too_large_bytes": len(line)}
        )

    def _make(self) -> None:
        if not self._made:
            self.directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.directory.mkdir(mode=0o700, exist_ok=True)
            self._made = True

    def _try(self, action: Callable[[], object]) -> None:
        try:
            self._make()
            action()
        except OSError as error:
            self._count(error.strerror or str(error))
        except (TypeError, ValueError, RecursionError, OverflowError) as error:
            self._count(f"a value cannot be written as JSON: {error}")

    def _count(self, reason: str) -> None:
        self.lost += 1
        if self._first_error is None:
            self._first_error = self._scrub(reason)


def compact_samples(lines: Iterable[bytes]) -> list[bytes]:
    """Samples with all but the newest quarter merged two by two; broken lines are left out."""
    kept = [line for line in lines if _sample(line) is not None]
    recent = len(kept) - int(len(kept) * _KEEP_RECENT)
    old = kept[: recent - recent % 2]
    merged = []
    for first, second in zip(old[::2], old[1::2], strict=True):
        one, two = _sample(first), _sample(second)
        assert one is not None
        assert two is not None
        merged.append(msgspec.json.encode(merge(one, two)))
    return merged + kept[len(old) :]


def compact_events(lines: Iterator[bytes]) -> list[bytes]:
    """The oldest and the newest quarter of the limit; between them one line counts the dropped."""
    kept: list[bytes] = []
    dropped = 0
    for line in lines:
        count = _dropped(line)
        dropped += count
        if count == 0:
            kept.append(line)
    share = EVENTS_LIMIT_BYTES // 4
    first = _fitting(kept, share)
    last = _fitting(kept[first:][::-1], share)
    dropped += len(kept) - first - last
    note = [msgspec.json.encode({"event": DROPPED, "count": dropped})] if dropped else []
    return kept[:first] + note + kept[len(kept) - last :]


def _fitting(lines: list[bytes], limit: int) -> int:
    """How many of the first lines fit into `limit` bytes."""
    size = 0
    for number, line in enumerate(lines):
        size += len(line) + 1
        if size > limit:
            return number
    return len(lines)


def _sample(line: bytes) -> Sample | None:
    try:
        return msgspec.json.decode(line, type=Sample)
    except (ValueError, RecursionError):
        return None


def _dropped(line: bytes) -> int:
    if DROPPED.encode() not in line:
        return 0
    try:
        event = msgspec.json.decode(line)
    except (ValueError, RecursionError):
        return 0
    count = event.get("count") if isinstance(event, dict) and event.get("event") == DROPPED else 0
    return count if isinstance(count, int) else 0


def _cut(value: Any) -> Any:
    """Long texts in an event cut; they belong in the log."""
    if isinstance(value, str):
        return value if len(value) <= _TEXT_LIMIT else value[:_TEXT_LIMIT] + "…"
    if isinstance(value, dict):
        return {key: _cut(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_cut(part) for part in value]
    return value
