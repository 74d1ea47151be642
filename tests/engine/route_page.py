"""Every route of every release, and what the guard does with it: `docs/routes.md`.

    python -m tests.engine.route_page

The routes are those of `tests/engine/routes/` (tools/route_tables.py), the decision is the guard's
own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from launcher.linux.files import write_atomic
from tests.engine.guarding import Service

TABLES = Path(__file__).with_name("routes")
PAGE = Path(__file__).parents[2] / "docs" / "routes.md"
RELEASES = {
    "0.5.23": "cpu, cuda13",
    "0.5.15.post1": "cpu-0.5.15",
    "0.5.10.post1": "cuda12",
    "0.5.1.post2": "turing",
}
"""SGLang's versions by qlaunch's engine releases, newest first."""
MODEL = "tiny"


def table(version: str) -> list[dict[str, Any]]:
    """The routes of one version."""
    found: list[dict[str, Any]] = json.loads((TABLES / f"{version}.json").read_text("utf-8"))
    return found


def reached(path: str, method: str, *, metrics: bool = False) -> bool:
    """Whether a request to a route, its parameters filled in, reaches SGLang."""
    service = Service(metrics=metrics, model=MODEL)
    filled = path.replace("{model:path}", MODEL)
    said = service.ask(method, filled, b'{"input": "a"}')
    return said.passed is not None


def rows() -> dict[tuple[str, str], dict[str, str]]:
    """By path and method, the answer in each version that has the route."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for version in RELEASES:
        for route in table(version):
            for method in route["methods"]:
                cells = found.setdefault((route["path"], method), {})
                open_ = method != "WEBSOCKET" and reached(route["path"], method)
                cells[version] = "**open**" if open_ else "refused"
    return dict(sorted(found.items()))


def page() -> str:
    """The page as it is committed."""
    heads = " | ".join(f"{version} ({names})" for version, names in RELEASES.items())
    lines = [
        "<!-- Written by `python -m tests.engine.route_page`. -->",
        "# Routes of SGLang, and what of them can be reached",
        "",
        "From the source of each release (`tools/route_tables.py`): every route that any HTTP",
        "server in it declares. *Refused* is 404 or 405 before SGLang sees it, with or without the",
        "API key. A path that is not in this list is refused too, so a new release adds none",
        "until somebody opens them. `/metrics`, which no decorator declares, is open where",
        "`--enable-metrics` is given. SGLang's own front may ask itself for `/encode` and",
        "`/freeze_gc`, with a word that its processes alone know.",
        "",
        f"| route | method | {heads} |",
        f"|---|---|{'---|' * len(RELEASES)}",
    ]
    for (path, method), cells in rows().items():
        answers = " | ".join(cells.get(version, "–") for version in RELEASES)
        lines.append(f"| `{path}` | {method} | {answers} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    write_atomic(PAGE, page().encode(), mode=0o644)
