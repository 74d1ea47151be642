"""Whether the kernel's out-of-memory killer was at work: exit status 137 alone proves nothing."""

from __future__ import annotations

from pathlib import Path


def oom_kills() -> int | None:
    """Processes that the kernel has killed for memory so far, or None where it does not count.

    The counter of this process's own cgroup (`memory.events`, cgroup v2; `memory.oom_control`,
    v1) where it can be read, else the machine's (/proc/vmstat, Linux ≥ 4.13). Compare two
    readings.
    """
    for path, name in _counters():
        try:
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            continue
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == name and value.strip().isdigit():
                return int(value)
    return None


def _counters() -> list[tuple[Path, str]]:
    found = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    root = Path("/sys/fs/cgroup")
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            found.append((root / path.lstrip("/") / "memory.events", "oom_kill"))
        elif "memory" in controllers.split(","):
            found.append((root / "memory" / path.lstrip("/") / "memory.oom_control", "oom_kill"))
    return [*found, (Path("/proc/vmstat"), "oom_kill")]
