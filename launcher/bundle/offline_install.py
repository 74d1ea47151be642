#!/usr/bin/env python3
"""Installs this bundle without an index: qlaunch, its engine, its model and its profile.

    ./install [--into DIR] [--bin DIR]

Needs Python alone, and its venv module. An interrupted one is run again. Exit codes: 0 done, 1 the
machine refused, 2 the bundle is damaged or for another machine; else those of qlaunch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

HERE = Path(__file__).resolve().parent


def refuse(message: str, fix: str, code: int = 2) -> NoReturn:
    """End with one sentence."""
    sys.stderr.write(f"Error: {message}\n  Try: {fix}\n")
    sys.exit(code)


def check_host(manifest: dict[str, str]) -> None:
    """Wheels of another Python or machine are not tried."""
    here = {
        "python": ".".join(map(str, sys.version_info[:2])),
        "machine": platform.machine(),
        "libc": platform.libc_ver()[0] or "unknown",
    }
    wanted = {name: manifest[name] for name in here}
    if here != wanted:
        words = "Python {python} on {machine} with {libc}".format
        refuse(
            f"this bundle is for {words(**wanted)}, and this is {words(**here)}",
            f"run it with that Python: python{wanted['python']} {HERE / 'install'}"
            if here["machine"] == wanted["machine"]
            else "make one on a machine like this one: qlaunch bundle make",
        )


def check_files() -> None:
    """What is used here is there and whole; `qlaunch bundle install` checks the rest."""
    for line in (HERE / "SHA256SUMS").read_text("utf-8").splitlines():
        digest, _, name = line.partition("  ")
        if not name.startswith("wheels/") and name != "bundle.json":
            continue
        found = hashlib.sha256()
        try:
            with (HERE / name).open("rb") as file:
                while block := file.read(1 << 20):
                    found.update(block)
        except OSError as error:
            refuse(f"{name} of the bundle cannot be read: {error.strerror}", "copy it again")
        if found.hexdigest() != digest:
            refuse(f"{name} is not the file that was put into the bundle", "copy it again")


def run(argv: list[str], what: str, **variables: str) -> None:
    """Run a program; its failure is ours."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    code = subprocess.call(argv, env={**env, **variables})
    if code != 0:
        refuse(f"{what} failed (exit {code})", "see the lines above; then run it again", code)


def main() -> None:
    """Check, then an environment for qlaunch, then what qlaunch installs itself."""
    parser = argparse.ArgumentParser(description="Install this bundle without a package index.")
    home = Path.home()
    parser.add_argument("--into", type=Path, default=home / ".local/share/qlaunch-launcher")
    parser.add_argument("--bin", type=Path, default=home / ".local/bin", help="for the command")
    options = parser.parse_args()
    manifest = json.loads((HERE / "bundle.json").read_text("utf-8"))
    check_host(manifest)
    check_files()
    into = options.into.absolute()
    into.parent.mkdir(parents=True, exist_ok=True)
    needed = 5 * sum(path.stat().st_size for path in (HERE / "wheels").iterdir())
    if (free := shutil.disk_usage(into.parent).free) < needed:
        refuse(
            f"{into.parent} has {free / 1e9:.1f} GB free, and qlaunch needs {needed / 1e9:.1f} GB",
            "free space there, or give --into a folder on a larger disk",
            1,
        )
    python = into / "bin" / "python"
    if not (into / "whole").exists():
        if into.exists() and not (into / "pyvenv.cfg").exists() and any(into.iterdir()):
            refuse(f"{into} holds something else", "give --into another folder")
        run([sys.executable, "-m", "venv", "--clear", str(into)], "making the environment")
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wheels = ["--no-index", "--find-links", str(HERE / "wheels"), f"qlaunch=={manifest['qlaunch']}"]
    run([*pip, *wheels], "installing qlaunch", PIP_CONFIG_FILE=os.devnull)
    (into / "whole").touch()
    options.bin.mkdir(parents=True, exist_ok=True)
    link = options.bin / "qlaunch"
    if link.is_symlink() or not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(into / "bin" / "qlaunch")
    run([str(into / "bin" / "qlaunch"), "bundle", "install", str(HERE)], "installing the rest")
    if str(options.bin) not in os.environ.get("PATH", "").split(":"):
        sys.stdout.write(f"the command is {link}: put {options.bin} on the PATH\n")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        refuse("interrupted", f"run {HERE / 'install'} again: it goes on where it stopped", 130)
    except OSError as problem:
        refuse(
            f"{problem.filename or 'this machine'}: {problem.strerror or problem}",
            "mend that, or give --into and --bin folders of your own, then run it again",
            1,
        )
