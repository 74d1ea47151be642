"""`qlaunch model quantize` from the command line, with a stand-in for the quantiser."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.hardware.inventory import Memory
from launcher.quantize import make
from tests.cli.commandline import Run
from tests.patience import eventually
from tests.quantize import quantizer

MODEL = "qwen3-embedding-0.6b"
NAME = f"{MODEL}-int8"


def quantized(home: Path) -> list[str]:
    """What lies in the folder of quantised models, locks apart."""
    folder = home / "data" / "models" / "quantized"
    names = [path.name for path in folder.iterdir()] if folder.exists() else []
    return sorted(name for name in names if not name.endswith(".lock"))


def test_a_copy_is_made_measured_and_named_by_a_card(run: Run, ready: Path) -> None:
    quantizer.put(ready / "data")
    answer = run("model", "quantize", MODEL, "--to", "int8", "--json")
    assert answer.code == 0
    assert (answer.data["name"], answer.data["new"]) == (NAME, True)
    assert answer.data["measured"]["cosine_worst"] > 0.99
    assert quantized(ready) == [NAME]
    seen = run("model", "inspect", NAME, "--json").data
    assert seen["quantization"] == "compressed-tensors"
    assert seen["fingerprint"] == answer.data["fingerprint"]
    again = run("model", "quantize", MODEL, "--to", "int8", "--json")
    assert (again.code, again.data["new"]) == (0, False)
    forced = run("model", "quantize", MODEL, "--to", "int8", "--again", "--json")
    assert forced.data["new"] is True
    assert run("model", "remove", NAME, "--json").code == 0
    assert quantized(ready) == []
    assert run("model", "inspect", NAME, "--json").error["code"] == "model_unknown"


def test_one_that_misses_the_threshold_is_not_kept(run: Run, ready: Path) -> None:
    quantizer.put(ready / "data", noise=0.5)
    answer = run("model", "quantize", MODEL, "--to", "int8", "--json")
    assert (answer.code, answer.error["code"]) == (7, "quality_too_low")
    assert "the worst cosine is 0." in answer.error["message"]
    assert answer.data["measured"]["texts"] > 100
    assert quantized(ready) == []
    assert not (ready / "config/profiles/models" / f"{NAME}.yaml").exists()
    kept = ("--min-cosine", "0.5", "--max-recall-loss", "1")
    assert run("model", "quantize", MODEL, "--to", "int8", *kept, "--json").code == 0
    # What was kept with less is not enough where more is asked.
    refused = run("model", "quantize", MODEL, "--to", "int8", "--json")
    assert refused.code == 7
    assert quantized(ready) == [NAME]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"fails": "ValueError: odd"}, "was not quantised: ValueError: odd"),
        ({"dies": True}, "its process ended with status 3: ImportError: no such thing"),
    ],
)
def test_a_failing_library_is_one_sentence_and_leaves_nothing(
    told: dict[str, object], said: str, run: Run, ready: Path
) -> None:
    quantizer.put(ready / "data", **told)
    answer = run("model", "quantize", MODEL, "--to", "int4", "--json")
    assert (answer.code, answer.error["code"]) == (1, "quantize_failed")
    assert said in answer.error["message"]
    assert quantized(ready) == []


@pytest.mark.parametrize("words", ["No space left on device (os error 28)", "Disk quota exceeded"])
def test_a_disk_that_becomes_full_is_called_that(words: str, run: Run, ready: Path) -> None:
    """It was `quantize_failed`, and the checkpoint was to be inspected."""
    quantizer.put(ready / "data", fails=f"SafetensorError: I/O error: {words}")
    answer = run("model", "quantize", MODEL, "--to", "int8", "--json")
    assert (answer.code, answer.error["code"]) == (1, "disk_full")
    assert quantized(ready) == []


def test_a_file_of_ours_that_the_disk_refuses_is_called_that_too(
    run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was `models_dir_unusable`, and the folder was to be made writable."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    quantizer.put(ready / "data")
    monkeypatch.setattr(make, "write_atomic", full)
    answer = run("model", "quantize", MODEL, "--to", "int8", "--json")
    assert (answer.code, answer.error["code"]) == (1, "disk_full")
    assert quantized(ready) == []


@pytest.mark.parametrize("again", [(), ("--again",)])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_lies_in_its_place_and_is_not_ours_is_kept(
    kind: str, again: tuple[str, ...], run: Run, ready: Path
) -> None:
    """A folder of the user's was removed, with what was in it."""
    quantizer.put(ready / "data")
    target = ready / "data" / "models" / "quantized" / NAME
    target.parent.mkdir(parents=True)
    if kind == "folder":
        target.mkdir()
    mine = target / "mine" if kind == "folder" else target
    mine.write_text("mine")
    answer = run("model", "quantize", MODEL, "--to", "int8", *again, "--json")
    assert (answer.code, answer.error["code"]) == (9, "model_exists")
    assert mine.read_text() == "mine"
    assert run("model", "quantize", MODEL, "--to", "int8", "--name", "other", "--json").code == 0


def test_what_cannot_be_quantised_is_refused_before_anything_is_installed(
    run: Run, ready: Path
) -> None:
    answer = run("model", "quantize", "all-minilm-l6-v2", "--to", "int8", "--json")
    assert (answer.code, answer.error["code"]) == (2, "checkpoint_unsuitable")
    assert not (ready / "data" / "tools").exists()
    odd = run("model", "quantize", MODEL, "--to", "int8", "--name", "No Name")
    assert odd.code == 2


def test_a_model_that_memory_cannot_hold_is_refused(
    run: Run, ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = Memory(total_bytes=2**30, available_bytes=2**29, limit_bytes=None)
    monkeypatch.setattr("launcher.hardware.memory.read_memory", lambda: little)
    answer = run("model", "quantize", MODEL, "--to", "int8", "--json")
    assert (answer.code, answer.error["code"]) == (4, "does_not_fit")
    assert not (ready / "data" / "tools").exists()


def test_a_card_written_by_hand_is_never_replaced(run: Run, ready: Path) -> None:
    quantizer.put(ready / "data")
    answer = run("model", "quantize", MODEL, "--to", "int8", "--name", MODEL, "--json")
    assert (answer.code, answer.error["code"]) == (9, "model_card_exists")


def test_an_interruption_leaves_no_half_model_and_no_process(ready: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    quantizer.put(ready / "data", hangs=str(mark))
    argv = [sys.executable, "-m", "launcher", "model", "quantize", MODEL, "--to", "int8", "--json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        eventually(mark.exists)
        child.send_signal(signal.SIGTERM)
        out, _ = child.communicate()
    assert child.returncode == 130
    assert b'"interrupted"' in out
    assert quantized(ready) == []
    program = str(ready / "data" / "tools" / "quantizer" / "bin" / "python").encode()
    alive = [p for p in Path("/proc").glob("[0-9]*/cmdline") if program in _read(p)]
    assert alive == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.mark.parametrize(("profile", "to"), [("gpu-2gb-int8", "int8"), ("gpu-2gb-int4", "int4")])
def test_the_profiles_of_small_cards_name_the_command(
    profile: str, to: str, run: Run, ready: Path
) -> None:
    answer = run("plan", profile, "--gpu", "T4", "--json")
    assert (answer.code, answer.error["code"]) == (2, "checkpoint_unsuitable")
    assert f"`qlaunch model quantize {MODEL} --to {to}`" in answer.error["fix"]
