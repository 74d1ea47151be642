"""Options that a profile gives for single engine releases."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.config.loading import load_profile
from launcher.config.settings import ConfigValues, UserConfig, for_release, resolve
from launcher.errors import QlaunchError

_PROFILE = """\
title: t
hardware: {device: cuda}
engine: auto
model: m
flags:
  context-length: 4096
  max-running-requests: 8
flags_by_engine:
  cuda12:
    max-running-requests: 4
    disable-piecewise-cuda-graph: true
"""


def _write(tmp_path: Path, text: str = _PROFILE) -> Path:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    return path


def test_a_releases_own_options_go_before_those_for_all(tmp_path: Path) -> None:
    path = _write(tmp_path)
    loaded = load_profile(str(path), tmp_path)
    asked = resolve(loaded, {}, {}, UserConfig())
    assert asked.engine == "auto"
    on12 = for_release(asked, loaded, "cuda12")
    assert on12.engine == "cuda12"
    assert on12.flags == {
        "context-length": 4096,
        "max-running-requests": 4,
        "disable-piecewise-cuda-graph": True,
    }
    assert on12.sources["flags.max-running-requests"] == f"profile {path}:10"
    assert "chosen by the hardware" in on12.sources["engine"]
    on13 = for_release(asked, loaded, "cuda13")
    assert on13.flags == {"context-length": 4096, "max-running-requests": 8}
    assert asked.flags["max-running-requests"] == 8


def test_only_the_command_line_goes_before_them(tmp_path: Path) -> None:
    loaded = load_profile(str(_write(tmp_path)), tmp_path)
    config = UserConfig(ConfigValues(flags={"max-running-requests": 99}))
    given = {"flags": {"max-running-requests": 2}}
    assert (
        for_release(resolve(loaded, given, {}, config), loaded, "cuda12").flags[
            "max-running-requests"
        ]
        == 2
    )
    assert (
        for_release(resolve(loaded, {}, {}, config), loaded, "cuda12").flags["max-running-requests"]
        == 4
    )


def test_an_engine_that_was_named_keeps_its_source(tmp_path: Path) -> None:
    loaded = load_profile(str(_write(tmp_path)), tmp_path)
    asked = resolve(loaded, {"engine": "cuda12"}, {}, UserConfig())
    assert for_release(asked, loaded, "cuda12").sources["engine"] == "command line"


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (("max-running-requests: 4", "model-path: x"), 10, "set by qlaunch itself"),
        (("max-running-requests: 4", "offload-group-size: 4"), 10, "crashes the engine"),
        (("max-running-requests: 4", "cpu-offload-gb: 0.5"), 10, "whole gibibytes"),
        (("  cuda12:", "  CUDA12:"), 10, "engine release"),
        (("title: t", "title: t\ncheckpoint: {quantization: []}"), 2, "quantization"),
        (("title: t", "title: t\ncheckpoint: {quantisation: [gptq]}"), 2, "did you mean"),
    ],
)
def test_what_is_wrong_in_them_is_found(
    tmp_path: Path, change: tuple[str, str], line: int, said: str
) -> None:
    path = _write(tmp_path, _PROFILE.replace(*change))
    with pytest.raises(QlaunchError) as caught:
        load_profile(str(path), tmp_path)
    assert caught.value.exit_code == 2
    assert f"p.yaml:{line}:" in caught.value.message
    assert said in f"{caught.value.message} {caught.value.fix}"


def test_only_gpus_are_shared(tmp_path: Path) -> None:
    text = "title: t\nhardware: {device: cpu, shared: true}\nengine: cpu\nmodel: m\n"
    with pytest.raises(QlaunchError, match=r"`hardware\.shared` is about a GPU"):
        load_profile(str(_write(tmp_path, text)), tmp_path)
