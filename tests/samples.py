"""Machines, engines and installed environments for tests: built, never read from this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from launcher.documents.plan import EnginePlan, Expectation, MemoryPrediction, Plan
from launcher.engine import releases
from launcher.engine.environments import install
from launcher.engine.release import Engine, InstalledEngine, Release
from launcher.engine.releases import LOCKS
from launcher.hardware.inventory import Cpu, Gpu, Hardware, Memory

GIB = 1 << 30


def machine(
    *,
    bf16: bool = True,
    threads: int = 4,
    total: int = 32 * GIB,
    available: int | None = None,
    limit: int | None = None,
    gpus: tuple[Gpu, ...] = (),
    arch: str = "x86_64",
    int8: bool = False,
    vectors: bool = True,
) -> Hardware:
    """An x86-64 machine without a GPU, unless told otherwise. Sizes in bytes."""
    return Hardware(
        cpu=Cpu(
            model="test",
            machine=arch,
            flags=(*["avx2"] * vectors, *["avx512_bf16"] * bf16, *["avx512_vnni"] * int8),
            logical=16,
            usable=threads,
            usable_source="cgroup quota",
        ),
        memory=Memory(
            total_bytes=total,
            available_bytes=total - 2 * GIB if available is None else available,
            limit_bytes=limit,
        ),
        gpus=gpus,
        gpu_status="ok" if gpus else "no NVIDIA driver: libnvidia-ml.so.1 is not installed",
        driver_version="580.65.06" if gpus else None,
        cuda_driver_version=(13, 0) if gpus else None,
    )


def gpu(
    name: str = "Tesla T4",
    capability: tuple[int, int] = (7, 5),
    total: int = 15 * GIB,
    free: int | None = None,
) -> Gpu:
    """One NVIDIA card. Sizes in bytes."""
    return Gpu(
        index=0,
        uuid="GPU-0",
        name=name,
        compute_capability=capability,
        memory_total_bytes=total,
        memory_free_bytes=total if free is None else free,
    )


def engine(release: str = "cpu", root: Path = Path("/engines/cpu")) -> Engine:
    """An installed engine, on paper."""
    found = releases.release(release)
    return Engine(
        release=found, python=root / "bin" / "python", version=found.version, root=root, torch="2"
    )


def installed(engines: Path, release: str = "cpu", **changes: Any) -> Path:
    """The least of an environment that counts as installed; returns its folder."""
    found = releases.release(release)
    root = engines / release
    (root / "bin").mkdir(parents=True)
    python = root / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    marker = InstalledEngine(
        version=1,
        release=release,
        sglang=found.version,
        torch="2.13.0",
        python="3.11.9",
        lock_sha256=install.lock_hash(found),
        bytes=1_000_000,
        installed="2026-01-01T00:00:00+00:00",
    )
    data = {**msgspec.to_builtins(marker), **changes}
    (root / install.MARKER).write_text(json.dumps(data))
    packages(root, found)
    return root


def packages(root: Path, release: Release) -> Path:
    """What pip notes of an environment's packages, each of one module; returns their folder."""
    lock = (LOCKS / release.lock).read_text("utf-8") if release.lock else ""
    return pinned_packages(root, (*release.requirements, *lock.splitlines()))


def pinned_packages(root: Path, lines: Iterable[str]) -> Path:
    """The same of requirements and the lines of a lock."""
    place = root / "lib" / "python3.11" / "site-packages"
    for line in lines:
        name, pinned, version = line.partition("==")
        if not pinned:
            continue
        module = name.replace("-", "_")
        info = place / f"{module}-{version.split()[0]}.dist-info"
        for made in (info, place / module):
            made.mkdir(parents=True, exist_ok=True)
        (place / module / "__init__.py").touch()
        (info / "RECORD").write_text(f"{module}/__init__.py,,\n{info.name}/RECORD,,\n")
    return place


def plan(**changes: Any) -> Plan:
    """A plan as records hold it; `changes` of the parts of its own are merged into them."""
    parts: dict[str, msgspec.Struct] = {
        "engine": EnginePlan(release="cpu", version="0.5.23", python="/none", argv=(), env={}),
        "expectation": Expectation(
            dimensions=384,
            normalize=True,
            pooling="mean",
            encoder=True,
            max_running_requests=4,
            context_length=512,
            parity_min=0.99,
            dtype="bfloat16",
        ),
        "predicted": MemoryPrediction(ram_bytes=1_200_000_000, gpu_bytes=None),
    }
    values: dict[str, Any] = {
        "service": "svc",
        "profile": "cpu-minilm",
        "device": "cpu",
        "model_name": "m",
        "model_path": "/models/m",
        "model_kind": "encoder",
        "fingerprint": "f",
        "host": "127.0.0.1",
        "port": 0,
        "api_key_file": None,
        "fits": True,
    }
    for name, part in parts.items():
        values[name] = msgspec.structs.replace(part, **changes.pop(name, {}))
    return Plan(**{**values, **changes})
