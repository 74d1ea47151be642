"""Make the lock of a CUDA release, and hold it to the package index: metadata only, no downloads.

    python -m tools.engine_locks write turing     # resolves anew, writes launcher/engine/locks/
    python -m tools.engine_locks check turing     # what the index says of the lock as it is

A lock lists every package with the hashes of all files that fit Linux on x86-64, for each Python
the release supports; a line that holds for some of them only says which. What has no wheel is named
by a `--no-binary` line and built by pip in isolation. Packages that an embedding server does not
import are left out (`WITHOUT`). Resolving is uv's work; the index is the one that pip is
configured for.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name, parse_wheel_filename

from launcher.engine.releases import LOCKS, release

PYTHONS: Final = ("3.11", "3.12", "3.13")
PLATFORM: Final = "x86_64-manylinux_2_34"

_EVERYWHERE: Final = (
    # Other sources of models and data sets.
    "modelscope", "datasets", "pandas", "pyarrow",
    # Constrained decoding, other than xgrammar, which every scheduler imports.
    "outlines", "outlines-core", "llguidance",
    # Models that see or hear, other APIs and other wires.
    "timm", "anthropic", "smg-grpc-servicer", "smg-grpc-proto", "grpcio-health-checking",
    "grpcio-reflection", "grpcio",
    # Tools for SGLang's own builds.
    "build", "ninja-build",
)  # fmt: skip

WITHOUT: Final[dict[str, tuple[str, ...]]] = {
    # flashinfer has no wheel for this release, compiles each kernel on the spot with a toolkit that
    # pip does not bring, and is not what Turing is served with.
    "turing": (*_EVERYWHERE, "flashinfer-python", "nvidia-cudnn-frontend", "nvidia-cutlass-dsl"),
    # Kernels for sm100's decoding, 1.2 GB; FlashAttention 4 for the same cards.
    "cuda12": (*_EVERYWHERE, "flashinfer-cubin", "flash-attn-4", "quack-kernels"),
    "cuda13": (
        *_EVERYWHERE,
        # Kernels of mixtures of experts, sparse attention and diffusion; exchange between machines.
        "tilelang", "flash-attn-4", "quack-kernels", "sgl-deep-gemm", "sgl-flash-mla",
        "humming-kernels", "deepseek-recipe", "tml-renderers", "nccl-extensions", "nccl4py",
        "nvshmem4py-cu13", "numba", "llvmlite", "z3-solver",
    ),
}  # fmt: skip
WITHOUT["cuda13-portable"] = (
    *WITHOUT["cuda13"],
    # Compiled operators and what compiles more of them: PyTorch computes every layer.
    "sglang-kernel", "flashinfer-python", "sgl-deep-ep", "nvidia-cutlass-dsl",
    "nvidia-cudnn-frontend", "cuda-tile", "cuda-python", "nvidia-mathdx", "ninja",
)  # fmt: skip
"""By release: what nothing on an embedding server's way imports (seen by `tests/engines_cuda`)."""


BESIDES: Final = ("dill",)
"""What SGLang imports without asking for it: it comes with `datasets`, which is left out."""


@dataclass
class Package:
    """One pinned package of a lock."""

    name: str
    version: str
    hashes: set[str] = field(default_factory=set)
    """sha256 of every file that may be taken."""
    source: bool = False
    """Whether the index has only its source for some Python."""

    @property
    def pin(self) -> str:
        """`name==version`."""
        return f"{self.name}=={self.version}"


def resolve(requirements: Iterable[str], python: str, without: Iterable[str]) -> list[Package]:
    """What uv makes of requirements for a Python on Linux, with the files' hashes.

    Raises:
        subprocess.CalledProcessError: nothing fits, or the index does not answer.
    """
    with tempfile.TemporaryDirectory() as folder:
        asked, left_out = Path(folder, "asked.in"), Path(folder, "without.txt")
        asked.write_text("\n".join(requirements) + "\n", "utf-8")
        left_out.write_text("\n".join(without) + "\n", "utf-8")
        lock = Path(folder, "pylock.toml")
        argv = ["pip", "compile", str(asked), "-o", str(lock), "--python-version", python]
        argv += ["--python-platform", PLATFORM, "--excludes", str(left_out), "--quiet"]
        uv(argv)
        return packages(tomllib.loads(lock.read_text("utf-8")), python)


def uv(argv: list[str]) -> None:
    """Run uv with pip's index.

    Raises:
        subprocess.CalledProcessError: with uv's words in `stderr`.
    """
    found = Path(sys.executable).with_name("uv")
    program = str(found) if found.exists() else "uv"
    environ = {**os.environ, **index_settings()}
    subprocess.run([program, *argv], env=environ, check=True, capture_output=True, text=True)


def index_settings() -> dict[str, str]:
    """uv's variables for the index that pip is configured for."""
    if any(name in os.environ for name in ("UV_INDEX_URL", "UV_DEFAULT_INDEX")):
        return {}
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], check=True, capture_output=True, text=True
    ).stdout
    for line in listed.splitlines():
        name, _, value = line.partition("=")
        if name.rpartition(".")[2] == "index-url":
            return {"UV_DEFAULT_INDEX": value.strip("'\"")}
    return {}


def packages(lock: Mapping[str, Any], python: str) -> list[Package]:
    """The packages of a `pylock.toml`, with the hashes of the files that fit."""
    result = []
    for entry in lock["packages"]:
        one = Package(canonicalize_name(entry["name"]), entry["version"])
        wheels = [w for w in entry.get("wheels", []) if fits(file_name(w), python)]
        files = wheels or [entry["sdist"]]
        one.source = not wheels
        one.hashes = {file["hashes"]["sha256"] for file in files}
        result.append(one)
    return result


