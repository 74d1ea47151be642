"""Which process of an engine plays which part."""

from __future__ import annotations

from launcher.documents.run import Sample

ROLES = ("front", "scheduler", "detokenizer", "template", "gateway", "other")
"""Processes of the engine, in the order they are stacked."""


def by_role(sample: Sample, kind: str) -> dict[str, int | None]:
    """Bytes by role; None for a role that has no process, or one that cannot be read."""
    found: dict[str, int | None] = dict.fromkeys(ROLES)
    unread = set()
    for process in sample.processes:
        role = process.role if process.role in found else "other"
        used = process.ram_bytes if kind == "ram" else process.gpu_bytes
        if used is None:
            unread.add(role)
        else:
            found[role] = (found[role] or 0) + used
    return {role: None if role in unread else used for role, used in found.items()}
