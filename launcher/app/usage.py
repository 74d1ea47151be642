"""Who uses a folder of ours now: asked before anything is removed or replaced."""

from __future__ import annotations

import os
from pathlib import Path

from launcher.documents.service_state import at_work
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import processes
from launcher.service import control, store


def of(folder: Path) -> tuple[str, ...]:
    """Services at work with something in `folder`, by name; else processes (`process 7 (tail)`)
    that were started from it or have something in it open.

    Processes count whichever home they belong to: environments may be shared.
    """
    root = folder.resolve()
    services = [state.service for state in control.services() if at_work(state)]
    named = tuple(name for name in services if _needs(name, root))
    if named:
        return named
    me = os.getpid()
    pids = [pid for pid in processes.all_processes() if pid != me and _uses(pid, root)]
    return tuple(_describe(pid) for pid in sorted(pids))


def refuse(folder: Path, what: str) -> None:
    """Refuse to touch what is in use.

    Raises:
        QlaunchError: `in_use` (exit 9), naming who uses it.
    """
    if not (users := of(folder)):
        return
    services = [user for user in users if not user.startswith("process ")]
    more = f" and {len(users) - 5} more" if len(users) > 5 else ""
    raise QlaunchError(
        f"{what} is in use by {', '.join(users[:5])}{more}",
        code="in_use",
        exit_code=ExitCode.CONFLICT,
        fix=f"stop it first: qlaunch down {' '.join(services)}" if services else "end it first",
        data={"used_by": list(users)},
    )


def _needs(service: str, root: Path) -> bool:
    try:
        plan = store.read_plan(store.folder(service))
    except QlaunchError:
        return True  # it runs, and cannot be asked with what
    return any(_inside(path, root) for path in (plan.model_path, plan.engine.python))


def _inside(path: str, root: Path) -> bool:
    # Not the file's own end: an environment's python is a link to the system's.
    whole = Path(path)
    return (whole.parent.resolve() / whole.name).is_relative_to(root) or (
        whole.resolve().is_relative_to(root)
    )


def _uses(pid: int, root: Path) -> bool:
    """Whether a process was started with something in `root`, or has something there open.

    Loaded libraries and weights are in its maps, whatever it made of its command line. Of another
    user's process only the command line can be read.
    """
    base = Path(f"/proc/{pid}")
    below = os.fsencode(root) + b"/"
    try:
        words = (base / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    limit = os.pathconf("/", "PC_PATH_MAX")
    paths = [os.fsdecode(word) for word in words if word.startswith(b"/") and len(word) < limit]
    if any(_inside(path, root) for path in paths):
        return True
    try:
        return below in (base / "maps").read_bytes() or any(
            os.fsencode(os.readlink(one)).startswith(below)  # noqa: PTH115 - may be no path at all
            for one in (base / "fd").iterdir()
        )
    except OSError:
        return False


def _describe(pid: int) -> str:
    process = processes.process_id(pid)
    return f"process {pid}" if process is None else f"process {processes.describe(process)}"
