"""Run records: their names, listing them, and reading one back, whole or broken."""

from __future__ import annotations

import difflib
import json
import re
import secrets
import stat
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, get_type_hints

import msgspec

from launcher.documents.failure import Failure
from launcher.documents.run import Run, RunSummary, Sample
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import read_bounded
from launcher.record.bounded_lines import read_lines
from launcher.record.peak import PeakTracker
from launcher.record.run_writer import EVENTS, RUN, SAMPLES, RunWriter

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "RunWriter",
    "list_runs",
    "load_run",
    "new_run_id",
    "read_events",
    "read_samples",
    "run_directory",
]

VERSION = 1
RUN_LIMIT_BYTES = 8 << 20
BROKEN = "broken"
"""The outcome of a run whose `run.json` cannot be read."""

_AHEAD = timedelta(days=1)
"""Records of a time that is further ahead are of a clock that was wrong."""
_ID = re.compile(r"\d{8}T\d{6}Z-(?P<service>.+)-[0-9a-f]{4}")


def new_run_id(service: str, now: datetime) -> str:
    """A name such as `20261122T131500Z-cpu-minilm-1a2b`: sortable by time, safe as a file name.

    Args:
        service: the service's name; what is not a letter, digit, `.`, `_` or `-` becomes `-`.
        now: an aware time.
    """
    return f"{now.astimezone(UTC):%Y%m%dT%H%M%SZ}-{_slug(service)}-{secrets.token_hex(2)}"


def _slug(service: str) -> str:
    """A service's name as it stands in the ids of its runs."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", service[:200]).strip("-.")[:48] or "service"


def _service_slug(run_id: str) -> str | None:
    match = _ID.fullmatch(run_id)
    return match["service"] if match else None


def list_runs(runs_dir: Path) -> list[RunSummary]:
    """All run records, newest first; broken ones with their problem. Never raises."""
    return [_summary(*_load(runs_dir / name)) for name in _names(runs_dir)]


def runs_of(runs_dir: Path, service: str | None) -> list[RunSummary]:
    """Run records of one service (None: of all), newest first.

    Raises:
        QlaunchError: `run_unknown` (exit 2) with the nearest names where it has none.
    """
    runs = list_runs(runs_dir)
    if service is None or (found := [run for run in runs if run.service == service]):
        return runs if service is None else found
    names = sorted({run.service for run in runs if run.service is not None})
    near = difflib.get_close_matches(service[:200], names, n=3, cutoff=0.5)
    raise QlaunchError(
        f"no run of a service {service[:200]!r} is recorded in {runs_dir}",
        code="run_unknown",
        fix=f"did you mean {', '.join(near)}?" if near else "qlaunch runs list shows all",
    )


def run_directory(runs_dir: Path, wanted: str) -> Path:
    """The folder of one run: its id, the unique beginning of one, `latest`, or a service's last.

    Raises:
        QlaunchError: `run_unknown` (exit 2) with the nearest ids; `run_ambiguous` (exit 2).
    """
    names = _names(runs_dir)
    if wanted == "latest" and names:
        return runs_dir / names[0]
    matches = [wanted] if wanted in names else [n for n in names if wanted and n.startswith(wanted)]
    if wanted and not matches:
        matches = [name for name in names if _service_slug(name) == _slug(wanted)][:1]
    if len(matches) == 1:
        return runs_dir / matches[0]
    if matches:
        raise QlaunchError(
            f"{wanted!r} is the beginning of {len(matches)} runs: {', '.join(matches[:5])}",
            code="run_ambiguous",
            fix="give more of the id",
        )
    near = difflib.get_close_matches(wanted[:200], names, n=3, cutoff=0.5)
    latest = f"the latest are {', '.join(names[:3])}" if names else "no run has been recorded yet"
    raise QlaunchError(
        f"there is no run {wanted[:200]!r} in {runs_dir}",
        code="run_unknown",
        fix=f"did you mean {', '.join(near)}?" if near else latest,
    )


def load_run(runs_dir: Path, wanted: str) -> Run:
    """The run that `wanted` names, see `run_directory` for how and for what it raises.

    A broken `run.json` gives what can still be read of it, with the outcome `broken`, the problem
    in `failure`, and the peak taken from the samples.
    """
    run, problem = _load(run_directory(runs_dir, wanted))
    if problem is None:
        return run
    return msgspec.structs.replace(
        run,
        outcome=BROKEN,
        peak=PeakTracker(read_samples(runs_dir / run.run)).peak(),
        failure=Failure(
            code="record_broken",
            exit_code=ExitCode.UNEXPECTED,
            failure_class=None,
            message=problem,
            fix=None,
        ),
    )


def read_samples(directory: Path) -> Iterator[Sample]:
    """The samples of a run's folder, oldest first; lines cut by a crash are left out."""
    decoder = msgspec.json.Decoder(Sample)
    for line in read_lines(directory / SAMPLES):
        try:
            yield decoder.decode(line)
        except (ValueError, RecursionError):
            continue


