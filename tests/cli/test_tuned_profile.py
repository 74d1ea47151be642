"""The profile that `tune` writes keeps what its author wrote, comments above all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.app.tuned_profile import edited
from launcher.bench.tune import Overlay
from launcher.config.loading import LoadedProfile, load_profile, shipped_dir

TEXT = """\
# My profile, after a long week.
title: 'Mine'   # a title
hardware: {device: cpu, min_ram: "2GiB"}
engine: cpu
model: ./model

# Not for the night shift.
threads: auto
flags:
  # Measured on a Tuesday.
  max-running-requests: 64   # twice the usual
  sleep-on-idle: true
# The last word.
fallback:
  - max-total-tokens: 0x800
"""
PICK = Overlay(settings={"threads": 2}, flags={"max-running-requests": 32, "dp-size": 2})


def load(folder: Path, text: str, name: str = "mine") -> LoadedProfile:
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return load_profile(str(path), folder)


def again(folder: Path, text: str) -> LoadedProfile:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "mine-tuned.yaml").write_text(text)
    return load_profile(str(elsewhere / "mine-tuned.yaml"), folder)


def test_every_comment_and_everything_unchanged_stays_as_it_was_written(tmp_path: Path) -> None:
    text = edited(TEXT, load(tmp_path, TEXT), PICK, None)
    assert (
        text
        == f"""\
# My profile, after a long week.
title: 'Mine (tuned)' # a title
hardware: {{device: cpu, min_ram: "2GiB"}}
engine: cpu
model: {tmp_path / "model"}

# Not for the night shift.
threads: 2 # tuned; was auto
flags:
  # Measured on a Tuesday.
  max-running-requests: 32 # tuned; was 64; twice the usual
  sleep-on-idle: true
  dp-size: 2 # tuned; not there before
# The last word.
fallback:
  - max-total-tokens: 0x800
"""
    )
    profile = again(tmp_path, text).profile
    assert profile.threads == 2
    assert profile.flags == {"max-running-requests": 32, "sleep-on-idle": True, "dp-size": 2}
    assert profile.fallback == [{"max-total-tokens": 2048}]


def test_the_comments_around_a_changed_line_stay(tmp_path: Path) -> None:
    base = load_profile("cpu-minilm", tmp_path)
    before = base.path.read_text()
    pick = Overlay(settings={"threads": 2}, flags={"max-running-requests": 32, "dp-size": 2})
    text = edited(before, base, pick, None)
    changed = ("title:", "threads:", "  max-running-requests:")
    assert [line for line in before.splitlines() if not line.startswith(changed)] == [
        line for line in text.splitlines() if not line.startswith((*changed, "  dp-size:"))
    ]
    assert "  max-running-requests: 32 # tuned; was 64\n  # With chunking off" in text


def test_new_sections_come_after_the_old_ones(tmp_path: Path) -> None:
    text = TEXT.partition("threads:")[0] + "fallback:\n  - a: 1\n  - b: 2 # two\n# At the end.\n"
    written = edited(text, load(tmp_path, text), PICK, None)
    assert written.endswith(
        "fallback:\n  - a: 1\n  - b: 2 # two\n"
        "threads: 2 # tuned; was auto\n# At the end.\n"
        "flags:\n  max-running-requests: 32 # tuned; not there before\n"
        "  dp-size: 2 # tuned; not there before\n"
    )
    assert again(tmp_path, written).profile.threads == 2


def test_a_child_stays_a_child(tmp_path: Path) -> None:
    parent = load(tmp_path, TEXT, "parent").profile
    child = "# Only mine.\nextends: ./parent.yaml\n"
    text = edited(child, load(tmp_path, child), PICK, parent)
    assert "# Only mine." in text
    assert f"extends: {tmp_path / 'parent.yaml'}\n" in text
    assert "sleep-on-idle" not in text
    loaded = again(tmp_path, text)
    assert loaded.profile.flags["sleep-on-idle"] is True
    assert loaded.profile.flags["max-running-requests"] == 32
    assert loaded.profile.measured is True


@pytest.mark.parametrize("inherited", [False, True])
def test_an_older_value_for_one_engine_does_not_win_over_the_pick(
    inherited: bool, tmp_path: Path
) -> None:
    text = TEXT + "flags_by_engine:\n  cpu:\n    dp-size: 4\n    log-level: debug\n"
    base = load(tmp_path, text)
    parent = None
    if inherited:
        parent, text = base.profile, "extends: mine\n"
        (tmp_path / "child.yaml").write_text(text)
        base = load_profile("child", tmp_path)
    written = edited(text, base, PICK, parent)
    assert ("dp-size: null" in written) is inherited
    profile = again(tmp_path, written).profile
    assert profile.flags_by_engine == {"cpu": {"log-level": "debug"}}
    assert profile.flags["dp-size"] == 2


def test_flags_on_one_line_stay_on_one_line(tmp_path: Path) -> None:
    text = TEXT.partition("flags:")[0] + "flags: {max-running-requests: 64}\n"
    written = edited(text, load(tmp_path, text), PICK, None)
    assert "flags: {max-running-requests: 32, dp-size: 2}" in written


@pytest.mark.parametrize("name", sorted(path.stem for path in shipped_dir().glob("*.yaml")))
def test_shipped_profiles_survive_it_line_by_line(name: str, tmp_path: Path) -> None:
    base = load_profile(name, tmp_path)
    parent = load_profile(str(base.parents[0]), tmp_path).profile if base.parents else None
    before = base.path.read_text().splitlines()
    after = edited(base.path.read_text(), base, Overlay(), parent).splitlines()
    gone = [line for line in before if line not in after]
    assert all(line.startswith(("title:", "measured:")) for line in gone), gone


def test_the_library_is_imported_by_tune_alone() -> None:
    code = (
        "import sys, launcher.cli.tune, launcher.app.prepare, launcher.cli.up;"
        "print([name for name in sys.modules if name.startswith('ruamel')])"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
