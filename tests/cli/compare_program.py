"""`qlaunch compare` as a process of its own whose profiles are served by the fake engine.

`python -m tests.cli.compare_program HOME MODES compare …`; MODES is JSON: name → switches of the
fake engine, or null for a mode that cannot run here. Everything else is real: supervisors, load,
signals, the document on disk.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from launcher.app import contenders
from launcher.cli import compare
from launcher.cli.main import main
from launcher.documents.comparison import Mode
from tests.service.home import Home


def modes(home: Home, wanted: dict[str, list[str] | None]) -> compare.Contenders:
    found: compare.Contenders = []
    for name, switches in wanted.items():
        if switches is None:
            facts = Mode(name=name, kind="profile", outcome="cannot_run", reason="needs a GPU")
            found.append(contenders.CannotRun(facts))
            continue
        plan = home.plan(*switches, name=f"compare-{name}", profile=name, port=0)
        facts = contenders.facts_of(plan, name, "profile")
        found.append(contenders.ProfileContender(facts, plan, entry=home.entry))
    return found


def run(root: str, wanted: str, *words: str) -> int:
    home = Home(Path(root))

    def stand_in(*_: Any) -> compare.Contenders:
        return modes(home, json.loads(wanted))

    with patch.object(compare, "_modes", stand_in):
        return main(list(words))


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
