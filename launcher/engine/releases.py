"""The catalogue of engine releases, and what an engine needs of a machine."""

from __future__ import annotations

import functools
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from launcher.engine.release import Release
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.capability import capability, dots, is_older
from launcher.hardware.inventory import Gpu, Hardware

_HERE = Path(__file__).resolve().parent
LOCKS = _HERE / "locks"


@functools.cache
def releases() -> Mapping[str, Release]:
    """Every release of `releases.yaml`, by name, in the file's order."""
    from launcher.yaml_reader import load_typed

    loaded = load_typed(_HERE / "releases.yaml", dict[str, Release], what="engine catalogue")
    return {
        name: msgspec.structs.replace(release, name=name) for name, release in loaded.value.items()
    }


def release(name: str) -> Release:
    """The release called `name`.

    Raises:
        QlaunchError: `engine_unknown` (exit 5), with the nearest names.
    """
    known = releases()
    if name in known:
        return known[name]
    from launcher.yaml_messages import did_you_mean

    raise QlaunchError(
        f"there is no engine release {name!r}{did_you_mean(name, known)}",
        code="engine_unknown",
        exit_code=ExitCode.ENGINE,
        fix=f"choose one of: {', '.join(known)}",
    )


@dataclass(frozen=True)
class Host:
    """The platform an engine would be installed on."""

    python: tuple[int, int, int]
    machine: str
    glibc: str | None
    installed: frozenset[str] = frozenset()
    """Names of the releases that are here already."""

    def why_not(self, release: Release) -> str | None:
        """Why `release` cannot be here, or None."""
        if release.name in self.installed:
            return None
        why = why_not_here(release, python=self.python, machine=self.machine, glibc=self.glibc)
        return f"engine {release.name} cannot be installed here: {why}" if why else None


def this_host(installed: frozenset[str] = frozenset()) -> Host:
    """The platform of this process."""
    info = sys.version_info
    return Host(
        (info.major, info.minor, info.micro), platform.machine(), glibc_version(), installed
    )


def why_not_here(
    wanted: Release, *, python: tuple[int, int, int], machine: str, glibc: str | None
) -> str | None:
    """Why `wanted` cannot be installed with this Python on this platform, or None.

    GPUs are not looked at: an environment may be built on a machine without one.
    """
    from packaging.specifiers import SpecifierSet
    from packaging.version import Version

    version = ".".join(str(part) for part in python)
    if Version(version) not in SpecifierSet(wanted.python):
        return f"it needs Python {wanted.python}, this is {version}"
    if machine not in wanted.machine:
        return f"it has no build for {machine} (only {', '.join(wanted.machine)})"
    if wanted.min_glibc and glibc and Version(glibc) < Version(wanted.min_glibc):
        return f"it needs glibc {wanted.min_glibc} or newer, this is {glibc}"
    return None


def why_not_gpu(release: Release, gpu: Gpu, driver: str | None) -> str | None:
    """Why a CUDA release cannot run on a GPU under a driver, or None."""
    have = gpu.compute_capability
    low = capability(release.min_compute_capability)
    high = capability(release.max_compute_capability)
    shown = dots(have)
    if low and have < low:
        return f"it has kernels for {release.min_compute_capability} and newer, this is {shown}"
    if high and have > high:
        return f"it has kernels up to {release.max_compute_capability}, this is {shown}"
    if is_older(driver, release.min_driver):
        return f"it needs driver {release.min_driver} or newer, this is {driver}"
    return None


def why_not_hardware(release: Release, hardware: Hardware) -> str | None:
    """Why `release` could not run on any GPU of this machine, or None; a CPU release always can."""
    if release.device != "cuda":
        return None
    if not hardware.gpus:
        return f"it needs an NVIDIA GPU, and none can be used here ({hardware.gpu_status})"
    reasons = [why_not_gpu(release, gpu, hardware.driver_version) for gpu in hardware.gpus]
    return None if None in reasons else f"{hardware.gpus[0].name}: {reasons[0]}"


def why_not_install(release: Release, host: Host, hardware: Hardware) -> str | None:
    """Why `release` should not be installed on this machine, or None: platform, then GPU.

    The one answer of `engine list`, `engine install` and `doctor`.
    """
    why = why_not_here(release, python=host.python, machine=host.machine, glibc=host.glibc)
    return why or why_not_hardware(release, hardware)


def glibc_version() -> str | None:
    """This system's glibc, or None where the C library is another one."""
    name, version = platform.libc_ver()
    return version if name == "glibc" and version else None
