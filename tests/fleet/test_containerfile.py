"""The Containerfile is the image that exports count on."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from launcher import __version__
from launcher.fleet import container

TEXT = (Path(__file__).parents[2] / "Containerfile").read_text("utf-8")
LINES = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE)).splitlines()
STAGES = "\n".join(LINES).split("\nFROM ")[1:]


def instructions(stage: str, name: str) -> list[str]:
    lines = [line for line in stage.splitlines() if line.startswith(name)]
    return [line.removeprefix(name).strip() for line in lines]


def test_the_base_is_one_version_in_every_stage() -> None:
    (base,) = [line.removeprefix("ARG BASE=") for line in LINES if line.startswith("ARG BASE=")]
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-[a-z]+", base)
    assert len(STAGES) == 3
    assert all(stage.startswith("${BASE}") for stage in STAGES)


def test_its_environment_is_what_exports_set() -> None:
    (line,) = instructions(STAGES[-1], "ENV ")
    found = dict(word.split("=", 1) for word in shlex.split(line))
    assert found.pop("PATH").startswith("/opt/launcher/bin:")
    assert found == dict(container.ENVIRONMENT)


def test_it_runs_as_nobody_of_the_machine() -> None:
    assert instructions(STAGES[-1], "USER ") == [f"{container.USER}:{container.USER}"]
    user, enter = STAGES[-1].index("USER "), STAGES[-1].index("ENTRYPOINT ")
    assert user < enter
    assert "RUN" not in STAGES[-1][user:]


def test_what_builds_is_not_in_the_image() -> None:
    copies = [line for line in STAGES[-1].splitlines() if line.startswith("COPY")]
    assert copies == ["COPY --from=build /opt /opt"]


def test_the_name_in_it_is_the_one_that_exports_take() -> None:
    assert f"-t qlaunch-cpu:{__version__}" in TEXT
