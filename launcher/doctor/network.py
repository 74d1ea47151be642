"""What `qlaunch doctor` says of the package indexes and the model hubs: they are really asked."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from launcher import extras, pip_settings
from launcher.doctor.runner import DoctorCheck, Finding, ok, unavailable, warning
from launcher.network import address, causes, hubs, probe
from launcher.network.causes import HUGGING_FACE, MODELSCOPE, PIP, Client
from launcher.network.listening import is_loopback
from launcher.network.probe import Question

LIMIT_S: Final = 5.0
"""For each address, whatever it does: slow name servers and servers that trickle are cut."""
WAIT_S: Final = 3.0
"""For connecting and for each wait within it, so that the usual silence has its own sentence."""
_MODEL: Final = "Qwen/Qwen3-Embedding-0.6B"
"""What hubs are asked for: the model the tool is made for. Not to have it is an answer too."""
_PACKAGE: Final = "pip"
"""What an index is asked for."""
_OFF: Final = "not asked, because of --offline or QLAUNCH_OFFLINE"
_MEANT: Final = "; if this machine is meant to be offline: qlaunch doctor --offline"
_YES: Final = frozenset({"1", "on", "yes", "true"})


def checks(environ: Mapping[str, str], *, offline: bool) -> Iterator[DoctorCheck]:
    """One check for each index and hub: all are asked at once, and each has its own limit."""
    if not offline:
        import requests  # noqa: F401 - once, before the children of the checks are forked
    settings = pip_settings.read(environ, "install")
    for number, url in enumerate(pip_settings.named_indexes(settings)):
        name = f"package index {number + 1}" if number else "package index"
        look = partial(index_finding, name, url, settings)
        yield _check(name, address.shown(url) if url else "the package index", look, offline)
    for kind, name in (("hf", "hugging face"), ("modelscope", "modelscope")):
        yield _check(name, f"the hub {name}", partial(hub_finding, kind, name, environ), offline)


def _check(name: str, asks: str, look: Callable[[], Finding], offline: bool) -> DoctorCheck:
    if offline:
        return DoctorCheck(name, lambda: [ok(name, _OFF)])
    return DoctorCheck(
        name,
        lambda: [look()],
        limit_s=LIMIT_S,
        asks=asks,
        fix_if_cut="see whether name servers answer here (getent hosts), and the firewall" + _MEANT,
    )


def index_finding(name: str, url: str | None, settings: pip_settings.Settings) -> Finding:
    """Whether a package index answers, asked as pip would ask it.

    Args:
        name: of the finding.
        url: of the index; None for pip's own default.
        settings: pip's, that hold for what we install.
    """
    url = url or pip_settings.default_index()
    if url is None:
        return unavailable(name, "no pip is installed beside qlaunch to tell its default")
    held = settings.variables
    parts = urlsplit(url)
    if parts.scheme == "file":
        return _folder(name, Path(unquote(parts.path)))
    trusted = held.get("PIP_TRUSTED_HOST", "").split()
    trusts = bool({parts.hostname, parts.netloc.rpartition("@")[2]} & set(trusted))
    if parts.scheme == "http" and not trusts and not is_loopback(parts.hostname or ""):
        cause = causes.Cause("address_invalid", url, "pip ignores http without PIP_TRUSTED_HOST")
        return _told(name, cause, PIP)
    question = Question(
        f"{url.rstrip('/')}/{_PACKAGE}/",
        WAIT_S,
        proxy=held.get("PIP_PROXY"),
        verify=not trusts and (held.get("PIP_CERT") or True),
        cert=held.get("PIP_CLIENT_CERT"),
        # Other indexes hold a few packages of their own.
        means_no=frozenset({404}) if name[-1].isdecimal() else frozenset(),
    )
    return _asked(name, question, PIP)


def hub_finding(kind: str, name: str, environ: Mapping[str, str]) -> Finding:
    """Whether a hub answers, asked as its client library would ask it.

    Args:
        kind: `hf` or `modelscope`.
        name: of the finding.
        environ: the variables in force.
    """
    if kind == "modelscope":
        if importlib.util.find_spec(extras.MODULES["modelscope"]) is None:
            why = "not asked: its client library is not installed"
            return unavailable(name, why, extras.install_command("modelscope"))
        try:
            url = f"{hubs.endpoint(kind).rstrip('/')}/api/v1/models/{_MODEL}"
        except RuntimeError as error:  # how it says that there is no home
            why = f"not asked: its client library cannot be imported ({error})"
            return unavailable(name, why, extras.NEEDS_HOME)
        no = frozenset({401, 403, 404})
        return _asked(name, Question(url, WAIT_S, means_no=no, json=True), MODELSCOPE)
    if environ.get("HF_HUB_OFFLINE", "").strip().lower() in _YES:
        return ok(name, "not asked, because of HF_HUB_OFFLINE")
    from huggingface_hub import get_token

    token = get_token()
    # A hub hides what it does not have behind 401; with a token, that is about the token.
    no = frozenset({404}) if token else frozenset({401, 404})
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = f"{hubs.endpoint(kind).rstrip('/')}/api/models/{_MODEL}/revision/main"
    question = Question(url, WAIT_S, headers=headers, means_no=no, json=True)
    return _asked(name, question, HUGGING_FACE)


def _asked(name: str, question: Question, client: Client) -> Finding:
    cause = probe.ask(question)
    if cause is not None:
        return _told(name, cause, client)
    via = address.proxy_for(question.url, question.proxy)
    through = f" through the proxy {address.shown(via)}" if via else ""
    return ok(name, f"{address.shown(question.url)} answers{through}")


def _told(name: str, cause: causes.Cause, client: Client) -> Finding:
    """What failed, and what to do: nothing that is here already needs it, so it is a warning."""
    return warning(name, causes.sentence(cause, client), causes.fix(cause, client) + _MEANT)


def _folder(name: str, path: Path) -> Finding:
    if path.is_dir():
        return ok(name, f"the folder {path} is there")
    fix = f"correct {PIP.address}, or mount it"
    return warning(name, f"the folder {path} does not exist", fix)
