"""Ask an environment's Python what engine it holds."""

from __future__ import annotations

import os
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from launcher.engine.environments.ask import NoAnswerError, ask_python, engine_environment
from launcher.engine.release import Engine, Release
from launcher.engine.releases import releases
from launcher.errors import ExitCode, QlaunchError

SYSTEM_TOOLKIT: Final = Path("/usr/local/cuda")
IMPORT_LIMIT_S: Final = 3600.0
"""For what hangs: a CUDA release's first import, its bytecode and 9 GB of libraries not in memory,
took more than 600 s on two cores that thirty other processes wanted, and 76 s before."""
_VERSIONS: Final = """
import importlib.metadata as m, importlib.util as u, json, os, runpy, sys
def version(name):
    try: return m.version(name)
    except m.PackageNotFoundError: return None
def torch():
    # With its build (+cpu, +cu130), which the package's metadata on PyPI does not say.
    try:
        file = os.path.join(os.path.dirname(u.find_spec("torch").origin), "version.py")
        return runpy.run_path(file)["__version__"]
    except Exception: return version("torch")
json.dump({"sglang": version("sglang"), "torch": torch(),
           "kernels": version("sglang-kernel") or version("sgl-kernel")}, sys.stdout)
"""
_WARM: Final = """
import importlib, json, sys
sys.stdout, out = sys.stderr, sys.stdout
import sglang, torch
for name in ("sglang.launch_server", "sglang.srt.entrypoints.http_server",
             "sglang.srt.managers.scheduler", "sglang.srt.managers.detokenizer_manager"):
    importlib.import_module(name)
json.dump({"sglang": sglang.__version__, "torch": torch.__version__}, out)
"""


class Versions(msgspec.Struct, frozen=True, kw_only=True):
    """What an environment holds."""

    sglang: str
    torch: str
    kernels: str | None = None
    """Of SGLang's compiled operators; None where the environment has none, or was not asked."""


def warm_import(release: Release, python: Path) -> Versions:
    """Import everything a server imports; pays the first import's cost and proves the install.

    Raises:
        QlaunchError: `engine_broken` (exit 5) with the import's last words.
    """
    env = engine_environment(release, python)
    try:
        return ask_python(python, _WARM, Versions, timeout_s=IMPORT_LIMIT_S, env=env)
    except NoAnswerError as error:
        raise QlaunchError(
            f"engine {release.name} is installed but does not import: {error}",
            code="engine_broken",
            exit_code=ExitCode.ENGINE,
            fix=f"start again from nothing: qlaunch engine install {release.name} --force",
        ) from error


def cuda_home(release: Release, python: Path) -> Path | None:
    """What CUDA_HOME must be for `release`; None leaves the environment's own."""
    return pip_toolkit(python) if release.device == "cuda" else None


def pip_toolkit(python: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The CUDA toolkit inside an environment (`site-packages/nvidia/cu13`), if it is needed.

    None where the machine has a toolkit of its own, which goes first as it does for SGLang
    (CUDA_HOME, CUDA_PATH, nvcc on PATH, /usr/local/cuda), or where pip brought no nvcc.
    """
    own = environ.get("CUDA_HOME") or environ.get("CUDA_PATH")
    if own or shutil.which("nvcc", path=environ.get("PATH")) or SYSTEM_TOOLKIT.is_dir():
        return None
    found = python.parent.parent.glob("lib/python3.*/site-packages/nvidia/cu1?/bin/nvcc")
    return max((nvcc.parent.parent for nvcc in found), default=None)


def own_engine(python: Path, *, device: str, named: str | None = None) -> Engine:
    """The engine in an environment the user made, with the catalogue entry that describes it.

    Args:
        python: of that environment.
        device: what it is to serve on.
        named: the release that the user says it is; counts where its version is there. Without it,
            an environment on CUDA that lacks SGLang's compiled operators is the release that has
            none.

    Raises:
        QlaunchError: `engine_missing` (exit 5): no such Python, or no sglang in it;
            `engine_unknown` (exit 5): a version qlaunch has no entry for.
    """
    found = versions(python)
    alike = [r for r in releases().values() if (r.version, r.device) == (found.sglang, device)]
    bare = device == "cuda" and found.kernels is None
    # The catalogue's order where nothing else decides.
    alike.sort(key=lambda r: (r.name != named, (r.kernels == "torch") != bare))
    if alike:
        return Engine(
            release=alike[0],
            python=python,
            version=found.sglang,
            root=None,
            torch=found.torch,
            cuda_home=cuda_home(alike[0], python),
        )
    known = ", ".join(dict.fromkeys(r.version for r in releases().values() if r.device == device))
    raise QlaunchError(
        f"{python} holds SGLang {found.sglang}, which qlaunch has no flag table for on {device}",
        code="engine_unknown",
        exit_code=ExitCode.ENGINE,
        fix=f"use one of the versions {known}, or an engine that qlaunch installs itself",
    )


def python_on_path() -> Path:
    """The Python of the `sglang` command on PATH.

    Raises:
        QlaunchError: `engine_missing` (exit 5).
    """
    script = shutil.which("sglang")
    python = _interpreter(Path(script)) if script is not None else None
    if python is not None and python.is_file():
        return python
    if script is not None:
        raise QlaunchError(
            f"{script} does not say which Python it runs with",
            code="engine_missing",
            exit_code=ExitCode.ENGINE,
            fix="name the Python of its environment with --engine-python",
        )
    raise QlaunchError(
        "there is no `sglang` command on PATH",
        code="engine_missing",
        exit_code=ExitCode.ENGINE,
        fix="install one (qlaunch engine install cpu) or name its Python with --engine-python",
    )


def _interpreter(script: Path) -> Path | None:
    """The Python that a script installed by pip or uv runs with, by its first lines."""
    try:
        with script.open("rb") as file:
            lines = file.read(4096).decode(errors="replace").splitlines()
    except OSError:
        return None
    first = lines[0][2:].split() if lines and lines[0].startswith("#!") else []
    if first[:1] == ["/usr/bin/env"] and len(first) == 2:
        found = shutil.which(first[1])
        return Path(found) if found else None
    # A path that is too long for the kernel, or has spaces: `'''exec' "/path/python" "$0" "$@"`.
    trampoline = lines[1].partition("'''exec' ")[2] if first == ["/bin/sh"] and lines[1:] else ""
    if trampoline:
        return Path(shlex.split(trampoline)[0])
    return Path(first[0]) if first else None


def versions(python: Path) -> Versions:
    """The versions that an environment's packages say they have; nothing of them is imported.

    Raises:
        QlaunchError: `engine_missing` (exit 5): no such Python, or no sglang and torch in it.
    """
    why = "there is no sglang and torch in it"
    try:
        found = ask_python(python, _VERSIONS, dict[str, str | None], timeout_s=60, env=None)
    except NoAnswerError as error:
        found, why = {}, str(error)
    sglang, torch = found.get("sglang"), found.get("torch")
    if sglang is not None and torch is not None:
        return Versions(sglang=sglang, torch=torch, kernels=found.get("kernels"))
    raise QlaunchError(
        f"{python} is not the Python of an engine: {why}",
        code="engine_missing",
        exit_code=ExitCode.ENGINE,
        fix="name the python of an environment that has sglang installed",
    )
