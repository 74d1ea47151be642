"""The SkyPilot task: golden, accepted by SkyPilot itself, and its scripts run.

To change the golden files on purpose: `python -m tests.fleet.test_skypilot`, and read the
difference. SkyPilot brings a hundred packages, so nothing is installed here: what
`python -m venv build/skypilot && build/skypilot/bin/pip install skypilot` made is asked.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
import yaml

from launcher.errors import QlaunchError
from launcher.fleet import skypilot
from launcher.fleet.container import Contained
from launcher.fleet.skypilot import Sky
from tests.fleet.plans import origin, plan
from tests.fleet.test_containers import GOLDEN, cached, contained, large, small
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]
SKYPILOT = ROOT / "build" / "skypilot" / "bin" / "python"
SCHEMA = json.loads((Path(__file__).parent / "skypilot.json").read_text("utf-8"))
EXTRA = ("--log-level", "$(debug) 'a' \"b\" \\ é")
"""The engine's options of `large`, as it gets them."""
REQUIRED = Sky(package="qlaunch==0.1.0")
WHEEL = Sky(
    package="/dist/qlaunch-0.1.0-py3-none-any.whl",
    accelerators="T4:1",
    replicas=2,
    most=8,
    per_replica=50.0,
)

TEXTS: dict[str, Callable[[], str]] = {
    "skypilot.yaml": lambda: skypilot.text(small(), REQUIRED),
    "skypilot-own.yaml": lambda: skypilot.text(large(), WHEEL),
    "skypilot-cache.yaml": lambda: skypilot.text(cached(), REQUIRED),
}


@pytest.mark.parametrize("name", TEXTS)
def test_tasks_are_as_they_were(name: str) -> None:
    assert TEXTS[name]() == (GOLDEN / name).read_text("utf-8")


@pytest.mark.parametrize("name", TEXTS)
def test_a_task_has_what_skypilot_knows(name: str) -> None:
    document = yaml.safe_load(TEXTS[name]())
    jsonschema.validate(document, SCHEMA)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "ports": 30000}, SCHEMA)


PARSE = """
import json, sys
import sky
task = sky.Task.from_yaml_str(sys.stdin.read())
service = task.service
print(json.dumps({
    "name": task.name,
    "ports": [p for r in task.resources for p in (r.ports or [])],
    "accelerators": [r.accelerators for r in task.resources],
    "cpus": [r.cpus for r in task.resources],
    "memory": [r.memory for r in task.resources],
    "path": service.readiness_path,
    "delay": service.initial_delay_seconds,
    "replicas": [service.min_replicas, service.max_replicas, service.target_qps_per_replica],
}))
"""


@pytest.mark.parametrize("name", TEXTS)
def test_skypilot_itself_accepts_the_task(name: str, tmp_path: Path) -> None:
    if not SKYPILOT.exists():
        pytest.skip(
            "SkyPilot is not there: python -m venv build/skypilot, and pip install skypilot"
        )
    text = TEXTS[name]()
    document = yaml.safe_load(text)
    for at, path in document.get("file_mounts", {}).items():  # it looks whether they are there
        real = tmp_path / Path(path).name
        real.mkdir()
        text = text.replace(f"{at}: {path}", f"{at}: {json.dumps(str(real))}")
        text = text.replace(f"{at}: '{path}'", f"{at}: {json.dumps(str(real))}")
    asked = subprocess.run(
        [SKYPILOT, "-c", PARSE],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={
            "HOME": str(tmp_path),
            "PATH": os.environ["PATH"],
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
        },
    )
    assert asked.returncode == 0, asked.stderr
    read = json.loads(asked.stdout.splitlines()[-1])
    resources = document["resources"]
    assert read["name"] == document["name"]
    assert read["ports"] == ["30000"]
    assert read["cpus"] == [resources.get("cpus")]
    assert read["memory"] == [resources["memory"]]
    assert (read["path"], read["delay"]) == ("/ready", 900)
    own = name == "skypilot-own.yaml"
    assert read["accelerators"] == [{"T4": 1} if own else None]
    assert read["replicas"] == ([2, 8, 50.0] if own else [1, None, None])


STAND_IN = """#!/bin/sh
printf '%s\\n' "$(basename "$0")" "$PWD" "$QLAUNCH_HOME" "$@" --- >> "$CALLS"
"""
UV = (
    STAND_IN
    + """
[ "$1" = venv ] || exit 0
mkdir -p venv/bin && cp "$0" venv/bin/python && cp "$QLAUNCH" venv/bin/qlaunch
"""
)


