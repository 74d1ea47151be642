"""What `qlaunch doctor` says of this Python, of the engines that can be installed, and of those
that are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec

from launcher.doctor.runner import Finding, ok, problem, unavailable, warning
from launcher.engine.environments import environment_probe, install, stub_driver
from launcher.engine.environments.ask import NoAnswerError, ask_python
from launcher.engine.options import flags, own_options
from launcher.engine.release import Engine, InstalledEngine, Release
from launcher.engine.releases import Host, this_host, why_not_gpu, why_not_install
from launcher.errors import QlaunchError
from launcher.hardware.inventory import Gpu, Hardware
from launcher.linux import locks
from launcher.linux.files import read_bounded

IMPORT_LIMIT_S: Final = 300.0
"""For a check that imports an engine: 42 s were seen for the first import after an install."""

_VERSION: Final = "import importlib.metadata as m, json; print(json.dumps(m.version('sglang')))"
_SHOWN: Final = 5
"""Differing options that a message names."""


def python_finding() -> Finding:
    """This Python and its venv module."""
    host = this_host()
    shown = f"Python {'.'.join(map(str, host.python))} on {host.machine}, "
    shown += f"glibc {host.glibc}" if host.glibc else "a C library other than glibc"
    if not host.glibc:
        return problem("python", f"{shown}: PyTorch has no builds for it", "use a glibc system")
    if importlib.util.find_spec("ensurepip") is None:
        fix = "install it (Debian, Ubuntu: apt-get install python3-venv)"
        return problem("python", f"{shown}, without venv: no engine can be installed", fix)
    return ok("python", shown)


def release_finding(
    releases: Iterable[Release], hardware: Hardware, host: Host | None = None
) -> Finding:
    """Which releases `engine install` takes on this platform and these GPUs, and why not others."""
    host = host or this_host()
    can: list[str] = []
    refused: dict[str, list[str]] = {}
    for release in releases:
        reason = why_not_install(release, host, hardware)
        (can if reason is None else refused.setdefault(reason, [])).append(release.name)
    reasons = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in refused.items())
    if not can:
        return problem("releases", f"no engine release can be installed here: {reasons}")
    text = f"{', '.join(can)} can be installed here"
    return ok("releases", text + (f"; not {reasons}" if refused else ""))


def gpu_findings(
    gpus: Iterable[Gpu], driver: str | None, releases: Iterable[Release]
) -> Iterator[Finding]:
    """For each GPU, the releases that have kernels for it and run on this driver.

    Those that are taken by name only are not offered.
    """
    cuda = [each for each in releases if each.device == "cuda" and not each.named_only]
    for gpu in gpus:
        name = f"engines for gpu {gpu.index}"
        reasons = {release.name: why_not_gpu(release, gpu, driver) for release in cuda}
        run = [release for release, reason in reasons.items() if reason is None]
        refused = "; ".join(f"{release}: {reason}" for release, reason in reasons.items() if reason)
        if run:
            yield ok(name, f"{', '.join(run)}" + (f"; not {refused}" if refused else ""))
        else:
            fix = "use a CPU profile" if not _only_driver(reasons.values()) else "update the driver"
            yield warning(name, f"no release runs on it: {refused}", fix)


def _only_driver(reasons: Iterable[str | None]) -> bool:
    return any(reason and "driver" in reason for reason in reasons)


def present(releases: Iterable[Release], engines: Path) -> list[Release]:
    """Releases that have a folder, whole or not, among the environments."""
    return [release for release in releases if install.environment_dir(engines, release).exists()]


def engine_findings(release: Release, engines: Path) -> Iterator[Finding]:
    """An environment of ours: marker, package list, Python, SGLang's version, its options."""
    name = f"engine {release.name}"
    again = f"qlaunch engine install {release.name}"
    root = install.environment_dir(engines, release)
    broken = _marker_problem(release, root)
    if broken is not None:
        yield broken
        return
    engine = install.find(release, engines)
    if engine is None:
        yield problem(name, f"there is no Python in {root / 'bin'}", f"{again} --force")
        return
    if (what := install.damage(engine)) is not None:
        yield problem(name, f"it is not whole: {what}", f"{again} makes it again")
        return
    found = _installed_sglang(engine)
    if found.status != "ok":
        yield found
        return
    marker = _marker(root)
    if marker.lock_sha256 != install.lock_hash(release):
        text = f"SGLang {engine.version} in {root} comes from an older list of packages"
        yield warning(name, text, again)
    else:
        yield ok(name, f"SGLang {engine.version}, torch {engine.torch}, in {root}")
    yield options_finding(name, engine.version, own_options.stored(engine), again)


