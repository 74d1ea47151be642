"""Templates filled in: whatever a name or a reason holds, it is shown and never obeyed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from launcher import units
from launcher.report import formatting

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, **values: Any) -> str:
    """A page. Everything in it is escaped but our own drawings (`safe` in the templates)."""
    from jinja2 import ChainableUndefined, Environment, FileSystemLoader

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        size=formatting.size,
        figure=formatting.figure,
        seconds=formatting.seconds,
        plain=formatting.plain,
        peak=units.peak,
    )
    return environment.get_template(template).render(ABSENT=formatting.ABSENT, **values)
