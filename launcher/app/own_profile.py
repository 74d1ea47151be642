"""A profile of the user's own: made on top of another one, and edited without being broken."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from launcher.app.prepare import Prepared
from launcher.app.profile_flags import check_releases
from launcher.config.loading import (
    LoadedProfile,
    check_name,
    find_profile,
    load_draft,
    shipped_dir,
)
from launcher.engine import releases
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import write_atomic
from launcher.model.cards import resolve_model
from launcher.plan import engine_and_card
from launcher.yaml_messages import shown

EDITORS: Final = ("editor", "nano", "vi")
"""Looked for where neither VISUAL nor EDITOR names one."""
_STDERR: Final = 2
_PLAIN: Final = re.compile(r"[A-Za-z0-9/._-][A-Za-z0-9/._@:-]*(?<!:)")
"""Text that YAML reads as it stands (a number among it is quoted too: it never is a model)."""

_TEXT: Final = """\
# yaml-language-server: $schema={schema}
title: {title}
# Whatever is not written here is as in {parent}. All of it, and where it comes from:
#   qlaunch profiles show {name} --resolved
extends: {extends}

# A model card (qlaunch model list), a folder, hf:ORG/NAME, modelscope:ORG/NAME or package:NAME.
{model}

# What people change most; take the # away and put your value.
# port: 30000             # 0 takes a free one
# dtype: auto             # float32, bfloat16, float16; int8 on x86-64 CPUs
# threads: auto           # compute threads on a CPU
# cors_origins: [https://app.example]

# Options of the engine, by their long names without dashes. null takes out what the parent says;
# a size that nobody gives is computed from the model and the free memory.
{flags}
"""
_NO_FLAGS: Final = """\
# flags:
#   max-total-tokens: null       # tokens of KV cache
#   max-running-requests: 64     # texts at once"""


def text(
    name: str,
    parent: LoadedProfile,
    model: str | None,
    *,
    by_path: bool,
    flags: Mapping[str, int] | None = None,
) -> str:
    """What `profiles new` writes. Pure.

    Args:
        name: of the new profile.
        parent: the profile it starts from.
        model: as settings take it, a folder absolute; None leaves the parent's.
        by_path: whether the parent is a file that is found by its path only.
        flags: options of the engine that it has besides the parent's.
    """
    place = {"cpu": "a CPU", "cuda": "a GPU"}[parent.profile.hardware.device]
    of = Path(model).name if model else parent.profile.model
    return _TEXT.format(
        schema=shipped_dir() / "schema.json",
        title=_scalar(f"{name}, {of} on {place}"),
        name=name,
        parent=parent.name,
        extends=_scalar(str(parent.path) if by_path else parent.name),
        model=f"model: {_scalar(model)}" if model else f"# model: {parent.profile.model}",
        flags="\n".join(["flags:", *(f"  {key}: {value}" for key, value in flags.items())])
        if flags
        else _NO_FLAGS,
    )


