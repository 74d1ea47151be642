"""The front freezes its heap when it listens, and a sound start leaves no traceback."""

from __future__ import annotations

import socket
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from launcher.engine import command
from tests.patience import PATIENCE_S

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import timely_freeze


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """SGLang's server module as the hook finds it, with the hook in place."""
    module = ModuleType(timely_freeze._SERVER)
    module.__dict__[timely_freeze._FREEZE] = lambda args: f"frozen at {args.url()}"
    monkeypatch.setitem(sys.modules, timely_freeze._SERVER, module)
    assert timely_freeze._around(lambda *args: args, 1, 2) == (1, 2)
    return module


def _arguments(port: int) -> SimpleNamespace:
    return SimpleNamespace(url=lambda: f"http://127.0.0.1:{port}")


def test_it_waits_until_the_front_listens(server: ModuleType) -> None:
    """Asked for at once, it was refused: nothing was frozen."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        found: list[str] = []
        freeze = getattr(server, timely_freeze._FREEZE)
        thread = threading.Thread(target=lambda: found.append(freeze(_arguments(port))))
        thread.start()
        time.sleep(0.1)
        assert not found
        listener.listen()
        thread.join(PATIENCE_S)
        assert found == [f"frozen at http://127.0.0.1:{port}"]


def test_a_front_that_never_listens_is_asked_in_the_end(
    server: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SGLang then says what is wrong."""
    monkeypatch.setattr(timely_freeze, "LIMIT_S", 0.1)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert getattr(server, timely_freeze._FREEZE)(_arguments(port)).startswith("frozen")


def test_an_engine_without_a_server_or_a_freeze_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delitem(sys.modules, timely_freeze._SERVER, raising=False)
    assert timely_freeze._around(lambda: "set") == "set"
    module = ModuleType(timely_freeze._SERVER)
    monkeypatch.setitem(sys.modules, timely_freeze._SERVER, module)
    assert timely_freeze._around(lambda: "set") == "set"
    assert not hasattr(module, timely_freeze._FREEZE)
