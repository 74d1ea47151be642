"""The systemd unit: golden, accepted by systemd itself, and safe whatever the values hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.documents.plan import Fallback, Plan
from launcher.errors import QlaunchError
from launcher.fleet import systemd
from launcher.fleet.systemd import Start, unit
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs

GOLDEN = Path(__file__).parent / "golden"
PROGRAM = ("/usr/local/bin/qlaunch",)


def plan(**changes: Any) -> Plan:
    return msgspec.structs.replace(make_plan(inputs()), **changes)


def start(**changes: Any) -> Start:
    return Start(**{"program": PROGRAM, "profile": "cpu-minilm", **changes})


def with_key() -> Plan:
    made = plan(api_key_file="/etc/qlaunch/key", host="0.0.0.0", start_timeout_s=900.0)
    step = Fallback(
        flags={"max-total-tokens": 4096},
        argv=made.engine.argv,
        expectation=made.expectation,
        predicted=made.predicted,
    )
    return msgspec.structs.replace(made, fallbacks=(step,))


UNITS: dict[str, Callable[[], str]] = {
    "user": lambda: unit(plan(), start(), scope="user"),
    "system": lambda: unit(
        with_key(),
        start(options=("--dtype", "bfloat16"), extra=("--log-level", "debug")),
        scope="system",
        user="qlaunch",
    ),
}


def test_a_users_unit_says_what_keeps_it_after_the_last_logout() -> None:
    """Case 17: a user's systemd ends with its last session, and the service with it."""
    assert "loginctl enable-linger me" in unit(plan(), start(), scope="user", user="me")
    assert "enable-linger" not in unit(plan(), start(), scope="system", user="me")


@pytest.mark.parametrize("name", UNITS)
def test_units_are_as_they_were(name: str) -> None:
    """To change them on purpose: `python -m tests.fleet.test_systemd`, and read the difference."""
    assert UNITS[name]() == (GOLDEN / f"{name}.service").read_text()


def analyze() -> str:
    """systemd-analyze, installed where it may be."""
    root = Path(__file__).parents[2]
    if shutil.which("systemd-analyze") is None:
        subprocess.run(
            [str(root / "scripts" / "debian-packages"), "systemd"], capture_output=True, check=False
        )
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze (Debian package systemd) is not there")
    return found


@pytest.mark.parametrize("scope", ["user", "system"])
def test_systemd_accepts_the_unit(tmp_path: Path, scope: systemd.Scope) -> None:
    program = analyze()
    strange = start(program=(sys.executable, "-m", "launcher"), extra=("--x", 'a b "c" $D %h \\e'))
    key = tmp_path / "key"
    key.write_text("k")
    made = msgspec.structs.replace(with_key(), api_key_file=str(key))
    path = tmp_path / systemd.file_name(made)
    path.write_text(unit(made, strange, scope=scope, user="root"))
    ran = subprocess.run(
        [program, "verify", "--man=no", f"--{scope}", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    ours = [line for line in ran.stderr.splitlines() if path.name in line]
    assert (ran.returncode, ours) == (0, []), ran.stderr


def test_the_start_limit_has_room_for_every_fallback_step_and_the_smoke() -> None:
    assert "TimeoutStartSec=900\n" in unit(plan(), start(), scope="user")
    assert "TimeoutStartSec=2100\n" in unit(with_key(), start(), scope="system")


def test_a_port_that_changes_is_refused() -> None:
    with pytest.raises(QlaunchError) as caught:
        unit(plan(port=0), start(), scope="user")
    assert (caught.value.code, caught.value.exit_code) == ("unit_impossible", 2)


@pytest.mark.parametrize("text", ["a\nExecStart=/bin/sh", "a\x00b", "a\rb"])
@pytest.mark.parametrize("field", ["extra", "options"])
def test_no_value_begins_a_directive_of_its_own(field: str, text: str) -> None:
    with pytest.raises(QlaunchError):
        unit(plan(), start(**{field: ("--x", text)}), scope="user")


@given(st.text(st.characters(min_codepoint=32, exclude_characters="\x7f"), max_size=40))
def test_an_argument_comes_back_as_it_was(text: str) -> None:
    word = systemd._argument(text)
    body = re.sub(r"\\(.)", r"\1", word[1:-1]) if word.startswith('"') else word
    assert body.replace("%%", "%").replace("$$", "$") == text or text == "%d/api-key"
    assert "\n" not in word


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name_, make in UNITS.items():
        (GOLDEN / f"{name_}.service").write_text(make())
