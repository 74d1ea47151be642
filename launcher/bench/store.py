"""Comparisons on disk: `comparisons/ID/comparison.json`, replaced whole after every step."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from launcher.documents.comparison import VERSION, Comparison
from launcher.linux.files import read_bounded, write_atomic
from launcher.paths import private_dir
from launcher.record.runs import new_run_id

FILE = "comparison.json"
TUNING = "tuning.json"
"""What `tune` keeps, with its comparison inside."""
LIMIT_BYTES = 32 << 20
"""Of one document: a row takes about 600 bytes."""
LISTED = 20


class Store:
    """The folder of one comparison.

    A full disk does not end a comparison: the document is still printed, and says what happened.
    """

    def __init__(self, comparisons: Path, kind: str) -> None:
        """Make the folder `comparisons/ID`, with an ID such as those of runs.

        Raises:
            QlaunchError: `state_dir_unsafe` (exit 1).
        """
        private_dir(comparisons.parent)
        private_dir(comparisons)
        self.id = new_run_id(kind, datetime.now(UTC))
        self.folder = private_dir(comparisons / self.id)
        self.problem: str | None = None

    @property
    def path(self) -> Path:
        """The document."""
        return self.folder / FILE

    def write(self, found: Comparison) -> None:
        """Replace the document; what goes wrong is kept in `problem`."""
        try:
            write_atomic(self.path, msgspec.json.format(msgspec.json.encode(found)))
        except OSError as error:
            self.problem = f"{self.path} could not be written: {error.strerror or error}"


def list_comparisons(comparisons: Path) -> list[Comparison]:
    """The newest comparisons, newest first; what cannot be read is left out."""
    try:
        names = sorted((each.name for each in comparisons.iterdir()), reverse=True)
    except OSError:
        return []
    found = [read(comparisons / name) for name in names[:LISTED]]
    return [each for each in found if each is not None]


def read(folder: Path) -> Comparison | None:
    """The document in a comparison's folder; None where there is none that can be read."""
    try:
        data = read_bounded(folder / FILE, LIMIT_BYTES)
        found = msgspec.json.decode(data, type=Comparison)
    except (OSError, ValueError, RecursionError):
        return None
    if found.version != VERSION:
        return None
    return msgspec.structs.replace(found, id=folder.name)
