"""Engine releases: pinned SGLang versions that can live in an environment of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from launcher.engine.options.flags import Table


class Workaround(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An engine option that every plan on a release must pass."""

    flag: str
    """Its long name, without dashes."""
    value: bool | int | str = True
    reason: str


class Release(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the catalogue (`launcher/engine/releases.yaml`)."""

    name: str = ""
    """The entry's key."""
    version: str
    title: str
    device: Literal["cpu", "cuda"]
    python: str
    """Python versions it installs on, as a specifier (`>=3.11,<3.14`)."""
    machine: tuple[str, ...]
    """`platform.machine()` values its wheels exist for."""
    start: tuple[str, ...]
    """Command that starts it, `{bin}` and `{python}` filled in: before the engine's own options."""
    requirements: tuple[str, ...] = ()
    """Installed with their dependencies resolved, after the lock."""
    lock: str | None = None
    """File under `launcher/engine/locks/`: every other package pinned, installed as it is."""
    disk_bytes: int
    """Space the finished environment takes, rounded up."""
    disk_bytes_cuda_build: int | None = None
    """The same where the index has only a CUDA build of torch."""
    min_glibc: str | None = None
    standins: bool = False
    """Needs our stand-ins for `sgl_kernel` and torchvision's compiled operators."""
    kernels: Literal["compiled", "torch"] = "compiled"
    """torch: a GPU release without compiled operators; PyTorch computes all layers."""
    named_only: bool = False
    """Taken only where a profile or a user names it: no record from a card proves it yet."""
    plugin: Literal["framework", "external-package", "registry"] = "framework"
    """How our plugin gets in: SGLang's plugin framework (from 0.5.12), its external model package,
    or, before that existed, its model registry, filled before the server is launched."""
    plugin_start: tuple[str, ...] = ()
    """Takes the place of `start` where the plugin runs; empty where `start` serves both."""
    model_info_path: str = "/model_info"
    min_compute_capability: str | None = None
    max_compute_capability: str | None = None
    min_driver: str | None = None
    workarounds: tuple[Workaround, ...] = ()
    """Options that go around the release's own faults; no profile can take them back."""
    fallback: str | None = None
    """Release to try where this one does not serve."""
    notes: tuple[str, ...] = ()


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """An engine that can be started: an installed release, or the user's own Python."""

    release: Release
    python: Path
    version: str
    root: Path | None
    """The environment's folder where qlaunch owns it, else None."""
    torch: str | None = None
    options: Table | None = None
    """What its own parser accepts (`parser_check`); None where only the shipped table is known."""

    cuda_home: Path | None = None
    """The CUDA toolkit that pip brought into the environment, where the machine has none of its
    own; else None."""

    @property
    def bin(self) -> Path:
        """Folder of the environment's scripts."""
        return self.python.parent


class InstalledEngine(msgspec.Struct, frozen=True, kw_only=True):
    """`installed.json`: written last, so its presence says the environment is whole."""

    version: int
    release: str
    sglang: str
    torch: str
    python: str
    lock_sha256: str
    bytes: int
    installed: str
    """ISO 8601, UTC."""
    imported_with: Literal["real", "stub", "none"] = "real"
    """The NVIDIA driver that the import was tried with at the end of the install: `stub` for ours
    on a machine without one, `none` where it is still to be tried. A CPU release needs none."""
