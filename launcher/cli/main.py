"""The entry point: the table of commands, and the errors that come before any of them."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, Final

import click

from launcher import __version__
from launcher.cli import streams
from launcher.cli.base import COMPLETION_VARIABLE, LazyGroup, output_options
from launcher.errors import ExitCode, QlaunchError

if TYPE_CHECKING:
    from launcher.cli.result import Result
    from launcher.cli.screen import Choice

_COMMANDS: Final = {
    "up": ("launcher.cli.up", "Start a service and return when its vectors are proved right."),
    "down": ("launcher.cli.down", "Stop a service; nothing of it is left running."),
    "restart": ("launcher.cli.restart", "Stop a service and start it again from the same plan."),
    "scale": (
        "launcher.cli.scale",
        "Change how many replicas a service has, while it serves.",
    ),
    "forget": ("launcher.cli.forget", "Remove what is kept of services that are over."),
    "ps": ("launcher.cli.ps", "List services."),
    "status": ("launcher.cli.status", "Show one service: state, endpoint, memory, checks."),
    "top": ("launcher.cli.top", "Show services live: memory, rate, latency, queue."),
    "logs": ("launcher.cli.logs", "Show or follow a service's engine log."),
    "smoke": (
        "launcher.cli.smoke",
        "Check the vectors of a service, quickly.",
    ),
    "verify": (
        "launcher.cli.verify",
        "Check them at length, and the retrieval quality.",
    ),
    "bench": (
        "launcher.cli.bench",
        "Measure latency, throughput and memory under load.",
    ),
    "compare": (
        "launcher.cli.compare",
        "Measure ways of serving in turn: which is best?",
    ),
    "tune": (
        "launcher.cli.tune",
        "Search better settings, and write a new profile.",
    ),
    "embed": (
        "launcher.cli.embed",
        "Embed files of texts into a file of vectors; goes on after any interruption.",
    ),
    "client": (
        "launcher.cli.client",
        "Print a program that asks a service, ready to run.",
    ),
    "prove": ("launcher.cli.prove", "Run all that the profiles claim of this machine."),
    "plan": ("launcher.cli.plan", "Show what `up` would run, and what it would need."),
    "recommend": (
        "launcher.cli.recommend",
        "Say which profile suits this machine, and why.",
    ),
    "profiles": (
        "launcher.cli.profiles",
        "List, show and validate profiles; make and edit your own.",
    ),
    "engine": ("launcher.cli.engine", "List, install and remove engine releases."),
    "model": ("launcher.cli.model", "List, fetch, inspect, quantise and remove models."),
    "doctor": ("launcher.cli.doctor", "Look at the machine, and say what to do about it."),
    "gateway": (
        "launcher.cli.gateway",
        "Answer for several services at one endpoint, with a cache.",
    ),
    "cache": ("launcher.cli.cache", "Show, empty and fill the cache of the gateway."),
    "runs": ("launcher.cli.runs", "List, show, report, compare and remove run records."),
    "prune": ("launcher.cli.prune", "List what could be removed, with sizes; with --yes, do it."),
    "upgrade": ("launcher.cli.upgrade", "Bring engines to the releases that this version knows."),
    "export": ("launcher.cli.export", "Write a service for systemd, compose or Kubernetes."),
    "bundle": (
        "launcher.cli.bundle",
        "Make an archive for machines without a network, and install it.",
    ),
    "completion": ("launcher.cli.completion", "Print the shell completion script."),
    "help": ("launcher.cli.help", "Show help of a command, or the manual page."),
}


_SECTIONS: Final = {
    "Serve": ("up", "down", "restart", "scale", "ps", "status", "top", "logs", "client", "embed"),
    "Check and measure": ("smoke", "verify", "prove", "bench", "compare", "tune"),
    "Choose": ("recommend", "plan", "profiles"),
    "Several services": ("gateway", "cache"),
    "Manage": (
        *("engine", "model", "runs", "export", "bundle", "doctor", "upgrade", "forget", "prune"),
    ),
    "Help": ("help", "completion"),
}
"""Headings of the program's help; a command that none names stands under `Others`,
and a name without a command is left out."""

_FIRST: Final = """\
Begin here:
  qlaunch up              the best profile for this machine: install, start, check
  qlaunch up PROFILE      a certain one; `qlaunch profiles list` has them all
  qlaunch ps              what runs, and where
  qlaunch status SERVICE  state, endpoint, memory, checks
  qlaunch client SERVICE  a program that asks it
  qlaunch logs SERVICE    what the engine says
  qlaunch down SERVICE    stop it

When something is wrong:
  qlaunch doctor          look at the machine
  qlaunch runs show       the last run, with its failure and what to try

