"""Files that a command is to write: refused before the work where they could not be."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from launcher.linux.files import place_problem


class OutFile(click.Path):
    """A file to be written: its folder is there and can be written in."""

    def __init__(self, *, folder: bool = False, dash: bool = False) -> None:
        """Take a `folder` as well, or `-` (a `dash`) for stdout."""
        super().__init__(readable=False, allow_dash=dash, path_type=Path)
        self._folder = folder

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The file's path, or wrong usage with what is in the way."""
        path = Path(os.fsdecode(super().convert(value, param, ctx)))
        if str(path) == "-":
            if self.allow_dash:
                return path
            self.fail("it does not go to stdout (-): name a file", param, ctx)
        inside = self._folder and os.path.isdir(path)  # noqa: PTH112 - asked without an error
        if (problem := place_problem(path / "x" if inside else path)) is not None:
            self.fail(f"cannot write {path}: {problem}", param, ctx)
        return path