def _scalar(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def of_model(prepared: Prepared, folder: Path) -> Path:
    """A profile of the model that a plan was made for, as the plan has it, written into `folder`;
    named after the plan's service.

    Raises:
        OSError: the folder cannot be written.
    """
    name = prepared.plan.service
    path = folder / f"{name}.yaml"
    model, flags = prepared.settings.model, prepared.fitting
    content = text(name, prepared.profile, model, by_path=False, flags=flags)
    path.write_text(content, encoding="utf-8")
    return path


def create(name: str, content: str, folder: Path) -> Path:
    """Write a new profile among the user's own, valid or not at all.

    Raises:
        QlaunchError: `profile_invalid` (exit 2), `profile_exists` (exit 9), `not_written` (exit 1).
    """
    path = folder / f"{name}.yaml"
    check_name(name, path)
    for there in (path, path.with_suffix(".yml")):
        if os.path.lexists(there):
            raise QlaunchError(
                f"there is a profile {name} already: {there}",
                code="profile_exists",
                exit_code=ExitCode.CONFLICT,
                fix=f"take another name, or change it: qlaunch profiles edit {name}",
            )
    draft = draft_of(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(draft, content.encode("utf-8"), mode=0o644)
        try:
            check_names(load_draft(name, draft, path, folder), folder)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise _not_written(path, error) from error
    return path


def check_names(loaded: LoadedProfile, folder: Path) -> None:
    """Refuse a profile that names an engine release or a model card that does not exist.

    Whether a folder or a repository exists is not asked: it may be another machine's.

    Raises:
        QlaunchError: `engine_unknown` (exit 5), `model_unknown` or `model_source_invalid`
            (exit 2), with the nearest names.
    """
    profile = loaded.profile
    if profile.engine != engine_and_card.AUTO:
        releases.release(profile.engine)
    check_releases(loaded)
    at = loaded.file(("model",))
    try:
        resolve_model(profile.model, folder / "models", base=at.parent)
    except QlaunchError as error:
        line = loaded.lines.get(("model",), 1)
        raise QlaunchError(
            f"profile {at}:{line}: {error.message}", code=error.code, fix=error.fix
        ) from error


def draft_of(path: Path) -> Path:
    """Where the edited text of a profile is until it is valid: beside it, and in no list."""
    return path.with_name(f".{path.stem}.draft.yaml")


@dataclass(frozen=True)
class Edited:
    """What came of an edit."""

    path: Path
    changed: bool


@dataclass(frozen=True)
class Editing:
    """One profile of the user's own under edit: the draft beside it, which replaces it when it is
    valid. A draft that was not valid is kept, and the next edit goes on with it."""

    name: str
    path: Path
    folder: Path
    """The user's folder of profiles."""
    before: bytes

    @property
    def draft(self) -> Path:
        """The text under edit."""
        return draft_of(self.path)

    def finish(self) -> Edited:
        """Put the draft in place if it is valid and says something else.

        Raises:
            QlaunchError: `profile_invalid` (exit 2), the draft being kept; `profile_changed`
                (exit 9) where the profile was changed meanwhile; `not_written` (exit 1).
        """
        try:
            after = self.draft.read_bytes()
            if after == self.before:
                self.draft.unlink()
                return Edited(self.path, changed=False)
            loaded = load_draft(self.name, self.draft, self.path, self.folder)
            check_names(loaded, self.folder)
            if self.path.read_bytes() != self.before:
                raise QlaunchError(
                    f"{self.path} was changed by someone else meanwhile",
                    code="profile_changed",
                    exit_code=ExitCode.CONFLICT,
                    fix=f"your text is in {self.draft}: put the two together there, then"
                    f" mv {shlex.quote(str(self.draft))} {shlex.quote(str(self.path))}",
                )
            real = self.path.resolve()  # a link stays a link
            write_atomic(real, after, mode=real.stat().st_mode & 0o777)
            self.draft.unlink()
        except OSError as error:
            raise _not_written(self.path, error) from error
        return Edited(self.path, changed=True)

    def kept(self, error: QlaunchError) -> QlaunchError:
        """A refusal of the draft, with where it is."""
        again = f"qlaunch profiles edit {self.name}"
        fix = f"{error.fix}; " if error.fix else ""
        return QlaunchError(
            f"the profile was not changed, because the edited text is not valid: {error.message}",
            code=error.code,
            exit_code=error.exit_code,
            fix=f"{fix}{again} goes on with your text, which is kept in {self.draft}",
        )


def begin(name_or_path: str, folder: Path) -> Editing:
    """Copy a profile of the user's own to its draft, or go on with the draft there is.

    Raises:
        QlaunchError: `profile_unknown`, `profile_shipped` (exit 2), `not_written` (exit 1).
    """
    ref = find_profile(name_or_path, folder)
    if ref.shipped:
        raise QlaunchError(
            f"{ref.name} ships with qlaunch and is not edited: the next upgrade would undo it",
            code="profile_shipped",
            fix=f"make one of your own on top of it: qlaunch profiles new my-{ref.name} --from"
            f" {ref.name}",
        )
    try:
        editing = Editing(ref.name, ref.path, folder, ref.path.read_bytes())
        if not editing.draft.exists():
            write_atomic(editing.draft, editing.before, mode=0o600)
    except OSError as error:
        raise _not_written(ref.path, error) from error
    return editing


def editor(environ: Mapping[str, str], *, terminal: bool) -> list[str]:
    """The user's editor as a command.

    Raises:
        QlaunchError: `editor_missing` (exit 2).
    """
    for variable in ("VISUAL", "EDITOR"):
        try:
            words = shlex.split(environ.get(variable, ""))
        except ValueError as error:
            raise _no_editor(f"${variable} cannot be read: {error}") from error
        if words:
            return words
    found = next(filter(None, map(shutil.which, EDITORS)), None)
    if found is None or not terminal:
        raise _no_editor("neither $VISUAL nor $EDITOR names an editor")
    return [found]


def run_editor(words: list[str], draft: Path) -> None:
    """Open the draft and wait until the editor ends.

    Raises:
        QlaunchError: `editor_missing` (exit 2), `editor_failed` (exit 1).
    """
    output = None if sys.stdout.isatty() else _STDERR  # stdout is the command's own result
    try:
        code = subprocess.run([*words, str(draft)], check=False, stdout=output).returncode
    except OSError as error:
        raise _no_editor(f"{shown(words[0])} cannot be run: {error.strerror or error}") from error
    if code:
        raise QlaunchError(
            f"{shown(words[0])} ended with code {code}; the profile was not changed",
            code="editor_failed",
            exit_code=ExitCode.UNEXPECTED,
            fix=f"what it wrote, if anything, is in {draft}",
        )


def _no_editor(why: str) -> QlaunchError:
    return QlaunchError(
        why,
        code="editor_missing",
        fix="set EDITOR, such as EDITOR=nano; or edit the file itself: qlaunch profiles path NAME",
    )


def _not_written(path: Path, error: OSError) -> QlaunchError:
    return QlaunchError(
        f"{path} cannot be written: {error.strerror or error}",
        code="not_written",
        exit_code=ExitCode.UNEXPECTED,
        fix="check the folder's owner and mode, and the disk's free space",
    )
