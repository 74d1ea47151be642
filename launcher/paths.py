"""Where qlaunch keeps things: the platform's directories, or everything under QLAUNCH_HOME."""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.errors import ExitCode, QlaunchError

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""What profiles, services and model cards may be called: each name is that of a file or folder."""


@dataclass(frozen=True)
class Dirs:
    """The four roots. Nothing is created by building this."""

    config: Path
    """User configuration: `config.yaml`, own `profiles/` and `profiles/models/`."""
    data: Path
    """Engine environments (`engines/`) and unpacked models (`models/`)."""
    state: Path
    """`services/`, `runs/` and `comparisons/`; mode 0700."""
    cache: Path
    """Things that can be computed again: parity references, downloads."""

    @property
    def engines(self) -> Path:
        """Folder of installed engine environments."""
        return self.data / "engines"

    @property
    def models(self) -> Path:
        """Folder of models that qlaunch unpacked or fetched itself."""
        return self.data / "models"

    @property
    def services(self) -> Path:
        """Folder with one folder a service: plan, state, locks."""
        return self.state / "services"

    @property
    def runs(self) -> Path:
        """Folder with one folder a run record."""
        return self.state / "runs"

    @property
    def comparisons(self) -> Path:
        """Folder with one folder a comparison or tuning."""
        return self.state / "comparisons"

    @property
    def references(self) -> Path:
        """Folder of cached parity references."""
        return self.cache / "references"


def at_home(path: str | os.PathLike[str]) -> Path:
    """A path with `~` as the home folder; one of a user whom nobody knows stays as it is written,
    as in a shell, and is then not found. `Path.expanduser` raises there."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - see above


def dirs() -> Dirs:
    """The directories in force: under `QLAUNCH_HOME` if set, else the platform's own.

    Raises:
        QlaunchError: `no_home` (exit 1): there is no home folder, and no QLAUNCH_HOME;
            `bad_home` (exit 2): QLAUNCH_HOME is not UTF-8, a file, or a link to nowhere.
    """
    home = os.environ.get("QLAUNCH_HOME")
    try:
        if home:
            require_utf8(home, "QLAUNCH_HOME", "bad_home")
            root = Path(home).expanduser().absolute()
            _must_be_a_folder(root)
            return Dirs(root / "config", root / "data", root / "state", root / "cache")
        from platformdirs import PlatformDirs

        d = PlatformDirs("qlaunch", appauthor=False)
        paths = (d.user_config_path, d.user_data_path, d.user_state_path, d.user_cache_path)
    except RuntimeError as error:  # how pathlib and platformdirs say that there is no home
        raise _homeless() from error
    if not all(path.is_absolute() for path in paths):
        raise _homeless()
    return Dirs(*paths)


def require_utf8(text: str, what: str, code: str = "usage") -> None:
    """Refuse a name of other bytes: plans, states and records are JSON, which holds no such names.

    Raises:
        QlaunchError: `code` (exit 2).
    """
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        shown = text.encode("utf-8", "backslashreplace").decode("utf-8")
        raise QlaunchError(
            f"{what} is not UTF-8: {shown}",
            code=code,
            fix="give it another name",
        ) from error


def _must_be_a_folder(root: Path) -> None:
    """What is there already has to be one; a folder that is missing is made when it is needed."""
    try:
        if root.is_dir() or not os.path.lexists(root):
            return
    except OSError:  # said with its path by what reads or writes there
        return
    from launcher.linux.files import absent

    why = "is not a folder" if root.exists() else absent(root)
    raise QlaunchError(
        f"QLAUNCH_HOME, {root}, {why}",
        code="bad_home",
        fix="name a folder of your own; it is made if it does not exist",
    )


def _homeless() -> QlaunchError:
    return QlaunchError(
        f"user {os.geteuid()} has no home folder to keep anything in: HOME is not an absolute path,"
        " and the user database names none",
        code="no_home",
        exit_code=ExitCode.UNEXPECTED,
        fix="set QLAUNCH_HOME to a folder of your own",
    )


def private_dir(path: Path) -> Path:
    """Create `path` with mode 0700 and return it; refuse a symlink or someone else's folder.

    Raises:
        QlaunchError: `state_dir_unsafe` (exit 1) if the folder is a symlink, not a folder, owned
            by another user, or cannot be created or made private.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise _refused(path, error) from error
    if not stat.S_ISDIR(found.st_mode):
        raise _unsafe(path, "it is a symbolic link or not a folder")
    if found.st_uid != os.geteuid():
        raise _unsafe(path, f"it belongs to user {found.st_uid}")
    if found.st_mode & 0o077:
        try:
            path.chmod(0o700)
        except OSError as error:
            raise _refused(path, error) from error
    return path


def _refused(path: Path, error: OSError) -> QlaunchError:
    first = {errno.EROFS: "make its disk writable", errno.ENOSPC: "free space there"}
    return _unsafe(path, error.strerror or str(error), first.get(error.errno or 0))


def _unsafe(path: Path, why: str, first: str | None = None) -> QlaunchError:
    return QlaunchError(
        f"cannot keep private state in {path}: {why}",
        code="state_dir_unsafe",
        exit_code=ExitCode.UNEXPECTED,
        fix=f"{first or 'remove or fix that path'}, or set QLAUNCH_HOME to a folder of your own",
    )
