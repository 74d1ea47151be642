"""`python -m benchmarks.run [NAME…]`: run the benchmarks, print their tables, keep their figures.

    python -m benchmarks.run                  all of them, on a quiet machine (about 30 minutes)
    python -m benchmarks.run start --repeats 9
    python -m benchmarks.run --quick               to try the scripts: no results

Exit status: 0 every target met, 1 one missed, 2 something could not be measured, 130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from benchmarks.errors import BenchError
from benchmarks.figures import Report
from benchmarks.machine import QUIET
from benchmarks.options import Options
from benchmarks.table import RESULTS, section
from launcher.errors import QlaunchError
from launcher.linux.files import write_atomic

NAMES = (
    "cli",
    "sampler",
    "start",
    "memory",
    "plain",
    "plain_qwen",
    "client",
    "agreement",
    "gateway",
    "encoders_cpu",
    "scale",
    "replicas",
)
MET, MISSED, BROKEN, INTERRUPTED = 0, 1, 2, 130


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for; the worst exit status of all."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--repeats", type=int, help="how often each pair is measured")
    parser.add_argument("--quick", action="store_true", help="tiny repeats, no results")
    parser.add_argument("--out", type=Path, help="folder for the figures (results)")
    asked = parser.parse_args(arguments)
    unknown = [name for name in asked.names if name not in NAMES]
    if unknown:
        parser.error(f"there is no benchmark {unknown[0]!r}; there are: {', '.join(NAMES)}")
    if asked.repeats is not None and asked.repeats < 1:
        parser.error("--repeats must be at least 1")
    out = asked.out or (None if asked.quick else RESULTS)
    signal.signal(signal.SIGTERM, interrupt)
    options = Options(repeats=asked.repeats, quick=asked.quick)
    try:
        return max(_one(name, options, out) for name in asked.names or NAMES)
    except KeyboardInterrupt:
        print("interrupted: what was started has been stopped", file=sys.stderr)
        return INTERRUPTED


def interrupt(_signum: int, _frame: FrameType | None) -> None:
    """What SIGTERM does: as Ctrl-C, so that what was started is stopped."""
    raise KeyboardInterrupt


def _one(name: str, options: Options, out: Path | None) -> int:
    print(f"{name}:", file=sys.stderr, flush=True)
    if name == "sampler":
        return _sampler(options)
    try:
        report: Report = importlib.import_module(f"benchmarks.{name}").run(options)
    except (BenchError, QlaunchError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return BROKEN
    if out is not None:
        keep(report, out)
    print("\n".join(section(report)), end="\n\n", flush=True)
    idle = report.machine["idle_before"]
    if idle is not None and idle < QUIET:
        busy = f"the machine was busy ({100 * idle:.0f} % idle before)"
        print(f"{name}: {busy}: take no figures from this run", file=sys.stderr)
    return MISSED if report.missed else MET


def _sampler(options: Options) -> int:
    """The sampler's own script prints its table itself."""
    seconds = ["--seconds", "5"] if options.quick else []
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("sampler.py"), *seconds], timeout=300, check=False
    )
    print()
    return MISSED if done.returncode else MET


def keep(report: Report, out: Path) -> None:
    """Write `NAME.json`, replacing an older one."""
    out.mkdir(parents=True, exist_ok=True)
    encoded = msgspec.json.encode(rounded(msgspec.to_builtins(report)))
    formatted = msgspec.json.format(encoded, indent=1) + b"\n"
    write_atomic(out / f"{report.benchmark}.json", formatted, mode=0o644)


def rounded(value: Any) -> Any:
    """The same, with floats of five decimals: more is noise."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return value


if __name__ == "__main__":
    sys.exit(main())
