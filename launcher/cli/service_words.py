"""What is said of a word that cannot name a service, where it names a model or a profile's file."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from launcher.app import named_model
from launcher.app.prepare import profiles_dir
from launcher.config.loading import SUFFIXES
from launcher.errors import ExitCode, QlaunchError
from launcher.paths import dirs
from launcher.service import store
from launcher.yaml_messages import shown


def explained(command: str, error: QlaunchError) -> QlaunchError:
    """`error`, which names the command to type where the word is a model or a profile's file.

    Args:
        command: as users type it, such as `export systemd`.
    """
    context = click.get_current_context(silent=True)
    if not isinstance(error, store.BadServiceNameError):
        return error
    if context is not None and context.params.get("name") == error.word:
        return error  # --name wants a name that is not there yet
    word, folder = error.word, profiles_dir(dirs())
    if word.endswith(SUFFIXES):
        return _of_file(command, word, error)
    if named_model.model_of(word, folder) is None:
        return error
    service = named_model.service_of(word, folder)
    if service is None:
        return _unserved(command, word)
    return _instead(
        f"`{shown(word)}` is a model, and `{command}` takes a service",
        f"{service} serves it: qlaunch {command} {service}",
        error,
    )


def _unserved(command: str, word: str) -> QlaunchError:
    start = f"qlaunch up {shlex.quote(word)} starts one"
    if command == "smoke":
        start += f"; qlaunch smoke --up {shlex.quote(word)} checks it from start to stop"
    return QlaunchError(
        f"no service serves the model `{shown(word)}`",
        code="no_such_service",
        exit_code=ExitCode.NOT_RUNNING,
        fix=start,
    )


def _of_file(command: str, word: str, error: QlaunchError) -> QlaunchError:
    """A profile's file: its service has its name, unless it was started with another."""
    name = Path(word).stem
    if name not in store.list_services():
        return error
    return _instead(
        f"`{shown(word)}` is a profile's file, and `{command}` takes a service",
        f"the service of that name: qlaunch {command} {name}",
        error,
    )


def _instead(message: str, fix: str, error: QlaunchError) -> QlaunchError:
    return QlaunchError(message, code=error.code, exit_code=error.exit_code, fix=fix)
