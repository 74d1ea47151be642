"""pip and venv, as the installer uses them: one child at a time, progress by the line."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from launcher import pip_settings
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import limits
from launcher.linux.pdeathsig import die_with
from launcher.network import causes, pip_output

Progress = Callable[[str], None]

LOG_NAME: Final = "install.log"
REPORT_NAME: Final = "resolved.json"
_DETAILS: Final = "pip-details.log"
"""pip's own log, removed when pip has ended: megabytes, and read only where it failed."""
_DETAILS_READ: Final = 1 << 20
_OPTIONS: Final = (
    "--no-input",
    "--disable-pip-version-check",
    "--no-warn-script-location",
    "--only-binary=:all:",
    "--progress-bar=off",
    # Compiled afterwards, on all threads at once (bytecode.py).
    "--no-compile",
)


def create_environment(name: str, root: Path) -> None:
    """Make a virtual environment with pip in `root`.

    Raises:
        QlaunchError: `engine_install_failed` (exit 5): venv is missing, or the disk is full.
    """
    # -P: modules of the folder that this was called in must not stand before Python's own.
    _run(name, root, [sys.executable, "-P", "-m", "venv", str(root)], lambda _line: None)


def install(
    name: str,
    python: Path,
    requirements: Sequence[str],
    *,
    constraint: Path | None,
    progress: Progress,
) -> None:
    """Install requirements and what they depend on, within the versions of `constraint`.

    Raises:
        QlaunchError: see `install_lock`.
    """
    bounds = [] if constraint is None else ["-c", str(constraint)]
    root = python.parent.parent
    options = [*_OPTIONS, *_log_option(root), *bounds]
    argv = [str(python), "-P", "-m", "pip", "install", *options, "--", *requirements]
    progress(f"fetching {', '.join(requirements)}")
    _run(name, root, argv, _Steps(progress, None))


def resolve(
    name: str, python: Path, requirements: Sequence[str], *, constraint: Path | None
) -> frozenset[str]:
    """Names of the packages that `install` would install, from the index's metadata.

    Raises:
        QlaunchError: see `install_lock`.
    """
    bounds = [] if constraint is None else ["-c", str(constraint)]
    root = python.parent.parent
    report = root / REPORT_NAME
    flags = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
    options = [*_OPTIONS, *_log_option(root), *flags, *bounds]
    argv = [str(python), "-P", "-m", "pip", "install", *options, "--"]
    _run(name, root, [*argv, *requirements], lambda _line: None)
    resolved = msgspec.json.decode(report.read_bytes(), type=_Report)
    return frozenset(package.metadata.name.lower() for package in resolved.install)


class _Metadata(msgspec.Struct):
    name: str


class _Package(msgspec.Struct):
    metadata: _Metadata


class _Report(msgspec.Struct):
    """Of pip's installation report (version 1), what is needed here."""

    install: list[_Package]


def install_lock(name: str, python: Path, lock: Path, *, progress: Progress) -> None:
    """Install exactly what the lock file lists, resolving nothing.

    Raises:
        QlaunchError: exit 5; what lies between us and the package index
            (`launcher.network.causes`), `disk_full`, `engines_dir_unusable`,
            `pip_setting_invalid`, `package_missing`, else `engine_install_failed` with pip's
            last words, where the environment itself may be to blame.
    """
    count = sum(1 for line in lock.read_text("utf-8").splitlines() if "==" in line)
    progress(f"fetching {count} pinned packages")
    root = python.parent.parent
    options = [*_OPTIONS, *_log_option(root), "--no-deps"]
    argv = [str(python), "-P", "-m", "pip", "install", *options, "-r", str(lock)]
    _run(name, root, argv, _Steps(progress, count))


def _log_option(root: Path) -> list[str]:
    """Only there does pip say that an index gave no answer; on the screen nothing matched."""
    return ["--log", str(root / _DETAILS)]


