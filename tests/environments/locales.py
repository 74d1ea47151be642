"""Real locales, made in a folder of the test by Debian's `localedef`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.linux import locks

KINDS = {"zh_CN.GB18030": "zh_CN", "de_DE.ISO-8859-1": "de_DE"}


def environment(name: str, factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables under which the C library finds the locale `name`; skips where none can be made.

    Made once a run for all workers: GB18030 costs six seconds of a processor.
    """
    charset = name.partition(".")[2]
    localedef = shutil.which("localedef")
    if localedef is None or not any(Path("/usr/share/i18n/charmaps").glob(f"{charset}*")):
        pytest.skip("the package `locales` (localedef and its character maps) is not installed")
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "locales"
    folder.mkdir(exist_ok=True)
    with locks.held(folder / f"{name}.lock", lambda: None):
        if not (folder / name).exists():
            subprocess.run(
                [localedef, "-i", KINDS[name], "-f", charset, str(folder / name)],
                capture_output=True,
                check=False,  # it warns, with status 1, of fields that a language leaves out
            )
    env = {"LOCPATH": str(folder), "LC_ALL": name}
    program = [sys.executable, "-c", "import locale; print(locale.getencoding())"]
    done = subprocess.run(program, env=os.environ | env, capture_output=True, check=True)
    assert done.stdout.decode("ascii").strip() == charset
    return env
