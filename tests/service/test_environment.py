"""What reaches the engine: variables, keys; and what reaches systemd."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from launcher import child_environment
from launcher.errors import QlaunchError
from launcher.plan.guard import UNGUARDED_VARIABLES
from launcher.service import keys
from launcher.service.supervisor.engine_environment import allowed, engine_environment
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.systemd_notify import keep_watchdog, notify


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "CUDA_VISIBLE_DEVICES",
        "OMP_NUM_THREADS",
        "OMP_PLACES",
        "ONEDNN_MAX_CPU_ISA",
        "SGLANG_USE_CPU_ENGINE",
        "XDG_CACHE_HOME",
        "SSL_CERT_FILE",
        "https_proxy",
        "LD_PRELOAD",
        "TOKENIZERS_PARALLELISM",
        "TORCHINDUCTOR_CACHE_DIR",
    ],
)
def test_what_an_engine_needs_passes(name: str) -> None:
    assert allowed(name)


@pytest.mark.parametrize(
    "name",
    [
        "AWS_SECRET_ACCESS_KEY",
        "HF_TOKEN",
        "HUGGINGFACE_HUB_TOKEN",
        "MODELSCOPE_API_TOKEN",
        "SGLANG_API_KEY",
        "OPENAI_API_KEY",
        "QLAUNCH_VERIFY_KEY",
        "NOTIFY_SOCKET",
        "PYTHONPATH",
        "PROMPT",
        "LANG",
        "LC_ALL",
        "NCCL_PASSWORD",
        "QLAUNCH_HOME",
        # Wrong numbers: fewer threads than a product was divided among.
        "OMP_DYNAMIC",
        "OMP_THREAD_LIMIT",
        "KMP_DEVICE_THREAD_LIMIT",
        # Other numbers than the plan's dtype says.
        "ONEDNN_DEFAULT_FPMATH_MODE",
        # Ended a start: "reinstall the engine", "invalid literal for int()", TORCH_LIBRARY.
        "SGLANG_USE_MODELSCOPE",
        "HF_HUB_ETAG_TIMEOUT",
        "MODELSCOPE_CACHE",
        "TORCH_LOGS",
        # Left qlaunch's plugin out: twice the memory that was predicted.
        "SGLANG_PLUGINS",
        *UNGUARDED_VARIABLES,
    ],
)
def test_what_it_does_not_need_stays(name: str) -> None:
    assert not allowed(name)


def test_the_plan_has_the_last_word_and_the_marker_is_added() -> None:
    env = engine_environment(
        {"PATH": "/bin", "OMP_NUM_THREADS": "8", "SECRET": "x"},
        {"OMP_NUM_THREADS": "2", "PYTHONPATH": "/standins"},
        ("QLAUNCH_RUN", "r"),
    )
    assert env == {
        **child_environment.TEXT,
        "PATH": "/bin",
        "OMP_NUM_THREADS": "2",
        "PYTHONPATH": "/standins",
        "QLAUNCH_RUN": "r",
    }


def key_file(folder: Path, data: bytes, mode: int = 0o600) -> str:
    path = folder / "key"
    path.write_bytes(data)
    path.chmod(mode)
    return str(path)


def test_a_key_is_read_without_its_newline_and_written_privately(tmp_path: Path) -> None:
    key = keys.read_key(key_file(tmp_path, b"  sk-AZaz09._~+/=-\n"))
    assert key == "sk-AZaz09._~+/=-"
    config = tmp_path / "config.yaml"
    keys.write_secrets_config(config, key)
    assert config.read_text() == 'api-key: "sk-AZaz09._~+/=-"\n'
    assert config.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("data", "mode"),
    [
        (b"", 0o600),
        (b"\n", 0o600),
        (b"two words", 0o600),
        (b"a\nb", 0o600),
        (b"caf\xc3\xa9", 0o600),
        (b'qu"ote', 0o600),
        (b"x" * 5000, 0o600),
        (b"key", 0o644),
        (b"key", 0o640),
    ],
)
def test_an_unusable_key_is_refused_without_being_shown(
    tmp_path: Path, data: bytes, mode: int
) -> None:
    with pytest.raises(QlaunchError) as caught:
        keys.read_key(key_file(tmp_path, data, mode))
    assert (caught.value.code, caught.value.exit_code) == ("api_key_unusable", 2)
    if len(data) > 3:
        assert data.decode() not in str(caught.value)


def test_a_missing_symlinked_or_special_key_file_is_refused(tmp_path: Path) -> None:
    real = key_file(tmp_path, b"key")
    link = tmp_path / "link"
    link.symlink_to(real)
    for path in (str(tmp_path / "none"), str(link), str(tmp_path)):
        with pytest.raises(QlaunchError):
            keys.read_key(path)


def test_systemd_hears_by_path_and_by_abstract_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")
    for address, bound in (
        (str(tmp_path / "s"), str(tmp_path / "s")),
        (f"@qlaunch-{tmp_path.name}", f"\0qlaunch-{tmp_path.name}"),
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            listener.bind(bound)
            listener.settimeout(2)
            monkeypatch.setenv("NOTIFY_SOCKET", address)
            assert notify("READY=1", "STATUS=two\nlines")
            assert listener.recv(100) == b"READY=1\nSTATUS=two lines"


def test_the_watchdog_is_fed_from_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"qlaunch-dog-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind("\0" + name)
        listener.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        loop = Loop()
        for usec, pid in (("0", str(os.getpid())), ("soon", "1"), ("20000", "1")):
            monkeypatch.setenv("WATCHDOG_USEC", usec)
            monkeypatch.setenv("WATCHDOG_PID", pid)
            keep_watchdog(loop)  # not for us
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        keep_watchdog(loop)
        loop.turn()
        loop.turn()
        assert [listener.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
        loop.close()


@pytest.mark.parametrize("address", ["relative", "/no/such/socket", "@nobody-listens"])
def test_a_manager_that_is_not_there_is_no_failure(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")