class _Steps:
    """Turns pip's own lines into a short progress report."""

    def __init__(self, progress: Progress, count: int | None) -> None:
        self._progress = progress
        self._count = count
        self._seen = 0

    def __call__(self, line: str) -> None:
        if line.startswith(("Collecting ", "Requirement already satisfied: ")):
            self._seen += 1
            if self._count and self._seen % 20 == 0:
                self._progress(f"{self._seen} of {self._count} packages found")
        elif (size := re.search(r"Downloading (\S+).*\((\d+(?:\.\d+)?) MB\)", line)) and (
            float(size[2]) >= 50
        ):
            self._progress(f"downloading {size[1].rsplit('/', 1)[-1]} ({size[2]} MB)")
        elif line.startswith("Installing collected packages"):
            self._progress("unpacking")


def _run(
    name: str,
    root: Path,
    argv: list[str],
    each: Callable[[str], None],
) -> None:
    log = root / LOG_NAME
    tail: deque[str] = deque(maxlen=200)
    settings = pip_settings.read(os.environ, "install")
    environment = pip_settings.environment(os.environ, settings)
    parent = os.getpid()
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            env=environment,
            start_new_session=True,
            # A killed install must not leave a pip that writes on without the lock.
            preexec_fn=lambda: die_with(parent),  # noqa: PLW1509 - no threads at work here
        ) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                file.write(line)
                tail.append(line.rstrip())
                each(line.strip())
            code = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    details = _details(root / _DETAILS)
    if code != 0:
        raise _explain(name, argv, "\n".join(tail), details, log, settings)


def _details(path: Path) -> str:
    """The end of pip's own log, which is removed."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _DETAILS_READ))
            text = file.read().decode("utf-8", "replace")
        path.unlink()
    except OSError:
        return ""
    return text


def _explain(
    name: str,
    argv: list[str],
    text: str,
    details: str,
    log: Path,
    settings: pip_settings.Settings,
) -> QlaunchError:
    what = f"engine {name} could not be installed"
    if (refused := pip_output.trouble(text) or pip_output.trouble(details)) is not None:
        return _refused(what, *refused)
    index = pip_settings.main_index(settings)
    proxy = settings.variables.get("PIP_PROXY")
    cause = pip_output.cause(f"{details}\n{text}", index, proxy)
    if cause is not None:
        return causes.error(what, cause, causes.PIP, ExitCode.ENGINE)
    if (wrong := pip_output.wrong_setting(text)) is not None:
        return QlaunchError(
            f"{what}: pip does not take one of its settings: {wrong}",
            code="pip_setting_invalid",
            exit_code=ExitCode.ENGINE,
            fix="correct it: a variable PIP_…, or pip's configuration file (pip config debug)",
        )
    if (missing := pip_output.missing(text)) is not None:
        return QlaunchError(
            f"{what}: no build of {missing} fits this machine and Python in {index}",
            code="package_missing",
            exit_code=ExitCode.ENGINE,
            fix=f"see {log}; another index (PIP_INDEX_URL), another Python or another release "
            "may have it: qlaunch engine list",
        )
    last = next((line for line in reversed(text.splitlines()) if line.strip()), "no output")
    return QlaunchError(
        f"{what}: `{' '.join(argv[2:5])}` failed: {last.strip()[:300]}",
        code="engine_install_failed",
        exit_code=ExitCode.ENGINE,
        fix=f"see {log}",
    )


def refused_here(name: str, error: OSError) -> QlaunchError | None:
    """The same for what we write ourselves; None where the machine refused no file."""
    refused = pip_output.trouble(str(error))
    return refused and _refused(f"engine {name} could not be installed", *refused)


def _refused(what: str, kind: pip_output.Trouble, path: str) -> QlaunchError:
    """The error where this machine refused pip a file."""
    if kind == "disk_full":
        return QlaunchError(
            f"{what}: the disk is full",
            code="disk_full",
            exit_code=ExitCode.ENGINE,
            fix="free space for the environment and for the temporary folder, then run it again",
        )
    if kind == "file_limit":
        return limits.file_too_large(what, ExitCode.ENGINE)
    return QlaunchError(
        f"{what}: this user may not write {path}",
        code="engines_dir_unusable",
        exit_code=ExitCode.ENGINE,
        fix="check the owner and mode of that path, or set QLAUNCH_HOME to a folder of your own",
    )
