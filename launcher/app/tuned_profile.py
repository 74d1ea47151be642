"""The profile that `tune` writes: the old one with what was found, and the evidence beside it."""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from launcher.bench import verdict
from launcher.bench.trial import label
from launcher.bench.tune import Overlay, Tuning
from launcher.config.loading import LoadedProfile, load_profile
from launcher.documents.comparison import Mode
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import write_atomic

WIDTH = 98


def write(path: Path, base: LoadedProfile, found: Tuning) -> None:
    """Write the profile to `path`: whole or not at all, and only where it is a valid one.

    Raises:
        QlaunchError: `profile_invalid` (exit 2); `not_written` (exit 1).
    """
    text = document(base, found.pick if found.confirmed else None, found)
    with tempfile.TemporaryDirectory(prefix="qlaunch-tune-") as folder:
        trial = Path(folder, path.name)
        trial.write_text(text, encoding="utf-8")
        load_profile(str(trial), Path(folder))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode("utf-8"), mode=0o644)
    except OSError as error:
        raise QlaunchError(
            f"{path} cannot be written: {error.strerror or error}",
            code="not_written",
            exit_code=ExitCode.UNEXPECTED,
            fix="give another file with --output",
        ) from error


def document(base: LoadedProfile, pick: Overlay | None, found: Tuning) -> str:
    """The text of the profile. Pure."""
    import yaml

    fields = merged(base, pick or Overlay())
    body: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=WIDTH)
    return "".join(f"# {line}".rstrip() + "\n" for line in _evidence(base, found)) + body


def merged(base: LoadedProfile, pick: Overlay) -> dict[str, Any]:
    """What is written in the old profile, with the pick on top; paths are made absolute."""
    whole: dict[str, Any] = msgspec.to_builtins(base.profile)
    written = {path[0] for path in base.lines if len(path) == 1}
    fields = {name: value for name, value in whole.items() if name in written}
    folder = base.path.parent
    for name in ("model", "api_key_file"):
        value = fields.get(name)
        if isinstance(value, str) and (name == "api_key_file" or value.startswith(".")):
            fields[name] = str((folder / Path(value).expanduser()).absolute())
    fields.pop("measured", None)  # it has been now
    fields["title"] = f"{fields['title']} (tuned)"
    fields |= pick.settings
    if pick.flags:
        fields["flags"] = {**fields.get("flags", {}), **pick.flags}
        per_engine = fields.get("flags_by_engine") or {}
        for flags in per_engine.values():  # an older value there would win over the pick
            for name in pick.flags:
                flags.pop(name, None)
    return fields


def _evidence(base: LoadedProfile, found: Tuning) -> Iterable[str]:
    """Comment lines: what was measured, on what, when, and where the records are."""
    yield f"Written by `qlaunch tune {base.name}` on {found.made}."
    if found.confirmed and found.pick is not None:
        yield from _wrapped(f"Changed: {found.pick.words}.")
    else:
        yield f"Nothing was changed: nothing beat {base.name} beyond the noise."
    limit = f", p95 at most {found.max_p95_ms:g} ms" if found.max_p95_ms else ""
    yield f"Measured at: {label(found.level)}{limit}."
    for mode in found.comparison.modes if found.comparison else ():
        yield from _wrapped(_mode(mode, found))
    machine = found.machine
    gpus = f"; {', '.join(machine['gpus'])}" if machine.get("gpus") else ""
    yield from _wrapped(f"Machine: {machine.get('cpu')}, {machine.get('threads')} threads{gpus}.")
    versions = {**found.versions, **_engines(found)}
    yield from _wrapped(
        "Versions: " + ", ".join(f"{name} {value}" for name, value in versions.items()) + "."
    )
    for sentence in found.verdict:
        yield from _wrapped(sentence)
    yield f"All trials: {found.id}."


def _mode(mode: Mode, found: Tuning) -> str:
    cell = verdict.cell(mode, found.level)
    if cell is None or cell.embeddings_per_s is None or cell.p95_ms is None:
        return f"{mode.name}: {mode.reason or 'not measured'}."
    rate, p95 = cell.embeddings_per_s, cell.p95_ms
    return (
        f"{mode.name}: {rate.median:.1f} texts/s ({rate.least:.1f} to {rate.most:.1f} in"
        f" {rate.count} lives), p95 {p95.median:.1f} ms; runs {', '.join(mode.runs)}."
    )


def _engines(found: Tuning) -> dict[str, str]:
    modes = found.comparison.modes if found.comparison else ()
    return {f"SGLang ({m.release})": str(m.version) for m in modes if m.release and m.version}


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
