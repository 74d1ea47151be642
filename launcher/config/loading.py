"""Finding and loading profiles: the shipped ones, the user's own, and files given by path."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from launcher.config import extends
from launcher.config.checks import Located, profile_problems
from launcher.config.profile import Profile
from launcher.errors import QlaunchError
from launcher.paths import NAME, at_home
from launcher.yaml_reader import Document, did_you_mean, read_document, shown, typed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from launcher.yaml_reader import KeyPath

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class ProfileRef:
    """A profile file that was found; in lists with its content, or why it cannot be loaded."""

    name: str
    path: Path
    shipped: bool
    shadows: bool = False
    """A user's own that stands in front of a shipped one of the same name."""
    loaded: LoadedProfile | None = None
    error: QlaunchError | None = None

    @property
    def profile(self) -> Profile | None:
        """The profile itself, where it can be loaded."""
        return self.loaded.profile if self.loaded is not None else None


@dataclass(frozen=True)
class LoadedProfile:
    """A valid profile, and where each part of it stands."""

    name: str
    path: Path
    profile: Profile
    lines: Mapping[KeyPath, int]
    """Line (from 1) of the value at a path such as `("flags", "context-length")`; a field that
    is written neither in the file nor in its parents is not in here."""
    shipped: bool
    files: Mapping[KeyPath, Path] = field(default_factory=dict)
    """The parent's file, for what stands in a parent and not in `path`."""
    parents: tuple[Path, ...] = ()
    """Files that `extends` leads through, nearest first."""

    def file(self, at: KeyPath) -> Path:
        """The file in which the value at `at` stands."""
        return self.files.get(at, self.path)


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
        loaded, error = None, None
        try:
            loaded = _load(ProfileRef(name, path, name not in own), user_dir)
        except QlaunchError as found:
            error = found
        in_front = name in own and name in shipped
        refs.append(ProfileRef(name, path, name not in own, in_front, loaded, error))
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
            name = Path(name_or_path).stem
            known = name in _files(user_dir) or name in _files(shipped_dir())
            hint = f"; did you mean the profile `{name}`?" if known else ""
            raise _unknown(f"there is no profile file {shown(name_or_path, 400)}{hint}")
        path = Path(name_or_path)
        return ProfileRef(path.stem, path.absolute(), shipped=False)
    shipped, own = _files(shipped_dir()), _files(user_dir)
    for files in (own, shipped):
        if name_or_path in files and NAME.fullmatch(name_or_path):
            here = files is shipped
            shadows = not here and name_or_path in shipped
            return ProfileRef(name_or_path, files[name_or_path], here, shadows)
    if name_or_path.startswith(("/", "./", "../")) and not os.path.lexists(name_or_path):
        raise _unknown(f"{shown(name_or_path, 400)} does not exist")
    if "/" in name_or_path:
        raise _unknown(
            f"`{shown(name_or_path)}` is neither a profile's name nor a .yaml file",
            f"for a model make a profile first: qlaunch profiles new {_name_for(name_or_path)}"
            f" --model {shlex.quote(shown(name_or_path))}",
        )
    hint = did_you_mean(name_or_path, {**shipped, **own})
    raise _unknown(f"there is no profile `{shown(name_or_path)}`{hint}")


def _name_for(model: str) -> str:
    """A name that a profile of a model may have."""
    last = model.partition("@")[0].rstrip("/").rpartition("/")[2].lower()
    return re.sub(r"[^a-z0-9._-]+", "-", last).strip("._-")[:64].rstrip("._-") or "mine"


def load_profile(name_or_path: str, user_dir: Path) -> LoadedProfile:
    """Find, read and check a profile.

    Raises:
        QlaunchError: `profile_unknown` or `profile_invalid`, both exit 2; the latter names file
            and line.
    """
    return _load(find_profile(name_or_path, user_dir), user_dir)


def load_draft(name: str, draft: Path, path: Path, user_dir: Path) -> LoadedProfile:
    """The profile that `path` would be with the content of `draft`; messages name `path`.

    Raises:
        QlaunchError: as `load_profile`.
    """
    ref = ProfileRef(name, path, shipped=False)
    return _checked(ref, replace(_read(draft), path=path), user_dir)


