"""Every fetcher against servers that misbehave: the real huggingface_hub, modelscope and pip.

Each case is one process, since the libraries read their environment when they are imported; in it
the three fetchers of models ask the same server in turn, and pip as engines are installed with.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.network import servers
from tests.patience import PATIENCE_S

PROGRAM = """
import json, os, sys
from pathlib import Path
from launcher.engine.environments import pip
from launcher.errors import QlaunchError
from launcher.model.fetch import pull
from launcher.model.source import parse_source

folder = Path(sys.argv[1])
def engine():
    options = [*pip._OPTIONS, *pip._log_option(folder), "--target", str(folder / "target")]
    argv = [sys.argv[3], "-m", "pip", "install", *options, "--", "tiny-engine==1.0"]
    pip._run("cpu", folder, argv, lambda _line: None)

def model(text):
    return lambda: pull(parse_source(text), models_dir=folder / "models")

answers = {}
for name, fetch in {
    "hf": model("hf:acme/tiny"), "modelscope": model("modelscope:acme/tiny"),
    "package": model("package:tiny-model"), "engine": engine,
}.items():
    if name not in sys.argv[2].split(","):
        continue
    try:
        fetch()
        answers[name] = None
    except QlaunchError as error:
        answers[name] = {"code": error.code, "exit": int(error.exit_code),
                         "message": error.message, "fix": error.fix}
