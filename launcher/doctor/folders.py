"""What `qlaunch doctor` says of our folders and of the environment variables."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from launcher.doctor.runner import Finding, ok, problem, warning
from launcher.hardware.disk import nearest

_HUB: Final = (
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_ENDPOINT",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "MODELSCOPE_API_TOKEN",
    "MODELSCOPE_DOMAIN",
    "MODELSCOPE_CACHE",
)
_PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy")
_HOST: Final = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")


def folder_finding(role: str, path: Path, *, private: bool) -> Finding:
    """Kind, owner and mode of one of our folders, or of the place where it would be made.

    Args:
        role: `config`, `data`, `state`, `cache`.
        path: the folder.
        private: it holds state that no other user may read or replace.
    """
    name = f"folder {role}"
    elsewhere = "fix that path, or set QLAUNCH_HOME to a folder of your own"
    try:
        found = path.lstat()
    except FileNotFoundError:
        above = nearest(path)
        if not above.is_dir():
            return problem(name, f"{path} cannot be made: {above} is not a folder", elsewhere)
        if not os.access(above, os.W_OK | os.X_OK):
            text = f"{path} cannot be made: this user may not write in {above}"
            return problem(name, text, elsewhere)
        return ok(name, f"{path} will be made when it is needed")
    except OSError as error:
        return problem(name, f"{path} cannot be looked at: {error.strerror}", elsewhere)
    if stat.S_ISLNK(found.st_mode):
        if private:
            text = f"{path} is a symbolic link, and private state is not kept behind one"
            return problem(name, text, elsewhere)
        if not path.is_dir():
            return problem(name, f"{path} is a symbolic link to no folder", elsewhere)
        found = path.stat()
    return _judge_folder(name, path, found, private=private, elsewhere=elsewhere)


def _judge_folder(
    name: str, path: Path, found: os.stat_result, *, private: bool, elsewhere: str
) -> Finding:
    if not stat.S_ISDIR(found.st_mode):
        return problem(name, f"{path} is not a folder", elsewhere)
    if private and found.st_uid != os.geteuid():
        text = f"{path} belongs to user {found.st_uid}, this is user {os.geteuid()}"
        return problem(name, text, elsewhere)
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return problem(name, f"this user may not write in {path}", elsewhere)
    mode = stat.S_IMODE(found.st_mode)
    if private and mode & 0o077:
        text = f"other users may look into {path} (mode {mode:o})"
        return warning(name, text, f"chmod 700 {path}; the next `up` does it too")
    if mode & 0o002 and not mode & stat.S_ISVTX:
        text = f"every user may replace what is in {path} (mode {mode:o})"
        return warning(name, text, f"chmod o-w {path}")
    return ok(name, f"{path}, mode {mode:o}")


def hub_finding(environ: Mapping[str, str]) -> Finding:
    """Which variables of the model hubs are set; never what they hold."""
    name = "model hubs"
    present = [variable for variable in _HUB if environ.get(variable)]
    endpoint = environ.get("HF_ENDPOINT")
    if endpoint and urlsplit_safe(endpoint)[0] not in ("http", "https"):
        text = "HF_ENDPOINT is not an http or https address"
        return warning(name, text, "give it as https://HOST, or unset it")
    if not present:
        return ok(name, "no variable of theirs is set: public models, default addresses")
    return ok(name, f"set: {', '.join(present)}")


def proxy_finding(environ: Mapping[str, str]) -> Finding:
    """Proxies in force, without credentials, and whether this machine itself is left out."""
    name = "proxy"
    given = {
        variable: value
        for base in _PROXIES
        for variable in (base, base.upper())
        if (value := environ.get(variable))
    }
    if not given:
        return ok(name, "no proxy variable is set")
    shown = ", ".join(f"{variable}={_address(value)}" for variable, value in given.items())
    wrong = [variable for variable, value in given.items() if not urlsplit_safe(value)[1]]
    if wrong:
        text = f"{wrong[0]} is not the address of a proxy"
        return warning(name, text, "give it as http://HOST:PORT")
    excepted = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    entries = {entry.strip().lstrip(".") for entry in excepted.split(",")}
    if not entries & {"*", "127.0.0.1", "127.0.0.0/8"}:
        text = f"{shown}; no_proxy leaves 127.0.0.1 out: clients may ask the proxy for an endpoint"
        return warning(name, text, "export no_proxy=localhost,127.0.0.1")
    return ok(name, shown)


def urlsplit_safe(value: str) -> tuple[str, str]:
    """Scheme and `host:port` of an address, without user and password; empty where it has none."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "", ""
    return (parts.scheme, host) if _HOST.fullmatch(host) else ("", "")


def _address(value: str) -> str:
    scheme, host = urlsplit_safe(value)
    return f"{scheme}://{host}" if host else "(unreadable)"
