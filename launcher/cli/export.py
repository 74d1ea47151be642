"""`qlaunch export`: a service as other managers want it."""

from __future__ import annotations

import os
import pwd
import shutil
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import click

from launcher.app import containing, exporting
from launcher.cli.base import command as declare
from launcher.cli.base import group
from launcher.cli.options import plan_options, request
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.errors import ExitCode, QlaunchError
from launcher.fleet import compose, container, kubernetes, systemd
from launcher.linux.files import write_atomic

command = group("export", "Write a service for systemd, compose or Kubernetes.")


def _export_options(body: Any) -> Any:
    """What every export takes: a plan's options, and where to write it."""
    body = click.option("--output", "-o", metavar="FILE", help="Write it there, not to stdout.")(
        body
    )
    body = click.option(
        "--from-profile",
        is_flag=True,
        help="Take the profile of that name, also where there is a service of it.",
    )(body)
    return plan_options(body)


def _resolved(
    words: tuple[str, ...], given: dict[str, object], *, from_profile: bool
) -> exporting.Exported:
    """The plan to export; what has to be known of it goes to stderr."""
    progress = Progress(quiet=False)
    found = exporting.resolve(
        request(words, given, fetch=False), progress.line, from_profile=from_profile
    )
    for note in found.notes:
        progress.line(note)
    return found


def _result(
    found: exporting.Exported,
    text: str,
    name: str,
    output: str | None,
    more: Mapping[str, Any],
    hints: tuple[str, ...] = (),
) -> Result:
    """The exported text, printed or written."""
    data = {
        "service": found.plan.service,
        "fingerprint": found.plan.fingerprint,
        "notes": list(found.notes),
        "file": name,
        **more,
    }
    if output is None:
        return Result(data=data, lines=text.rstrip("\n").split("\n"), verbatim=True)
    path = Path(output) / name if Path(output).is_dir() else Path(output)
    try:
        write_atomic(path, text.encode(), mode=0o644)
    except OSError as error:
        raise QlaunchError(
            f"cannot write {path}: {error.strerror or error}",
            code="not_written",
            exit_code=ExitCode.UNEXPECTED,
            fix="give another file with --output",
        ) from error
    return Result(data={**data, "path": str(path)}, lines=[f"written to {path}", *hints])


@declare("export systemd")
@_export_options
@click.option(
    "--scope",
    type=click.Choice(["system", "user"]),
    default="user",
    show_default=True,
    help="A unit of the machine, or of this user's own manager.",
)
@click.option("--user", help="The user that a unit of the machine runs as (default: this one).")
def _systemd(
    words: tuple[str, ...],
    scope: str,
    user: str | None,
    output: str | None,
    from_profile: bool,
    **given: Any,
) -> Result:
    """Write a systemd unit for a service as it was started, or for PROFILE.

    It serves the same model (a changed checkpoint is refused) with the same options and
    environment, starts when the vectors are proved right (`Type=notify`), restarts on failure,
    and gets its API key as a credential. Options given here go before the service's own.
    """
    found = _resolved(words, given, from_profile=from_profile)
    owner = user or _me()
    start = systemd.Start(
        program=_program(), others=scope == "system" and owner not in (_me(), str(os.geteuid()))
    )
    text = systemd.unit(found.plan, start, scope=cast("systemd.Scope", scope), user=owner)
    more: dict[str, Any] = {"scope": scope, "unit": text}
    hints: tuple[str, ...] = ()
    if scope == "user":
        more["linger"] = systemd.lingering(owner)
        hints = (f"to keep it after the last logout: {more['linger']}",)
    return _result(found, text, systemd.file_name(found.plan), output, more, hints)


_IMAGE = click.option(
    "--image", help="Image to run (default: qlaunch-ENGINE:VERSION, of the Containerfile)."
)


@declare("export compose")
@_export_options
@_IMAGE
def _compose(
    words: tuple[str, ...], image: str | None, output: str | None, from_profile: bool, **given: Any
) -> Result:
    """Write a compose file for a service as it was started, or for PROFILE.

    The model of this machine is mounted, the API key is a secret, the health check passes when the
    vectors are proved right, and memory is limited by the prediction.
    """
    found = _resolved(words, given, from_profile=from_profile)
    inside = containing.contained(found.plan, image)
    text = compose.text(inside, user=f"{os.geteuid()}:{os.getegid()}")
    more = {"image": inside.image, "compose": text}
    return _result(_with_notes(found, inside), text, compose.FILE, output, more)


@declare("export k8s")
@_export_options
@_IMAGE
@click.option("--claim", metavar="NAME", help="PersistentVolumeClaim with the model's files.")
@click.option("--secret", metavar="NAME", help="Secret with the API key under `api-key`.")
def _k8s(
    words: tuple[str, ...],
    image: str | None,
    claim: str | None,
    secret: str | None,
    output: str | None,
    from_profile: bool,
    **given: Any,
) -> Result:
    """Write Kubernetes manifests for a service as it was started, or for PROFILE.

    Deployment with probes that wait for the proof of the vectors, Service, PodDisruptionBudget,
    NetworkPolicy, and a ConfigMap for a profile of your own; the key is a Secret's, by name.
    """
    found = _resolved(words, given, from_profile=from_profile)
    inside = containing.contained(found.plan, image)
    text = kubernetes.text(inside, claim=claim, secret=secret)
    more = {"image": inside.image, "manifests": text}
    return _result(_with_notes(found, inside), text, kubernetes.FILE, output, more)


def _with_notes(found: exporting.Exported, inside: container.Contained) -> exporting.Exported:
    return replace(found, notes=(*found.notes, *inside.notes))


for _command in (_systemd, _compose, _k8s):
    command.add_command(_command)


def _me() -> str:
    """This user's name; the number where the user database has none, which systemd takes too."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _program() -> tuple[str, ...]:
    """The installed command beside this Python, or this Python itself."""
    beside = shutil.which("qlaunch", path=str(Path(sys.executable).parent))
    return (beside,) if beside else (sys.executable, "-P", "-m", "launcher")
