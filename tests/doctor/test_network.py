"""`doctor` asks indexes and hubs: real servers on loopback, one for each way not to answer."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher import extras
from launcher.doctor import network
from launcher.doctor.runner import Finding, run
from launcher.network import hubs
from launcher.pip_settings import Settings
from tests.network import servers
from tests.patience import PATIENCE_S, no_hang

JSON = "Content-Type: application/json"


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PIP_", "HF_", "REQUESTS_", "CURL_")) or "proxy" in name.lower():
            monkeypatch.delenv(name)


@pytest.fixture
def stop() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def index(url: str, **settings: str) -> Finding:
    variables = {f"PIP_{name.upper()}": value for name, value in settings.items()}
    return network.index_finding("package index", f"{url}/simple", Settings(variables, ()))


def hub(url: str, monkeypatch: pytest.MonkeyPatch, kind: str = "hf") -> Finding:
    monkeypatch.setattr(hubs, "endpoint", lambda _kind: url)
    return network.hub_finding(kind, "hub", os.environ)


@pytest.mark.parametrize(
    ("status", "headers", "says"),
    [
        ("401 Unauthorized", (), "asks for credentials"),
        ("403 Forbidden", (), "refuses access (HTTP 403)"),
        ("404 Not Found", (), "does not have it (HTTP 404)"),
        ("429 Too Many Requests", ("Retry-After: 9",), "(HTTP 429) (it asks you to wait 9 s)"),
        ("502 Bad Gateway", (), "has an error of its own (HTTP 502)"),
    ],
)
def test_an_index_that_refuses_is_named_with_its_answer(
    status: str, headers: tuple[str, ...], says: str
) -> None:
    with servers.listen(servers.answers(status, *headers)) as server:
        found = index(server.url)
    assert found.status == "warning"
    assert found.message == f"{server.url} {says}" or says in found.message
    assert server.url in found.message
    assert "doctor --offline" in (found.fix or "")


def test_an_index_that_answers() -> None:
    with servers.listen(servers.answers("200 OK", "Content-Type: text/html")) as server:
        found = index(server.url)
        assert server.asked == [b"GET /simple/pip/ HTTP/1.1"]
    assert (found.status, found.message) == ("ok", f"{server.url} answers")


def test_pips_own_certificates_and_trusted_hosts_hold(tmp_path: Path) -> None:
    context, authority = servers.certificate(tmp_path)
    with servers.listen(servers.answers("200 OK"), context) as server:
        untrusted = index(server.url)
        assert (untrusted.status, "no trusted TLS" in untrusted.message) == ("warning", True)
        assert "PIP_CERT" in (untrusted.fix or "")
        assert index(server.url, cert=str(authority)).status == "ok"
        assert index(server.url, trusted_host="127.0.0.1").status == "ok"


def test_pips_own_proxy_is_asked_and_named_without_its_password() -> None:
    with servers.listen(servers.answers("407 Proxy Authentication Required")) as proxy:
        address = proxy.url.replace("//", "//me:hunter2@")
        found = index("https://index.example", proxy=address)
    assert found.message == f"the proxy {proxy.url} asks for a user and a password (HTTP 407)"
    assert "hunter2" not in f"{found.message} {found.fix}"


def test_an_http_index_that_pip_ignores_is_told_and_not_asked() -> None:
    found = index("http://index.example")
    assert (found.status, "PIP_TRUSTED_HOST" in found.message) == ("warning", True)


@pytest.mark.parametrize("there", [True, False])
def test_an_index_that_is_a_folder(there: bool, tmp_path: Path) -> None:
    (tmp_path / "simple").mkdir() if there else None
    found = index(f"file://{tmp_path}")
    assert found.status == ("ok" if there else "warning")
    assert str(tmp_path / "simple") in found.message


@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "404 Not Found"])
def test_a_hub_that_does_not_have_the_model_answers_all_the_same(
    status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.listen(servers.answers(status, JSON)) as server:
        found = hub(server.url, monkeypatch)
    assert (found.status, found.message) == ("ok", f"{server.url} answers")


def test_a_token_that_the_hub_refuses_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    with servers.listen(servers.answers("401 Unauthorized", JSON)) as server:
        found = hub(server.url, monkeypatch)
    assert found.status == "warning"
    assert "HF_TOKEN" in (found.fix or "")
    assert "secretsecret" not in f"{found.message} {found.fix}"


def test_a_login_page_is_no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    page = servers.answers("200 OK", "Content-Type: text/html", body=b"<html>Log in</html>")
    with servers.listen(page) as server:
        found = hub(server.url, monkeypatch, "modelscope")
    assert found.status == "warning"
    assert "something other than what was asked for (HTTP 200, text/html)" in found.message


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = f"http://127.0.0.1:{servers.free_port()}"
    assert f"{nowhere} cannot be reached (" in hub(nowhere, monkeypatch).message
    unknown = hub("https://no-such-hub.invalid", monkeypatch)
    assert "the name no-such-hub.invalid cannot be resolved" in unknown.message


def test_modelscope_whose_client_wants_a_home_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was: this could not be checked: RuntimeError."""

    def homeless(_kind: str) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(hubs, "endpoint", homeless)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    found = network.hub_finding("modelscope", "hub", os.environ)
    assert (found.status, found.fix) == ("unavailable", extras.NEEDS_HOME)


