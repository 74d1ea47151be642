"""Engine releases: pinned SGLang versions that can live in an environment of their own."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the catalogue (`launcher/engine/releases.yaml`)."""

    name: str
    version: str
    title: str
    device: str
    """`cpu` or `cuda`."""
    python: str
    """Python versions it installs on, as a specifier (`>=3.11,<3.14`)."""
    machine: tuple[str, ...]
    start: tuple[str, ...]
    """Command that starts it, `{bin}` and `{python}` filled in: before the engine's own options."""
    requirements: tuple[str, ...] = ()
    """What is installed with its dependencies resolved (torch), after the lock."""
    lock: str | None = None
    """File under `launcher/engine/locks/` with every other package pinned, installed as it is."""
    disk_bytes: int = 0
    standins: bool = False
    """Needs our stand-ins for `sgl_kernel` and torchvision's compiled operators."""
    plugin: str = "framework"
    """How our plugin gets in: `framework` (entry points, from 0.5.12) or `external-package`."""
    model_info_path: str = "/model_info"
    min_compute_capability: tuple[int, int] | None = None
    max_compute_capability: tuple[int, int] | None = None
    min_driver: str | None = None
    min_glibc: str | None = None
    notes: tuple[str, ...] = ()


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that can be started: an installed release, or the user's own Python."""

    release: Release
    python: Path
    version: str
    root: Path | None
    """The environment's folder where qlaunch owns it, else None."""

    @property
    def bin(self) -> Path:
        """Folder of the environment's scripts."""
        return self.python.parent
