"""Wheels fetched by pip for this Python and this machine, into a folder that is gone on with."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from launcher import pip_settings
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import limits
from launcher.linux.pdeathsig import die_with
from launcher.network import causes, pip_output


def download(what: str, folder: Path, arguments: Sequence[str]) -> None:
    """Have pip put wheels into `folder`; those that are there already are not fetched again.

    Args:
        what: named in messages.
        folder: made if missing.
        arguments: requirements, and pip's options for them (`--no-deps`, `-r`, `-c`).

    Raises:
        QlaunchError: exit 1: `pip_missing`, `disk_full`, `wheels_missing`, or what lies between us
            and the index (`launcher.network.causes`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder.with_name(f"{folder.name}.pip-log")
    options = ["--only-binary=:all:", "--progress-bar=off", "--log", str(log), "-d", str(folder)]
    quiet = ["--no-input", "--disable-pip-version-check"]
    settings = pip_settings.read(os.environ, "download")
    parent = os.getpid()
    pip = pip_settings.program("wheels are fetched")
    if pip[0] != sys.executable:
        pip += ["--python", sys.executable]
    done = subprocess.run(
        [*pip, "download", *options, *quiet, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        env=pip_settings.environment(os.environ, settings),
        check=False,
        preexec_fn=lambda: die_with(parent),
    )
    details = log.read_text("utf-8", "replace") if log.exists() else ""
    log.unlink(missing_ok=True)
    if done.returncode != 0:
        raise _failed(what, f"{done.stdout}\n{done.stderr}", details, settings)


def _failed(what: str, output: str, details: str, settings: pip_settings.Settings) -> QlaunchError:
    """pip's words turned into one sentence."""
    what = f"the wheels of {what} could not be fetched"
    if (refused := pip_output.trouble(output)) is not None:
        kind, path = refused
        if kind == "file_limit":
            return limits.file_too_large(what, ExitCode.UNEXPECTED)
        return QlaunchError(
            f"{what}: {'the disk is full' if kind == 'disk_full' else f'{path} is not writable'}",
            code="disk_full" if kind == "disk_full" else "not_written",
            exit_code=ExitCode.UNEXPECTED,
            fix="free space or give another place, then run it again: it goes on where it stopped",
        )
    index = pip_settings.main_index(settings)
    cause = pip_output.cause(f"{details}\n{output}", index, settings.variables.get("PIP_PROXY"))
    if cause is not None:
        return causes.error(what, cause, causes.PIP, ExitCode.UNEXPECTED)
    errors = [line[6:].strip() for line in output.splitlines() if line.startswith("ERROR:")]
    return QlaunchError(
        f"{what}: {errors[-1][:300] if errors else 'pip failed'}",
        code="wheels_missing",
        exit_code=ExitCode.UNEXPECTED,
        fix="see that the index has wheels of it for this Python and machine (PIP_INDEX_URL)",
    )
