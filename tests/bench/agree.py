"""A smoke that finds everything right: for engines whose vectors are wrong on purpose."""

from __future__ import annotations

import json
import sys

sys.stdin.readline()
print(json.dumps({"event": "prepared", "reference": "unavailable: a test"}), flush=True)
sys.stdin.readline()
report = {
    "ok": True,
    "checks": [],
    "reference": "unavailable: a test",
}
print(json.dumps({"event": "report", "report": report}), flush=True)
