"""A stand-in for the NVIDIA driver's library, so that a CUDA engine can be imported without a GPU.

Images are built and head nodes prepared on machines without a driver, where torch's and SGLang's
compiled parts do not load: they are linked against `libcuda.so.1`. The stub has the names they ask
for and answers every call with an error, so everything loads and no device is seen. It is compiled
with the system's C compiler into the environment's own folder and only put on the loader's path for
what qlaunch itself imports; a served engine never sees it.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

from launcher.engine.release import Release

LIBRARY: Final = "libcuda.so.1"
FOLDER: Final = "stub-driver"
SOURCE: Final = Path(__file__).with_name("stub_driver.c")
_COMPILERS: Final = ("cc", "gcc", "clang")
_LIMIT_S: Final = 60.0

Driver = Literal["real", "stub", "none"]
"""What a CUDA engine can be imported with here."""


def available(release: Release, root: Path) -> Driver:
    """What `release` can be imported with; makes the stub in `root` where there is no driver."""
    if release.device != "cuda" or has_real():
        return "real"
    return "stub" if _made(root) else "none"


def environment(release: Release, python: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that put the stub of `python`'s environment on the loader's path.

    Empty for a CPU release, where the machine has a driver, and where no stub was made.
    """
    folder = python.parents[1] / FOLDER
    if release.device != "cuda" or has_real() or not (folder / LIBRARY).is_file():
        return {}
    paths = [str(folder), *filter(None, [environ.get("LD_LIBRARY_PATH")])]
    return {"LD_LIBRARY_PATH": ":".join(paths)}


def has_real() -> bool:
    """Whether the NVIDIA driver's library loads in this process."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return False
    return True


def _made(root: Path) -> bool:
    """Compile the stub into `root` where it is not there; False without a working compiler."""
    folder = root / FOLDER
    if (folder / LIBRARY).is_file():
        return True
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        return False
    unfinished = folder / f"{LIBRARY}.{os.getpid()}"
    argv = [compiler, "-shared", "-fPIC", "-nostdlib", f"-Wl,-soname,{LIBRARY}"]
    try:
        folder.mkdir(exist_ok=True)
        subprocess.run(
            [*argv, "-o", str(unfinished), str(SOURCE)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_LIMIT_S,
            check=True,
        )
        unfinished.replace(folder / LIBRARY)
    except (OSError, subprocess.SubprocessError):
        unfinished.unlink(missing_ok=True)
        return False
    return True
