"""The process that fetches from a hub.

Its arguments are the parent, kind, repository, revision and the names of files to fetch again.
"""

from __future__ import annotations

import os
import sys
from typing import Literal, cast

import msgspec

from launcher.errors import QlaunchError
from launcher.linux.pdeathsig import die_with
from launcher.model.checkpoint import Source
from launcher.model.hub import Outcome, snapshot


def main() -> int:
    """Fetch, and write the outcome on stdout; never outlives the process that asked for it."""
    die_with(int(sys.argv[1]))
    kind, location, revision, *again = sys.argv[2:]
    source = Source(
        kind=cast("Literal['hf', 'modelscope']", kind),
        location=location,
        revision=revision or None,
    )
    try:
        outcome = Outcome(folder=str(snapshot(source, local_only=False, again=again)))
    except QlaunchError as error:
        outcome = Outcome(
            error=error.code,
            exit_code=int(error.exit_code),
            message=error.message,
            fix=error.fix,
        )
    sys.stdout.flush()
    os.write(1, b"\n" + msgspec.json.encode(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
