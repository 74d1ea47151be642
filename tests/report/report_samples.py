"""Documents to make reports of: what they hold is made up for tests, and never shown to anybody."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from launcher.documents.comparison import (
    Cell,
    Comparison,
    Level,
    MachineFacts,
    Mode,
    Quality,
    Remeasured,
    Row,
    Spread,
)
from launcher.documents.failure import Failure
from launcher.documents.measurement import Measurement
from launcher.documents.plan import Term
from launcher.documents.run import Peak, Phase, ProcessSample, Run, Sample, Timings
from launcher.documents.smoke import Check, SmokeReport
from tests.samples import plan

HOSTILE = "<script>alert('x')</script>\"'&`|=1+1"


def spread(median: float, *, noisy: bool = False) -> Spread:
    return Spread(median=median, least=median * 0.9, most=median * 1.1, count=3, noisy=noisy)


def cell(level: Level, rate: float, **changes: Any) -> Cell:
    ms = 1000 * level.clients * level.batch / rate
    values: dict[str, Any] = {
        "level": level,
        "mean_ms": spread(ms),
        "p50_ms": spread(ms),
        "p95_ms": spread(ms * 1.5),
        "p99_ms": None,
        "embeddings_per_s": spread(rate),
        "tokens_per_s": spread(rate * 128),
        "ram_peak_bytes": 1_100_000_000,
    }
    return Cell(**values | changes)


def mode(name: str, levels: tuple[Level, ...], rate: float, **changes: Any) -> Mode:
    values: dict[str, Any] = {
        "name": name,
        "kind": "profile",
        "outcome": "measured",
        "model": "m",
        "device": "cpu",
        "dtype": "float32",
        "version": "0.5.23",
        "argv": ("sglang", "serve", "--port", "1"),
        "runs": ("20261124T120000Z-a-0000",),
        "verified_s": spread(10.0),
        "predicted": {"ram_bytes": 1_300_000_000, "gpu_bytes": None},
        "ram_peak_bytes": 1_200_000_000,
        "verified_ram_bytes": 1_250_000_000,
        "memory_method": {"ram": "pss"},
        "quality": Quality(cosine_min=0.99987, recall_at_10=0.484),
        "cells": tuple(cell(level, rate * (1 + number)) for number, level in enumerate(levels)),
    }
    return Mode(**values | changes)


LEVELS = (Level(), Level(batch=4), Level(clients=16), Level(loop="open", rate=20.0))


def comparison(name: str = "b", **changes: Any) -> Comparison:
    values: dict[str, Any] = {
        "made": "2026-11-24T12:00:00Z",
        "complete": True,
        "repeats": 3,
        "levels": LEVELS,
        "modes": (
            mode("plain", LEVELS, 11.0, kind="baseline"),
            mode(name, LEVELS[:3], 60.0, outcome="partial", reason=f"stopped {name}"),
            Mode(
                name="t4-fp16", kind="profile", outcome="cannot_run", reason=f"needs a GPU {name}"
            ),
            Mode(name="dead", kind="peer", outcome="failed", reason="kv_budget: no room"),
            Mode(name="late", kind="tuned", outcome="not_reached"),
        ),
        "winner": name,
        "verdict": (f"{name} is 5 times as quick as plain.",),
        "remeasured": Remeasured(mode=name, level=LEVELS[2], first=180.0, again=170.0),
        "machine": MachineFacts(cpu=name, ram_bytes=25_000_000_000),
        "versions": {"sglang": "0.5.23", "peer": None},
    }
    return Comparison(**values | changes)


def sample(t_s: float, *roles: tuple[str, int | None], **changes: Any) -> Sample:
    known = [used for _, used in roles if used is not None]
    values: dict[str, Any] = {
        "t_s": t_s,
        "ram_bytes": sum(known) if len(known) == len(roles) else None,
        "ram_method": "pss" if len(known) == len(roles) else "unavailable",
        "cpu_percent": 50.0,
        "gpu_bytes": None,
        "gpu_method": "unavailable",
        "processes": tuple(
            ProcessSample(pid=pid, role=role, ram_bytes=used, cpu_percent=None, gpu_bytes=None)
            for pid, (role, used) in enumerate(roles)
        ),
    }
    return Sample(**values | changes)


SAMPLES = (
    sample(0.5, ("front", 100_000_000)),
    sample(5.0, ("front", 400_000_000), ("scheduler", 600_000_000)),
    sample(9.0, ("front", 300_000_000), ("scheduler", None)),
    sample(20.0, ("front", 300_000_000), ("scheduler", 700_000_000), ("detokenizer", 50_000_000)),
)


def run(name: str = "m", **changes: Any) -> Run:
    names = ("starting", "loading", "warming", "verifying", "ready", "stopping", "stopped")
    values: dict[str, Any] = {
        "version": 1,
        "run": "20261124T120000Z-svc-0000",
        "service": name,
        "profile": name,
        "began": "2026-11-24T12:00:00.000Z",
        "ended": "2026-11-24T13:00:00.000Z",
        "outcome": "stopped",
        "plan": plan(
            model_name=name,
            engine={
                "argv": ("sglang", "serve", "--model-path", name, "--dtype", "bfloat16"),
                "env": {"OMP_NUM_THREADS": "2", "A": name},
            },
            predicted={
                "ram_full_bytes": 1_500_000_000,
                "terms": (
                    Term(
                        name=name,
                        device="ram",
                        bytes=1_200_000_000,
                        basis="computed",
                        source=name,
                        reserve=True,
                    ),
                ),
            },
            reasons=(name,),
        ),
        "phases": tuple(Phase(name=n, t_s=2.0 * at) for at, n in enumerate(names)),
        "timings": Timings(ready_s=6.0, verified_s=8.0),
        "peak": Peak(
            ram_peak_bytes=1_050_000_000,
            method={"ram": "pss", "gpu": "unavailable", "gpu_reason": name},
        ),
        "verified_peak": Peak(ram_peak_bytes=1_000_000_000, method={"ram": "pss"}),
        "smoke": SmokeReport(ok=True, checks=(Check(name="count", ok=True, detail=name),)),
        "versions": {"engine": "0.5.23", "release": "cpu"},
    }
    return Run(**values | changes)


def failed(name: str = "m") -> Run:
    return run(
        name,
        outcome="failed",
        smoke=None,
        timings=Timings(),
        phases=(Phase(name="starting", t_s=0.0), Phase(name="failed", t_s=3.0)),
        failure=Failure(
            code="start_failed",
            exit_code=6,
            failure_class="kv_budget",
            message=f"no room for {name}",
            fix="lower --max-total-tokens",
            evidence=(f"RuntimeError: {name}", "\x1b[31mred\x1b[0m"),
        ),
    )


EVENTS = ({"t_s": 1.0, "at": "x", "event": "phase", "phase": HOSTILE},)
BENCH = (
    Row(
        mode="m",
        batch=4,
        clients=16,
        mean_ms=12.5,
        p50_ms=12.0,
        p95_ms=20.0,
        p99_ms=None,
        embeddings_per_s=300.0,
        tokens_per_s=38_400.0,
        requests=100,
        ram_peak_bytes=1_100_000_000,
        gpu_peak_bytes=None,
        reason=HOSTILE,
    ),
)


def measurement(rows: Sequence[Row], number: int = 0) -> Measurement:
    return Measurement(
        service="svc",
        profile="svc",
        model="m",
        fingerprint=None,
        device="cpu",
        dtype="float32",
        release="cpu",
        engine="0.5.23",
        made=f"2026-11-24T12:30:{number:02}Z",
        measurement="2026-11-24T12:30:00Z",
        encoding="base64",
        keep_alive=True,
        idle_before=None,
        rows=tuple(rows),
    )
