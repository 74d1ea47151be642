"""The supervisor's `/metrics`, where a plan asks for it; never a reason not to serve."""

from __future__ import annotations

from collections.abc import Callable

from launcher.documents.plan import Plan
from launcher.documents.service_state import MetricsAddress
from launcher.errors import QlaunchError
from launcher.service.supervisor.batch_counter import BatchCounter
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.metrics_server import Scrape
from launcher.service.supervisor.metrics_text import Facts, exposition
from launcher.service.supervisor.records import ServiceRecords


def serve(
    loop: Loop, plan: Plan, records: ServiceRecords, traffic: Callable[[], BatchCounter | None]
) -> Scrape | None:
    """Answer scrapes from now on; the status says where, or why not. None: not asked for."""
    if plan.metrics_port is None:
        return None

    def text() -> str:
        return exposition(
            Facts(
                state=records.status.now,
                model=plan.model_name,
                sample=records.recorder.latest,
                traffic=traffic(),
            )
        )

    found, scrape = MetricsAddress(), None
    try:
        scrape = Scrape(loop, plan.metrics_port, text, plan.metrics_host)
        found = MetricsAddress(url=scrape.url)
    except (OSError, QlaunchError) as error:
        why = error.message if isinstance(error, QlaunchError) else error.strerror or error
        reason = f"port {plan.metrics_port} for metrics: {why}"
        found = MetricsAddress(problem=reason)
        records.journal.write(f"no metrics: {reason}")
    records.status.change(metrics=found)
    return scrape
