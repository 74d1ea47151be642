"""What a profile of one's own says wrong is refused with its file and line, by `plan` as well."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.commandline import Run
from tests.cli.conftest import SetMachine
from tests.samples import machine


@pytest.mark.parametrize(
    ("line", "said", "code"),
    [
        ("flags: {nonesuch: 5}", "--nonesuch is not an option of SGLang", 5),
        ("flags: {max-total-tokens: '3'}", "--max-total-tokens 3: 32 is the least", 5),
        ("fallback: [{nonesuch: 5}]", "", 5),
        ("engine: nonesuch", "there is no engine release 'nonesuch'", 5),
        ("host: 0.0.0.0", "0.0.0.0 can be reached from other machines", 2),
        ("api_key_file: nonesuch", "cannot use the API key file", 2),
        ("model: ./nonesuch", "", 2),
        ("model: nonesuch", "there is no model card 'nonesuch'", 2),
    ],
)
def test_a_refused_value_has_its_file_and_line(
    line: str, said: str, code: int, tmp_path: Path, run: Run, ready: Path, on: SetMachine
) -> None:
    on(machine())
    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: cpu-minilm\ntitle: mine\n{line}\n")
    answer = run("plan", str(file), "--json")
    assert answer.code == code
    place = f"profile {file}:3: " if "fallback" not in line else ""
    assert answer.error["message"].startswith(f"{place}{said}")


def test_a_setting_of_the_environment_is_named(
    run: Run, ready: Path, on: SetMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(machine())
    monkeypatch.setenv("QLAUNCH_HOST", "0.0.0.0")
    answer = run("plan", "cpu-minilm", "--json")
    assert answer.error["message"].startswith("environment QLAUNCH_HOST: 0.0.0.0 can be reached")
    answer = run("plan", "cpu-minilm", "--json", "--host", "0.0.0.0")
    assert answer.error["message"].startswith("0.0.0.0 can be reached")
