"""docs/runbooks: every page typed from first line to last, on a machine that has the trouble.

The engine is the fake one; `first-deploy.md` is typed on the real one (tests/engine_real).
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.pages import DOCS, Typed, commands
from tests.patience import HANG_S, eventually
from tests.runbooks import home
from tests.runbooks.home import OnCall

PAGES: Final = sorted(page.name for page in (DOCS / "runbooks").glob("*.md"))
STEPS: Final = ["Symptom", "Look", "Act", "Prove", "Undo"]
ELSEWHERE: Final = {"README.md", "first-deploy.md"}
UP: Final = "qlaunch up cpu-minilm --quiet"

Between = Callable[[Typed], None]
"""Called with each command before it is typed."""


@pytest.fixture
def on_call(tmp_path: Path) -> Iterator[OnCall]:
    made = home.make(tmp_path)
    yield made
    made.leave()


def serving(on_call: OnCall, *words: str) -> None:
    done = on_call.types(" ".join((UP, *words)))
    assert done.returncode == 0, done.stdout


def plain(on_call: OnCall) -> Between:
    """A service that runs."""
    serving(on_call)
    return lambda _typed: None


def nothing(on_call: OnCall) -> Between:
    """A machine that serves nothing."""
    return lambda _typed: None


def oom(on_call: OnCall) -> Between:
    """The engine asks for more memory than there is, until it is asked to take less."""
    text = on_call.here.parent / "log"
    text.write_text(
        "RuntimeError: [enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
        "allocate memory: you tried to allocate 68719476736 bytes. Error code 12 (Cannot allocate "
        "memory)\n"
    )
    on_call.switches("--print", str(text), "--exit-code", "1")
    done = on_call.types(UP)
    assert done.returncode == 6, done.stdout
    state = on_call.data("status cpu-minilm")
    assert state["failure"]["failure_class"] == "ram_exhausted"

    def between(typed: Typed) -> None:
        if typed.section == "Act":
            on_call.switches()

    return between


def wedged(on_call: OnCall) -> Between:
    """Embeddings hang, and /health is 200."""
    flag = on_call.here.parent / "hangs"
    on_call.switches("--hang-flag", str(flag))
    # After three failures the supervisor restarts it, and the page looks at it before that: two
    # commands, which took 5 s on a busy machine.
    on_call.looks_every(8.0)
    serving(on_call)

    def between(typed: Typed) -> None:
        if typed.command == "qlaunch ps":
            flag.touch()
            on_call.becomes("degraded")
        elif typed.section == "Act":
            flag.unlink()

    return between


def wrong(on_call: OnCall) -> Between:
    """The engine's vectors change while it runs."""
    flag = on_call.here.parent / "other"
    on_call.switches("--other-vectors", str(flag))
    serving(on_call)
    flag.write_text("other")
    on_call.becomes("failed")
    flag.unlink()
    return lambda _typed: None


def keyed(on_call: OnCall) -> Between:
    """A service with a key."""
    for name in ("old-key", "api-key", "gateway-keys"):
        path = on_call.here / name
        path.write_text("an-old-key-that-was-used-for-long\n")
        path.chmod(0o600)
    serving(on_call, "--api-key-file", "api-key")
    return lambda _typed: None


def stands(on_call: OnCall) -> bool:
    """Start a gateway on the usual port, which the page's commands take for granted; False while
    someone else has it, as another run of these tests may for some seconds."""
    gateway = subprocess.Popen(
        ["qlaunch", "gateway", "cpu-minilm"],
        env=on_call.env,
        cwd=on_call.here,
        stdout=subprocess.PIPE,
        text=True,
    )
    on_call.beside.append(gateway)
    assert gateway.stdout is not None
    return gateway.stdout.readline().startswith("gateway")


def cached(on_call: OnCall) -> Between:
    """A gateway before the service, with vectors in its cache."""
    serving(on_call)
    eventually(lambda: stands(on_call), HANG_S)
    (on_call.here / "some.txt").write_text("some text\nanother one\n")
    warm = "qlaunch cache warm some.txt --model all-minilm-l6-v2"
    assert on_call.types(warm).returncode == 0
    eventually(lambda: on_call.data("cache stats")["entries"] == 2, HANG_S)

    def between(typed: Typed) -> None:
        if typed.command == "qlaunch cache stats" and typed.section == "Prove":
            assert on_call.data("cache stats")["entries"] == 0

    return between


def crowded(on_call: OnCall) -> Between:
    """A service with a record of lives that are over."""
    serving(on_call)
    for _ in range(2):
        assert on_call.types("qlaunch restart cpu-minilm").returncode == 0
    return lambda _typed: None


def without_a_network(on_call: OnCall) -> Between:
    """A machine with a network until the bundle is carried over, then one where nothing is."""
    on_call.env |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    if on_call.types("pip download --quiet --no-deps --dest tried iniconfig").returncode:
        pytest.skip("no package index can be reached")
    there = on_call.here.parent / "there"

    def between(typed: Typed) -> None:
        if typed.command.startswith("tar "):
            del on_call.env["PYTHONPATH"]
            on_call.env |= {"QLAUNCH_HOME": str(there), "PIP_NO_INDEX": "1"}
            assert not there.exists()

    return between


SCENES: Final[dict[str, Callable[[OnCall], Between]]] = {
    "air-gapped.md": without_a_network,
    "upgrade.md": plain,
    "oom.md": oom,
    "wedged-server.md": wedged,
    "wrong-vectors.md": wrong,
    "key-rotation.md": keyed,
    "cache-purge.md": cached,
    "cpu-to-gpu.md": nothing,
    "four-gigabytes.md": nothing,
    "disk-full.md": crowded,
}


@pytest.mark.parametrize("page", sorted(SCENES))
def test_every_command_of_a_runbook_does_what_it_says(page: str, on_call: OnCall) -> None:
    between = SCENES[page](on_call)
    for typed in commands(f"runbooks/{page}"):
        between(typed)
        on_call.follows(typed)


def test_every_runbook_is_typed_by_a_test() -> None:
    assert set(PAGES) == set(SCENES) | ELSEWHERE


@pytest.mark.parametrize("page", [page for page in PAGES if page != "README.md"])
def test_a_runbook_has_its_five_steps(page: str) -> None:
    text = (DOCS / "runbooks" / page).read_text("utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == STEPS
    assert f"]({page})" in (DOCS / "runbooks" / "README.md").read_text("utf-8")
    assert len(commands(f"runbooks/{page}")) == len(re.findall(r"^\$ ", text, re.MULTILINE)) > 2
    assert len(text.splitlines()) <= 90
