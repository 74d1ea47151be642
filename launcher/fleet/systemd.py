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
from pathlib import Path
from typing import Literal

from launcher.documents.plan import Plan
from launcher.errors import ExitCode, QlaunchError

Scope = Literal["system", "user"]

WATCHDOG_S = 60
"""The loop tells twice as often; a smoke or a slow disk never keeps it for longer than a second."""
STOP_S = 45
"""`down` takes 30 s at most; then systemd's own SIGKILL may come."""
VERIFY_S = 300
"""What the smoke may take, its first reference included (wiring.Timing.verify_s)."""
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
    profile: str
    options: tuple[str, ...] = ()
    """qlaunch's own options, without --name, --port and --api-key-file: they come from the plan."""
    extra: tuple[str, ...] = ()
    """The engine's options after `--`."""
    home: Path | None = None
    """QLAUNCH_HOME; None: a state directory of systemd's making (system), the user's own (user)."""
    path: str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    """PATH of the unit: compilers for kernels that are built on the spot."""


def file_name(plan: Plan) -> str:
    """What the unit's file is called."""
    return f"qlaunch-{plan.service}.service"


def unit(plan: Plan, start: Start, *, scope: Scope, user: str | None = None) -> str:
    """The text of the unit.

    Raises:
        QlaunchError: `unit_impossible` (exit 2): a free port cannot be named in a unit, or a value
            holds a line break.
    """
    if plan.port == 0:
        raise QlaunchError(
            "a unit needs a port that stays the same, and port 0 is another one at each start",
            code="unit_impossible",
            exit_code=ExitCode.USAGE,
            fix="give --port",
        )
    sections = (
        ("Unit", [*_lingering(scope, user), *_unit_section(plan)]),
        ("Service", _service_section(plan, start, scope, user)),
        ("Install", [f"WantedBy={'multi-user' if scope == 'system' else 'default'}.target"]),
    )
    return "\n".join(f"[{name}]\n" + "\n".join(lines) + "\n" for name, lines in sections)


def lingering(user: str | None) -> str:
    """The command without which a user's units end with that user's last session."""
    return f"loginctl enable-linger {user}" if user else "loginctl enable-linger"


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
        f"ExecStart={' '.join(_argument(word) for word in _command(plan, start))}",
        f"Environment={_word(f'PATH={start.path}')}",
        *_home(start, scope),
        *([f"LoadCredential={KEY}:{_text(key)}"] if key else []),
        *([f"User={user}"] if scope == "system" and user else []),
        f"# {_budget(plan)}",
        f"TimeoutStartSec={_start_limit(plan)}",
        f"TimeoutStopSec={STOP_S}",
        f"WatchdogSec={WATCHDOG_S}",
        "# SIGTERM to the supervisor alone: it stops the engine in order, and proves that it did.",
        "KillMode=mixed",
        "Restart=on-failure",
        "RestartSec=10",
        "# What starting again does not change: wrong usage, hardware, engine, vectors.",
        f"RestartPreventExitStatus={' '.join(str(int(code)) for code in LASTING)}",
        *_confinement(scope),
    ]


def _confinement(scope: Scope) -> list[str]:
    lines = [
        "NoNewPrivileges=yes",
        "RestrictSUIDSGID=yes",
        "LockPersonality=yes",
        "UMask=0077",
    ]
    if scope == "user":
        return lines  # the rest would put the engine into a user namespace of its own
    return [
        *lines,
        "PrivateTmp=yes",
        "ProtectSystem=full",
        "ProtectControlGroups=yes",
        "ProtectKernelModules=yes",
        "ProtectKernelTunables=yes",
        "LimitNOFILE=65536",
        "# Weights offloaded to RAM are page-locked.",
        "LimitMEMLOCK=infinity",
    ]


def _command(plan: Plan, start: Start) -> list[str]:
    words = [*start.program, "up", start.profile, "--foreground", "--quiet", "--offline"]
    words += ["--name", plan.service, "--host", plan.host, "--port", str(plan.port)]
    words += start.options
    if plan.api_key_file:
        words += ["--api-key-file", f"%d/{KEY}"]
    return [*words, *(["--", *start.extra] if start.extra else [])]


def _home(start: Start, scope: Scope) -> list[str]:
    if start.home is not None:
        return [f"Environment={_word(f'QLAUNCH_HOME={start.home}')}"]
    if scope == "user":
        return []
    return [
        "StateDirectory=qlaunch",
        "StateDirectoryMode=0700",
        "# Engines and models are looked for here: install them once, as this user, with",
        "# QLAUNCH_HOME=/var/lib/qlaunch qlaunch engine install …",
        "Environment=QLAUNCH_HOME=%S/qlaunch",
    ]


def _start_limit(plan: Plan) -> int:
    """Seconds until verified, with a whole start for each step of less memory."""
    starts = 1 + len(plan.fallbacks)
    return round(starts * plan.start_timeout_s + VERIFY_S)


def _budget(plan: Plan) -> str:
    steps = len(plan.fallbacks)
    more = f", {steps} more with less memory," if steps else ""
    return f"One start of {plan.start_timeout_s:g} s at most{more} and {VERIFY_S} s of checks."


_PLAIN = re.compile(r"[A-Za-z0-9_@+=:,./%$-]+")


def _argument(word: str) -> str:
    """One argument of ExecStart=, where systemd expands `$x` besides `%x`."""
    return _word(word.replace("$", "$$"))


def _word(word: str) -> str:
    """A word that systemd takes as it is: quoted, `%` doubled, but for our own credential."""
    text = _text(word, keep=(f"%d/{KEY}",))
    if _PLAIN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _text(text: str, keep: Sequence[str] = ()) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise QlaunchError(
            f"{text!r} holds a control character, which no unit file can",
            code="unit_impossible",
            exit_code=ExitCode.USAGE,
            fix="choose another value",
        )
    return text if text in keep else text.replace("%", "%%")
