"""docs/reliability.md, written from the last test runs: `python -m tests.reliability.table`.

Run the tests first (`make test`, and `make soak` for the cycles); what did not run is said so.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from launcher.linux.files import write_atomic
from tests.reliability import plugin

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".pytest_cache" / "v" / "reliability"
DOCUMENT = ROOT / "docs" / "reliability.md"
LATER = "does not apply yet"
HEAD = """\
<!-- Written by `python -m tests.reliability.table` from the last test run; do not edit. -->

# Reliability

What supervised inference servers have been seen to die of, and what qlaunch does then. The cases
are data (`tests/reliability/cases.yaml`), each names its tests, and
`pytest -m "case and not soak"` runs them.
"""


def outcomes() -> dict[str, list[str]]:
    """Outcomes of the last runs by test, one for each of its parameters."""
    path = CACHE / "outcomes"
    found: dict[str, list[str]] = {}
    if path.exists():
        for nodeid, outcome in json.loads(path.read_text(encoding="utf-8")).items():
            found.setdefault(plugin.name_of(nodeid), []).append(outcome)
    return found


def row(case: dict[str, Any], ran: dict[str, list[str]]) -> tuple[str, str]:
    """Verdict and table row of one case."""
    if "after" in case:
        verdict, words = LATER, f"comes with {case['after']}"
    else:
        seen = [outcome for test in case["tests"] for outcome in ran.get(test, ["not run"])]
        passed, all_ = seen.count("passed"), len(seen)
        missing = [outcome for outcome in seen if outcome != "passed"]
        verdict = "failed" if "failed" in missing else "survived" if passed else "not run"
        words = f"{passed} of {all_} tests passed" if missing else f"{all_} tests passed"
        if all_ == 1:
            words = words.replace("tests", "test")
    shown = f"**{verdict}**" if verdict == "failed" else verdict
    return verdict, (
        f"| {case['case']} | {case['title']} | {case.get('expect', '–')} | {shown} | {words} |"
    )


def waiting() -> str:
    """The cases that do not apply yet, by what they wait for."""
    found: dict[str, list[str]] = {}
    for case in plugin.cases():
        if "after" in case:
            found.setdefault(case["after"], []).append(str(case["case"]))
    return "; ".join(f"{', '.join(numbers)} with {what}" for what, numbers in found.items())


def document(ran: dict[str, list[str]], soak: list[str]) -> str:
    """The whole page."""
    rows = [row(case, ran) for case in plugin.cases()]
    count = {verdict: [v for v, _ in rows].count(verdict) for verdict, _ in rows}
    later = count.get(LATER, 0)
    tried = len(rows) - later - count.get("not run", 0)
    summary = (
        f"\n{len(rows)} cases. {len(rows) - later} apply to what there is: {tried} tried, "
        f"{count.get('survived', 0)} survived, {count.get('failed', 0)} failed.\n"
    )
    if later:
        summary += f"{later} do not apply yet, as what they are about is to come: {waiting()}.\n"
    lines = [
        HEAD + summary,
        "| case | what happens | what must follow | came of it | tests |",
        "|---|---|---|---|---|",
        *(line for _, line in rows),
        "",
        *fuzz(),
        "## Two hundred lives",
        "",
        *(soak or ["Not run yet: `make soak`."]),
    ]
    return "\n".join(lines) + "\n"


def fuzz() -> list[str]:
    """How many logs the classifier of failures was given without raising."""
    found = {path.name: json.loads(path.read_text("utf-8")) for path in CACHE.glob("fuzz/*")}
    if not found:
        return []
    words = " and ".join(f"{count:,} {kind}" for kind, count in sorted(found.items()))
    return [f"Logs that the classifier of failures was given, without raising: {words}.", ""]


def soak() -> list[str]:
    """The table of the last soak, or what the document has of an earlier one."""
    path = CACHE / "soak"
    if not path.exists():
        text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
        return text.partition("## Two hundred lives\n\n")[2].rstrip("\n").split("\n")
    found: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    lines = [
        "The caller's own descriptors, threads, children and memory after the first life and after",
        "the last, and new files a life, which are its run record (`make soak`):",
        "",
        "| engine | n | descriptors | threads | zombies | caller MiB | supervisor MiB | files |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for engine, f in sorted(found.items()):
        lines.append(
            f"| {engine} | {f['cycles']} | {f['fds'][0]} → {f['fds'][1]} "
            f"| {f['threads'][0]} → {f['threads'][1]} | {f['zombies'][1]} "
            f"| {f['rss_mib'][0]} → {f['rss_mib'][1]} "
            f"| {f['supervisor_mib'][0]} → {f['supervisor_mib'][1]} | {f['files_a_cycle']} |"
        )
    return lines


if __name__ == "__main__":
    write_atomic(DOCUMENT, document(outcomes(), soak()).encode(), mode=0o644)
    sys.stdout.write(f"wrote {DOCUMENT}\n")
