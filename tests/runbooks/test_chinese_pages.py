"""README.zh.md and docs/zh/quickstart.md: every command typed, the mirrors by a real server."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

import pytest

from tests.pages import DOCS, commands
from tests.runbooks import home
from tests.runbooks.home import OnCall

MIRROR: Final = "https://镜像地址"
README, QUICKSTART = DOCS.parent / "README.zh.md", DOCS / "zh" / "quickstart.md"


class Mirror(BaseHTTPRequestHandler):
    """Answers as an index and a hub do; what was asked is kept."""

    asked: list[str] = []  # noqa: RUF012 - one server at a time

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


@pytest.fixture
def mirror() -> Iterator[str]:
    Mirror.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def on_call(tmp_path: Path) -> Iterator[OnCall]:
    made = home.make(tmp_path)
    yield made
    made.leave()


def typed(page: str, on_call: OnCall, mirror: str) -> None:
    for each in commands(page):
        shown = tuple(line.replace(MIRROR, mirror) for line in each.shown)
        command = each.command.replace(MIRROR, mirror)
        if command != each.command:  # what is asked must really be asked
            command = f"env -u QLAUNCH_OFFLINE PIP_CONFIG_FILE=/dev/null {command}"
        on_call.follows(dataclasses.replace(each, command=command, shown=shown))


def test_the_readme(on_call: OnCall, mirror: str) -> None:
    typed("../README.zh.md", on_call, mirror)


def test_the_quick_start(on_call: OnCall, mirror: str) -> None:
    typed("zh/quickstart.md", on_call, mirror)
    lines = (on_call.here / "vectors.jsonl").read_text("utf-8").splitlines()
    assert [len(json.loads(line)["embedding"]) for line in lines] == [384, 384]
    assert any(path.startswith("/simple/") for path in Mirror.asked)
    assert any(path.startswith("/api/models/") for path in Mirror.asked)


@pytest.mark.parametrize("page", [README, QUICKSTART], ids=lambda path: path.name)
def test_every_command_is_typed_and_the_question_comes_first(page: Path) -> None:
    text = page.read_text("utf-8")
    found = commands(f"../{page.name}" if page == README else f"zh/{page.name}")
    assert len(found) == len(re.findall(r"^\$ ", text, re.MULTILINE)) > 5
    first = re.findall(r"^## (.*)$", text, re.MULTILINE)[0]
    assert "CPU offload" in first
    for word in ("PIP_INDEX_URL", "HF_ENDPOINT", "modelscope:"):
        assert word in QUICKSTART.read_text("utf-8")
