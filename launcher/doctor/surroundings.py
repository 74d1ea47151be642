"""What `qlaunch doctor` says of locale, user, temporary folder, pip's settings and file systems.

Most of it is taken care of without the user's doing; it is said so that nobody is surprised.
"""

from __future__ import annotations

import locale
import os
import pwd
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Final

from launcher import child_environment, pip_settings
from launcher.doctor.runner import Finding, ok, problem, warning
from launcher.errors import QlaunchError
from launcher.hardware.disk import nearest
from launcher.linux import locks
from launcher.paths import Dirs
from launcher.service import scratch
from launcher.yaml_messages import nearest as nearest_names
from launcher.yaml_messages import shown

_OURS: Final = "QLAUNCH_"
_ELSEWHERE = "set QLAUNCH_HOME to a folder on a local disk"


def findings(environ: Mapping[str, str], where: Dirs) -> Iterator[Finding]:
    """All of them, in the order of the report."""
    yield locale_finding(environ)
    yield user_finding(environ, where.cache)
    yield temporary_finding(environ, where)
    yield pip_finding(environ)
    yield locks_finding(where)
    yield exec_finding(where.engines)


def locale_finding(environ: Mapping[str, str]) -> Finding:
    """The encoding of the user's terminal, and that nothing else depends on it."""
    name = "locale"
    said = environ.get("LC_ALL") or environ.get("LC_CTYPE") or environ.get("LANG") or "none set"
    try:
        locale.setlocale(locale.LC_CTYPE, "")
    except locale.Error:
        return ok(name, f"{said[:60]!r} is not installed here; services speak UTF-8 all the same")
    encoding = locale.getencoding()
    if encoding.lower().replace("-", "") == "utf8":
        return ok(name, f"{said[:60]}, UTF-8")
    return ok(name, f"{said[:60]} ({encoding}): for the terminal alone, the rest is UTF-8")


def user_finding(environ: Mapping[str, str], cache: Path) -> Finding:
    """Who we are, and where an engine's own caches go."""
    name = "user"
    uid = os.geteuid()
    try:
        known = pwd.getpwuid(uid).pw_name
    except KeyError:
        known = "not in the user database"
    stand_in = child_environment.user(environ, cache / "home").get("HOME")
    if stand_in is None:
        return ok(name, f"{known} (UID {uid})")
    home = environ.get("HOME") or "no home"
    return ok(
        name, f"{known} (UID {uid}); {home} is not theirs to write in: engines use {stand_in}"
    )


def variables_finding(environ: Mapping[str, str], known: Collection[str]) -> Finding:
    """Variables that look like ours and are read by nobody: a slip of the hand is no setting.

    Args:
        known: names of the variables that are read, `QLAUNCH_PORT`.
    """
    name = "variables"
    short = {each.removeprefix(_OURS): each for each in known}
    given = sorted(each for each in environ if each.startswith(_OURS))
    for each in given:
        near = nearest_names(each.removeprefix(_OURS), short)
        if each not in known and near:
            fix = f"did you mean {short[near[0]]}?"
            return warning(name, f"{shown(each, 60)} is set, and nothing reads it", fix)
    read = [each for each in given if each in known]
    return ok(name, f"set: {', '.join(read)}" if read else "no setting is made by one")


def temporary_finding(environ: Mapping[str, str], where: Dirs) -> Finding:
    """Where engines put their sockets, tried."""
    name = "temporary folder"
    passed_over = scratch.unfit(environ)
    try:
        with scratch.scratch(environ, spare=nearest(where.state)) as path:
            used = path.parent
    except QlaunchError as error:
        return problem(name, error.message, error.fix)
    if passed_over is None:
        return ok(name, f"engines use {used}")
    return ok(name, f"engines use {used}, because TMPDIR cannot be used: {passed_over}")


def pip_finding(environ: Mapping[str, str]) -> Finding:
    """Settings of pip that do not hold for what we install."""
    told = pip_settings.told(pip_settings.read(environ, "install"))
    return ok("pip settings", told or "none would change what is installed")


def locks_finding(where: Dirs) -> Finding:
    """Whether the places of our locks have locks."""
    name = "file locks"
    for folder in (where.state, where.engines):
        place = nearest(folder)
        if (why := locks.unsupported(place)) is not None:
            return problem(name, f"nothing in {place} can be locked: {why}", _ELSEWHERE)
    return ok(name, "they work where services and engines are kept")


def exec_finding(engines: Path) -> Finding:
    """Whether programs may run from where engines are installed."""
    name = "programs"
    place = nearest(engines)
    try:
        forbidden = os.statvfs(place).f_flag & os.ST_NOEXEC
    except OSError as error:
        return problem(name, f"{place} cannot be looked at: {error.strerror}", _ELSEWHERE)
    if forbidden:
        text = f"{place} is mounted noexec: no engine can run from it"
        return problem(name, text, "set QLAUNCH_HOME to a folder from which programs may run")
    return ok(name, f"engines may run from {place}")
