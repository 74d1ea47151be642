"""`qlaunch export`: a service as other managers want it."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from pathlib import Path
from typing import Any, cast

import click

from launcher.app.prepare import prepare, profiles_dir
from launcher.cli.base import command as declare
from launcher.cli.base import group
from launcher.cli.options import plan_options, request
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.config.loading import find_profile
from launcher.errors import QlaunchError
from launcher.fleet import systemd
from launcher.linux.files import write_atomic
from launcher.paths import dirs
from launcher.service import store

command = group("export", "Write a service as a unit of another manager.")


@declare("export systemd")
@plan_options
@click.option(
    "--scope",
    type=click.Choice(["system", "user"]),
    default="user",
    show_default=True,
    help="A unit of the machine, or of this user's own manager.",
)
@click.option("--user", help="The user that a unit of the machine runs as (default: this one).")
@click.option("--output", "-o", metavar="FILE", help="Write it there instead of printing it.")
def _systemd(
    words: tuple[str, ...], scope: str, user: str | None, output: str | None, **given: Any
) -> Result:
    """Write a systemd unit for PROFILE, or for a service of that name.

    It starts when the vectors are proved right (`Type=notify`), restarts on failure, and gets its
    API key as a credential.
    """
    words, given = _of_service(words, given)
    asked = request(words, given, fetch=False)
    plan = prepare(asked, Progress(quiet=False).line).plan
    start = systemd.Start(
        program=_program(),
        profile=asked.profile or plan.profile,
        options=_options(given),
        extra=asked.extra,
        home=_home(),
    )
    owner = user or _me()
    text = systemd.unit(plan, start, scope=cast("systemd.Scope", scope), user=owner)
    name = systemd.file_name(plan)
    data = {"service": plan.service, "scope": scope, "file": name, "unit": text}
    if scope == "user":
        data["linger"] = systemd.lingering(owner)
    if output is None:
        return Result(data=data, lines=text.rstrip("\n").split("\n"))
    path = Path(output) / name if Path(output).is_dir() else Path(output)
    write_atomic(path, text.encode(), mode=0o644)
    lines = [f"written to {path}"]
    if scope == "user":
        lines.append(f"to keep it after the last logout: {systemd.lingering(owner)}")
    return Result(data={**data, "path": str(path)}, lines=lines)


command.add_command(_systemd)


def _me() -> str:
    """This user's name; the number where the user database has none, which systemd takes too."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _of_service(
    words: tuple[str, ...], given: dict[str, Any]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The profile of a service of that name, with its name, address and key where none is given.

    A profile of that name goes first. Other options of its `up` have to be given again.
    """
    name = words[0] if words else ""
    if not name or "/" in name or name not in store.list_services() or _is_profile(name):
        return words, given
    plan = store.read_plan(store.folder(name))
    kept = {"name": name, "host": plan.host, "api_key_file": plan.api_key_file}
    if plan.port:
        kept["port"] = str(plan.port)
    if plan.metrics_port is not None:
        kept["metrics_port"] = str(plan.metrics_port)
    given = given | {key: value for key, value in kept.items() if given.get(key) is None}
    return (plan.profile, *words[1:]), given


def _is_profile(name: str) -> bool:
    try:
        find_profile(name, profiles_dir(dirs()))
    except QlaunchError:
        return False
    return True


def _options(given: dict[str, Any]) -> tuple[str, ...]:
    """qlaunch's own options as they were typed, but for those that the unit takes from the plan."""
    words: list[str] = []
    names = ("model", "engine", "engine_python", "dtype", "threads", "start_method")
    for name in (*names, "metrics_port"):
        if given.get(name) is not None:
            value = str(given[name])
            path = name in {"model", "engine_python"} and Path(value).exists()
            words += [f"--{name.replace('_', '-')}", str(Path(value).absolute()) if path else value]
    if given.get("start_timeout_s") is not None:
        words += ["--start-timeout", str(given["start_timeout_s"])]
    if given.get("plugin") is not None:
        words.append("--plugin" if given["plugin"] else "--no-plugin")
    if given.get("allow_unauthenticated"):
        words.append("--allow-unauthenticated")
    return tuple(words)


def _program() -> tuple[str, ...]:
    """The installed command beside this Python, or this Python itself."""
    beside = shutil.which("qlaunch", path=str(Path(sys.executable).parent))
    return (beside,) if beside else (sys.executable, "-P", "-m", "launcher")


def _home() -> Path | None:
    if os.environ.get("QLAUNCH_HOME"):
        return dirs().data.parent
    return None
