"""Which control-group folders limit this process, from its own up to the root, v1 and v2.

A limit may sit at any level, so every level is looked at. What `/proc/self/cgroup` names may lie
outside what is mounted (a container sees its own group as the root of the mount); the mount's own
folder is then the place to look.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, NamedTuple

from launcher.linux.pseudofiles import read_text

if TYPE_CHECKING:
    from pathlib import Path


class ControlGroup(NamedTuple):
    """One control-group folder."""

    version: int
    """1 or 2: which file names and meanings hold."""
    path: Path


class _Mount(NamedTuple):
    version: int
    controllers: frozenset[str]
    root: str
    """The group that the mount point shows."""
    point: str


_BOUNDS: Final = {
    "memory": ("memory.max", "memory.high", "memory.limit_in_bytes"),
    "cpu": ("cpu.max", "cpu.cfs_quota_us"),
}
_UNLIMITED: Final = re.compile(r"max|-1|9223372036854\d+")


def bounds(root: Path, process: str = "self") -> list[str]:
    """What control groups let a process have of memory and processors, own group first.

    Texts of files as the kernel writes them; nothing where nothing is limited.
    """
    found = []
    for controller, names in _BOUNDS.items():
        for group in groups(root, controller, process):
            texts = ((name, read_text(group.path / name) or "") for name in names)
            found += [
                f"{name} {text}" for name, text in texts if not _UNLIMITED.match(text or "max")
            ]
    return found


def groups(root: Path, controller: str, process: str = "self") -> list[ControlGroup]:
    """Existing folders that can limit `controller` (`cpu`, `memory`) for a process, own first.

    Args:
        root: where `/` is; fixture trees in tests.
        controller: the controller's name, the same in v1 and v2.
        process: its PID; this one, if not given.
    """
    own = _own_groups(read_text(root / f"proc/{process}/cgroup") or "")
    found: list[ControlGroup] = []
    for mount in _mounts(root):
        if mount.version == 1 and controller not in mount.controllers:
            continue
        name = own.get(controller if mount.version == 1 else "")
        for path in _upwards(name, mount):
            folder = root / path.lstrip("/")
            if folder.is_dir():
                found.append(ControlGroup(mount.version, folder))
    return found


def _own_groups(text: str) -> dict[str, str]:
    """`/proc/self/cgroup` as controller → group; the unified (v2) hierarchy is the key ``."""
    own: dict[str, str] = {}
    for line in text.splitlines():
        number, _, rest = line.partition(":")
        controllers, separator, path = rest.partition(":")
        if not separator or not path.startswith("/"):
            continue
        if not controllers:
            own[""] = path
        elif number.isdigit():
            own.update(dict.fromkeys(controllers.split(","), path))
    return own


def _mounts(root: Path) -> list[_Mount]:
    text = read_text(root / "proc/self/mountinfo") or ""
    mounts = [mount for line in text.splitlines() if (mount := _mount(line))]
    return mounts or _usual_mounts()


def _mount(line: str) -> _Mount | None:
    """One line of mountinfo (proc(5)), None if it is no control-group mount."""
    before, separator, after = line.partition(" - ")
    fields, kind = before.split(), after.split()
    if not separator or len(fields) < 5 or len(kind) < 3 or kind[0] not in ("cgroup", "cgroup2"):
        return None
    options = frozenset(kind[2].split(","))
    version = 2 if kind[0] == "cgroup2" else 1
    return _Mount(version, options, _unescape(fields[3]), _unescape(fields[4]))


def _unescape(text: str) -> str:
    """Mountinfo writes blanks and backslashes in octal."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _usual_mounts() -> list[_Mount]:
    """The customary places, for where /proc/self/mountinfo is masked."""
    base = "/sys/fs/cgroup"
    mounts = [_Mount(2, frozenset(), "/", base), _Mount(2, frozenset(), "/", f"{base}/unified")]
    mounts.extend(
        _Mount(1, frozenset(names.split(",")), "/", f"{base}/{names}")
        for names in ("cpu", "cpu,cpuacct", "memory")
    )
    return mounts


def _upwards(name: str | None, mount: _Mount) -> list[str]:
    """Folders from the group `name` up to the mount point, the mount point always among them."""
    inside = _inside(name, mount.root)
    chain = [PurePosixPath(inside), *PurePosixPath(inside).parents]
    return [f"{mount.point}/{level}" if str(level) != "." else mount.point for level in chain]


def _inside(name: str | None, root: str) -> str:
    """`name` relative to the group that the mount shows, `.` where it lies outside of it."""
    if name is None or ".." in PurePosixPath(name).parts:
        return "."
    try:
        return str(PurePosixPath(name).relative_to(root))
    except ValueError:
        return "."
