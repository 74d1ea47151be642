"""What all Kubernetes objects of one service have in common. Pure."""

from __future__ import annotations

from typing import Any

from launcher.fleet.container import Contained


def labels(contained: Contained) -> dict[str, str]:
    """Labels of every object, by which they find each other."""
    return {"app.kubernetes.io/name": "qlaunch", "app.kubernetes.io/instance": contained.name}


def meta(contained: Contained, suffix: str = "") -> dict[str, Any]:
    """An object's metadata; its namespace is whoever applies it to say."""
    return {"name": contained.name + suffix, "labels": labels(contained)}
