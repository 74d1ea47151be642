"""`up` as a process of its own, to be interrupted: `starter.py OPTIONS PLAN [foreground]`."""

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
    options, plan = Path(argv[0]), msgspec.json.decode(Path(argv[1]).read_bytes(), type=Plan)
    entry = (sys.executable, str(Path(__file__).with_name("entry.py")), str(options))
    try:
        if argv[2:] == ["foreground"]:
            control.foreground(plan, wiring(json.loads(options.read_text())))
        else:
            control.launch(plan, entry=entry)
    except KeyboardInterrupt:
        return 130
    except QlaunchError as error:
        print(json.dumps({"code": error.code, "message": error.message}))
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
