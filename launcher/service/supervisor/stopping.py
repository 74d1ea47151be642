"""The end of a life: first the gateway, which finishes what is under way, then the engine."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace

from launcher.service import process_tree
from launcher.service.process_tree import StopReport
from launcher.service.supervisor.cache_gateway import CacheGateway
from launcher.service.supervisor.engine_life import EngineLife
from launcher.service.supervisor.smoke_process import Verifier
from launcher.service.supervisor.timing import Timing

DEAD_S = 0.5
"""For a gateway before an engine that is lost: it can finish nothing."""
LEAST_S = 2.0
"""Of the engine's grace, however long the gateway took."""


def stop(
    life: EngineLife | None,
    gateway: CacheGateway | None,
    timing: Timing,
    *,
    hurry: bool,
    forced: Callable[[], bool],
    proofs: Sequence[Callable[[], str | None]],
) -> Generator[float, None, StopReport]:
    """Stop both, yielding the seconds to wait before the next step.

    `hurry`: the engine is lost, and nothing of it is worth waiting for. `forced` and `proofs` as in
    `process_tree.stop`.
    """
    patience, left = timing.patience, list[str]()
    if life is not None:
        life.is_quiet()
    if gateway is not None:
        began = time.monotonic()
        dead = hurry or life is None or life.child.exited
        grace_s = DEAD_S if dead else min(timing.drain_s, patience.grace_s)
        left = yield from gateway.stop(grace_s, patience.kill_s, forced)
        rest = patience.grace_s - (time.monotonic() - began)
        patience = replace(patience, grace_s=max(rest, min(LEAST_S, patience.grace_s)))
    report = StopReport()
    if life is not None:
        report = yield from process_tree.stop(
            life.child,
            life.tree,
            patience=patience.hurried() if hurry else patience,
            forced=forced,
            proofs=proofs,
        )
        life.close()
    report.left += left
    return report


def kill(life: EngineLife | None, verifier: Verifier | None, gateway: CacheGateway | None) -> None:
    """End all three the hard way, without waiting for more than the kernel."""
    if verifier is not None:
        verifier.close()
    if gateway is not None:
        gateway.kill()
    if life is not None:
        members = life.tree.scan()
        process_tree.reap([life.child], lambda _: None)
        process_tree.kill_leftovers(members)
