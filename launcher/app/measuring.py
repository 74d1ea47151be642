"""A service as a target of load, and what a measurement says of it."""

from __future__ import annotations

from launcher.bench.target import Encoding, Target
from launcher.documents.measurement import MeasuredService
from launcher.documents.plan import Plan


def target_of(
    plan: Plan,
    endpoint: str,
    *,
    leader: int | None,
    key: str | None,
    encoding: Encoding = "base64",
    mode: str | None = None,
) -> Target:
    """A service as a target of load.

    Args:
        endpoint: `http://host:port/v1`.
        leader: the engine's leader, whose tree is sampled.
        key: what clients must send, if anything.
        mode: name in the rows; None is the service's.
    """
    return Target(
        mode=mode or plan.service,
        url=endpoint,
        model=plan.model_name,
        dimensions=plan.expectation.dimensions,
        key=key,
        encoding=encoding,
        leader=leader,
        gpu=plan.device == "cuda",
        longest=plan.longest_text,
    )


def facts_of(plan: Plan) -> MeasuredService:
    """What a measurement says of the service, so that it can be cited without its run."""
    return MeasuredService(
        service=plan.service,
        profile=plan.profile,
        model=plan.model_name,
        fingerprint=plan.fingerprint,
        device=plan.device,
        dtype=plan.expectation.dtype,
        release=plan.engine.release,
        engine=plan.engine.version,
    )