def test_modelscope_without_its_client_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    found = network.hub_finding("modelscope", "hub", os.environ)
    assert (found.status, "not installed" in found.message) == ("unavailable", True)


def test_servers_that_trickle_or_say_nothing_are_cut_and_named(
    stop: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "LIMIT_S", 1.0)
    slow, silent = servers.trickles(stop), servers.says_nothing(stop)
    with servers.listen(slow) as one, servers.listen(silent) as two, no_hang():
        environ = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{one.url}/simple",
            "PIP_EXTRA_INDEX_URL": f"{two.url}/simple",
            "HF_HUB_OFFLINE": "1",
        }
        checks = [c for c in network.checks(environ, offline=False) if "index" in c.name]
        first, second = run(checks)
        stop.set()
    assert first.message == f"{one.url} gave no answer within 1 s"
    assert second.message == f"{two.url} gave no answer within 1 s"
    assert max(first.seconds, second.seconds) < PATIENCE_S


def test_offline_nobody_is_asked() -> None:
    with servers.listen(servers.answers("200 OK")) as server:
        environ = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": server.url}
        found = run(list(network.checks(environ, offline=True)))
        assert server.asked == []
    assert [finding.name for finding in found] == ["package index", "hugging face", "modelscope"]
    assert {finding.status for finding in found} == {"ok"}


@pytest.mark.parametrize("switch", [["--offline"], []], ids=["option", "variable"])
def test_the_command_asks_what_is_configured_unless_it_is_told_not_to(
    switch: list[str], tmp_path: Path
) -> None:
    with servers.listen(servers.answers("503 Service Unavailable", JSON)) as server:
        environ = os.environ | {
            "QLAUNCH_HOME": str(tmp_path / "home"),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{server.url}/simple",
            "HF_ENDPOINT": server.url,
            "MODELSCOPE_ENDPOINT": server.url,
        }
        asked = doctor(environ)
        for name in ("package index", "hugging face", "modelscope"):
            assert asked[name]["status"] == "warning", asked[name]
            assert server.url in asked[name]["message"]
        count = len(server.asked)
        assert count >= 3
        off = doctor(environ | ({} if switch else {"QLAUNCH_OFFLINE": "1"}), *switch)
        assert len(server.asked) == count
    assert "not asked" in off["hugging face"]["message"]


def doctor(environ: dict[str, str], *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "doctor", "--json", *words],
        env=environ,
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr
    return {check["name"]: check for check in json.loads(done.stdout)["data"]["checks"]}
