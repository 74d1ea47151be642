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
from tests.fleet.plans import origin, plan
from tests.patience import PATIENCE_S

GOLDEN = Path(__file__).parent / "golden"
PROGRAM = ("/usr/local/bin/qlaunch",)
START = Start(program=PROGRAM)


def with_key() -> Plan:
    made = plan(
        origin=origin(
            settings={"host": "0.0.0.0", "dtype": "bfloat16", "api_key_file": "/etc/qlaunch/key"},
            extra=("--log-level", "debug"),
            environ={"QLAUNCH_HOME": "/srv/q 1", "CUDA_VISIBLE_DEVICES": "1"},
            withheld={"HF_TOKEN": "a secret, and nothing is fetched"},
        ),
        api_key_file="/etc/qlaunch/key",
        start_timeout_s=900.0,
    )
    step = Fallback(
        flags={"max-total-tokens": 4096},
        argv=made.engine.argv,
        expectation=made.expectation,
        predicted=made.predicted,
    )
    return msgspec.structs.replace(made, fallbacks=(step,))


UNITS: dict[str, Callable[[], str]] = {
    "user": lambda: unit(plan(), START, scope="user"),
    "system": lambda: unit(with_key(), START, scope="system", user="me"),
    "system-other-user": lambda: unit(
        with_key(), Start(program=PROGRAM, others=True), scope="system", user="qlaunch"
    ),
}


def test_a_users_unit_says_what_keeps_it_after_the_last_logout() -> None:
    """Case 17: a user's systemd ends with its last session, and the service with it."""
    assert "loginctl enable-linger me" in unit(plan(), START, scope="user", user="me")
    assert "enable-linger" not in unit(plan(), START, scope="system", user="me")


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
    strange = Start(program=(sys.executable, "-m", "launcher"))
    key = tmp_path / "key"
    key.write_text("k")
    came_from = origin(extra=("--x", 'a b "c" $D %h \\e'), environ={"LD_PRELOAD": 'a %h "b"'})
    made = msgspec.structs.replace(with_key(), api_key_file=str(key), origin=came_from)
    path = tmp_path / systemd.file_name(made)
    path.write_text(unit(made, strange, scope=scope, user="root"))
    ran = subprocess.run(
        [program, "verify", "--man=no", f"--{scope}", str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    ours = [line for line in ran.stderr.splitlines() if path.name in line]
    assert (ran.returncode, ours) == (0, []), ran.stderr


@pytest.mark.parametrize("folder", ["a$b", "a${HOME}b", "a$$b", "a b", "a%hb", "aéb", "a;b", ":a"])
def test_systemd_finds_the_program_whatever_its_folder_is_called(
    tmp_path: Path, folder: str
) -> None:
    """`$` was doubled, as in arguments, and the unit had a program that is not there."""
    program = tmp_path / folder / "qlaunch"
    program.parent.mkdir()
    shutil.copy("/bin/true", program)
    came_from = origin(extra=("--x", "$HOME ${HOME} %h"))
    text = unit(plan(origin=came_from), Start(program=(str(program),)), scope="user")
    path = tmp_path / "strange.service"
    path.write_text(text)
    ran = subprocess.run(
        [analyze(), "verify", "--man=no", "--user", str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env={"XDG_RUNTIME_DIR": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    assert [line for line in ran.stderr.splitlines() if path.name in line] == []
    (line,) = (each for each in text.splitlines() if each.startswith("ExecStart="))
    unexpanded = line.startswith(('ExecStart=":', "ExecStart=:"))
    assert unexpanded is ("$" in folder)
    assert ('"$HOME ${HOME} %%h"' in line) is unexpanded
    assert ('"$$HOME $${HOME} %%h"' in line) is not unexpanded


@pytest.mark.parametrize("mark", ["'", '"', "\\"])
def test_a_program_that_systemd_refuses_is_not_exported(mark: str) -> None:
    """`Executable name contains special characters`, in the journal of the machine."""
    start = Start(program=(f"/opt/a{mark}b/qlaunch",))
    with pytest.raises(QlaunchError, match="a quote or a backslash in its path") as caught:
        unit(plan(), start, scope="user")
    assert (caught.value.code, caught.value.exit_code) == ("export_impossible", 2)


def test_the_start_limit_has_room_for_every_fallback_step_and_the_smoke() -> None:
    assert "TimeoutStartSec=900\n" in unit(plan(), START, scope="user")
    assert "TimeoutStartSec=2100\n" in unit(with_key(), START, scope="system")


@pytest.mark.parametrize("name", ["port", "metrics_port"])
def test_a_port_that_changes_is_refused(name: str) -> None:
    with pytest.raises(QlaunchError, match="stays the same") as caught:
        unit(plan(origin=origin(settings={name: 0})), START, scope="user")
    assert (caught.value.code, caught.value.exit_code) == ("export_impossible", 2)


@pytest.mark.parametrize("text", ["a\nExecStart=/bin/sh", "a\x00b", "a\rb"])
@pytest.mark.parametrize("field", ["extra", "settings", "environ"])
def test_no_value_begins_a_directive_of_its_own(field: str, text: str) -> None:
    value: Any = (
        ("--x", text) if field == "extra" else {"model" if field == "settings" else "A": text}
    )
    with pytest.raises(QlaunchError):
        unit(plan(origin=origin(**{field: value})), START, scope="user")


def test_a_comment_stays_one_line() -> None:
    withheld = {"LD_PRELOAD": "it holds control characters", "X\nExecStart=/bin/sh": "why"}
    text = unit(plan(origin=origin(withheld=withheld)), START, scope="user")
    assert "# Not carried: X?ExecStart=/bin/sh (why)." in text.splitlines()


@pytest.mark.parametrize("place", ["home", "model"])
def test_files_below_tmp_are_seen_by_the_unit(place: str) -> None:
    """With PrivateTmp= it would see an empty folder, and exit with 2."""
    at = {"environ": {"QLAUNCH_HOME": "/tmp/q"}} if place == "home" else {}
    made = plan(origin=origin(**at), model_path="/tmp/m" if place == "model" else "/m")
    assert "PrivateTmp" not in unit(made, START, scope="system", user="me")
    assert "PrivateTmp=yes" in unit(with_key(), START, scope="system", user="me")


def test_a_plan_that_tells_nothing_of_its_start_is_refused() -> None:
    with pytest.raises(QlaunchError) as caught:
        unit(plan(origin=None), START, scope="user")
    assert (caught.value.code, caught.value.exit_code) == ("export_impossible", 2)


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
