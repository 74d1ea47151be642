"""Starting a detached supervisor: a process that inherits nothing and outlives its starter."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from collections.abc import Sequence

from launcher import child_environment
from launcher.linux import limits
from launcher.service.store import Folder

_LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW


def spawn(where: Folder, entry: Sequence[str], began: float) -> int:
    """Start the supervisor in a session of its own, with nothing of ours but its log; its PID.

    By posix_spawn: no handle has to be kept for a process that outlives us.

    Raises:
        QlaunchError: `resource_limit` (exit 1): no process or file more is allowed.
        OSError: the log cannot be opened.
    """
    _put_aside(where)
    env = environment(where)
    argv = [*entry, where.name, repr(began)]
    inherited = _inheritable()
    # posix_spawn refuses numbers above the limit, which may have been lowered after they were
    # opened; those are marked instead.
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    high = [fd for fd in inherited if fd >= limit]
    for fd in high:
        os.set_inheritable(fd, False)
    try:
        return _spawn(argv, env, where, [fd for fd in inherited if fd < limit])
    except OSError as error:
        raise limits.explain(error) or error from error
    finally:
        for fd in high:
            os.set_inheritable(fd, True)


def environment(where: Folder) -> dict[str, str]:
    """What a detached supervisor has of this process's environment."""
    env = child_environment.utf8(os.environ)
    env.pop("NOTIFY_SOCKET", None)
    if env.get("QLAUNCH_HOME"):
        env["QLAUNCH_HOME"] = str(where.path.parents[2])  # absolute: it changes its folder
    return env


def begin_log(where: Folder) -> None:
    """Begin the log anew, in a supervisor that is about to execute the next one.

    Raises:
        OSError: the log cannot be opened.
    """
    _put_aside(where)
    log = os.open(where.log, _LOG_FLAGS | os.O_CLOEXEC, 0o600)
    for descriptor in (1, 2):
        os.dup2(log, descriptor)
    os.close(log)


def _put_aside(where: Folder) -> None:
    """Keep the last log; where something is in the way, the new one goes on behind it."""
    with contextlib.suppress(OSError):
        where.log.replace(where.log.with_name(f"{where.log.name}.1"))


def _spawn(argv: list[str], env: dict[str, str], where: Folder, inherited: list[int]) -> int:
    return os.posix_spawn(
        argv[0],
        argv,
        env,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(where.log), _LOG_FLAGS, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            # A shell's own descriptors (`exec 9>lock`) are inheritable and must not live on in us.
            *((os.POSIX_SPAWN_CLOSE, fd) for fd in inherited),
        ],
        setsid=True,
        # A shell that started us in the background, or nohup, may have had signals ignored.
        setsigmask=(),
        setsigdef=(signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGCHLD),
    )


def _inheritable() -> list[int]:
    found = []
    for fd in (int(name) for name in os.listdir("/proc/self/fd")):  # noqa: PTH208 - names only
        try:
            if fd > 2 and os.get_inheritable(fd):
                found.append(fd)
        except OSError:
            continue  # the descriptor of the listing itself
    return found
