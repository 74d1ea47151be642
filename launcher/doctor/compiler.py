"""What `qlaunch doctor` says of the C compiler that engines on a GPU need at their first start.

Triton has a small module in C, which it compiles with the machine's own compiler when the first
kernel is launched (triton/runtime/build.py, the same in 3.4 and 3.8): after the engine has loaded
its model. What was compiled is kept below ~/.triton, so that later starts need no compiler.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from launcher.child_environment import TEXT
from launcher.doctor.runner import Finding, ok, problem

NAME: Final = "c compiler"
ASK_S: Final = 4.0
"""For the question to the driver whether there is a card."""
COMPILE_S: Final = 8.0
_NAMES: Final = ("gcc", "clang")
"""What Triton looks for on PATH, in this order, where CC names nothing."""
_MODULE: Final = b"#include <stdlib.h>\n#include <Python.h>\nint it = PY_MAJOR_VERSION;\n"
"""What Triton's module includes, beside the driver's header that Triton brings."""
_WHY: Final = "engines on a GPU (Triton) compile a small C module at their first start"
_SHOWN: Final = 200


def compiler_finding(
    environ: Mapping[str, str] = os.environ, *, include: Path | None = None
) -> Finding:
    """Whether the compiler that Triton would take makes a module for this Python.

    Args:
        environ: as the engine will have it; `CC` and `PATH` say which compiler is taken.
        include: the folder of Python's headers; those of this Python, which makes the engines'.
    """
    compiler = _compiler(environ)
    if compiler is None and "CC" in environ:
        text = f"CC names {environ['CC'][:_SHOWN]!r}, which cannot be run here, and {_WHY}"
        return problem(NAME, text, "set CC to a C compiler's path, or unset it")
    if compiler is None:
        return problem(NAME, f"neither gcc nor clang is on PATH, and {_WHY}", fix())
    why = _refused(compiler, include or _include(), environ)
    if why is not None:
        return problem(
            NAME, f"{compiler} does not compile a module for Python ({why}), and {_WHY}", fix()
        )
    return ok(NAME, f"{compiler}, with Python's headers")


def _compiler(environ: Mapping[str, str]) -> str | None:
    path = environ.get("PATH")
    names = _NAMES if environ.get("CC") is None else (environ["CC"],)
    return next((place for name in names if (place := shutil.which(name, path=path))), None)


def _include() -> Path:
    """Where this Python's headers are, as Triton asks for it: not Debian's folder in /usr/local."""
    scheme = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if scheme == "posix_local" else scheme
    return Path(sysconfig.get_paths(scheme=scheme)["include"])


def _refused(compiler: str, include: Path, environ: Mapping[str, str]) -> str | None:
    """Why it does not compile; None where it does."""
    with tempfile.TemporaryDirectory(prefix="qlaunch-doctor-") as folder:
        words = ["-shared", "-fPIC", "-o", f"{folder}/it.so", f"-I{include}", "-x", "c", "-"]
        try:
            done = subprocess.run(
                [compiler, *words],
                input=_MODULE,
                capture_output=True,
                timeout=COMPILE_S,
                check=False,
                env={**environ, **TEXT},
            )
        except OSError as error:
            return error.strerror or str(error)
        except subprocess.TimeoutExpired:
            return f"it did not end within {COMPILE_S:.0f} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.decode("utf-8", "replace").splitlines()
    told = next((line for line in lines if "error" in line or "cannot find" in line), None)
    return (told or f"exit code {done.returncode}").strip()[:_SHOWN]


def fix() -> str:
    """The command of this distribution, or of those we know where it does not say which it is."""
    version = sysconfig.get_python_version()
    commands = {
        "debian": f"apt-get install gcc libc6-dev python{version}-dev",
        "fedora": f"dnf install gcc python{version}-devel",
        "suse": f"zypper install gcc python{version.replace('.', '')}-devel",
    }
    try:
        release = platform.freedesktop_os_release()
    except OSError:
        release = {}
    kinds = {release.get("ID", ""), *release.get("ID_LIKE", "").split()}
    ours = [command for name, command in commands.items() if name in kinds]
    return f"install it and Python's headers: {' | '.join(ours or commands.values())}"
