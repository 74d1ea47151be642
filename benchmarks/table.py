"""`python -m benchmarks.table`: the tables of the README, from what `bench/results/` holds."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from benchmarks.figures import VERSION, Report, markdown
from launcher.units import size

RESULTS = Path(__file__).resolve().parent / "results"
ORDER = ("cli", "start", "memory", "plain", "plain_qwen", "client", "agreement", "gateway")


def main() -> int:
    """Print the tables; 1 where there is none to print."""
    found = load(RESULTS)
    for report in found:
        print("\n".join(section(report)), end="\n\n")
    if not found:
        print("there are no results yet: run `make bench`", file=sys.stderr)
    return 0 if found else 1


def load(folder: Path) -> list[Report]:
    """Every report of the folder that is a result, in the order of the README."""
    reports = []
    for name in ORDER:
        path = folder / f"{name}.json"
        if path.exists():
            report = msgspec.json.decode(path.read_bytes(), type=Report)
            if report.version == VERSION and not report.quick:
                reports.append(report)
    return reports


def section(report: Report) -> list[str]:
    """Heading, what it was measured on, table and notes."""
    return [f"### {report.title}", "", measured_on(report), "", *markdown(report)]


def measured_on(report: Report) -> str:
    """One line about the machine, the versions and how quiet it was."""
    machine, versions = report.machine, report.versions
    sets = ", ".join(machine["instruction_sets"]) or "no vector extensions known"
    parts = [
        f"{machine['cpu']}, {machine['threads']} threads ({sets})",
        f"{size(machine['ram_bytes'])} of RAM, {machine['system']} {machine['machine']}",
        ", ".join(f"{name} {version}" for name, version in versions.items() if version),
    ]
    idle = machine["idle_before"]
    quiet = (
        f"the processors were at least {100 * idle:.0f} % idle before each measurement"
        if idle is not None
        else ""
    )
    return "; ".join([*parts, *([quiet] if quiet else []), report.made[:10]]) + "."


if __name__ == "__main__":
    sys.exit(main())
