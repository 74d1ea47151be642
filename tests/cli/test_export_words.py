"""Words of `export` that the target would refuse much later, or take for something else."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from launcher.cli import export_words
from tests.cli.commandline import Run

REFUSED = [
    (("k8s", "--image", "a b; rm"), "is not the name of an image"),
    (("compose", "--image", ""), "is given an empty value"),
    (("compose", "--image", "Upper"), "is not the name of an image"),
    (("k8s", "--replicas", "3000000000000"), "150000"),
    (("k8s", "--autoscaler", "hpa", "--max-replicas", "3000000000000"), "150000"),
    (("skypilot", "--accelerators", "x y:-1"), "with one card or more"),
    (("skypilot", "--accelerators", "T4:0"), "with one card or more"),
    (("skypilot", "--accelerators", ""), "is given an empty value"),
    (("skypilot", "--package", ""), "is given an empty value"),
    (("skypilot", "--package", "a b"), "neither a requirement"),
    (("skypilot", "--package", "-r x/y"), "neither a requirement"),
    (("skypilot", "--per-replica", "5"), "no rate of requests changes it"),
    (("systemd", "--user", "svc"), "--user belongs to --scope system"),
    (("systemd", "--scope", "system", "--user", ""), "is given an empty value"),
    (("systemd", "--scope", "system", "--user", "no such%u"), "is not the name of a user"),
    (("systemd", "--scope", "system", "--user", "4294967295"), "is not the name of a user"),
]


@pytest.mark.parametrize(("words", "said"), REFUSED, ids=lambda each: " ".join(each)[:60])
def test_what_only_the_target_would_refuse_is_refused_here(
    run: Run, ready: object, words: tuple[str, ...], said: str
) -> None:
    kind, *options = words
    answer = run("export", kind, "cpu-minilm", *options, "--json")
    assert answer.code == 2
    assert said in answer.error["message"]


def test_a_path_that_is_not_utf8_is_refused_before_anything_is_written(
    run: Run, ready: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exports named another folder (`\\udcff`), and `up` ended with an unexpected error."""
    folder = tmp_path / "d\udcff"
    folder.mkdir()
    (folder / "mine.yaml").write_text("extends: cpu-minilm\ndescription: x\n")
    monkeypatch.chdir(folder)
    for words in (("plan",), ("export", "compose"), ("export", "systemd")):
        answer = run(*words, "./mine.yaml", "--json")
        assert answer.code == 2
        assert answer.error["message"].startswith("the profile's path is not UTF-8")


def test_an_export_to_a_dash_goes_to_stdout(
    run: Run, ready: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It made a file of that name, which most commands take for an option."""
    monkeypatch.chdir(tmp_path)
    answer = run("export", "compose", "cpu-minilm", "--output", "-")
    assert "services:" in answer.out
    assert list(tmp_path.glob("-")) == []


def test_what_the_targets_take_is_taken(run: Run, ready: object) -> None:
    names = (
        "qlaunch-cpu:1.0",
        "localhost:5000/a/b_c:latest",
        "registry.example/x@sha256:" + "0" * 64,
    )
    for name in names:
        assert export_words.image(None, None, name) == name
    for name in ("T4:1", "A100-80GB:8", "L4", "tpu-v5e:0.5"):
        assert export_words.card(None, None, name) == name
    for name in ("svc", "1000", "_svc-2", "user@example", "host$"):
        assert export_words.user(None, None, name) == name
    for name in ("qlaunch==1.0", "qlaunch[embed]>=1", "git+https://host/x.git", "./folder"):
        assert export_words.requirement(name) == name
    with pytest.raises(click.BadParameter):
        export_words.requirement("qlaunch=1.0")
    answer = run("export", "systemd", "cpu-minilm", "--scope", "system", "--user", "svc", "--json")
    assert "User=svc\n" in answer.data["unit"]
