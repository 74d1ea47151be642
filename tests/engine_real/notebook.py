"""`python -m tests.engine_real.notebook FILE`: run a notebook's code cells in order, no kernel.

Prints a JSON list with what each cell printed.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any


def code_cells(file: Path) -> list[dict[str, Any]]:
    """The code cells, in order."""
    cells = json.loads(file.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def execute(file: Path) -> list[str]:
    """What each code cell prints, all run in one namespace; a cell that raises ends it."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = []
    for number, cell in enumerate(code_cells(file), 1):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(compile("".join(cell["source"]), f"{file.name}[{number}]", "exec"), names)
        printed.append(said.getvalue())
    return printed


if __name__ == "__main__":
    json.dump(execute(Path(sys.argv[1])), sys.stdout)
