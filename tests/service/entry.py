"""A detached supervisor for tests: the real one, with other wiring. `entry.py OPTIONS NAME BEGAN`.

OPTIONS is a JSON file: `verify` (argv of the smoke process), `gateway` (Python's arguments, for a
gateway in place of the real one), `timing` and `patience` (their
fields), `classes` (text → failure class, for a classifier that knows only those; without any of
them, `real_classes` takes the real one), `holder_unseen` (looks at the port at which our own
listener is nobody's, as it is while the kernel ends a killed process).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from launcher.engine.failures.classify import classify as real
from launcher.errors import QlaunchError
from launcher.service import ports, store
from launcher.service.process_tree import Patience
from launcher.service.supervision import supervise
from launcher.service.supervisor.timing import Dependencies, Timing


class Found(NamedTuple):
    failure_class: str
    message: str
    fix: str | None
    lines: tuple[str, ...]
    error: str | None = None


def _unseen(looks: int) -> None:
    real_look, left = ports.ownership, [looks]

    def look(pids: Iterable[int], host: str, port: int) -> Literal["ours", "foreign", "unseen"]:
        found = real_look(pids, host, port)
        if found == "ours" and left[0]:
            left[0] -= 1
            return "foreign"
        return found

    ports.ownership = look


def wiring(options: dict[str, Any]) -> Dependencies:
    classes = options.get("classes", {})
    verify, timing = tuple(options["verify"]), _timing(options)
    given: dict[str, Any] = {"verify_argv": verify, "timing": timing}
    if "replica" in options:
        given["replica_argv"] = tuple(options["replica"])
    if "gateway" in options:
        given["gateway_argv"] = (sys.executable, *options["gateway"])
    if options.get("real_classes"):
        return Dependencies(classify=real, **given)

    def classify(
        text: str, *, phase: str, returncode: int | None, oom_killed: bool = False
    ) -> Found | None:
        for needle, name in classes.items():
            for line in text.splitlines():
                if needle in line:
                    return Found(name, f"it says {needle}", "fix it", (line,))
        return None

    return Dependencies(classify=classify, **given)


def _timing(options: dict[str, Any]) -> Timing:
    return Timing(**options.get("timing", {}), patience=Patience(**options.get("patience", {})))


def main(argv: list[str]) -> int:
    options, name, began = json.loads(Path(argv[0]).read_text()), argv[1], float(argv[2])
    _unseen(options.get("holder_unseen", 0))
    where = store.folder(name, create=True)
    try:
        state = supervise(where, wiring(options), began=began)
    except QlaunchError as error:
        print(error.message, file=sys.stderr)
        return int(error.exit_code)
    return state.failure.exit_code if state.failure else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
