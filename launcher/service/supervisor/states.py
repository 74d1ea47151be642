"""The states of a service, and which may follow which.

The supervisor alone moves a service from state to state; nobody else writes `state.json`, except
`settle`, which holds the dead supervisor's lock while it writes `failed`.

| state | means | left when | next |
|---|---|---|---|
| starting | the engine has been started and has said nothing yet | it logs, listens, dies | loading, warming, verifying |
| loading | the engine reads its weights | they are in, or its port opens | warming, verifying |
| warming | the weights are in, `/health` is not 200 yet | `/health` is 200, the model ours | verifying |
| verifying | the engine is healthy, the smoke runs | the smoke answers | ready |
| ready | verified | checks fail twice in a row, the engine or a part of it dies | degraded, backoff |
| idle | verified; the gateway answers, the engine is stopped | a request needs it | starting |
| degraded | was verified, its checks fail now | they pass, embeddings hang, it dies | ready, backoff |
| backoff | the engine died after the first `ready`, or lacked memory; waits | the wait is over | starting |
| stopping | the tree is being stopped: asked by signal, or given up | nothing is left | stopped, failed |
| stopped | asked to stop, and nothing is left | – | – |
| failed | gave up: `failure` says why and what to try | – | – |

Every state that is not final may also go to `stopping` (a signal, a timeout, a failed smoke) and
to `failed` (the engine died and there is nothing to stop); every start state may go to `backoff`
(a restart that did not come up, or a fallback step after a memory failure).
"""  # noqa: E501 - a table

from __future__ import annotations

import random
from dataclasses import dataclass

from launcher.config.profile import Restart
from launcher.documents.service_state import State

_ALWAYS: frozenset[State] = frozenset({"stopping", "failed"})
NEXT: dict[State, frozenset[State]] = {
    "starting": _ALWAYS | {"loading", "warming", "verifying", "backoff"},
    "loading": _ALWAYS | {"warming", "verifying", "backoff"},
    "warming": _ALWAYS | {"verifying", "backoff"},
    "verifying": _ALWAYS | {"ready", "backoff"},
    "ready": _ALWAYS | {"degraded", "backoff", "idle"},
    "degraded": _ALWAYS | {"ready", "backoff"},
    "idle": _ALWAYS | {"starting"},
    "backoff": _ALWAYS | {"starting"},
    "stopping": frozenset({"stopped", "failed"}),
    "stopped": frozenset(),
    "failed": frozenset(),
    "unknown": frozenset(),
}


def may_follow(old: State, new: State) -> bool:
    """Whether the contract lets a service go from `old` to `new`."""
    return new in NEXT[old]


@dataclass(slots=True)
class RestartBudget:
    """How often the engine may still be started again.

    `attempts` counts starts since the last stable stretch. A stretch is stable after
    `policy.stable_after_s` of being verified; the count then begins anew.
    """

    policy: Restart
    attempts: int = 0

    def verified_for(self, seconds: float) -> None:
        """Note that the engine died after being verified for `seconds`."""
        if seconds >= self.policy.stable_after_s:
            self.attempts = 0

    def next_delay(self, jitter: float | None = None) -> float | None:
        """Seconds to wait before the next start, or None when the budget is spent.

        min(initial · 2^n, max), times 0.5 to 1 ("equal jitter": services that died together do
        not come back together). `jitter` in 0..1 fixes the chance for tests.
        """
        if self.attempts >= self.policy.max_attempts:
            return None
        # 2**40 s is longer than any cap; beyond it a float exponent could overflow.
        ceiling: float = min(
            self.policy.backoff_initial_s * 2 ** min(self.attempts, 40),
            self.policy.backoff_max_s,
        )
        self.attempts += 1
        chance = random.random() if jitter is None else jitter  # noqa: S311 - not a secret
        return ceiling * (0.5 + 0.5 * chance)
