"""`qlaunch profiles new`, `edit` and `path`: profiles of the user's own."""

from __future__ import annotations

import os
import sys

import click

from launcher.app import candidates, own_profile
from launcher.app.best_profile import best_profile
from launcher.app.known_model import Fetching, known_model
from launcher.app.prepare import profiles_dir
from launcher.cli.base import command as declare
from launcher.cli.result import Result
from launcher.config.loading import SUFFIXES, check_name, find_profile, load_profile
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.detect import detect
from launcher.model.cards import resolve_model
from launcher.paths import Dirs, dirs


@declare("profiles new")
@click.argument("name")
@click.option(
    "--from",
    "parent",
    metavar="PROFILE",
    help="The profile to start from (default: the best for this machine, and for the model).",
)
@click.option("--model", help="Model card, folder, hf:ORG/NAME, modelscope:… or package:….")
def new(name: str, parent: str | None, model: str | None) -> Result:
    """Write a profile NAME of your own, on top of another one.

    \b
        qlaunch profiles new mine --model ./my-finetune
        qlaunch profiles edit mine
        qlaunch up mine
    """
    where = dirs()
    folder = profiles_dir(where)
    check_name(name, folder / f"{name}.yaml")
    source = _model(model, where) if model is not None else None
    base = load_profile(parent or _parent(source, where), folder)
    by_path = parent is not None and parent.endswith(SUFFIXES)
    path = own_profile.create(name, own_profile.text(name, base, source, by_path=by_path), folder)
    loaded = load_profile(name, folder)
    shadows = find_profile(name, folder).shadows
    note = (
        f"note      it stands in front of the profile {name} that comes with qlaunch: every"
        " command takes yours by that name from now on"
    )
    return Result(
        data={
            "name": name,
            "path": str(path),
            "extends": base.name,
            "model": loaded.profile.model,
            "shadows": shadows,
        },
        lines=[
            f"written   {path}",
            f"extends   {base.name}",
            f"model     {loaded.profile.model}",
            *([note] if shadows else []),
            f"then      qlaunch profiles edit {name}; qlaunch plan {name}; qlaunch up {name}",
        ],
    )


def _model(word: str, where: Dirs) -> str:
    """The model as a profile should say it: a card's name, a source, or an absolute folder."""
    card, sources = resolve_model(word, profiles_dir(where) / "models")
    return card.name if card is not None else str(sources[0])


def _parent(model: str | None, where: Dirs) -> str:
    """The best profile for this machine, and for the model where one is given.

    Raises:
        QlaunchError: `does_not_fit` (exit 4); the errors of `known_model`.
    """
    hardware = detect()
    if model is None:
        return candidates.recommendation(candidates.advise(hardware, where), where).profile
    how = Fetching(fetch=False, foresee=True, offline=True, progress=lambda _: None)
    known = known_model(model, where, how)
    return best_profile(
        model, known.checkpoint, known.card, hardware=hardware, where=where, observed=()
    ).profile


@declare("profiles edit")
@click.argument("profile")
def edit(profile: str) -> Result:
    """Open a profile of your own in $VISUAL or $EDITOR; it is replaced when the text is valid."""
    editing = own_profile.begin(profile, profiles_dir(dirs()))
    words = own_profile.editor(os.environ, terminal=sys.stdin.isatty())
    while True:
        own_profile.run_editor(words, editing.draft)
        try:
            edited = editing.finish()
        except QlaunchError as error:
            if error.exit_code not in (ExitCode.USAGE, ExitCode.ENGINE):
                raise
            if not (sys.stdin.isatty() and _again(error)):
                raise editing.kept(error) from error
            continue
        word = "changed" if edited.changed else "unchanged"
        return Result(
            data={"name": editing.name, "path": str(edited.path), "changed": edited.changed},
            lines=[f"{word}: {edited.path}"],
        )


def _again(error: QlaunchError) -> bool:
    click.echo(f"Error: {error.message}", err=True)
    return click.confirm("Open the editor again?", default=True, err=True)


@declare("profiles path")
@click.argument("profile", required=False)
def path(profile: str | None) -> Result:
    """Print the folder of your own profiles, or the file of PROFILE."""
    folder = profiles_dir(dirs())
    found = folder if profile is None else find_profile(profile, folder).path
    return Result(data={"path": str(found), "exists": found.exists()}, lines=[str(found)])