print(json.dumps(answers))
"""
ALL = ("hf", "modelscope", "package", "engine")
VARIABLES = {
    "hf": ("HF_ENDPOINT", "SSL_CERT_FILE", "HF_TOKEN"),
    "modelscope": ("MODELSCOPE_ENDPOINT", "REQUESTS_CA_BUNDLE", "MODELSCOPE_API_TOKEN"),
    "package": ("PIP_INDEX_URL", "PIP_CERT", "PIP_INDEX_URL"),
    "engine": ("PIP_INDEX_URL", "PIP_CERT", "PIP_INDEX_URL"),
}
Answers = dict[str, dict[str, Any]]


LIMITS = (
    "HF_HUB_DOWNLOAD_TIMEOUT",
    "HF_HUB_ETAG_TIMEOUT",
    "MODELSCOPE_REPO_TREE_LIST_TIMEOUT_SECONDS",
    "PIP_DEFAULT_TIMEOUT",
)
SHORT = dict.fromkeys(LIMITS, "2")
"""For servers that do not answer; others may take their time on a busy machine."""


def environment(folder: Path, url: str, changes: dict[str, str]) -> dict[str, str]:
    """One address for all, no second tries, nothing of this machine's settings."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "MODELSCOPE_", "PIP_", "SSL_", "REQUESTS_"))
        and "proxy" not in key.lower()
    }
    own = {
        "HOME": str(folder),
        "QLAUNCH_HOME": str(folder / "home"),
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "MODELSCOPE_ENDPOINT": url,
        "MODELSCOPE_CACHE": str(folder / "modelscope"),
        "MODELSCOPE_HOME": str(folder / "modelscope-home"),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": f"{url}/simple",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }
    return {**inherited, **own, **dict.fromkeys(LIMITS, "60"), **changes}


def fetch(
    folder: Path,
    url: str,
    changes: dict[str, str] | None = None,
    *,
    fetchers: Iterable[str] = ALL,
    python: str = sys.executable,
) -> Answers:
    """What each fetcher says; None where it got what it asked for."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), ",".join(fetchers), python],
        env=environment(folder, url, changes or {}),
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    answers: Answers = json.loads(done.stdout.splitlines()[-1])
    return answers


@dataclass
class Case:
    """A way to fail: what serves, and what has to be said of it."""

    name: str
    code: str
    says: str
    fix: str = ""
    """Part of the fix; {address}, {certificates}, {token} are each library's own variables."""
    talk: Callable[[threading.Event], servers.Talk] | None = None
    tls: bool = False
    fetchers: tuple[str, ...] = ALL
    exits: dict[str, int] = field(default_factory=dict)
    """Where another than 1 for models: a fetcher's own."""

    def __str__(self) -> str:
        return self.name


def always(talk: servers.Talk) -> Callable[[threading.Event], servers.Talk]:
    return lambda _stop: talk


HUBS = ("hf", "modelscope")
PIPS = ("package", "engine")
REFUSED = {"hf": 2, "modelscope": 2, "package": 2}
CASES = [
    Case("refused", "connection_failed", "cannot be reached (Connection refused)", "{address}"),
    Case(
        "silent", "network_timeout", "did not answer in time", "mirror in {address}",
        servers.says_nothing,
    ),
    Case("reset", "connection_lost", "broke off", "run it again", always(servers.resets)),
    Case("hangs up", "connection_lost", "broke off", "run it again", always(servers.hangs_up)),
    Case(
        "401", "unauthorized", "asks for credentials", "{token}",
        always(servers.answers("401 Unauthorized")), exits=REFUSED,
    ),
    Case(
        "403", "forbidden", "refuses access (HTTP 403)", "{token}",
        always(servers.answers("403 Forbidden")), fetchers=("hf", *PIPS), exits=REFUSED,
    ),
    Case(
        "403 of ModelScope", "model_gated", "is gated, or closed to this account", "{token}",
        always(servers.answers("403 Forbidden")), fetchers=("modelscope",), exits=REFUSED,
    ),
    Case(
        "404", "model_not_found", "no", "check the spelling",
        always(servers.answers("404 Not Found")),
        fetchers=(*HUBS, "package"), exits=REFUSED,
    ),
    Case(
        "429", "rate_limited", "limits how often it may be asked (HTTP 429)", "wait",
        always(servers.answers("429 Too Many Requests", "Retry-After: 7")),
    ),
    Case(
        "503", "server_failed", "has an error of its own (HTTP 503)", "mirror in {address}",
        always(servers.answers("503 Service Unavailable")),
    ),
    Case(
        "login page", "unexpected_answer", "something other than what was asked for", "login page",
        always(servers.answers("200 OK", "Content-Type: text/html", body=b"<html>Log in</html>")),
        fetchers=HUBS,
    ),
    Case(
        "redirects in a circle", "unexpected_answer", "(redirects without an end)", "login page",
        always(servers.answers("302 Found", "Location: /again", body=b"")), fetchers=HUBS,
    ),
    Case(
        "a list", "unexpected_answer", "something other than what was asked for", "login page",
        always(servers.answers("200 OK", "Content-Type: application/json", body=b"[]")),
        fetchers=HUBS,
    ),
    Case(
        "null", "unexpected_answer", "something other than what was asked for", "login page",
        always(servers.answers("200 OK", "Content-Type: application/json", body=b"null")),
        fetchers=HUBS,
    ),
    Case(
        "a repository without its files", "unexpected_answer", "(JSON of another form)",
        "login page",
        always(
            servers.answers(
                "200 OK", "Content-Type: application/json",
                body=b'{"id": "acme/tiny", "sha": "' + b"a" * 40 + b'"}',
            )
        ),
        fetchers=("hf",),
    ),
    Case(
        "self-signed", "tls_failed", "no trusted TLS connection", "set {certificates}",
        always(servers.answers("200 OK")), tls=True,
    ),
]  # fmt: skip


@contextmanager
def served(case: Case, folder: Path) -> Iterator[str]:
    """The address where a case is served; where it is that nobody listens, of a free port."""
    if case.talk is None:
        yield f"http://127.0.0.1:{servers.free_port()}"
        return
    stop = threading.Event()
    context = servers.certificate(folder)[0] if case.tls else None
    with servers.listen(case.talk(stop), context) as server:
        try:
            yield server.url
        finally:
            stop.set()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_failed_fetch_says_its_own_name(case: Case, tmp_path: Path) -> None:
    with served(case, tmp_path) as url:
        limits = SHORT if case.talk is servers.says_nothing else {}
        answers = fetch(tmp_path, url, limits, fetchers=case.fetchers)
    for name in case.fetchers:
        check(name, answers[name], case)
        if case.code not in ("model_not_found", "model_gated"):
            assert url in answers[name]["message"], name
    left = [
        p for p in tmp_path.rglob("*") if p.name.endswith(".partial") or "pip-details" in p.name
    ]
    assert left == []


def check(name: str, answer: dict[str, Any] | None, case: Case) -> None:
    assert answer is not None, f"{name} was given what it asked for"
    address, certificates, token = VARIABLES[name]
    assert answer["code"] == case.code, f"{name}: {answer}"
    assert case.says in answer["message"], f"{name}: {answer}"
    wanted = case.fix.format(address=address, certificates=certificates, token=token)
    assert wanted in answer["fix"], f"{name}: {answer}"
    assert answer["exit"] == (5 if name == "engine" else case.exits.get(name, 1)), f"{name}"


def test_a_name_that_dns_does_not_know_is_no_fault_of_a_folder(tmp_path: Path) -> None:
    answers = fetch(tmp_path, "https://no-such-hub.invalid")
    for name, answer in answers.items():
        assert answer["code"] == "dns_failed", f"{name}: {answer}"
        assert "the name no-such-hub.invalid cannot be resolved" in answer["message"]
        assert "DNS" in answer["fix"]


@pytest.mark.parametrize(
    ("kind", "says"), [("expired", "expired"), ("another host's", "certificate is not valid for")]
)
def test_a_certificate_that_does_not_hold_says_why(kind: str, says: str, tmp_path: Path) -> None:
    expired = kind == "expired"
    name = "127.0.0.1" if expired else "other.example"
    context, authority = servers.certificate(tmp_path, expired=expired, name=name)
    trust = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT"), str(authority))
    with servers.listen(servers.answers("200 OK"), context) as server:
        answers = fetch(tmp_path, server.url, trust)
    for fetcher, answer in answers.items():
        assert answer["code"] == "tls_failed", f"{fetcher}: {answer}"
        assert says in answer["message"], f"{fetcher}: {answer}"


def test_a_file_of_certificates_that_is_not_there_is_named(tmp_path: Path) -> None:
    missing = str(tmp_path / "none.pem")
    trust = dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), missing)
    answers = fetch(tmp_path, "https://127.0.0.1:9", trust, fetchers=HUBS)
    for fetcher, answer in answers.items():
        assert answer["code"] == "tls_failed", f"{fetcher}: {answer}"
        assert f"names {missing}, which does not exist" in answer["message"], f"{fetcher}"