def read_events(directory: Path) -> Iterator[dict[str, Any]]:
    """The events of a run's folder, oldest first; lines cut by a crash are left out."""
    decoder = msgspec.json.Decoder(dict[str, Any])
    for line in read_lines(directory / EVENTS):
        try:
            yield decoder.decode(line)
        except (ValueError, RecursionError):
            continue


def _names(runs_dir: Path) -> list[str]:
    """Ids of the records, newest first. Folders that are no records are left out.

    Those of a clock that was ahead come last: one of a year to come would be the latest until then.
    """
    latest = f"{datetime.now(UTC) + _AHEAD:%Y%m%dT%H%M%SZ}"
    try:
        names = [p.name for p in runs_dir.iterdir() if _is_record(p)]
        return sorted(names, key=lambda name: (name <= latest, name), reverse=True)
    except OSError:
        return []


def _is_record(path: Path) -> bool:
    try:
        return _ID.fullmatch(path.name) is not None and stat.S_ISDIR(path.lstat().st_mode)
    except OSError:
        return False


def _load(directory: Path) -> tuple[Run, str | None]:
    """The run, and what is wrong with its `run.json` (then as much of it as can be read)."""
    path = directory / RUN
    data = b""
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            return _salvaged(directory, b""), f"{path} is not a plain file"
        data = read_bounded(path, RUN_LIMIT_BYTES)
        run = decode_run(data)
    except FileNotFoundError:
        problem = f"{path} is missing: the run ended before it was written"
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror or error}"
    except (ValueError, RecursionError) as error:
        problem = f"{path} is broken: {error}"
    else:
        if run.version == VERSION:
            return msgspec.structs.replace(run, run=directory.name), None
        problem = f"{path} has version {run.version}; this qlaunch reads version {VERSION}"
    return _salvaged(directory, data), problem


def decode_run(data: bytes) -> Run:
    """Decode a `run.json`.

    Raises:
        msgspec.MsgspecError, RecursionError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=Run)
    except msgspec.ValidationError:
        members = msgspec.json.decode(data)
        if not isinstance(members, dict) or members.get("plan") != {}:
            raise
        # So earlier versions wrote a run without a plan.
        return msgspec.convert({**members, "plan": None}, Run)


def _salvaged(directory: Path, data: bytes) -> Run:
    """A run from the complete leading fields of a cut `run.json`, the rest from the id."""
    match = _ID.fullmatch(directory.name)
    fields: dict[str, Any] = {
        "version": VERSION,
        "service": match["service"] if match else "",
        "profile": "",
        "began": "",
    }
    hints = get_type_hints(Run)
    for key, value in _leading_fields(data.decode("utf-8", "replace")):
        if key in hints:
            try:
                # Encoded once more: half of a surrogate pair could never be written again.
                fields[key] = msgspec.json.decode(msgspec.json.encode(value), type=hints[key])
            except (ValueError, RecursionError):
                continue
    fields["run"] = directory.name
    return Run(**fields)


def _leading_fields(text: str) -> Iterator[tuple[str, Any]]:
    """The members of a JSON object that ends too early, up to the first incomplete one."""
    decoder, at = json.JSONDecoder(), len(text) - len(text.lstrip(" \t\r\n{"))
    gap = re.compile(r"[\s:,]*")
    while at < len(text):
        try:
            key, at = decoder.raw_decode(text, at)
            value, at = decoder.raw_decode(text, gap.match(text, at).end())  # type: ignore[union-attr]
        except (ValueError, RecursionError):
            return
        if not isinstance(key, str) or not text[at : at + 1]:
            return  # a number at the very end may have lost digits
        yield key, value
        at = gap.match(text, at).end()  # type: ignore[union-attr]


def _summary(run: Run, problem: str | None) -> RunSummary:
    failure = run.failure
    kind = None if failure is None else failure.failure_class or failure.code
    return RunSummary(
        run=run.run,
        service=run.service or None,
        profile=run.profile or None,
        began=run.began or None,
        ended=run.ended,
        outcome=run.outcome if problem is None else BROKEN,
        ram_peak_bytes=run.peak.ram_peak_bytes,
        gpu_peak_bytes=run.peak.gpu_peak_bytes,
        problem=problem or (failure.message if failure else None),
        failure_class=kind if problem is None else "record_broken",
    )
