"""A systemd unit for a plan: `up --foreground` as `Type=notify`. Pure.

READY comes from the supervisor after the smoke, never before; WATCHDOG from its loop. What systemd
restarts is the supervisor itself; the engine's own restarts, with their budget, are its business.
Directives and their versions: systemd.service(5), systemd.exec(5); `%d` needs
systemd 250.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from launcher.documents.plan import Plan
from launcher.errors import ExitCode, QlaunchError
from launcher.fleet import start_command

Scope = Literal["system", "user"]

WATCHDOG_S = 60
"""The loop tells twice as often; a smoke or a slow disk never keeps it for longer than a second."""
LASTING = (
    ExitCode.USAGE,
    ExitCode.DOES_NOT_FIT,
    ExitCode.ENGINE,
    ExitCode.VERIFY_FAILED,
)
"""Exit codes of what starting again does not change."""
KEY = "api-key"
"""Name of the credential; `%d/api-key` is its path in the unit."""


@dataclass(frozen=True)
class Start:
    """How the unit starts the service."""

    program: tuple[str, ...]
    """`/usr/local/bin/qlaunch`, or a Python with `-m launcher`."""
    others: bool = False
    """Whether it runs as another user than the one who made the plan: with folders of its own."""
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    """PATH of the unit: compilers for kernels that are built on the spot."""


def file_name(plan: Plan) -> str:
    """What the unit's file is called."""
    return f"qlaunch-{plan.service}.service"


def unit(plan: Plan, start: Start, *, scope: Scope, user: str | None = None) -> str:
    """The text of the unit.

    Raises:
        QlaunchError: `export_impossible` (exit 2): a free port cannot be named in a unit, a value
            holds a control character, or nothing tells what the plan was made from.
    """
    sections = (
        ("Unit", [*_head(plan), *_lingering(scope, user), *_unit_section(plan)]),
        ("Service", _service_section(plan, start, scope, user)),
        ("Install", [f"WantedBy={'multi-user' if scope == 'system' else 'default'}.target"]),
    )
    return "\n".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections)


def lingering(user: str | None) -> str:
    """The command without which a user's units end with that user's last session."""
    return f"loginctl enable-linger {user}" if user else "loginctl enable-linger"


def _head(plan: Plan) -> list[str]:
    """What it serves, and what it does not carry."""
    came_from = start_command.origin(plan)
    return [
        f"# Serves {_plain(plan.model_name)}, fingerprint {plan.fingerprint}:",
        "# a checkpoint that was changed is refused.",
        *(
            f"# Not carried: {_plain(name)} ({_plain(why)})."
            for name, why in came_from.withheld.items()
        ),
    ]


def _lingering(scope: Scope, user: str | None) -> list[str]:
    if scope == "system":
        return []
    return [
        "# A user's own manager starts at the first login and ends, with this service, at the last",
        f"# logout. For a service that starts with the machine and stays: {_text(lingering(user))}",
    ]


def _unit_section(plan: Plan) -> list[str]:
    return [
        f"Description={_text(f'{plan.model_name} on SGLang {plan.engine.version}')} (qlaunch)",
        "After=network-online.target nvidia-persistenced.service",
        "Wants=network-online.target",
        "# Five failed starts within half an hour, and it stays failed: read the journal.",
        "StartLimitIntervalSec=30min",
        "StartLimitBurst=5",
    ]


def _service_section(plan: Plan, start: Start, scope: Scope, user: str | None) -> list[str]:
    key = plan.api_key_file
    return [
        "Type=notify",
        "NotifyAccess=main",
        f"ExecStart={_exec_start(_command(plan, start))}",
        f"Environment={_word(f'PATH={start.path}')}",
        *_folders(plan, start),
        *([f"LoadCredential={KEY}:{_text(key)}"] if key else []),
        *([f"User={user}"] if scope == "system" and user else []),
        f"# {_budget(plan)}",
        f"TimeoutStartSec={start_command.start_limit_s(plan)}",
        f"TimeoutStopSec={start_command.STOP_S}",
        f"WatchdogSec={WATCHDOG_S}",
        "# SIGTERM to the supervisor alone: it stops the engine in order, and proves that it did.",
        "KillMode=mixed",
        "Restart=on-failure",
        "RestartSec=10",
        "# What starting again does not change: wrong usage, hardware, engine, vectors.",
        f"RestartPreventExitStatus={' '.join(str(int(code)) for code in LASTING)}",
        *_confinement(scope, temporary=_in_temporary(plan)),
    ]


