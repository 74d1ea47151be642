"""A service that seems to run: a plan and a state that point at a scripted engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from launcher.documents.plan import CardFacts, EnginePlan, Expectation, MemoryPrediction, Plan
from launcher.documents.service_state import ServiceState
from tests.cli.services import leave_service
from tests.verify.fakes import WIDTH

CARD = CardFacts(
    name="known",
    file="known.yaml",
    pooling="mean",
    normalize=True,
    dimensions=WIDTH,
    instruction="Instruct: {task}\nQuery:{query}",
)


def plan(**changes: Any) -> Plan:
    """A plan whose vectors the honest scripted engine has."""
    expected: dict[str, Any] = {
        "dimensions": WIDTH,
        "normalize": True,
        "pooling": "mean",
        "encoder": True,
        "max_running_requests": 4,
        "context_length": 400,
        "parity_min": 0.0,
        "dtype": "bfloat16",
        "card": CARD,
    }
    expected |= changes.pop("expectation", {})
    values: dict[str, Any] = {
        "service": "s",
        "profile": "cpu-minilm",
        "engine": EnginePlan(release="cpu", version="0", python="/none", argv=(), env={}),
        "device": "cpu",
        "model_name": "known",
        "model_path": "nowhere",
        "fingerprint": "abc",
        "expectation": Expectation(**expected),
        "host": "127.0.0.1",
        "port": 0,
        "api_key_file": None,
        "predicted": MemoryPrediction(ram_bytes=None, gpu_bytes=None),
        "fits": True,
        "reference_cache": "nowhere",
    }
    return Plan(**{**values, **changes})


def pretend(
    monkeypatch: pytest.MonkeyPatch, endpoint: str, **changes: Any
) -> Callable[[], ServiceState]:
    """Have the service `s` run at `endpoint`, as far as commands can see."""
    state = leave_service("s", "r", endpoint=endpoint, state="ready")
    monkeypatch.setattr("launcher.app.running_service.control.status", lambda _name: state)
    monkeypatch.setattr(
        "launcher.app.running_service.store.read_plan", lambda _where: plan(**changes)
    )
    return lambda: state
