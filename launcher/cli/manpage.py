"""The manual page, made of the commands: `qlaunch help --man`, and `qlaunch.1` in the wheel."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Final

import click

from launcher import __version__
from launcher.errors import ExitCode

EXIT_CODES: Final = {
    ExitCode.OK: "done",
    ExitCode.UNEXPECTED: "unexpected: a fault of qlaunch or of the machine (disk, network)",
    ExitCode.USAGE: "wrong usage, or an invalid profile, setting or model",
    ExitCode.NOT_RUNNING: "the service is not running, or there is none of that name",
    ExitCode.DOES_NOT_FIT: "does not fit this hardware",
    ExitCode.ENGINE: "the engine is missing or cannot be installed, or does not know an option",
    ExitCode.START_FAILED: "the start failed; `failure.failure_class` says how",
    ExitCode.VERIFY_FAILED: "the vectors are wrong: a smoke check or parity failed",
    ExitCode.TIMEOUT: "timed out",
    ExitCode.CONFLICT: "conflict: already running, being started or stopped, port taken, in use",
    ExitCode.PARTIAL: "partly done; `errors` says what was not",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C or SIGTERM); what was started has been stopped",
}
_VARIABLES: Final = {
    "QLAUNCH_HOME": "One folder for configuration, engines, models, state and cache.",
    "QLAUNCH_PORT, QLAUNCH_MODEL, …": "Settings: above the profile, below the command line.",
    "NO_COLOR": "Not empty: no colours, unless --color says otherwise.",
}
_FILES: Final = {
    "~/.config/qlaunch/config.yaml": "Settings for every profile.",
    "~/.config/qlaunch/profiles/": "Your own profiles.",
    "~/.local/share/qlaunch/": "Engines and models.",
    "~/.local/state/qlaunch/": "Services and the records of their runs.",
}


def page(root: click.Group) -> str:
    """The whole page in the macros of man(7)."""
    context = click.Context(root, info_name="qlaunch")
    parts = [
        f'.TH QLAUNCH 1 "" "qlaunch {__version__}" "User Commands"',
        ".SH NAME",
        "qlaunch \\- serve embedding models on SGLang, with their vectors checked",
        ".SH SYNOPSIS",
        ".B qlaunch",
        ".RI [ options ] \\ command \\ [ arguments ]",
        ".SH DESCRIPTION",
        *_paragraphs(root.help or ""),
        ".SH OPTIONS",
        *_options(root),
        ".SH COMMANDS",
    ]
    for name in root.list_commands(context):
        command = root.get_command(context, name)
        assert command is not None  # it is in the table
        inner = command.commands if isinstance(command, click.Group) else {"": command}
        for second, one in inner.items():
            parts += _command(f"qlaunch {name} {second}".strip(), one)
    parts += [".SH EXIT STATUS"]
    parts += _terms({str(int(code)): text for code, text in EXIT_CODES.items()})
    parts += [".SH ENVIRONMENT", *_terms(_VARIABLES), ".SH FILES", *_terms(_FILES)]
    return "\n".join(parts) + "\n"


def _command(path: str, command: click.Command) -> Iterator[str]:
    arguments = [p for p in command.params if isinstance(p, click.Argument)]
    words = " ".join(p.make_metavar(click.Context(command)) for p in arguments)
    yield f".SS {_escaped(f'{path} {words}'.strip())}"
    yield from _paragraphs(command.help or "")
    yield from _options(command)


def _options(command: click.Command) -> Iterator[str]:
    named = {}
    for option in command.params:
        if isinstance(option, click.Option) and not option.hidden:
            words = ", ".join([*option.opts, *option.secondary_opts])
            kind = option.metavar or option.type.name.upper().split()[0]
            named[words if option.is_flag else f"{words} {kind}"] = option.help or ""
    yield from _terms(named)


def _terms(named: dict[str, str]) -> Iterator[str]:
    for name, text in named.items():
        yield ".TP"
        yield f".B {_escaped(name)}"
        yield _line(text)


def _paragraphs(text: str) -> Iterator[str]:
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if paragraph.startswith("\b\n"):
            lines = inspect.cleandoc(paragraph[2:]).split("\n")
            yield from (".PP", ".nf", *map(_line, lines), ".fi")
        else:
            yield ".PP"
            yield _line(" ".join(paragraph.split()))


def _line(text: str) -> str:
    """A line of text: escaped, and never taken for a request."""
    escaped = _escaped(re.sub(r"`([^`]*)`", r"\1", text))
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def _escaped(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
