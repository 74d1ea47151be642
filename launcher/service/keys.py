"""The API key: from its 0600 file to the engine, without passing through argv or a log."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path

from launcher.errors import QlaunchError
from launcher.linux.files import write_atomic

_TOKEN = re.compile(rb"[A-Za-z0-9._~+/=-]+")
"""What a bearer token may hold (RFC 6750, b64token): it survives headers, YAML and repr unchanged,
so that scrubbing finds it in every log."""
_LIMIT = 4096


def read_key(path: str) -> str:
    """The key in `path`, without surrounding white space.

    Raises:
        QlaunchError: `api_key_unusable` (exit 2): missing, a symlink, readable by others, someone
            else's, empty, or with characters that a bearer token cannot have.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            found = os.fstat(file.fileno())
            data = file.read(_LIMIT + 1).strip()
    except OSError as error:
        raise _unusable(path, error.strerror or str(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise _unusable(path, "it is not a plain file")
    # A credential is root's, readable for this unit alone by an access list, which `mode` shows
    # as a group's right; systemd vouches for its folder (systemd.exec(5), LoadCredential=).
    credential = os.environ.get("CREDENTIALS_DIRECTORY") == str(Path(path).parent)
    if found.st_uid != os.geteuid() and not credential:
        raise _unusable(path, "it is not a file of this user")
    if found.st_mode & 0o077 and not credential:
        raise _unusable(path, f"others may read it (mode {stat.S_IMODE(found.st_mode):o})")
    if len(data) > _LIMIT or not _TOKEN.fullmatch(data):
        raise _unusable(path, "it must hold one key of letters, digits and . _ ~ + / = -")
    return data.decode("ascii")


def write_secrets_config(path: Path, key: str) -> None:
    """Write the file for the engine's `--config`: YAML, which JSON strings are part of; 0600.

    Raises:
        OSError: it cannot be written.
    """
    write_atomic(path, f"api-key: {json.dumps(key)}\n".encode())


def _unusable(path: str, why: str) -> QlaunchError:
    return QlaunchError(
        f"cannot use the API key file {path}: {why}",
        code="api_key_unusable",
        fix=f"put the key alone into the file, then: chmod 600 {path}",
    )
