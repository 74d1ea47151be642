"""Removing old run records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from launcher.errors import ExitCode, QlaunchError
from launcher.linux.removal import discard

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from launcher.documents.run import RunSummary


def old_runs(
    runs: Iterable[RunSummary], *, keep: int, live: frozenset[str]
) -> tuple[RunSummary, ...]:
    """The records beyond the newest `keep`. Pure.

    Args:
        runs: newest first, as `list_runs` gives them.
        keep: how many stay.
        live: ids of runs that are still being written; they stay, and do not count.
    """
    return tuple([run for run in runs if run.run not in live][keep:])


def remove_runs(runs_dir: Path, runs: Iterable[RunSummary]) -> None:
    """Remove the folders of `runs`, each whole or not at all; one that is gone is no error.

    Raises:
        QlaunchError: `run_not_removed` (exit 1), naming the path.
    """
    for run in runs:
        try:
            discard(runs_dir / run.run)
        except QlaunchError as error:
            raise QlaunchError(
                error.message,
                code="run_not_removed",
                exit_code=ExitCode.UNEXPECTED,
                fix="remove that folder by hand",
            ) from error
