"""What the steps of a proof say of each profile. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from launcher.documents.proof import Chapter, Claim, StepRecord

OTHER_OPTIONS: Final = "whole texts"
"""A chapter whose service has other options than its profile: no claim of the profile's."""
NEEDED: Final = ("up", "vectors", "load", "memory")
"""Steps without which a profile is not proved."""


def claims(chapters: Iterable[Chapter]) -> tuple[Claim, ...]:
    """One for every profile that was started by itself."""
    lives = [(each, _by_name(each)) for each in chapters]
    return tuple(
        _claim(steps)
        for chapter, steps in lives
        if "up" in steps and "vectors" in steps and chapter.name != OTHER_OPTIONS
    )


def _by_name(chapter: Chapter) -> dict[str, StepRecord]:
    return {step.name: step for step in chapter.steps}


def _claim(steps: Mapping[str, StepRecord]) -> Claim:
    up = steps["up"].data
    status = steps["memory"].data if "memory" in steps else up
    predicted, measured = _in(status, "memory", "predicted"), _in(status, "memory", "measured")
    method = _in(measured, "method")
    return Claim(
        profile=str(up.get("profile") or steps["up"].command.split()[2]),
        release=_in(up, "engine").get("release"),
        ok=all(name in steps and steps[name].outcome == "ok" for name in NEEDED),
        worst_cosine=_in(up, "smoke").get("worst_cosine"),
        recall_difference=_in(steps["vectors"].data, "quality").get("recall_difference"),
        ram_predicted_bytes=predicted.get("ram_bytes"),
        ram_measured_bytes=measured.get("ram_peak_bytes"),
        gpu_predicted_bytes=predicted.get("gpu_bytes"),
        gpu_measured_bytes=measured.get("gpu_peak_bytes"),
        gpu_method=method.get("gpu_reason") or method.get("gpu"),
        ready_s=_in(up, "timings").get("ready_s"),
    )


def _in(data: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """The object under `keys`; an empty one where something else or nothing is there."""
    for key in keys:
        found = data.get(key)
        data = found if isinstance(found, dict) else {}
    return data
