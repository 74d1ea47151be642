from __future__ import annotations

import http.client

from conftest import Home

from launcher.service import client
from launcher.service.types import ServiceState


def test_up_returns_when_verified_and_down_leaves_nothing(home: Home) -> None:
    seen: list[ServiceState] = []
    state = home.up(home.plan("--warm-up", "0.2"), seen)
    assert state.state == "ready"
    assert state.endpoint is not None
    assert state.engine is not None
    names = [phase["name"] for phase in state.phases]
    assert names == ["starting", "loading", "warming", "verifying", "ready"]
    assert state.smoke is not None
    assert state.smoke["checks"][0]["ok"]
    result = client.down("svc")
    assert result.was_running
    assert not result.forced
    assert result.left == ()
    assert result.state is not None
    assert result.state.state == "stopped"
