"""Print the options of the SGLang beside this Python, as its own argparse parser has them.

Run by the engine's Python (`python -c TEXT`); imports nothing of ours. Nothing is
interpreted here: `launcher/engine/options/own_options.py` makes the table. What SGLang prints
while it is imported goes to stderr, so that stdout holds one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

PLAIN = (bool, int, float, str)


def main() -> None:
    """Import the server's arguments, build the parser, print its actions."""
    answer = os.dup(1)
    os.dup2(2, 1)  # native code prints past sys.stdout
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(add_help=False)
    ServerArgs.add_cli_args(parser)
    document = json.dumps({"version": version(), "options": described(parser)})
    with os.fdopen(answer, "w", encoding="utf-8") as file:
        file.write(document)


def version() -> str:
    """The version that the installed package states."""
    import importlib.metadata

    return importlib.metadata.version("sglang")


def described(parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    """Every option of a parser, in plain values; `default` is `?` where it is none."""
    return [
        {
            "names": list(action.option_strings),
            "nargs": None if action.nargs is None else str(action.nargs),
            "required": bool(action.required),
            "type": getattr(action.type, "__name__", "str"),
            "action": type(action).__name__,
            "choices": choices(action),
            "default": default(action),
            "successor": getattr(action, "new_flag", None),
            "refused": getattr(action, "error_message", None),
        }
        for action in parser._actions  # noqa: SLF001 - argparse has no public list of its options
        if action.option_strings
    ]


def choices(action: argparse.Action) -> list[str | int] | None:
    """The values that an option takes, in the parser's own order."""
    if action.choices is None:
        return None
    return [one if isinstance(one, (str, int)) else str(one) for one in action.choices]


def default(action: argparse.Action) -> Any:
    """The default where JSON can hold it; suppressed ones count as none."""
    found = action.default
    if found is None or found == argparse.SUPPRESS:
        return None
    if isinstance(found, (list, tuple)):
        return list(found) if all(isinstance(one, PLAIN) for one in found) else "?"
    return found if isinstance(found, PLAIN) else "?"


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # threads that SGLang's imports started must not hold the answer up
