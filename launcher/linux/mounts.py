"""Which file system a path is on, as far as it matters for locks."""

from __future__ import annotations

import os
from pathlib import Path

_NETWORK = ("nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "glusterfs", "fuse.", "beegfs")
"""Beginnings of the names of kinds whose flocks may not reach other machines. virtiofs and the
like are one machine's."""


def network_kind(path: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The kind of network file system that `path` is on; None if it is a local one, or unknown."""
    try:
        lines = mountinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    best, kind = "", None
    wanted = os.path.realpath(path)
    for line in lines:
        # proc_pid_mountinfo(5): the mount point is the fifth field, the kind follows " - ".
        head, _, tail = line.partition(" - ")
        fields = head.split(" ")
        if len(fields) < 5 or not tail:
            continue
        point = fields[4].encode().decode("unicode_escape", "replace")  # \040 is a blank
        inside = wanted == point or wanted.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, tail.split(" ", 1)[0]
    return kind if kind is not None and kind.startswith(_NETWORK) else None
