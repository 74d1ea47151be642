"""What a replica is called, and what it runs: the set's plan, less what is the set's own. Pure."""

from __future__ import annotations

import msgspec

from launcher.documents.plan import ENGINE_HOST, Plan


def replica_name(service: str, number: int) -> str:
    """`NAME.1`: the service that is replica `number`, from 1, of a set."""
    return f"{service}.{number}"


def replica_plan(plan: Plan, number: int) -> Plan:
    """What replica `number` of a set runs: one engine, at a free port of loopback.

    Address, cache and metrics are the set's; the share of the machine is its own.
    """
    engines = plan.replica_set
    assert engines is not None
    share = engines.shares[number - 1] if number <= len(engines.shares) else {}
    return msgspec.structs.replace(
        plan,
        service=replica_name(plan.service, number),
        part_of=plan.service,
        replica_set=None,
        host=ENGINE_HOST,
        port=0,
        cache=None,
        metrics_port=None,
        predicted=engines.one,
        engine=msgspec.structs.replace(plan.engine, env={**plan.engine.env, **share}),
        origin=None,
    )


def runs_the_same(one: Plan, other: Plan) -> bool:
    """Whether an engine of `one` need not be started again to be one of `other`."""
    return _engine(one) == _engine(other)


def _engine(plan: Plan) -> tuple[object, ...]:
    return (
        plan.engine,
        plan.fingerprint,
        plan.expectation,
        plan.guard,
        plan.api_key_file,
        plan.fallbacks,
        plan.restart,
        plan.template,
    )


def same_front(one: Plan, other: Plan) -> bool:
    """Whether the gateway before `one` is right before `other`: only then can the set change
    without losing its address."""
    return _front(one) == _front(other)


def _front(plan: Plan) -> tuple[object, ...]:
    return (
        plan.host,
        plan.port,
        plan.cache,
        plan.api_key_file,
        plan.metrics_port,
        plan.metrics_host,
        plan.model_name,
        plan.device,
        plan.guard,
        plan.expectation.dimensions,
        plan.expectation.context_length,
    )
