"""Asking another environment's Python: run a few lines there, take its answer as JSON."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from launcher import child_environment
from launcher.engine import command
from launcher.engine.environments import stub_driver
from launcher.engine.release import Release

T = TypeVar("T")


class NoAnswerError(Exception):
    """The Python gave none; the text is the reason, a clause without its subject."""


def ask_python(
    python: Path, code: str, answer: type[T], *, timeout_s: float, env: Mapping[str, str] | None
) -> T:
    """Run `code` in `python` and decode the JSON that it prints.

    Args:
        python: of any environment.
        code: handed over as text: a script's folder would come first on its path.
        answer: what is printed.
        timeout_s: seconds until it is given up.
        env: its variables; None: those that are safe for a stranger's Python.

    Raises:
        NoAnswerError: it does not start, failed (then its last words), was too slow, or printed
            something else.
    """
    try:
        done = subprocess.run(
            [str(python.absolute()), "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=child_environment.foreign_python(os.environ) if env is None else env,
            timeout=timeout_s,
            check=False,
            cwd="/",  # the first place of `-c`'s path: a json.py beside the user is no module
        )
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=answer)
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"it did not answer within {timeout_s:g} s") from error
    except ValueError as error:
        raise NoAnswerError("it printed something unexpected") from error
    except OSError as error:
        raise NoAnswerError(error.strerror or str(error)) from error
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    raise NoAnswerError(words[-1].strip()[:300] if words else f"it ended with {done.returncode}")


def engine_environment(release: Release, python: Path) -> dict[str, str]:
    """The variables for importing a release's own modules in `python`."""
    env = child_environment.foreign_python(os.environ)
    env |= command.base_environment(release, plugin=False)
    return env | stub_driver.environment(release, python, env)
