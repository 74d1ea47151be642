"""The environment variables that the processes we start are given, whatever the user's shell has.

Text between our processes is UTF-8 in every locale; nobody asks a proxy for this machine's own
addresses; whoever asks for the user's name or home gets an answer, also under a UID that has
neither. Nothing here is written to disk.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

TEXT: Final[Mapping[str, str]] = {
    # The engine and transformers open files without naming an encoding.
    "PYTHONUTF8": "1",
    "PYTHONIOENCODING": "utf-8",
    # Compilers, loaders and the C library speak English: their words are looked for in logs.
    # Where a system lacks this locale they fall back to C, and Python's mode above still holds.
    "LC_ALL": "C.UTF-8",
}
_LOCALE: Final = ("LANG", "LANGUAGE", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE")
_DISTURBING: Final = (
    *("PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONWARNINGS", "PYTHONOPTIMIZE", "PYTHONVERBOSE"),
    *("PYTHONDEBUG", "PYTHONDEVMODE", "PYTHONPROFILEIMPORTTIME", "PYTHONTRACEMALLOC"),
)
"""Meant for a person's own program: a prompt at the end, warnings that are errors, no asserts."""
SPINS: Final[Mapping[str, str]] = {"GOMP_SPINCOUNT": "10000"}
"""Rounds for which a compute thread of OpenMP waits awake for the next product: 0.3 ms of processor
time on a Zen 4. Its own 300,000 are 5 ms, which front and clients do without after every batch."""
PROXIES: Final = ("http_proxy", "https_proxy", "all_proxy", "ftp_proxy")
OWN_ADDRESSES: Final = ("localhost", "127.0.0.1", "::1")
_NAMES: Final = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Where Python's `getpass.getuser` looks before it asks the user database."""


def utf8(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` for a Python of ours: UTF-8 for text and file names, no prompt, no other locale."""
    left_out = {*_LOCALE, *_DISTURBING}
    kept = {k: v for k, v in environ.items() if k not in left_out and not k.startswith("LC_")}
    return {**kept, **TEXT}


def own_addresses_directly(environ: Mapping[str, str], hosts: Iterable[str] = ()) -> dict[str, str]:
    """`no_proxy`, in both spellings, with this machine's own addresses added.

    Args:
        environ: the variables in force; where no proxy is among them the result is empty.
        hosts: further addresses that are this machine's, such as the one a service listens on.
    """
    if not any(environ.get(name) or environ.get(name.upper()) for name in PROXIES):
        return {}
    given = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    entries = [entry.strip() for entry in given.split(",") if entry.strip()]
    wanted = [*OWN_ADDRESSES, *(host.strip("[]") for host in hosts)]
    entries += [one for one in dict.fromkeys(wanted) if one and one not in entries]
    return dict.fromkeys(("no_proxy", "NO_PROXY"), ",".join(entries))


def user(environ: Mapping[str, str], spare_home: Path) -> dict[str, str]:
    """Variables that stand in for a user database without this user, or for an unusable home.

    Compilers' caches (torch, triton) lie in a folder named after the user, below the home.

    Args:
        environ: the variables in force.
        spare_home: folder to call home where the user's own is missing, another user's, or cannot
            be written.
    """
    found: dict[str, str] = {}
    if not any(environ.get(name) for name in _NAMES) and _account() is None:
        found |= dict.fromkeys(("LOGNAME", "USER"), f"uid{os.geteuid()}")
    if not usable_home(environ):
        found["HOME"] = str(spare_home)
    return found


def usable_home(environ: Mapping[str, str]) -> bool:
    """Whether this user has a home folder that is theirs to write in."""
    account = _account()
    home = environ.get("HOME") or (account.pw_dir if account is not None else "")
    try:
        return (
            Path(home).is_absolute()
            and os.access(home, os.W_OK | os.X_OK)
            and Path(home).stat().st_uid == os.geteuid()
        )
    except (OSError, ValueError):
        return False


def _account() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(os.geteuid())
    except KeyError:
        return None


def for_engines(environ: Mapping[str, str], cache: Path, hosts: Iterable[str]) -> dict[str, str]:
    """What an engine gets beside the user's own variables: text, addresses, user, caches.

    Args:
        environ: the variables in force.
        cache: our cache folder; nothing is made in it here.
        hosts: addresses that the engine listens on.
    """
    env = {**TEXT, **own_addresses_directly(environ, hosts), **user(environ, cache / "home")}
    # Else below the temporary folder, which is new for each start: compiled again every time.
    if not environ.get("TORCHINDUCTOR_CACHE_DIR"):
        env["TORCHINDUCTOR_CACHE_DIR"] = str(cache / "torchinductor")
    return env


def foreign_python(environ: Mapping[str, str]) -> dict[str, str]:
    """For the Python of another environment (an engine's, a peer's) that we ask something.

    Without what would change where it looks for modules or what it runs first.
    """
    ours = ("VIRTUAL_ENV", "CONDA_PREFIX", "__PYVENV_LAUNCHER__")
    kept = {
        name: value
        for name, value in utf8(environ).items()
        if name in TEXT or (not name.startswith("PYTHON") and name not in ours)
    }
    return kept | own_addresses_directly(environ)
