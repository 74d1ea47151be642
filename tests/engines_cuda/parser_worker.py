"""Runs with a release's own Python: gives argument lists to its parser, one verdict each.

Reads a JSON object of argument lists by name on stdin; writes by name null or the parser's words.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys


def main() -> None:
    """Answer all of stdin."""
    answer = os.dup(1)
    os.dup2(2, 1)  # what SGLang prints while it is imported
    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(prog="engine", allow_abbrev=False)
    ServerArgs.add_cli_args(parser)
    verdicts: dict[str, str | None] = {}
    for name, arguments in json.load(sys.stdin).items():
        words = io.StringIO()
        verdicts[name] = None
        try:
            with contextlib.redirect_stderr(words):
                parser.parse_args(arguments)
        except SystemExit:
            verdicts[name] = words.getvalue().strip().rpartition("\n")[2]
    with os.fdopen(answer, "w", encoding="utf-8") as file:
        json.dump(verdicts, file)


if __name__ == "__main__":
    main()
