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

from launcher import __version__
from launcher.app import containing, exporting
from launcher.cli import export_words
from launcher.cli.base import command as declare
from launcher.cli.base import group
from launcher.cli.finite import FiniteRange
from launcher.cli.options import plan_options, plan_options_of_a_pod, request
from launcher.cli.out_file import OutFile
from launcher.cli.progress import Progress
from launcher.cli.result import Result
from launcher.errors import ExitCode, QlaunchError
from launcher.fleet import compose, container, kubernetes, scaling, skypilot, systemd
from launcher.fleet import monitoring as reading
from launcher.linux.files import write_named

command = group("export", "Write a service for systemd, compose, Kubernetes or SkyPilot.")


def _export_options(body: Any) -> Any:
    """What an export takes that runs once: a plan's options, and where to write it."""
    return plan_options(_output_options(body))


def _cluster_options(body: Any) -> Any:
    """The same for one that a cluster runs several times: that is what `--replicas` says there."""
    return plan_options_of_a_pod(_output_options(body))


def _output_options(body: Any) -> Any:
    body = click.option(
        "--output",
        "-o",
        type=OutFile(folder=True, dash=True),
        metavar="FILE",
        help="Write it there, not to stdout (-).",
    )(body)
    return click.option(
        "--from-profile",
        is_flag=True,
        help="Take the profile of that name, also where there is a service of it.",
    )(body)


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
    output: Path | None,
    more: Mapping[str, str],
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
    if output is None or str(output) == "-":
        return Result(data=data, lines=text.rstrip("\n").split("\n"), verbatim=True)
    path = output / name if output.is_dir() else output
    try:
        write_named(path, text.encode())
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
@click.option(
    "--user",
    callback=export_words.user,
    help="The user that a unit of the machine runs as (default: this one).",
)
def _systemd(
    words: tuple[str, ...],
    scope: str,
    user: str | None,
    output: Path | None,
    from_profile: bool,
    **given: Any,
) -> Result:
    """Write a systemd unit for a service as it was started, or for PROFILE.

    It serves the same model (a changed checkpoint is refused) with the same options and
    environment, starts when the vectors are proved right (`Type=notify`), restarts on failure,
    and gets its API key as a credential. Options given here go before the service's own.
    """
    if user is not None and scope == "user":
        raise click.UsageError(
            "--user belongs to --scope system: a user's own units run as that user"
        )
    found = _resolved(words, given, from_profile=from_profile)
    owner = user or _me()
    start = systemd.Start(
        program=_program(), others=scope == "system" and owner not in (_me(), str(os.geteuid()))
    )
    text = systemd.unit(found.plan, start, scope=cast("systemd.Scope", scope), user=owner)
    more = {"scope": scope, "unit": text}
    hints: tuple[str, ...] = ()
    if scope == "user":
        more["linger"] = systemd.lingering(owner)
        hints = (f"to keep it after the last logout: {more['linger']}",)
    return _result(found, text, systemd.file_name(found.plan), output, more, hints)


_IMAGE = click.option(
    "--image",
    callback=export_words.image,
    help="Image to run (default: qlaunch-ENGINE:VERSION, of the Containerfile).",
)


_REPLICAS = click.option(
    "--replicas",
    type=click.IntRange(1, export_words.MOST_REPLICAS),
    default=1,
    show_default=True,
    help="How many; the least where their number follows the load.",
)
_MAX_REPLICAS = click.option(
    "--max-replicas",
    type=click.IntRange(1, export_words.MOST_REPLICAS),
    help="The most, where it follows the load.",
)