def _load(ref: ProfileRef, user_dir: Path) -> LoadedProfile:
    check_name(ref.name, ref.path)
    return _checked(ref, _read(ref.path), user_dir)


def check_name(name: str, path: Path) -> None:
    """Refuse a name that no profile can have.

    Raises:
        QlaunchError: `profile_invalid` (exit 2).
    """
    if NAME.fullmatch(name):
        return
    raise QlaunchError(
        f"profile {shown(str(path), 400)}: the file's name cannot name a profile",
        code="profile_invalid",
        fix="use lower-case letters, digits, dots, dashes and underscores, 64 at most",
    )


def _checked(ref: ProfileRef, document: Document, user_dir: Path) -> LoadedProfile:
    whole, parents = extends.with_parents(
        document, lambda parent, child: _parent(parent, child, user_dir), _read
    )
    loaded = typed(whole, Profile)
    problems = list(profile_problems(loaded.value))
    if problems:
        raise _refusal(whole, problems)
    profile = _described(loaded.value, loaded.lines, has_parent=bool(parents))
    return LoadedProfile(
        ref.name, ref.path, profile, loaded.lines, ref.shipped, loaded.files, parents
    )


def _refusal(whole: Document, problems: list[Located]) -> QlaunchError:
    """The first problem; at the value of the child's own that does not go with an inherited one."""
    (path, first), cause = problems[0], problems[0][1].because
    if cause is None or path not in whole.files or cause in whole.files:
        return whole.refusal(path, first.message, first.fix)
    keys = [at[-1] for at, each in problems if each.because == cause and at in whole.files]
    nulls = " and ".join(f"`{key}: null`" for key in keys)
    fix = f"write {nulls} beside it in this file, or leave out `{cause[-1]}`"
    message = f"{first.message}; {whole.files[path].name} says the former"
    return whole.refusal(cause, message, fix)


def _read(path: Path) -> Document:
    return read_document(path, what="profile")


def _described(profile: Profile, lines: Mapping[KeyPath, int], *, has_parent: bool) -> Profile:
    """`profile` with a title, and measured only where it says so itself beside a parent."""
    if not profile.title:
        place = {"cpu": "a CPU", "cuda": "a GPU"}[profile.hardware.device]
        title = f"{shown(profile.model)} on {place}"
        profile = msgspec.structs.replace(profile, title=title)
    if has_parent and ("measured",) not in lines:
        profile = msgspec.structs.replace(profile, measured=False)
    return profile


def _parent(name: str, child: Document, user_dir: Path) -> Path:
    """The file that `extends: name` means; a profile that extends its own name means the shipped
    one in front of which it stands.

    Raises:
        QlaunchError: `profile_invalid` (exit 2) where there is none.
    """
    at = (extends.KEY,)
    if name.endswith(SUFFIXES):
        path = child.path.parent / at_home(name)
        if not os.path.lexists(path):
            raise child.refusal(at, f"`extends`: there is no file {shown(str(path), 400)}")
        return path
    own, shipped = _files(user_dir), _files(shipped_dir())
    same = [files[name] for files in (own, shipped) if name in files]
    for path in same:
        if path.resolve() != child.path.resolve():
            return path
    if same:
        raise child.refusal(at, f"`extends: {name}` names the profile itself")
    hint = did_you_mean(name, {**shipped, **own})
    raise child.refusal(
        at,
        f"`extends` names `{shown(name)}`, and there is no such profile{hint}",
        "name a profile of `qlaunch profiles list`, or give a path to a .yaml file",
    )


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
            fix="it must be a folder that you may read",
        ) from error
    found = [path for path in paths if path.suffix in SUFFIXES and not path.name.startswith(".")]
    return {path.stem: path for path in found}


def _unknown(message: str, fix: str | None = None) -> QlaunchError:
    return QlaunchError(
        message,
        code="profile_unknown",
        fix=fix
        or "`qlaunch profiles list` shows every profile; a file is given by a path to a .yaml",
    )
