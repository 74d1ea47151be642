"""A stand-in for `python -m launcher.verify`: the same protocol, one embedding call, no imports."""

from __future__ import annotations

import array
import base64
import http.client
import json
import os
import sys
import urllib.parse

request = json.loads(sys.stdin.readline())
key = os.environ.get("QLAUNCH_VERIFY_KEY")
print(json.dumps({"event": "prepared", "reference": "unavailable: a test"}), flush=True)
print("a line that is no event", flush=True)
if sys.stdin.readline().strip() != "go":
    sys.exit(0)

mode = sys.argv[1] if len(sys.argv) > 1 else "check"
if mode == "crash":
    print("something broke", flush=True)
    sys.exit(5)
if mode == "error":
    print(json.dumps({"event": "error", "message": "cannot"}), flush=True)
    sys.exit(1)
if mode == "odd":
    print(json.dumps({"event": "report", "report": {"ok": "perhaps"}}), flush=True)
    sys.exit(0)

url = urllib.parse.urlsplit(request["endpoint"])
client = http.client.HTTPConnection(str(url.hostname), url.port, timeout=request["timeout_s"])
headers = {"Content-Type": "application/json"}
if key:
    headers["Authorization"] = f"Bearer {key}"
ok, detail = False, ""
sample: list[float] = []
beat = None
try:
    client.request(
        "POST", "/v1/embeddings", json.dumps({"input": ["one", "two", "still here"]}), headers
    )
    answer = client.getresponse()
    body = answer.read()
    vectors = [row["embedding"] for row in json.loads(body)["data"]] if answer.status == 200 else []
    ok = [len(vector) for vector in vectors] == [request["dimensions"]] * 3
    sample = vectors[0][:5] if vectors else []
    if ok:
        beat = base64.b64encode(array.array("f", vectors[2]).tobytes()).decode()
    detail = f"HTTP {answer.status}, {[len(vector) for vector in vectors]}"
except OSError as error:
    detail = str(error)
report = {
    "ok": ok,
    "checks": [{"name": "dimensions", "ok": ok, "detail": detail}],
    "suspect": None if ok else "dimensions",
    "sample": sample,
}
print(json.dumps({"event": "report", "report": report, "beat": beat}), flush=True)