Every command: qlaunch --help. One of them: qlaunch help COMMAND."""


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    sections=_SECTIONS,
    first=_FIRST,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="qlaunch")
@output_options("The same as --json after the command.", hidden=False)
def cli() -> None:
    """Take a bare machine to a verified embedding endpoint on SGLang.

    \b
    qlaunch up cpu-minilm     start it; returns when the vectors are proved right
    qlaunch status cpu-minilm state, endpoint, memory, checks
    qlaunch down cpu-minilm   stop it
    """


def entry() -> None:
    """Run the command line; every way out has its exit code and, with `--json`, its document."""
    if instruction := os.environ.get(COMPLETION_VARIABLE):
        from launcher.cli import completing

        sys.exit(completing.answer(cli, instruction))
    streams.prepare()
    _take_signals()
    sys.exit(main(sys.argv[1:]))


def _take_signals() -> None:
    """Undo what a parent left: blocked signals (`down` and Ctrl-C would not be heard), and an
    ignored SIGCHLD (the kernel keeps no exit codes then, and Python takes each for success)."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    try:
        return int(
            cli.main(arguments, prog_name="qlaunch", standalone_mode=False, obj=arguments) or 0
        )
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.UsageError as error:
        return _usage(arguments, error)
    except (click.Abort, KeyboardInterrupt):
        return _report(arguments, _failed("interrupted", "interrupted", ExitCode.INTERRUPTED))
    except QlaunchError as error:
        from launcher.cli.result import failure

        return _report(arguments, failure(error))
    except click.ClickException as error:
        return _report(arguments, _failed("usage", error.format_message(), ExitCode.USAGE))
    except Exception as error:  # noqa: BLE001  # the last resort: one sentence, never a traceback
        return _report(arguments, _unexpected(error, debug="--debug" in _own(arguments)))


def _usage(arguments: list[str], error: click.UsageError) -> int:
    named = _name(arguments)
    where = error.ctx.command_path if error.ctx else f"qlaunch {named}".replace(" qlaunch", "")
    fix = None
    if isinstance(error, click.NoSuchOption):
        from launcher.cli import suggestions

        fix = suggestions.where_it_belongs(error.option_name, where)
    message = re.sub(r"\s*\n\s*", " ", error.format_message())  # click lists choices line by line
    return _report(
        arguments, _failed("usage", message, ExitCode.USAGE, fix=fix or f"see `{where} --help`")
    )


def _unexpected(error: Exception, *, debug: bool = False) -> Result:
    import traceback

    if os.environ.get("QLAUNCH_TRACEBACK"):
        traceback.print_exception(error)
    kept = None
    if debug:
        from launcher.cli import debugging

        kept = debugging.note(error)
        click.echo(kept, err=True)
    from launcher.linux.files import NOT_WRITABLE

    if isinstance(error, OSError) and error.errno in NOT_WRITABLE:
        why = os.strerror(error.errno)
        where = error.filename or "the result"
        fix = "free space there, or set QLAUNCH_HOME to a folder that can be written"
        return _failed("not_written", f"cannot write {where}: {why}", ExitCode.UNEXPECTED, fix=fix)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        name = str(error.filename or "a word").rpartition("/")[2]
        message = f"{name[:40]}… is longer than the name of a file or a service can be"
        return _failed("name_too_long", message, ExitCode.USAGE, fix="look at the command line")
    from launcher.linux import limits

    if (short := limits.explain(error)) is not None:
        from launcher.cli.result import failure

        return failure(short)
    if isinstance(error, FileNotFoundError) and _no_folder_here():
        fix = "cd to a folder that exists, and run it again"
        message = "the folder that you are in no longer exists"
        return _failed("no_current_folder", message, ExitCode.USAGE, fix=fix)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return _failed(
        "unexpected",
        f"unexpected {type(error).__name__} in {place.name}: {error}",
        ExitCode.UNEXPECTED,
        fix=f"report it with the {kept}" if kept else "run it again with --debug and report it",
    )


def _no_folder_here() -> bool:
    """Whether the current folder was removed: relative paths mean nothing then."""
    try:
        os.getcwd()  # noqa: PTH109 - asked for its error
    except FileNotFoundError:
        return True
    return False


def _failed(code: str, message: str, exit_code: ExitCode, *, fix: str | None = None) -> Result:
    from launcher.cli.result import failure

    return failure(QlaunchError(message, code=code, exit_code=exit_code, fix=fix))


def _report(arguments: list[str], result: Result) -> int:
    from launcher.cli.result import render

    render(_name(arguments), result, as_json=_wants_json(arguments), colour=_colour(arguments))
    return int(result.exit_code)


def _wants_json(arguments: list[str]) -> bool:
    return "--json" in _own(arguments)


def _colour(arguments: list[str]) -> Choice:
    """What `--color` says, for errors from before it was parsed."""
    words = " ".join(_own(arguments)).replace("--color ", "--color=").split()
    said = [word.removeprefix("--color=") for word in words if word.startswith("--color=")]
    return "always" if said[-1:] == ["always"] else "never" if said[-1:] == ["never"] else "auto"


def _own(arguments: list[str]) -> list[str]:
    """What stands before `--`: the rest is the engine's."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments


def _name(arguments: list[str]) -> str:
    """The command that was meant, as far as it exists: `engine list`, `engine`, or `qlaunch`."""
    line = " ".join(_own(arguments)).replace("--color ", "--color=")
    words = [word for word in line.split() if not word.startswith("-")]
    if not words or words[0] not in _COMMANDS:
        return "qlaunch"
    module = sys.modules.get(_COMMANDS[words[0]][0])
    found = getattr(module, "command", None)
    nested = isinstance(found, click.Group) and len(words) > 1 and words[1] in found.commands
    return " ".join(words[:2]) if nested else words[0]