def options_finding(name: str, version: str, own: flags.Table | None, again: str) -> Finding:
    """Whether the shipped table of options says what the engine's own parser says."""
    title = f"{name} options"
    if own is None:
        return unavailable(title, "its own options have not been read yet", again)
    shipped = flags.table(version)
    if shipped is None:
        return warning(title, f"qlaunch has no table of the options of SGLang {version}")
    differing = own_options.differences(shipped, own)
    if not differing:
        return ok(title, f"its parser has the {len(own.options)} options that the table has")
    text = f"{len(differing)} of its options differ from the table of SGLang {version}: "
    text += "; ".join(differing[:_SHOWN]) + ("; …" if len(differing) > _SHOWN else "")
    return warning(title, text, "was it changed by hand? " + again + " --force makes it again")


def deep_findings(release: Release, engines: Path) -> Iterator[Finding]:
    """Import everything that a server imports, and build its parser anew; takes long."""
    name = f"engine {release.name} import"
    engine = install.find(release, engines)
    if engine is None:
        return  # said by engine_findings
    try:
        found = environment_probe.warm_import(release, engine.python)
        yield ok(name, f"SGLang {found.sglang} and torch {found.torch} import")
        own = own_options.read_parser(release, engine.python)
    except QlaunchError as error:
        yield problem(name, error.message, error.fix)
        return
    again = f"qlaunch engine install {release.name}"
    title = f"engine {release.name} parser"
    finding = options_finding(title, engine.version, own, again)
    yield msgspec.structs.replace(finding, name=title)


def absent_finding(release: Release, hardware: Hardware) -> Finding:
    """An engine that was asked for and is not installed: how it would be, or why it cannot."""
    name = f"engine {release.name} import"
    reason = why_not_install(release, this_host(), hardware)
    if reason is None:
        return problem(name, "it is not installed", f"qlaunch engine install {release.name}")
    text = f"it is not installed, and cannot be installed here: {reason}"
    return problem(name, text, "use a release that `qlaunch engine list` says installs here")


def first_imports_wanted(releases: Iterable[Release], engines: Path) -> bool:
    """Whether an engine is here whose import was not tried with a real driver."""
    whole = (install.find(release, engines) for release in releases)
    roots = [engine.root for engine in whole if engine is not None and engine.root is not None]
    return any(_marker(root).imported_with != "real" for root in roots)


def first_import_findings(release: Release, engines: Path) -> Iterator[Finding]:
    """Finish the check of an engine that was installed on a machine without the NVIDIA driver.

    Where the driver is here now, the engine is imported with it, its options are read, and both are
    kept: later looks have nothing to add.
    """
    engine = install.find(release, engines)
    if engine is None or engine.root is None or _marker(engine.root).imported_with == "real":
        return
    name = f"engine {release.name} first import"
    if not stub_driver.has_real():
        how = _marker(engine.root).imported_with
        text = "imported with a stand-in for the NVIDIA driver" if how == "stub" else "not imported"
        fix = "run qlaunch doctor on a machine with the GPU: it finishes the check"
        yield unavailable(name, f"{text}: {stub_driver.LIBRARY} is not on this machine", fix)
        return
    try:
        found = environment_probe.warm_import(release, engine.python)
        install.note_import(engine)
    except QlaunchError as error:
        yield problem(name, error.message, error.fix)
    except OSError as error:
        text = f"it imports, which cannot be noted in {engine.root}: {error.strerror}"
        yield warning(name, text, "make that folder writable")
    else:
        yield ok(name, f"SGLang {found.sglang} imports with this machine's NVIDIA driver")


def _marker_problem(release: Release, root: Path) -> Finding | None:
    """What the files that an install leaves say of one that is not whole."""
    name = f"engine {release.name}"
    again = f"qlaunch engine install {release.name}"
    try:
        marker = _marker(root)
    except FileNotFoundError:
        if _being_installed(root):
            return ok(name, f"it is being installed in {root}")
        return warning(name, f"the install in {root} was not finished", f"{again} resumes it")
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        text = f"{root / install.MARKER} is damaged: {why}"
        return problem(name, text, f"{again} --force")
    if marker.sglang != release.version:
        text = f"{root} holds SGLang {marker.sglang}, the catalogue says {release.version}"
        return warning(name, text, again)
    return None


def _marker(root: Path) -> InstalledEngine:
    return msgspec.json.decode(read_bounded(root / install.MARKER, 65_536), type=InstalledEngine)


def _being_installed(root: Path) -> bool:
    """Whether someone holds the lock of an install; looking does not make the lock's file."""
    try:
        with (root.parent / f".{root.name}.lock").open("rb+") as file:
            return not locks.take(file.fileno())
    except OSError:
        return False


def _installed_sglang(engine: Engine) -> Finding:
    """Run the environment's Python and ask for SGLang's version."""
    name = f"engine {engine.release.name}"
    fix = f"qlaunch engine install {engine.release.name} --force"
    try:
        version = ask_python(engine.python, _VERSION, str, timeout_s=60, env=None)
    except NoAnswerError as error:
        return problem(name, f"{engine.python} cannot tell its SGLang's version: {error}", fix)
    if version != engine.version:
        text = f"{engine.root} says it holds SGLang {engine.version}, and holds {version[:40]}"
        return problem(name, text, fix)
    return ok(name, f"SGLang {version}")