def ran(made: Contained, sky: Sky, home: Path) -> list[list[str]]:
    """What `setup` and then `run` call, each with its folder and home, under `~`."""
    tools = home / "tools"
    tools.mkdir()
    for name, text in (("uv", UV), ("qlaunch", STAND_IN)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    document = yaml.safe_load(skypilot.text(made, sky))
    env = {
        "HOME": str(home),
        "PATH": f"{tools}:/usr/bin:/bin",
        "CALLS": str(home / "calls"),
        "QLAUNCH": str(tools / "qlaunch"),
        "QLAUNCH_API_KEY": "canary $key",
    }
    for script in ("setup", "run"):
        done = subprocess.run(
            ["bash", "-c", document[script]], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
    calls = (home / "calls").read_text().split("---\n")
    return [call.splitlines() for call in calls if call]


def test_the_scripts_install_start_and_open_the_gate(tmp_path: Path) -> None:
    made = small()
    root, home = str(tmp_path / "qlaunch"), str(tmp_path / "qlaunch" / "home")
    venv, install, engine, model, up, gateway = ran(made, REQUIRED, tmp_path)
    assert venv[:4] == ["uv", root, home, "venv"]
    assert install[3:] == [
        "pip",
        "install",
        "--quiet",
        "--python",
        "venv/bin/python",
        "qlaunch==0.1.0",
    ]
    assert engine[3:] == ["engine", "install", made.plan.engine.release]
    assert model[3:] == ["model", "pull", "all-minilm-l6-v2"]
    assert up[:5] == ["qlaunch", root, home, "up", "cpu-minilm"]
    assert "--foreground" not in up  # it returns when the vectors are proved, and only then:
    assert up[up.index("--port") + 1] == "30001"
    assert up[up.index("--host") + 1] == "127.0.0.1"
    assert up[up.index("--expect-fingerprint") + 1] == made.plan.fingerprint
    wide = ["--host", "0.0.0.0", "--port", "30000", "--allow-unauthenticated"]
    assert gateway[3:] == ["gateway", "svc", *wide, "--cache", "none"]


def test_a_key_is_in_a_file_of_its_own_and_in_no_argument(tmp_path: Path) -> None:
    calls = ran(large(), WHEEL, tmp_path)
    key = tmp_path / "qlaunch" / "key"
    assert key.read_text() == "canary $key"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert not [word for call in calls for word in call if "canary" in word]
    up, gateway = calls[-2:]
    assert (
        up[up.index("--api-key-file") + 1] == gateway[gateway.index("--api-key-file") + 1] == "key"
    )
    assert up[-3:] == ["--", *EXTRA]
    assert "--allow-unauthenticated" not in gateway
    document = yaml.safe_load(TEXTS["skypilot-own.yaml"]())
    assert document["secrets"] == {"QLAUNCH_API_KEY": None}


def test_what_is_not_to_be_had_there_goes_along(tmp_path: Path) -> None:
    document = yaml.safe_load(TEXTS["skypilot-own.yaml"]())
    assert document["file_mounts"] == {
        "~/qlaunch/qlaunch-0.1.0-py3-none-any.whl": "/dist/qlaunch-0.1.0-py3-none-any.whl",
        "~/qlaunch/models/minilm": "/data/my $model: 1",
        "~/qlaunch/home/config/profiles/own.yaml": "/etc/q/own.yaml",
    }
    calls = ran(large(), WHEEL, tmp_path)
    assert calls[1][-1] == "./qlaunch-0.1.0-py3-none-any.whl"
    assert calls[-2][calls[-2].index("--model") + 1] == "./models/minilm"
    assert not [call for call in calls if call[3:5] == ["model", "pull"]]


def test_a_service_with_a_gateway_of_its_own_gets_no_second_one(tmp_path: Path) -> None:
    *_, up = ran(cached(), REQUIRED, tmp_path)
    assert up[3] == "up"
    assert "--foreground" in up
    assert up[up.index("--host") + 1] == "0.0.0.0"
    assert up[up.index("--port") + 1] == "30000"


@pytest.mark.parametrize(
    ("made", "sky", "said"),
    [
        (large, REQUIRED, "needs a GPU"),
        (small, Sky(package="q", most=3), "by requests a second"),
        (small, Sky(package="q", per_replica=5.0), "no rate of requests changes it"),
        (small, Sky(package="q", replicas=4, most=3, per_replica=1.0), "fewer than the least"),
    ],
)
def test_what_cannot_be_is_one_sentence(made: Callable[[], Contained], sky: Sky, said: str) -> None:
    with pytest.raises(QlaunchError, match=said) as caught:
        skypilot.text(made(), sky)
    assert (caught.value.code, caught.value.exit_code) == ("export_impossible", 2)
    assert caught.value.fix


def test_a_port_that_changes_is_refused() -> None:
    made = contained(plan(origin=origin(settings={"port": 0}), port=0), baked=True)
    with pytest.raises(QlaunchError, match="stays the same"):
        skypilot.text(made, REQUIRED)


if __name__ == "__main__":
    for name_, make_ in TEXTS.items():
        (GOLDEN / name_).write_text(make_(), "utf-8")
