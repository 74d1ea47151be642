"""What `qlaunch doctor` says of services, their leftovers, and the default port.

It only looks: a service whose supervisor died is settled by `ps` or `down`, not here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from launcher.hardware.checks import Finding, ok, problem, warning
from launcher.paths import dirs
from launcher.service import ports, procs, settle, store
from launcher.service.types import FINAL, ProcessId, ServiceState


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


def service_findings() -> Iterator[Finding]:
    """Services whose state is damaged or whose supervisor died, and processes that were left."""
    states = _states()
    seen: list[Finding] = []
    for state in states:
        name = f"service {state.service}"
        again = f"qlaunch down {state.service}"
        if state.state == "unknown":
            seen.append(problem(name, state.problem or "its state cannot be read", again))
        elif state.state not in FINAL and not procs.is_alive(state.supervisor):
            text = f"its supervisor died while it was {state.state}"
            seen.append(warning(name, text, f"{again} (or ps, which says what became of it)"))
    up = [s.service for s in states if s.state not in FINAL and procs.is_alive(s.supervisor)]
    yield from seen or [ok("services", f"{', '.join(up)} running" if up else "none is running")]
    yield from _leftovers(states)


def _states() -> list[ServiceState]:
    """The states as they are written, not settled."""
    return [s for name in store.list_services() if (s := store.read_state(name)) is not None]


def _leftovers(states: list[ServiceState]) -> Iterator[Finding]:
    """Processes of engines that have no supervisor."""
    live = [s for s in states if s.state not in FINAL and procs.is_alive(s.supervisor)]
    left: dict[ProcessId, str] = {}
    for state in states:
        if state not in live:
            for process in store.read_tree(store.folder(state.service)):
                if procs.is_alive(process):
                    left[process] = f"qlaunch down {state.service}"
    runs = {state.run for state in live}
    for process, run in _marked():
        if run not in runs:
            left.setdefault(process, f"kill {process.pid}")
    if not left:
        yield ok("leftovers", "no engine process is left without its supervisor")
        return
    names = ", ".join(procs.describe(process) for process in left)
    fixes = "; ".join(dict.fromkeys(left.values()))
    yield problem("leftovers", f"left without a supervisor: {names}", fixes)


def _marked() -> Iterator[tuple[ProcessId, str]]:
    """Live processes of this user that carry a run of this home in their environment."""
    prefix = f"{settle.MARKER}=".encode()
    folder = dirs().runs
    for pid in procs.all_processes():
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:
            continue
        run = next((v for v in environment.split(b"\0") if v.startswith(prefix)), b"")
        name = os.fsdecode(run[len(prefix) :])
        # Another home's services, or a run's name from elsewhere, are not ours to judge.
        if name and "/" not in name and name not in (".", "..") and (folder / name).is_dir():
            process = procs.process_id(pid)
            if process is not None and procs.may_signal(pid):
                yield process, name
