"""A Containerfile carried out without a container engine.

Its stages are folders, made from Debian's own packages, and each RUN line is run in one of them by
`chroot`, with nothing of this machine but its devices, its network and pip's settings.

What is not as there: the base is Debian's minimal system with Debian's Python in place of the
image's, so the version of Python differs.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STEP_S = 1800.0
_MOUNTS = """
set -e
root=$1; shift
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
while [ "$1" != -- ]; do
    mkdir -p "$root$(dirname "$1")"
    if [ -d "$1" ]; then mkdir -p "$root$1"; else touch "$root$1"; fi
    mount --rbind "$1" "$root$1"; shift
done
shift
exec chroot "$@"
"""


def parsed(text: str) -> list[tuple[str, str]]:
    """Instructions and what stands after them, continued lines joined."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE))
    lines = [line.strip() for line in joined.splitlines() if line.strip()]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


class Build:
    """Stages below `folder`.

    Args:
        folder: an empty one.
        context: what COPY copies from.
        arguments: build arguments.
    """

    def __init__(self, folder: Path, context: Path, arguments: Mapping[str, str]) -> None:
        self._folder, self._context, self._given = folder, context, arguments
        self.ran: list[str] = []
        """RUN lines, as they were run."""
        self.root = folder
        """Of the last stage."""
        self.env: dict[str, str] = {}
        self.user = ""
        self._place = "/"
        self._globals: dict[str, str] = {}
        self._arguments: dict[str, str] = {}
        self._stages: dict[str, Path] = {}

    def carry_out(self, text: str) -> None:
        """Carry out all instructions.

        Raises:
            AssertionError: a RUN line failed.
        """
        for name, rest in parsed(text):
            getattr(self, f"_{name.lower()}")(rest)

    def base(self, suite: str) -> Path:
        """Debian's minimal system, with Python and CA certificates."""
        made = self._folder / "base"
        if not made.exists():
            packages = "--include=python3,python3-venv,python3-pip,ca-certificates"
            argv = ["mmdebstrap", "--quiet", "--variant=minbase", packages, suite, str(made)]
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            (made / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            # Which is the image's own Python, and no system's whose packages pip must not touch.
            for file in made.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
                file.unlink()
            (made / "etc/pip.conf").write_text(_pip_settings(), "utf-8")
        return made

    def _from(self, rest: str) -> None:
        image, _, name = rest.partition(" AS ")
        image = self._filled(image, self._globals)
        suite = image.rpartition("-")[2]
        self.root = self._folder / (name or "final")
        subprocess.run(["cp", "-a", f"{self.base(suite)}", str(self.root)], check=True)
        self._stages[name] = self.root
        self._place, self._arguments = "/", {}
        self.env = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"}

    def _arg(self, rest: str) -> None:
        name, _, default = rest.partition("=")
        value = self._given.get(name, default)
        (self._arguments if self._stages else self._globals)[name] = value

    def _env(self, rest: str) -> None:
        self.env |= dict(word.split("=", 1) for word in shlex.split(rest))

    def _workdir(self, rest: str) -> None:
        self._place = rest
        Path(f"{self.root}{rest}").mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        words = shlex.split(rest)
        source = self._context
        if words[0].startswith("--from="):
            source = self._stages[words.pop(0).removeprefix("--from=")]
        *names, target = words
        place = Path(f"{self.root}{os.path.join(self._place, target)}")  # noqa: PTH118 - an absolute one replaces it
        for name in names:
            path = source / name.lstrip("/")
            if path.is_dir():
                shutil.copytree(path, place, symlinks=True, dirs_exist_ok=True)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, place)

    def _run(self, rest: str) -> None:
        self.ran.append(rest)
        done = self.call(["/bin/sh", "-c", f"cd {self._place} && {rest}"])
        assert done.returncode == 0, f"RUN {rest}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"

    def _user(self, rest: str) -> None:
        self.user = rest

    def _kept(self, rest: str) -> None:
        """What says how the image is started, and changes nothing in it."""

    _stopsignal = _entrypoint = _cmd = _kept

    def call(
        self, argv: Sequence[str], env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the last stage, as its user."""
        return subprocess.run(
            self.argv(argv, env), capture_output=True, text=True, timeout=STEP_S, check=False
        )

    def argv(self, argv: Sequence[str], env: Mapping[str, str] | None = None) -> list[str]:
        """The command of this machine that runs `argv` in the last stage."""
        inside = self.env | self._arguments | dict(env or {})
        user = [f"--userspec={self.user}"] if self.user else []
        words = [f"{name}={value}" for name, value in inside.items() if value]
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child=SIGTERM"]
        binds = [str(path) for path in _shared()]
        start = [*unshare, "sh", "-c", _MOUNTS, "sh", str(self.root), *binds, "--"]
        return [*start, *user, str(self.root), "/usr/bin/env", "-i", *words, *argv]

    @staticmethod
    def _filled(text: str, values: Mapping[str, str]) -> str:
        return re.sub(r"\$\{(\w+)\}", lambda found: values[found[1]], text)


def _pip_settings() -> str:
    """This machine's, wherever they stand, but for its constraints."""
    lines = []
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    )
    for line in listed.stdout.splitlines():
        name, _, value = line.partition("=")
        key = name.rpartition(".")[2]
        if key != "constraint":
            lines.append(f"{key} = {shlex.split(value)[0]}")
    return "[global]\n" + "\n".join(dict.fromkeys(lines)) + "\n"


def _shared() -> list[Path]:
    """Files and folders of this machine that the network and those settings need."""
    found = {Path("/etc/resolv.conf"), Path("/etc/hosts")}
    for word in re.split(r"[\s=]+", _pip_settings()):
        path = Path(word.removeprefix("file://"))
        if path.is_absolute():
            # Pages of an index name files beside their own folder.
            found.add(path.parent if path.name == "simple" else path)
    return sorted(path for path in found if path.exists())
