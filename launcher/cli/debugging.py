"""`--debug`: where an error came from, in a file that is named and can be sent to somebody."""

from __future__ import annotations

import os
import tempfile
import traceback
from datetime import UTC, datetime
from pathlib import Path


def keep(error: BaseException) -> Path | None:
    """Write the error's traceback to a private file; None where no folder takes one.

    It goes under the state folder, or into the temporary one where that cannot be written.
    """
    from launcher.paths import dirs, private_dir

    text = "".join(traceback.format_exception(error)).encode("utf-8", "backslashreplace")
    name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-"
    try:
        folder = private_dir(dirs().state) / "debug"
        folder.mkdir(mode=0o700, exist_ok=True)
        return _written(text, name, str(folder))
    except Exception:  # noqa: BLE001  # whatever is wrong with our own folders may be the error
        try:
            return _written(text, f"qlaunch-{name}", None)
        except OSError:
            return None


def _written(text: bytes, prefix: str, folder: str | None) -> Path:
    descriptor, path = tempfile.mkstemp(prefix=prefix, suffix=".txt", dir=folder)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return Path(path)


def note(error: BaseException) -> str:
    """The sentence that names the file of an error's traceback."""
    path = keep(error)
    return f"traceback: {path}" if path else "the traceback cannot be written to any folder"
