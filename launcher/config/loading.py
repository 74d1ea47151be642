"""Finding and loading profiles: the shipped ones, the user's own, and files given by path."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.config.checks import profile_problems
from launcher.config.profile import Profile
from launcher.errors import ExitCode, QlaunchError
from launcher.yaml_reader import did_you_mean, load_typed, shown

if TYPE_CHECKING:
    from collections.abc import Mapping

SUFFIXES = (".yaml", ".yml")
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"


@dataclass(frozen=True)
class ProfileRef:
    """A profile file that was found; in lists with its content, or why it cannot be loaded."""

    name: str
    path: Path
    shipped: bool
    shadows: bool = False
    """A user's own that stands in front of a shipped one of the same name."""
    profile: Profile | None = None
    error: QlaunchError | None = None


@dataclass(frozen=True)
class LoadedProfile:
    """A valid profile, and where each part of it stands."""

    name: str
    path: Path
    profile: Profile
    lines: Mapping[tuple[str | int, ...], int]
    """Line (from 1) of the value at a path such as `("flags", "context-length")`; a field that
    is not written in the file is not in here."""
    shipped: bool


def shipped_dir() -> Path:
    """Folder of the profiles that come with qlaunch: inside a wheel, or the repository's own."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "_profiles"
    return inside if inside.is_dir() else package.parent / "profiles"


def list_profiles(user_dir: Path) -> list[ProfileRef]:
    """Every profile by name, the user's own in front of shipped ones; broken ones with `error`.

    Raises:
        QlaunchError: `profile_invalid` (exit 2) if a profile folder itself cannot be read.
    """
    shipped, own = _files(shipped_dir()), _files(user_dir)
    refs = []
    for name, path in sorted({**shipped, **own}.items()):
        profile, error = None, None
        try:
            profile = _load(ProfileRef(name, path, name not in own)).profile
        except QlaunchError as found:
            error = found
        in_front = name in own and name in shipped
        refs.append(ProfileRef(name, path, name not in own, in_front, profile, error))
    return refs


def find_profile(name_or_path: str, user_dir: Path) -> ProfileRef:
    """The file of a profile: by name (the user's own first), or by path if it ends in .yaml or
    .yml. Its content is not read yet.

    Raises:
        QlaunchError: `profile_unknown` (exit 2), with the nearest names.
    """
    if name_or_path.endswith(SUFFIXES):
        # lexists, unlike Path.exists, answers False for names that no file can have.
        if not os.path.lexists(name_or_path):
            raise _unknown(f"there is no profile file {shown(name_or_path, 400)}")
        path = Path(name_or_path)
        return ProfileRef(path.stem, path.absolute(), shipped=False)
    shipped, own = _files(shipped_dir()), _files(user_dir)
    for files in (own, shipped):
        if name_or_path in files and re.fullmatch(NAME, name_or_path, re.ASCII):
            here = files is shipped
            shadows = not here and name_or_path in shipped
            return ProfileRef(name_or_path, files[name_or_path], here, shadows)
    if "/" in name_or_path:
        raise _unknown(f"`{shown(name_or_path)}` is neither a profile's name nor a .yaml file")
    hint = did_you_mean(name_or_path, {**shipped, **own})
    raise _unknown(f"there is no profile `{shown(name_or_path)}`{hint}")


def load_profile(name_or_path: str, user_dir: Path) -> LoadedProfile:
    """Find, read and check a profile.

    Raises:
        QlaunchError: `profile_unknown` or `profile_invalid`, both exit 2; the latter names file
            and line.
    """
    return _load(find_profile(name_or_path, user_dir))


def _load(ref: ProfileRef) -> LoadedProfile:
    if not re.fullmatch(NAME, ref.name, re.ASCII):
        raise QlaunchError(
            f"profile {shown(str(ref.path), 400)}: the file's name cannot name a profile",
            code="profile_invalid",
            exit_code=ExitCode.USAGE,
            fix="use lower-case letters, digits, dots, dashes and underscores, 64 at most",
        )
    loaded = load_typed(ref.path, Profile, what="profile")
    for path, problem in profile_problems(loaded.value):
        raise QlaunchError(
            f"profile {shown(str(ref.path), 400)}:{loaded.line(path)}: {problem.message}",
            code="profile_invalid",
            exit_code=ExitCode.USAGE,
            fix=problem.fix,
        )
    return LoadedProfile(ref.name, ref.path, loaded.value, loaded.lines, ref.shipped)


def _files(folder: Path) -> dict[str, Path]:
    """Profile files of a folder by name; x.yaml before x.yml. A missing folder is empty."""
    try:
        paths = sorted(folder.iterdir(), reverse=True)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise QlaunchError(
            f"cannot read the profile folder {shown(str(folder), 400)}: {error.strerror}",
            code="profile_invalid",
            exit_code=ExitCode.USAGE,
            fix="it must be a folder that you may read",
        ) from error
    found = [path for path in paths if path.suffix in SUFFIXES and not path.name.startswith(".")]
    return {path.stem: path for path in found}


def _unknown(message: str) -> QlaunchError:
    return QlaunchError(
        message,
        code="profile_unknown",
        exit_code=ExitCode.USAGE,
        fix="`qlaunch profiles list` shows every profile; a file is given by a path to a .yaml",
    )
