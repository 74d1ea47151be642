"""Which of pip's settings hold for what we install: where from and how to get there, nothing else.

pip obeys its variables and up to half a dozen configuration files. Those that name an index, a
proxy, certificates, time limits or a cache are the site's own and are kept. Those that say what to
install, or where to, would break an environment that comes from a lock file (`target`, `prefix`,
`user`, `constraint`, `require-hashes`, `dry-run`, `no-deps`, `quiet`, …): they are left out, and
named.
"""

from __future__ import annotations

import configparser
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher import child_environment
from launcher.errors import ExitCode, QlaunchError

KEPT: Final = frozenset(
    {
        "index-url",
        "pypi-url",
        "extra-index-url",
        "no-index",
        "find-links",
        "trusted-host",
        "proxy",
        "cert",
        "client-cert",
        "timeout",
        "default-timeout",
        "retries",
        "resume-retries",
        "cache-dir",
        "no-cache-dir",
        "keyring-provider",
    }
)
_PARTLY: Final = {"use-feature": {"truststore"}, "use-deprecated": {"legacy-certs"}}
"""Where certificates come from; whatever else is named beside them is left out."""
_HARMLESS: Final = frozenset(
    {
        "config-file",
        "disable-pip-version-check",
        "no-input",
        "no-color",
        "progress-bar",
        "root-user-action",
        "no-python-version-warning",
        "no-warn-script-location",
        "break-system-packages",
        "require-virtualenv",
    }
)
"""Without effect on what we install; leaving them out is not worth a word."""


@dataclass(frozen=True)
class Settings:
    """What holds, and what does not."""

    variables: Mapping[str, str]
    """For pip's environment: `PIP_INDEX_URL` and the like, and no configuration file."""
    left_out: tuple[str, ...]
    """`PIP_TARGET`, `constraint in /etc/pip.conf`: without values, which may hold passwords."""


def program(what: str) -> list[str]:
    """pip of this interpreter, else the one on PATH: environments of other tools have none.

    Raises:
        QlaunchError: `pip_missing` (exit 1): `what` ("wheels are fetched") needs one.
    """
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]
    for name in ("pip3", "pip"):
        if (path := shutil.which(name)) is not None:
            return [path]
    raise QlaunchError(
        f"{what} with pip, and there is no pip",
        code="pip_missing",
        exit_code=ExitCode.UNEXPECTED,
        fix=f"run `{sys.executable} -m ensurepip`, or install pip",
    )


def read(environ: Mapping[str, str], command: str, prefix: str = sys.prefix) -> Settings:
    """The settings for one command of pip, from the places that pip itself looks at.

    Args:
        environ: the variables in force.
        command: `install` or `download`; it has a section of its own in the files.
        prefix: of the Python environment whose `pip.conf` counts, ours.
    """
    kept: dict[str, str] = {}
    left_out: dict[str, None] = {}
    for key, value, where in _all(environ, command, prefix):
        if not value.strip():
            continue
        wanted = _wanted(key, value)
        if wanted:
            kept[key] = wanted
        if wanted != value and key not in _HARMLESS:
            left_out[where] = None
    variables = {f"PIP_{key.upper().replace('-', '_')}": value for key, value in kept.items()}
    return Settings({**variables, "PIP_CONFIG_FILE": os.devnull}, tuple(left_out))


def environment(environ: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """The whole environment of a pip that obeys `settings`."""
    kept = {
        k: v
        for k, v in child_environment.foreign_python(environ).items()
        if not k.startswith("PIP_")
    }
    return {**kept, **settings.variables}


def named_indexes(settings: Settings) -> tuple[str | None, ...]:
    """The addresses that pip asks: the main index (None: pip's own default) and the others.

    None at all with `no-index`.
    """
    held = settings.variables
    if held.get("PIP_NO_INDEX", "0").strip().lower() not in ("", "0", "false", "no", "off"):
        return ()
    main = held.get("PIP_INDEX_URL") or held.get("PIP_PYPI_URL")
    return tuple(dict.fromkeys((main, *held.get("PIP_EXTRA_INDEX_URL", "").split())))


def main_index(settings: Settings) -> str:
    """The address of the main index; words for it where it is not known."""
    named = next(iter(named_indexes(settings)), None)
    return named or default_index() or "the package index"


def default_index() -> str | None:
    """The index that pip asks unless it is told of another; None where pip does not say."""
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        return None
    return str(PyPI.simple_url)


def told(settings: Settings) -> str | None:
    """A line for people about what is left out; None where nothing is."""
    if not settings.left_out:
        return None
    names = ", ".join(settings.left_out)
    return f"pip's settings that would change what is installed do not hold here: {names}"


def _wanted(key: str, value: str) -> str:
    if key in KEPT:
        return value
    return " ".join(word for word in value.split() if word in _PARTLY.get(key, ()))


def _all(environ: Mapping[str, str], command: str, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Key, value, place: weakest first, as pip lets one take another's place."""
    found = list(_files(environ, prefix))
    for section in ("global", command):
        for path, parser in found:
            if parser is None:
                continue
            for key, value in parser.items(section) if parser.has_section(section) else ():
                name = key.removeprefix("--").replace("_", "-")
                yield name, value, f"{name} in {path}"
    for path, parser in found:
        if parser is None:
            yield "unreadable", "1", f"all of {path}, which cannot be read"
    for name, value in environ.items():
        if name.startswith("PIP_"):
            yield name[4:].lower().replace("_", "-"), value, name


def _files(
    environ: Mapping[str, str], prefix: str
) -> Iterator[tuple[Path, configparser.RawConfigParser | None]]:
    """pip's configuration files that are there, weakest first; None for one that is damaged."""
    own = environ.get("PIP_CONFIG_FILE")
    if own == os.devnull:
        return
    for path in _places(environ, prefix, own):
        if not path.is_file():
            continue
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read_string(path.read_text(encoding="utf-8", errors="surrogateescape"))
        except (OSError, configparser.Error):
            yield path, None
        else:
            yield path, parser


def _places(environ: Mapping[str, str], prefix: str, own: str | None) -> Iterator[Path]:
    """https://pip.pypa.io/en/stable/topics/configuration/#location."""
    for folder in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        if folder:
            yield Path(folder) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    home = environ.get("HOME") or os.path.expanduser("~")  # noqa: PTH111 - it may be unknown
    if not (own and Path(own).exists()) and Path(home).is_absolute():
        yield Path(home) / ".pip" / "pip.conf"
        config = environ.get("XDG_CONFIG_HOME") or str(Path(home) / ".config")
        yield Path(config) / "pip" / "pip.conf"
    yield Path(prefix) / "pip.conf"
    if own:
        yield Path(own)
