"""The command line and environment that make a plan again: what every export starts. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from launcher.documents.plan import Origin, Plan
from launcher.errors import QlaunchError

OPTIONS: Final[Mapping[str, str]] = {
    "name": "--name",
    "model": "--model",
    "engine": "--engine",
    "engine_python": "--engine-python",
    "host": "--host",
    "port": "--port",
    "metrics_port": "--metrics-port",
    "metrics_host": "--metrics-host",
    "dtype": "--dtype",
    "threads": "--threads",
    "replicas": "--replicas",
    "start_timeout_s": "--start-timeout",
    "start_method": "--start-method",
    "api_key_file": "--api-key-file",
}
"""Option of `up` by setting; those below take no value."""
SWITCHES: Final[Mapping[str, tuple[str, str | None]]] = {
    "plugin": ("--plugin", "--no-plugin"),
    "allow_unauthenticated": ("--allow-unauthenticated", None),
    "offline": ("--offline", None),
}
"""Words for true and for false; None: nothing."""

STOP_S: Final = 45
"""`down` takes 30 s at most; then another manager's own SIGKILL may come."""
VERIFY_S: Final = 300
"""What the smoke may take, its first reference included (`Timing.verify_s`)."""


@dataclass(frozen=True)
class Placed:
    """Where an export puts what lies elsewhere than here; None: where it is."""

    profile: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    """Other values of settings, such as the path of a key file that is mounted."""


def origin(plan: Plan) -> Origin:
    """What the plan was made from.

    Raises:
        QlaunchError: `export_impossible` (exit 2): nothing tells what it was started with.
    """
    if plan.origin is None:
        raise QlaunchError(
            f"no record says what service {plan.service!r} was started with: an earlier version "
            "started it",
            code="export_impossible",
            fix=f"start it again with its options: qlaunch down {plan.service}, qlaunch up …",
        )
    return plan.origin


def words(
    plan: Plan,
    placed: Placed | None = None,
    *,
    foreground: bool = True,
    lasting: bool = True,
) -> tuple[str, ...]:
    """Arguments of qlaunch that start this very plan.

    Args:
        plan: what is started.
        placed: what lies elsewhere there.
        foreground: whether they stay until the service ends, or return when it is proved right.
        lasting: whether others are told of it: its ports stay the same then, and nothing is
            fetched.

    Raises:
        QlaunchError: `export_impossible` (exit 2): port 0, or no origin.
    """
    came_from, placed = origin(plan), placed or Placed()
    offline = {"offline": True} if lasting else {}
    settings = came_from.settings | offline | dict(placed.settings)
    if lasting:
        require_ports(settings)
    options: list[str] = []
    for name, value in settings.items():
        if name in SWITCHES:
            word = SWITCHES[name][0 if value else 1]
            options += [word] if word else []
        else:
            options += [OPTIONS[name], str(value)]
    extra = ("--", *came_from.extra) if came_from.extra else ()
    profile = placed.profile or came_from.profile
    start = ("up", profile, *(("--foreground",) if foreground else ()), "--quiet", *options)
    return (*start, "--expect-fingerprint", plan.fingerprint, *extra)


def require_ports(settings: Mapping[str, str | int | float | bool]) -> None:
    """Refuse ports that are other ones at each start.

    Raises:
        QlaunchError: `export_impossible` (exit 2).
    """
    for name in ("port", "metrics_port"):
        if name in settings and str(settings[name]) == "0":
            option = OPTIONS[name]
            raise QlaunchError(
                f"other programs need a port that stays the same, and {option} 0 is "
                "another one at each start",
                code="export_impossible",
                fix=f"give {option} with a number; or export while it runs: its port is kept then",
            )


def is_folder(name: str) -> bool:
    """Whether a variable of an origin says where files of ours lie."""
    return name in {"QLAUNCH_HOME", "HOME", "HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE"} or (
        name.startswith("XDG_")
    )


def start_limit_s(plan: Plan) -> int:
    """Seconds until verified at most, with a whole start for each step of less memory."""
    starts = 1 + len(plan.fallbacks)
    return round(starts * plan.start_timeout_s + VERIFY_S)
