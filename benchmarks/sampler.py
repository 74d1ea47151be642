"""What the sampler costs: its share of a core and the memory of a process that does nothing else.

    python benchmarks/sampler.py [--seconds 40]

A stand-in for an engine holds 1.3 GB in three processes, the measured sizes of a small model's
front, scheduler and detokenizer. A second process samples it at the default rates and writes a run
record, as the supervisor does. Targets: at most 1 % of a core and 60 MB. Takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SIZES_MB = (575, 475, 244)
STARTING_S = 12.0

ENGINE = """
import subprocess, sys, time
sizes = [int(size) for size in sys.argv[1:]]
block = bytearray(sizes[0] * 1_000_000)
for at in range(0, len(block), 4096):
    block[at] = 1
children = [
    subprocess.Popen([sys.executable, "-c", sys.argv_code, str(size)], stdout=subprocess.PIPE)
    for size in sizes[1:]
]
for child in children:
    child.stdout.readline()
print("ready", flush=True)
time.sleep(600)
""".replace("sys.argv_code", "CODE")

MONITOR = """
import json, os, pathlib, sys, time
from launcher.hardware.nvml import open_nvml
from launcher.record.peak import PeakTracker
from launcher.record.runs import RunWriter
from launcher.record.sampler import Sampler, pause_s

leader, folder, starting_s, ready_s = sys.argv[1:]
sampler = Sampler(int(leader), nvml=open_nvml())
writer, tracker = RunWriter(pathlib.Path(folder)), PeakTracker()

def phase(seconds, ready):
    began, used, costs = time.monotonic(), time.process_time(), []
    while (left := began + seconds - time.monotonic()) > 0:
        sample = sampler.sample()
        tracker.add(sample)
        writer.sample(sample)
        costs.append(sampler.cost_s)
        time.sleep(min(left, pause_s(sampler.cost_s, ready=ready)))
    spent, took = time.process_time() - used, time.monotonic() - began
    return {"samples": len(costs), "cost_ms": 1000 * sum(costs) / len(costs),
            "seconds": took, "share": spent / took}

phases = {"starting": phase(float(starting_s), False), "ready": phase(float(ready_s), True)}
status = pathlib.Path("/proc/self/status").read_text()
memory = {key: int(status.split(key + ":")[1].split()[0]) / 1024 for key in ("VmRSS", "VmHWM")}
peak = tracker.peak()
print(json.dumps({"phases": phases, "memory": memory, "problem": writer.problem,
                  "ram_peak_mb": (peak.ram_peak_bytes or 0) / 1e6, "method": peak.method}))
"""


def main() -> int:
    """Run the benchmark; exit status 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=40.0, help="at the rate of a ready engine")
    seconds = parser.parse_args().seconds
    child = "import sys, time; b = bytearray(int(sys.argv[1]) * 1_000_000)\n"
    child += "for at in range(0, len(b), 4096): b[at] = 1\nprint(1, flush=True); time.sleep(600)"
    engine = subprocess.Popen(
        [sys.executable, "-c", ENGINE.replace("CODE", repr(child)), *map(str, SIZES_MB)],
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert engine.stdout is not None
        engine.stdout.readline()
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [
                    *(sys.executable, "-c", MONITOR, str(engine.pid), f"{folder}/run"),
                    *(str(STARTING_S), str(seconds)),
                ],
                stdout=subprocess.PIPE,
                cwd=ROOT,
                check=True,
            )
    finally:
        os.killpg(engine.pid, 9)
        engine.wait()
    return report(json.loads(done.stdout))


def report(found: dict[str, Any]) -> int:
    """Print the table; 1 if a target is missed."""
    memory = found["memory"]
    print("| while | samples | a sample costs | share of a core | target |")
    print("|---|---|---|---|---|")
    for name, phase in found["phases"].items():
        print(
            f"| {name} | {phase['samples']} in {phase['seconds']:.0f} s | {phase['cost_ms']:.1f} ms"
            f" | {100 * phase['share']:.2f} % | <= 1 % |"
        )
    print(
        f"\nMemory of the sampling process: {memory['VmRSS']:.1f} MiB, at most "
        f"{memory['VmHWM']:.1f} MiB (target 60). Tree: {found['ram_peak_mb']:.0f} MB by "
        f"{found['method']}."
    )
    if found["problem"]:
        print(found["problem"])
    ready = found["phases"]["ready"]["share"]
    return int(ready > 0.01 or memory["VmHWM"] > 60.0)


if __name__ == "__main__":
    sys.exit(main())
