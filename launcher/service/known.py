"""Which services there are, for a message about one that there is not."""

from __future__ import annotations

from launcher.documents.service_state import at_work
from launcher.service import store

_NAMED = 5
"""Services that a message names; `qlaunch ps --all` has the others."""


def others(name: str) -> str:
    """What services there are instead of `name`: those with names near it, those that run, a few.

    The states are as they were last written: a message needs no look at each process.
    """
    from launcher.yaml_messages import did_you_mean

    states = [store.read_state(each) for each in store.list_services()]
    known = {
        state.service: at_work(state)
        for state in states
        if state is not None and state.part_of is None
    }
    if len(known) <= _NAMED:
        return f"; there are: {', '.join(known)}" if known else ""
    hint = did_you_mean(name, known)
    if hint:
        return hint
    running = [each for each, runs in known.items() if runs]
    more = ", …" if len(running) > _NAMED else ""
    named = f"{', '.join(running[:_NAMED])}{more}" if running else "none"
    return f"; of {len(known)} services these run: {named}"