def _in_temporary(plan: Plan) -> bool:
    """Whether it needs files below /tmp, which a unit with a /tmp of its own does not see."""
    came_from = start_command.origin(plan)
    paths = (plan.model_path, plan.engine.python, came_from.profile, *came_from.environ.values())
    return any(path.startswith(("/tmp/", "/var/tmp/")) for path in paths)  # noqa: S108 - no file made


def _confinement(scope: Scope, *, temporary: bool) -> list[str]:
    lines = [
        "NoNewPrivileges=yes",
        "RestrictSUIDSGID=yes",
        "RestrictRealtime=yes",
        "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
        "SystemCallArchitectures=native",
        "LockPersonality=yes",
        "UMask=0077",
    ]
    if scope == "user":
        return lines  # the rest would put the engine into a user namespace of its own
    return [
        *lines,
        *(() if temporary else ("PrivateTmp=yes",)),
        "ProtectSystem=full",
        "ProtectControlGroups=yes",
        "ProtectHostname=yes",
        "ProtectKernelLogs=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "LimitNOFILE=65536",
        "# Weights offloaded to RAM are page-locked.",
        "LimitMEMLOCK=infinity",
    ]


def _command(plan: Plan, start: Start) -> list[str]:
    key = {"api_key_file": f"%d/{KEY}"} if plan.api_key_file else {}
    return [*start.program, *start_command.words(plan, start_command.Placed(settings=key))]


def _folders(plan: Plan, start: Start) -> list[str]:
    """The plan's environment, and where profiles, engines and models are."""
    environ = start_command.origin(plan).environ
    if not start.others:
        return [f"Environment={_word(f'{name}={value}')}" for name, value in environ.items()]
    kept = {name: value for name, value in environ.items() if not start_command.is_folder(name)}
    return [
        *(f"Environment={_word(f'{name}={value}')}" for name, value in kept.items()),
        "StateDirectory=qlaunch",
        "StateDirectoryMode=0700",
        "# Engine, model and profile are looked for here: install them once, as this user, with",
        "# QLAUNCH_HOME=/var/lib/qlaunch qlaunch engine install …",
        "Environment=QLAUNCH_HOME=%S/qlaunch",
    ]


def _budget(plan: Plan) -> str:
    steps = len(plan.fallbacks)
    more = f", {steps} more with less memory," if steps else ""
    checks = f"{start_command.VERIFY_S} s of checks"
    return f"One start of {plan.start_timeout_s:g} s at most{more} and {checks}."


_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./%$-]+")


def _exec_start(command: Sequence[str]) -> str:
    """The command of ExecStart=, where systemd expands `$x` besides `%x`, but for the program.

    `$$` is one `$` in an argument and two in the program's path: there the prefix `:` (systemd 244)
    switches the expansion off for all.

    Raises:
        QlaunchError: `export_impossible` (exit 2): systemd refuses a program of that path.
    """
    program, *arguments = command
    if any(c in program for c in "'\"\\"):
        raise QlaunchError(
            f"systemd starts no program with a quote or a backslash in its path: {program}",
            code="export_impossible",
            fix="install qlaunch in a folder without them",
        )
    if "$" in program:
        return " ".join(map(_word, (f":{program}", *arguments)))
    return " ".join((_word(program), *map(_argument, arguments)))


def _argument(word: str) -> str:
    """One argument of ExecStart=, where `$x` is expanded."""
    return _word(word.replace("$", "$$"))


def _word(word: str) -> str:
    """A word that systemd takes as it is: quoted, `%` doubled, but for our own credential."""
    text = _text(word, keep=(f"%d/{KEY}",))
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _plain(text: str) -> str:
    """For a comment: on one line whatever it holds."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _text(text: str, keep: Sequence[str] = ()) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise QlaunchError(
            f"{text!r} holds a control character, which no unit file can",
            code="export_impossible",
            fix="choose another value",
        )
    return text if text in keep else text.replace("%", "%%")
