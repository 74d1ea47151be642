"""Plans with their origin, on paper."""

from __future__ import annotations

from typing import Any

import msgspec

from launcher.documents.plan import Origin, Plan
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs


def origin(settings: dict[str, Any] | None = None, **changes: Any) -> Origin:
    """Of `up cpu-minilm --name svc`, with further settings."""
    usual = {"name": "svc", "model": "all-minilm-l6-v2", "host": "127.0.0.1", "port": 30000}
    values = {
        "profile": "cpu-minilm",
        "profile_path": "/profiles/cpu-minilm.yaml",
        "profile_digest": "0" * 64,
        "settings": usual | {"engine": "cpu"} | (settings or {}),
    }
    return Origin(**{**values, **changes})


def plan(**changes: Any) -> Plan:
    """What `make_plan` makes of a small encoder, with an origin."""
    made = msgspec.structs.replace(make_plan(inputs()), fingerprint="0123456789abcdef" * 4)
    return msgspec.structs.replace(made, **{"origin": origin(), **changes})
