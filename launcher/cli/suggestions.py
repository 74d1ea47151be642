"""What a command that does not exist was meant to be: slips of the hand, and other tools' verbs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from launcher.yaml_messages import nearest

if TYPE_CHECKING:
    import click

_LIST: Final = ("list", "ps")
_REMOVE: Final = ("remove", "down", "forget", "prune", "engine remove", "runs prune")
_VERBS: Final = {
    **dict.fromkeys(("stop", "kill", "halt", "terminate", "quit", "shutdown"), ("down",)),
    **dict.fromkeys(("start", "run", "serve", "launch", "deploy", "load", "begin"), ("up",)),
    **dict.fromkeys(("list", "ls", "services", "get", "jobs"), (*_LIST, "show")),
    **dict.fromkeys(("rm", "remove", "delete", "del", "unload", "clean", "gc"), _REMOVE),
    **dict.fromkeys(("uninstall", "purge"), ("remove", "engine remove")),
    **dict.fromkeys(("install", "add", "setup"), ("install", "engine install", "pull")),
    **dict.fromkeys(("pull", "download", "fetch"), ("pull", "install", "model pull")),
    **dict.fromkeys(
        ("show", "describe", "inspect", "info", "state", "view", "cat", "print"),
        ("show", "inspect", "status"),
    ),
    **dict.fromkeys(("log", "tail", "journal", "events"), ("logs",)),
    **dict.fromkeys(("reload", "reboot", "rerun", "bounce"), ("restart",)),
    **dict.fromkeys(("check", "lint"), ("validate", "doctor", "smoke")),
    **dict.fromkeys(("test", "health", "prove"), ("smoke", "verify")),
    **dict.fromkeys(("stats", "monitor", "watch", "htop"), ("top",)),
    **dict.fromkeys(("benchmark", "perf", "load-test"), ("bench",)),
    **dict.fromkeys(("config", "configure", "settings"), ("profiles",)),
    **dict.fromkeys(("create", "init", "edit"), ("new", "profiles new", "profiles")),
    **dict.fromkeys(("suggest", "advise", "choose"), ("recommend",)),
    **dict.fromkeys(("dry-run", "explain"), ("plan",)),
    **dict.fromkeys(("history", "records"), ("runs",)),
    **dict.fromkeys(("update", "self-update"), ("upgrade", "engine install")),
    **dict.fromkeys(("diagnose", "diag"), ("doctor",)),
    **dict.fromkeys(("compose", "systemd", "k8s", "kubernetes", "unit"), ("export",)),
    **dict.fromkeys(("man", "manual", "usage"), ("help",)),
}
"""What other tools call things (docker, systemctl, kubectl, ollama, pip): our words for it, the
likeliest first. A word is offered where such a command exists."""


def did_you_mean(ctx: click.Context, group: click.Group, word: str) -> str:
    """`; did you mean `a` or `b`?` for a command that `group` does not have, or nothing."""
    known = group.list_commands(ctx)
    meant = [name for name in _VERBS.get(word.lower(), ()) if _exists(ctx, group, name)]
    names = (meant or nearest(word, known))[:3]
    quoted = " or ".join(f"`{name}`" for name in names)
    return f"; did you mean {quoted}?" if quoted else ""


def _exists(ctx: click.Context, group: click.Group, name: str) -> bool:
    """Whether `group` has a command `name`, or a group with such a command (`engine remove`)."""
    import click

    first, _, rest = name.partition(" ")
    found = group.get_command(ctx, first)
    if found is None or not rest:
        return found is not None
    return isinstance(found, click.Group) and rest in found.list_commands(ctx)


_NAMED: Final = frozenset({"--profile", "-p", "--service", "--card"})
_TAKES_ENGINE_OPTIONS: Final = frozenset({"qlaunch up", "qlaunch plan"})


def where_it_belongs(option: str, path: str) -> str | None:
    """Where an option that a command does not have is to be written, if it is another's.

    Args:
        option: as it was typed, `--context-length`.
        path: of the command that got it: `qlaunch up`, or `qlaunch` alone.
    """
    if path == "qlaunch":
        return f"options of a command stand after its name: qlaunch COMMAND {option}"
    if option in _NAMED and path in _TAKES_ENGINE_OPTIONS:
        return f"a profile, model or service is named without an option: {path} NAME"
    from launcher.engine.options.flags import is_option

    if path in _TAKES_ENGINE_OPTIONS and is_option(option):
        return f"it is an option of the engine, and stands after `--`: {path} … -- {option}"
    return None