def file_name(file: Mapping[str, Any]) -> str:
    """The name of a file that a lock lists by its address."""
    name = file.get("name") or str(file["url"]).rpartition("/")[2].partition("#")[0]
    return str(name).replace("%2B", "+").replace("%2b", "+")


def fits(wheel: str, python: str) -> bool:
    """Whether a wheel is for this CPython on Linux and x86-64."""
    major, minor = (int(part) for part in python.split("."))
    return any(
        _python_fits(tag.interpreter, tag.abi, major, minor)
        and (tag.platform == "any" or _glibc(tag.platform))
        for tag in parse_wheel_filename(wheel)[3]
    )


def _glibc(platform: str) -> bool:
    return platform.endswith("x86_64") and platform.startswith(("manylinux", "linux_"))


def _python_fits(interpreter: str, abi: str, major: int, minor: int) -> bool:
    kind, digits = interpreter[:2], interpreter[2:]
    if kind not in ("py", "cp") or not digits.startswith(str(major)) or abi.endswith("t"):
        return False
    number = int(digits[len(str(major)) :] or 0)
    older_serves = kind == "py" or abi == f"abi{major}"
    return number == minor or (older_serves and number <= minor)


def merged(by_python: Mapping[str, list[Package]]) -> list[tuple[Package, list[str]]]:
    """Every pin once, with the Pythons it holds for; sorted by name."""
    pins: dict[str, tuple[Package, list[str]]] = {}
    for python, resolved in by_python.items():
        for one in resolved:
            known, pythons = pins.setdefault(one.pin, (one, []))
            known.hashes |= one.hashes
            known.source |= one.source
            pythons.append(python)
    return [pins[pin] for pin in sorted(pins)]


def text(name: str, by_python: Mapping[str, list[Package]]) -> str:
    """The lock file of a release."""
    wanted = release(name)
    pythons = ", ".join(by_python)
    lines = [
        f"# Release `{name}`: SGLang {wanted.version}, the smallest set that serves embeddings.",
        f"# Made by `python -m tools.engine_locks write {name}`; Python {pythons}, Linux, x86-64.",
        "# Installed as it stands: no dependency is resolved, every file is held to its hash.",
    ]
    rows = merged(by_python)
    lines += [f"--no-binary {one.name}" for one, _pythons in rows if one.source]
    for one, those in rows:
        marker = "" if len(those) == len(by_python) else " ; " + _marker(those)
        hashes = [f"    --hash=sha256:{value}" for value in sorted(one.hashes)]
        lines.append(" \\\n".join([f"{one.pin}{marker}", *hashes]))
    return "\n".join(lines) + "\n"


def _marker(pythons: Iterable[str]) -> str:
    return " or ".join(f'python_version == "{python}"' for python in pythons)


def make(name: str, requirement: str) -> str:
    """Resolve a release for every Python; the text of its lock."""
    return text(name, {p: resolve([requirement, *BESIDES], p, WITHOUT[name]) for p in PYTHONS})


def pins(lock: str, python: str) -> list[str]:
    """The `name==version` of a lock that hold for a Python."""
    from packaging.requirements import Requirement

    logical = lock.replace("\\\n", " ").splitlines()
    asked = [line.split(" --hash")[0] for line in logical if "==" in line and line[0] not in "#-"]
    parsed = [Requirement(line.strip()) for line in asked]
    environment = {"python_version": python}
    return sorted(
        f"{canonicalize_name(one.name)}{one.specifier}"
        for one in parsed
        if one.marker is None or one.marker.evaluate(environment)
    )


def missing(name: str, python: str) -> list[str]:
    """What the index says against a lock for a Python; empty where it still resolves to itself.

    Raises:
        subprocess.CalledProcessError: a pin cannot be met, or the index does not answer.
    """
    lock = (LOCKS / f"{name}.txt").read_text("utf-8")
    wanted = pins(lock, python)
    resolved = resolve(wanted, python, WITHOUT[name])
    complaints = [f"{one.pin} is needed and not in the lock" for one in resolved
                  if one.pin not in wanted]  # fmt: skip
    for one in resolved:
        unknown = sorted(value for value in one.hashes if value not in lock)
        if len(unknown) == len(one.hashes):
            complaints.append(f"no file of {one.pin} that the index has is in the lock")
    return complaints


def main() -> int:
    """Write or check one lock; 1 where it cannot be made or differs."""
    parser = argparse.ArgumentParser(prog="tools.engine_locks")
    parser.add_argument("what", choices=["write", "check"])
    parser.add_argument("release", choices=sorted(WITHOUT))
    parser.add_argument("--requirement", help="what to resolve (default: the release's SGLang)")
    asked = parser.parse_args()
    extra = "[srt]" if asked.release == "turing" else ""
    requirement = asked.requirement or f"sglang{extra}=={release(asked.release).version}"
    try:
        if asked.what == "write":
            path = LOCKS / f"{asked.release}.txt"
            path.write_text(make(asked.release, requirement), "utf-8")
            print(f"wrote {path}")
            return 0
        complaints = [f"{p}: {c}" for p in PYTHONS for c in missing(asked.release, p)]
    except subprocess.CalledProcessError as error:
        print(error.stderr, file=sys.stderr)
        return 1
    print("\n".join(complaints) or f"{asked.release}: the index has every package of the lock")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
