"""`qlaunch up NAME --foreground` with the fake engine: `own_up.py OPTIONS PLAN up …`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import msgspec

from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.service import control
from tests.service.entry import wiring


def main(argv: list[str]) -> int:
    plan = msgspec.json.decode(Path(argv[1]).read_bytes(), type=Plan)
    name, port = (argv[argv.index(option) + 1] for option in ("--name", "--port"))
    plan = msgspec.structs.replace(plan, service=name, port=int(port))
    try:
        control.foreground(plan, wiring(json.loads(Path(argv[0]).read_text())))
    except QlaunchError as error:
        failure = {"code": error.code, "message": error.message, "fix": error.fix}
        print(json.dumps({"errors": [failure]}))
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
