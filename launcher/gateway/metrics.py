"""What the gateway counts, in Prometheus' form."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

from launcher.gateway.pool import Group
from launcher.gateway.store import Store

if TYPE_CHECKING:
    from prometheus_client import Metric

_SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60)
_INPUTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048)


class Metrics:
    """Counters and histograms of one gateway."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self.registry = CollectorRegistry()
        self.requests = Counter(
            "qlaunch_gateway_requests_total",
            "Requests by model and status.",
            ["model", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "qlaunch_gateway_request_seconds",
            "Time from the whole request to its answer.",
            ["model", "cache"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.inputs = Counter(
            "qlaunch_gateway_inputs_total",
            "Inputs by where their vectors came from: cache, shared, server.",
            ["model", "source"],
            registry=self.registry,
        )
        self.refused = Counter(
            "qlaunch_gateway_refused_total",
            "Requests that were not answered with vectors, by code.",
            ["code"],
            registry=self.registry,
        )
        self.truncated = Counter(
            "qlaunch_gateway_truncated_inputs_total",
            "Inputs that were too long and were cut.",
            ["model"],
            registry=self.registry,
        )
        self.batch = Histogram(
            "qlaunch_gateway_batch_inputs",
            "Inputs of a request.",
            ["model"],
            buckets=_INPUTS,
            registry=self.registry,
        )

    def watch(self, store: Store | None, groups: dict[str, Group]) -> None:
        """Show the store's and the servers' own counts beside ours."""
        self.registry.register(_Live(store, groups))

    def text(self) -> bytes:
        """The page of `/metrics`."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry)


class _Live:
    """Reads counts that others keep, when the page is asked for."""

    def __init__(self, store: Store | None, groups: dict[str, Group]) -> None:
        self._store, self._groups = store, groups

    def collect(self) -> Iterator[Metric]:
        """The current values."""
        if self._store is not None:
            yield from _of_store(self._store)
        yield from _of_groups(set(self._groups.values()))


def _of_store(store: Store) -> Iterator[Metric]:
    import msgspec
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    counts = CounterMetricFamily(
        "qlaunch_gateway_cache", "What happened to the cache.", labels=["event"]
    )
    for name, value in msgspec.structs.asdict(store.counts).items():
        counts.add_metric([name], value)
    yield counts
    yield GaugeMetricFamily(
        "qlaunch_gateway_cache_bypassed",
        "1 while the cache is not asked.",
        value=float(store.breaker.state != "closed"),
    )


def _of_groups(groups: Iterable[Group]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    before, both = "qlaunch_gateway_", ["model", "server"]
    waiting = GaugeMetricFamily(
        f"{before}waiting", "Calls that wait for a server.", labels=both[:1]
    )
    open_calls = GaugeMetricFamily(f"{before}open_calls", "Calls under way.", labels=both)
    calls = CounterMetricFamily(f"{before}calls", "Calls to servers.", labels=both)
    failures = CounterMetricFamily(f"{before}call_failures", "Calls that failed.", labels=both)
    for group in groups:
        waiting.add_metric([group.name], group.waiting)
        for replica in group.replicas:
            labels = [group.name, replica.source.name]
            open_calls.add_metric(labels, replica.open)
            calls.add_metric(labels, replica.calls)
            failures.add_metric(labels, replica.failures)
    yield from (waiting, open_calls, calls, failures)
