"""The states of a set and of its replicas. Pure: what follows from what, and nothing else.

A replica, as its set sees it:

| stage | means | left when |
|---|---|---|
| waiting | it does not run: not begun yet, or it rests after a failure | it is started |
| coming | its supervisor runs; its engine is not verified yet, or not again | that says ready |
| proving | verified; its vector is being compared with that of the others | it is the same |
| serving | requests are handed to it | it dies, its checks fail, it is asked to leave |
| ill | verified before; its checks fail now, or its supervisor does not move | they pass, it dies |
| leaving | asked to leave: it finishes its calls | it has ended |
| given up | it failed too often, or its first start did | a restart or a scale asks |

A set has the states of every service, and the same words mean: `starting` to `verifying` the least
advanced replica of its first start, `ready` all of them serve, `degraded` fewer do, `backoff` none
does and one is coming, `failed` all were given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from launcher.documents.service_state import START, UP, State
from launcher.units import counted

Stage = Literal["waiting", "coming", "proving", "serving", "ill", "leaving", "given up"]

_ALWAYS: Final[frozenset[State]] = frozenset({"stopping", "failed"})
_UP: Final[frozenset[State]] = frozenset({"ready", "degraded"})
NEXT: Final[dict[State, frozenset[State]]] = {
    "starting": _ALWAYS | _UP | {"loading", "warming", "verifying"},
    "loading": _ALWAYS | _UP | {"warming", "verifying"},
    "warming": _ALWAYS | _UP | {"verifying"},
    "verifying": _ALWAYS | _UP,
    "ready": _ALWAYS | {"degraded", "backoff"},
    "degraded": _ALWAYS | {"ready", "backoff"},
    "backoff": _ALWAYS | _UP,
    "stopping": frozenset({"stopped", "failed"}),
    "stopped": frozenset(),
    "idle": frozenset(),  # no set ever is
    "failed": frozenset(),
    "unknown": frozenset(),
}


def may_follow(old: State, new: State) -> bool:
    """Whether the contract lets a set go from `old` to `new`."""
    return new in NEXT[old]


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one replica now."""

    name: str
    runs: bool
    """Whether its supervisor lives."""
    state: State
    """What that says of it; `starting` before its first word."""
    agrees: bool = False
    """Whether the engine that runs now gave the vector of the others."""
    leaving: bool = False
    given_up: str = ""
    """Why, in a sentence."""
    detail: str = ""
    """What goes on with it."""


def stage(facts: Facts) -> Stage:
    """Where a replica is."""
    if facts.given_up:
        return "given up"
    if facts.leaving:
        return "leaving"
    if not facts.runs:
        return "waiting"
    if facts.state in UP and not facts.agrees:
        return "proving"
    if facts.state == "ready":
        return "serving"
    if facts.state in {"degraded", "unknown"}:
        return "ill"
    return "coming"


def rotation(replicas: Sequence[Facts]) -> tuple[str, ...]:
    """Those that requests are handed to.

    Of a set that is ill as a whole (its machine may be overloaded) those whose checks fail are
    asked too: a single engine would be.
    """
    serving = tuple(each.name for each in replicas if stage(each) == "serving")
    if serving:
        return serving
    return tuple(each.name for each in replicas if stage(each) == "ill" and each.agrees)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The state of a set, and why, in a sentence."""

    state: State
    detail: str


def starting(replicas: Sequence[Facts], wanted: int, *, fronted: bool) -> Verdict:
    """Where the first start of a set is.

    Args:
        replicas: all of them, those that wait for their turn too.
        wanted: how many there are to be.
        fronted: whether the gateway was proved to give their vector.
    """
    stages = [stage(each) for each in replicas]
    serving = stages.count("serving")
    settled = all(each in {"serving", "given up"} for each in stages)
    if settled and serving and fronted:
        return running(replicas, wanted, complaint="")
    begun = [
        each.state for each, at in zip(replicas, stages, strict=True) if at in {"coming", "proving"}
    ]
    phases = [START.index(state) for state in begun if state in START]
    phase = START[min(phases)] if phases else "verifying" if begun or serving else "starting"
    return Verdict(
        phase,
        f"{serving} of {counted(wanted, 'replica')} verified{_coming(replicas, stages)}",
    )


def _coming(replicas: Sequence[Facts], stages: Sequence[Stage]) -> str:
    at_work = [
        f"{each.name} is {each.state}"
        for each, at in zip(replicas, stages, strict=True)
        if at == "coming"
    ]
    return f"; {', '.join(at_work)}" if at_work else ""


def running(replicas: Sequence[Facts], wanted: int, *, complaint: str) -> Verdict:
    """The state of a set that was up once.

    Args:
        replicas: all of them.
        wanted: how many there are to be.
        complaint: what is wrong with the gateway; empty: nothing.
    """
    serving = rotation(replicas)
    missing = "; ".join(missing_words(each) for each in replicas if each.name not in serving)
    words = (
        f"{len(serving)} of {counted(wanted, 'replica')} serve{': ' if missing else ''}{missing}"
    )
    if all(stage(each) == "given up" for each in replicas):
        return Verdict("failed", words)
    if not serving:
        return Verdict("backoff", words)
    if complaint:
        return Verdict("degraded", complaint)
    healthy = sum(stage(each) == "serving" for each in replicas)
    if healthy < wanted:
        return Verdict("degraded", words)
    return Verdict("ready", "verified")


def missing_words(facts: Facts) -> str:
    """Why a replica does not serve, in a sentence."""
    where = stage(facts)
    why = {
        "waiting": facts.detail or "waits for its turn",
        "coming": f"{facts.state}: {facts.detail}" if facts.detail else facts.state,
        "proving": "its vector is being compared",
        "serving": "",
        "ill": facts.detail or facts.state,
        "leaving": "finishes its requests",
        "given up": f"given up: {facts.given_up}",
    }[where]
    return f"{facts.name} {why}"