@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        ("407 Proxy Authentication Required", "proxy_auth_required", "asks for a user and a pass"),
        ("403 Forbidden", "proxy_failed", "refuses the connection to https://hub.example (403"),
    ],
)
def test_a_proxy_that_lets_nobody_through(
    status: str, code: str, says: str, tmp_path: Path
) -> None:
    with servers.listen(servers.answers(status)) as proxy:
        secret = proxy.url.replace("//", "//someone:secretsecret@")
        answers = fetch(tmp_path, "https://hub.example", {"https_proxy": secret})
        assert all(line.startswith(b"CONNECT hub.example:443") for line in proxy.asked)
    for fetcher, answer in answers.items():
        assert answer["code"] == code, f"{fetcher}: {answer}"
        assert says in answer["message"], f"{fetcher}: {answer}"
        assert proxy.url in answer["message"], f"{fetcher}: {answer}"
    assert "secretsecret" not in json.dumps(answers)


@pytest.mark.parametrize(
    ("host", "says"),
    [("127.0.0.1", "Connection refused"), ("no-such-proxy.invalid", "Name or service not known")],
)
def test_a_proxy_that_is_not_there_is_not_called_a_hub(
    host: str, says: str, tmp_path: Path
) -> None:
    with socket.socket() as nobody:  # has the port, so that no other test's server takes it
        nobody.bind(("127.0.0.1", 0))
        proxy = f"http://{host}:{nobody.getsockname()[1]}"
        answers = fetch(tmp_path, "https://hub.example", {"https_proxy": proxy})
    for fetcher, answer in answers.items():
        assert answer["code"] == "proxy_failed", f"{fetcher}: {answer}"
        assert f"the proxy {proxy} refuses the connection" in answer["message"], f"{fetcher}"
        if host == "127.0.0.1":
            assert says in answer["message"], f"{fetcher}: {answer}"
        assert "no_proxy" in answer["fix"]


# --- the pip that engines are installed with: the one of Python's own `ensurepip` -----------------


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("bundled") / "venv"
    subprocess.run([sys.executable, "-P", "-m", "venv", str(root)], check=True, timeout=600)
    return str(root / "bin" / "python")


@pytest.mark.parametrize("name", ["refused", "reset", "401", "429", "503", "self-signed"])
def test_the_pip_of_an_engines_environment_is_understood_too(
    name: str, bundled: str, tmp_path: Path
) -> None:
    case = next(case for case in CASES if case.name == name)
    with served(case, tmp_path) as url:
        answers = fetch(tmp_path, url, fetchers=["engine"], python=bundled)
    check("engine", answers["engine"], case)


def test_the_pip_of_an_engines_environment_behind_a_proxy(bundled: str, tmp_path: Path) -> None:
    url, only = "https://index.example", ["engine"]
    with servers.listen(servers.answers("407 Proxy Authentication Required")) as proxy:
        asked = fetch(tmp_path, url, {"https_proxy": proxy.url}, fetchers=only, python=bundled)
    assert asked["engine"]["code"] == "proxy_auth_required", asked
    nowhere = {"https_proxy": f"http://127.0.0.1:{servers.free_port()}"}
    asked = fetch(tmp_path, url, nowhere, fetchers=only, python=bundled)
    assert asked["engine"]["code"] == "proxy_failed", asked


def test_the_pip_of_an_engines_environment_without_dns(bundled: str, tmp_path: Path) -> None:
    url = "https://no-such-index.invalid"
    asked = fetch(tmp_path, url, fetchers=["engine"], python=bundled)
    assert asked["engine"]["code"] == "dns_failed", asked
    assert "the name no-such-index.invalid cannot be resolved" in asked["engine"]["message"]