@declare("export compose")
@_export_options
@_IMAGE
def _compose(
    words: tuple[str, ...], image: str | None, output: Path | None, from_profile: bool, **given: Any
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
@_cluster_options
@_IMAGE
@click.option(
    "--claim",
    metavar="NAME",
    callback=export_words.object_name,
    help="PersistentVolumeClaim with the model's files.",
)
@click.option(
    "--secret",
    metavar="NAME",
    callback=export_words.object_name,
    help="Secret with the API key under `api-key`.",
)
@_REPLICAS
@click.option(
    "--autoscaler",
    type=click.Choice(["hpa", "keda"]),
    help="Choose the number of replicas by load: Kubernetes' own autoscaler, or KEDA.",
)
@_MAX_REPLICAS
@click.option(
    "--monitoring",
    metavar="NAMESPACE",
    callback=export_words.object_name,
    help="Namespace of Prometheus (its operator's): has the metrics read.",
)
@click.option(
    "--prometheus",
    metavar="URL",
    help="Prometheus, for KEDA (default: the operator's own in that namespace).",
)
def _k8s(
    words: tuple[str, ...],
    image: str | None,
    claim: str | None,
    secret: str | None,
    replicas: int,
    autoscaler: scaling.Autoscaler | None,
    max_replicas: int | None,
    monitoring: str | None,
    prometheus: str | None,
    output: Path | None,
    from_profile: bool,
    **given: Any,
) -> Result:
    """Write Kubernetes manifests for a service as it was started, or for PROFILE.

    Deployment with probes that wait for the proof of the vectors, Service, PodDisruptionBudget,
    NetworkPolicy, and a ConfigMap for a profile of your own; the key is a Secret's, by name. With
    --monitoring a ServiceMonitor, with --autoscaler a HorizontalPodAutoscaler or KEDA's
    ScaledObject.
    """
    found = _resolved(words, given, from_profile=from_profile)
    inside = containing.contained(found.plan, image, metrics=monitoring is not None)
    wanted = scaling.Scaling(
        replicas=replicas,
        most=max_replicas,
        autoscaler=autoscaler,
        prometheus=prometheus or (monitoring and reading.prometheus(monitoring)),
    )
    if autoscaler is None and (max_replicas is not None or prometheus is not None):
        raise click.UsageError("--max-replicas and --prometheus belong to --autoscaler")
    if wanted.maximum < replicas:
        raise click.UsageError("--max-replicas is fewer than --replicas")
    cluster = kubernetes.Cluster(claim=claim, secret=secret, monitoring=monitoring, scaling=wanted)
    text = kubernetes.text(inside, cluster)
    more = {"image": inside.image, "manifests": text}
    return _result(_with_notes(found, inside), text, kubernetes.FILE, output, more)


@declare("export skypilot")
@_cluster_options
@_REPLICAS
@_MAX_REPLICAS
@click.option(
    "--per-replica",
    type=FiniteRange(min=0, min_open=True),
    metavar="RATE",
    help="Requests a second that one replica takes: SkyServe chooses their number by it.",
)
@click.option(
    "--accelerators",
    metavar="NAME:COUNT",
    callback=export_words.card,
    help="The card, as `sky gpus list` calls it (T4:1).",
)
@click.option(
    "--package",
    default=f"qlaunch=={__version__}",
    show_default=True,
    help="What pip installs there: a requirement, a URL, or a wheel of this machine.",
)
def _skypilot(
    words: tuple[str, ...],
    replicas: int,
    max_replicas: int | None,
    per_replica: float | None,
    accelerators: str | None,
    package: str,
    output: Path | None,
    from_profile: bool,
    **given: Any,
) -> Result:
    """Write a SkyPilot task for a service as it was started, or for PROFILE.

    `sky serve up` runs replicas of it on any cloud, `sky launch` one machine. It installs qlaunch,
    engine and model there; requests come when the vectors are proved right (the gateway's
    `/ready`). The key is a secret, by name.
    """
    named = _package(package)
    found = _resolved(words, given, from_profile=from_profile)
    inside = containing.contained(found.plan, None)
    wanted = skypilot.Sky(
        package=named,
        accelerators=accelerators,
        replicas=replicas,
        most=max_replicas,
        per_replica=per_replica,
    )
    text = skypilot.text(inside, wanted)
    return _result(_with_notes(found, inside), text, skypilot.FILE, output, {"task": text})


def _package(name: str) -> str:
    """What pip installs; a wheel of this machine by its absolute path.

    Raises:
        click.BadParameter: there is no such wheel, or it is nothing that pip takes.
    """
    if not name.endswith(".whl") or "://" in name:
        return export_words.requirement(name)
    if not Path(name).is_file():
        raise click.BadParameter(f"there is no file {name}", param_hint="--package")
    return str(Path(name).resolve())


def _with_notes(found: exporting.Exported, inside: container.Contained) -> exporting.Exported:
    return replace(found, notes=(*found.notes, *inside.notes))


for _command in (_systemd, _compose, _k8s, _skypilot):
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
