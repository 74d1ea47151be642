"""The supervisor's `/metrics`, where a plan asks for it; never a reason not to serve."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from launcher.plan.types import Plan
from launcher.service.books import Books
from launcher.service.exposition import Facts, exposition
from launcher.service.loop import Loop
from launcher.service.scrape import Scrape
from launcher.service.traffic import Traffic


def serve(
    loop: Loop, plan: Plan, books: Books, traffic: Callable[[], Traffic | None]
) -> Scrape | None:
    """Answer scrapes from now on; the status says where, or why not. None: not asked for."""
    if plan.metrics_port is None:
        return None

    def text() -> str:
        return exposition(
            Facts(
                state=books.status.now,
                model=plan.model_name,
                sample=books.recorder.latest,
                traffic=traffic(),
            )
        )

    found: dict[str, Any] = {"url": None, "problem": None}
    scrape = None
    try:
        scrape = Scrape(loop, plan.metrics_port, text)
        found["url"] = scrape.url
    except OSError as error:
        reason = f"port {plan.metrics_port} for metrics: {error.strerror or error}"
        found["problem"] = reason
        books.journal.write(f"no metrics: {reason}")
    books.status.change(metrics=found)
    return scrape
