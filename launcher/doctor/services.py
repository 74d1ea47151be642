"""What `qlaunch doctor` says of services, their leftovers, and the default port.

It only looks: a service whose supervisor died is settled by `ps` or `down`, not here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from launcher.doctor.runner import Finding, ok, problem, warning
from launcher.documents.service_state import FINAL, ServiceState
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.paths import dirs
from launcher.service import note, ports, process_tree, reading, recover, store


def port_finding(port: int) -> Finding:
    """Whether `port`, the default of most profiles, is free on this machine's own address."""
    name = f"port {port}"
    if not ports.listeners(port):
        return ok(name, "it is free")
    held = set(ports.owner_pids(port))
    for state in _states():
        tree = store.read_tree(store.folder(state.service))
        mine = {process.pid for process in (state.engine, *tree) if process is not None}
        if mine & held:
            return ok(name, f"service {state.service} listens on it")
    text = f"it is taken by {ports.holder(port)}; an `up` without --port will be refused"
    return warning(name, text, "stop that process, or give --port (0 takes a free one)")


def kernel_findings() -> Iterator[Finding]:
    """What watching and stopping processes needs of the kernel, or of the container's filter."""
    name = "processes"
    if (blind := processes.proc_problem()) is not None:
        yield problem(name, blind, "mount it: unshare --mount-proc, or mount -t proc proc /proc")
        return
    missing = []
    if not processes.has_pidfds():
        missing.append("no pidfd_open (signals go by kill, after the identity was checked)")
    if not (process_tree.is_subreaper() or process_tree.can_be_subreaper()):
        missing.append("no subreaper (lost processes are found by their environment)")
    if missing:
        text = f"this kernel or a seccomp filter has {'; '.join(missing)}"
        yield warning(name, text, "a kernel of 5.3 or later, or another seccomp profile")
    else:
        yield ok(name, "they can be watched and signalled without a race")


def service_findings() -> Iterator[Finding]:
    """Services whose state is damaged or whose supervisor died, and processes that were left."""
    states = _states()
    seen: list[Finding] = []
    for state in states:
        name = f"service {state.service}"
        again = f"qlaunch down {state.service}"
        if state.state == "unknown":
            seen.append(problem(name, state.problem or "its state cannot be read", again))
        elif state.state not in FINAL and (why := _doubt(state)) is not None:
            seen.append(warning(name, why, f"ask there, or {again}"))
        elif state.state not in FINAL and not _lives(state):
            text = f"its supervisor died while it was {state.state}"
            seen.append(warning(name, text, f"{again} (or ps, which says how it ended)"))
    up = [s.service for s in states if s.state not in FINAL and _lives(s)]
    yield from seen or [ok("services", f"{', '.join(up)} running" if up else "none is running")]
    yield from _leftovers(states)


def _lives(state: ServiceState) -> bool:
    """Whether its supervisor lives, here or where it can only be heard of."""
    if state.supervisor is None or processes.is_here(state.supervisor):
        return processes.is_alive(state.supervisor)
    found = note.read(store.folder(state.service))
    age = None if found is None else found.age_s
    return age is None or age < note.SILENT_S


def _doubt(state: ServiceState) -> str | None:
    """Why a live supervisor answers nothing, or that it is not of here; None where all is well."""
    if state.supervisor is None or not _lives(state):
        return None
    if not processes.is_here(state.supervisor):
        return f"it runs {reading.place(state.supervisor, state.host)}"
    return reading.stuck(store.folder(state.service), state.supervisor)


def _states() -> list[ServiceState]:
    """The states as they are written, not settled."""
    return [s for name in store.list_services() if (s := store.read_state(name)) is not None]


def _leftovers(states: list[ServiceState]) -> Iterator[Finding]:
    """Processes of engines that have no supervisor."""
    live = [s for s in states if s.state not in FINAL and _lives(s)]
    left: dict[ProcessId, str] = {}
    for state in states:
        if state not in live:
            for one in store.read_tree(store.folder(state.service)):
                if processes.is_alive(one):
                    left[one] = f"qlaunch down {state.service}"
    runs = {state.run for state in live}
    for one, run in _marked():
        if run not in runs:
            left.setdefault(one, f"kill {one.pid}")
    if not left:
        yield ok("leftovers", "no engine process is left without its supervisor")
        return
    names = ", ".join(processes.describe(one) for one in left)
    fixes = "; ".join(dict.fromkeys(left.values()))
    yield problem("leftovers", f"left without a supervisor: {names}", fixes)


def _marked() -> Iterator[tuple[ProcessId, str]]:
    """Live processes of this user that carry a run of this home in their environment."""
    prefix = f"{recover.MARKER}=".encode()
    folder = dirs().runs
    for pid in processes.all_processes():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        run = next((v for v in environment.split(b"\0") if v.startswith(prefix)), b"")
        name = os.fsdecode(run[len(prefix) :])
        # Another home's services, or a run's name from elsewhere, are not ours to judge.
        if name and "/" not in name and name not in (".", "..") and (folder / name).is_dir():
            found = processes.process_id(pid)
            if found is not None and pid > 1 and processes.may_signal(found):
                yield found, name
