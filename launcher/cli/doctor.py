"""`qlaunch doctor`: look at everything that a service needs, and say what to do about it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import click
import msgspec

from launcher.cli import screen
from launcher.cli.base import all_option, wants_json, wants_reasons
from launcher.cli.base import command as declare
from launcher.cli.finite import FiniteRange
from launcher.cli.result import Problem, Result
from launcher.config.profile import Profile
from launcher.config.settings import SETTINGS, is_offline, load_user_config
from launcher.doctor import compiler, folders, gpu, host, network, runner, services, surroundings
from launcher.doctor import engines as engine_checks
from launcher.doctor.runner import DoctorCheck, Finding, Status
from launcher.engine import releases as catalogue
from launcher.engine.environments import install, stub_driver
from launcher.engine.releases import why_not_gpu
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.nvml import Unavailable
from launcher.paths import Dirs, dirs
from launcher.units import GIB

_ALL: Final = "*"
_MODEL_BYTES: Final = int(1.2e9)
"""Of Qwen3-Embedding-0.6B in 16 bits, the model the tool is made for."""
_ENGINE_LIMIT_S: Final = 10.0
"""An environment's Python starts slowly where its files are not in the page cache."""


def _finite(_ctx: click.Context, _param: click.Parameter, value: float | None) -> float | None:
    """Refuse `nan` and `inf`, which are floats to click."""
    if value is not None and not math.isfinite(value):
        raise click.BadParameter("it must be a number of seconds")
    return value


@declare("doctor")
@click.option(
    "--engine",
    "deep",
    is_flag=False,
    flag_value=_ALL,
    metavar="[RELEASE]",
    help="Also import the installed engines (or this one), which takes long.",
)
@click.option(
    "--limit",
    "limit_s",
    type=FiniteRange(0, min_open=True),
    callback=_finite,
    metavar="SECONDS",
    help="Time limit of each check, instead of its own (3 s for most).",
)
@click.option(
    "--offline", is_flag=True, help="Ask no package index and no hub (also: QLAUNCH_OFFLINE=1)."
)
@all_option("Also what was found where all is well.")
def command(deep: str | None, limit_s: float | None, offline: bool, everything: bool) -> Result:
    """Look at this machine: hardware, drivers, limits, folders, engines, services, network.

    The package indexes and model hubs that are configured are really asked, for 5 s at most.
    Changes nothing. Ends with 0 where all is well, 1 after warnings, 2 after problems; what is
    unavailable and not needed counts as well.
    """
    wanted = list(_checks(dirs(), deep, offline=offline or _settled_offline()))
    if limit_s is not None:
        wanted = [replace(check, limit_s=limit_s) for check in wanted]
    everything = everything or wants_reasons()
    return result(runner.run(wanted), as_json=wants_json(), everything=everything)


def _settled_offline() -> bool:
    """Whether the environment or the user's configuration says that nothing may be fetched."""
    try:
        return is_offline({}, os.environ, load_user_config(dirs().config))
    except QlaunchError:  # a setting that is wrong does not keep the rest from being looked at
        return False


def result(findings: list[Finding], *, as_json: bool, everything: bool = False) -> Result:
    """What the command returns for these findings; the text names what is well on one line."""
    counts = Counter(finding.status for finding in findings)
    worst = 2 if counts["problem"] else 1 if counts["warning"] else 0
    problems = [
        Problem(f"doctor_{f.status}", f"{f.name}: {f.message}", f.fix)
        for f in sorted(findings, key=lambda f: f.status)
        if f.status in ("problem", "warning")
    ]
    lines = list(_lines(findings, counts, everything=everything))
    return Result(
        data={
            "checks": [msgspec.to_builtins(finding) for finding in findings],
            "counts": {s: counts[s] for s in ("ok", "warning", "problem", "unavailable")},
        },
        lines=screen.shorten(lines, everything=everything, keep=1),
        # The command's own contract: 0, 1 and 2 say how bad the worst finding is.
        exit_code=ExitCode(worst),
        status=("ok", "partial", "error")[worst],
        # The text has them in their places already.
        problems=problems if as_json else (),
    )


def _lines(findings: list[Finding], counts: Counter[Status], *, everything: bool) -> Iterator[str]:
    shown = [finding for finding in findings if everything or finding.status != "ok"]
    well = [finding.name for finding in findings if finding not in shown]
    width = max((len(finding.name) for finding in shown), default=0)
    for finding in shown:
        yield f"{finding.status:<11}  {finding.name:<{width}}  {finding.message}"
        if finding.fix and finding.status != "ok":
            yield f"{'':<{width + 13}}  Try: {finding.fix}"
    if well:
        yield from screen.folded(f"{'ok':<11}  {', '.join(well)}", hanging=" " * 13)
    said = [_counted(counts["problem"], "problem"), _counted(counts["warning"], "warning")]
    yield f"{', '.join(said)}, {counts['ok']} ok, {counts['unavailable']} unavailable" + (
        ": --all tells what was found" if well else ""
    )


def _counted(count: int, noun: str) -> str:
    return f"{count or 'no'} {noun}{'s' * (count != 1)}"


def _checks(where: Dirs, deep: str | None, *, offline: bool) -> Iterator[DoctorCheck]:
    """Every check, in the order of the report."""
    yield DoctorCheck("python", lambda: [engine_checks.python_finding()])
    # It asks the driver as well, which may not answer.
    yield DoctorCheck("releases", _releases, limit_s=gpu.LIMIT_S * 1.3)
    yield DoctorCheck("cpu", host.cpu_findings)
    yield DoctorCheck("memory", host.memory_findings)
    yield from _gpu_checks()
    yield DoctorCheck("limits", host.limit_findings)
    yield from _folder_checks(where)
    yield from _engine_checks(where.engines, deep)
    yield DoctorCheck("processes", services.kernel_findings)
    yield DoctorCheck("services", services.service_findings)
    port = _default_port()
    yield DoctorCheck(f"port {port}", lambda: [services.port_finding(port)])
    yield DoctorCheck("environment", _environment)
    yield from network.checks(os.environ, offline=offline)
    yield DoctorCheck("surroundings", lambda: surroundings.findings(os.environ, where))


def _releases() -> Iterable[Finding]:
    from launcher.hardware.detect import detect

    return [engine_checks.release_finding(catalogue.releases().values(), detect())]


def _gpu_checks() -> Iterator[DoctorCheck]:
    yield DoctorCheck(
        "nvidia driver",
        _gpus,
        # The driver's own calls are bounded a little below, so that they can say which one it was.
        limit_s=gpu.LIMIT_S * 1.3,
        if_cut="problem",
        fix_if_cut=gpu.FIX_IF_CUT,
    )
    limit_s = compiler.ASK_S * 1.3 + compiler.COMPILE_S
    yield DoctorCheck(compiler.NAME, _compiler, limit_s=limit_s)


def _gpus() -> Iterator[Finding]:
    devices, users = gpu.read()
    yield from gpu.gpu_findings(devices, users, computes=stub_driver.has_real())
    if isinstance(devices, Unavailable):
        return
    releases = catalogue.releases().values()
    yield from engine_checks.gpu_findings(devices.gpus, devices.driver_version, releases)


def _compiler() -> Iterator[Finding]:
    """Only where a release runs on a card: a CPU's engines compile nothing."""
    devices, _ = gpu.read(compiler.ASK_S)
    if isinstance(devices, Unavailable):
        return
    cuda = [each for each in catalogue.releases().values() if each.device == "cuda"]
    if any(why_not_gpu(r, g, devices.driver_version) is None for r in cuda for g in devices.gpus):
        yield compiler.compiler_finding()


def _folder_checks(where: Dirs) -> Iterator[DoctorCheck]:
    roles = {"config": where.config, "data": where.data, "state": where.state, "cache": where.cache}
    for role, path in roles.items():
        yield DoctorCheck(f"folder {role}", _folder(role, path), if_cut="problem", fix_if_cut=_DEAD)
    for role, path in roles.items():
        if role != "config":
            yield DoctorCheck(
                f"disk {role}", _disk(role, path, where), if_cut="problem", fix_if_cut=_DEAD
            )


_DEAD: Final = "see whether that disk answers (a network disk, perhaps); QLAUNCH_HOME names another"


Look = Callable[[], Iterable[Finding]]


def _folder(role: str, path: Path) -> Look:
    return lambda: [folders.folder_finding(role, path, private=role == "state")]


def _disk(role: str, path: Path, where: Dirs) -> Look:
    def look() -> Iterable[Finding]:
        if role != "data":
            return host.disk_findings(role, path, needs=GIB, why="for records and caches")
        releases = catalogue.releases()
        if any(install.find(release, where.engines) for release in releases.values()):
            return host.disk_findings(role, path, needs=_MODEL_BYTES, why="for a model")
        needs = releases["cpu"].disk_bytes + _MODEL_BYTES
        why = "for the engine cpu and a model"
        return host.disk_findings(role, path, needs=needs, why=why)

    return look


def _engine_checks(engines: Path, deep: str | None) -> Iterator[DoctorCheck]:
    yield DoctorCheck("engines", lambda: _installed(engines), limit_s=_ENGINE_LIMIT_S)
    if engine_checks.first_imports_wanted(catalogue.releases().values(), engines):
        limit = engine_checks.IMPORT_LIMIT_S
        yield DoctorCheck("engine first import", lambda: _first_imports(engines), limit_s=limit)
    if deep is not None:
        releases = catalogue.releases()
        names = list(releases) if deep == _ALL else [catalogue.release(deep).name]
        limit = engine_checks.IMPORT_LIMIT_S * len(names)
        yield DoctorCheck("engine import", lambda: _imported(engines, names), limit_s=limit)


def _installed(engines: Path) -> Iterator[Finding]:
    present = engine_checks.present(catalogue.releases().values(), engines)
    if not present:
        yield runner.ok("engines", "none is installed yet: the first `up` installs one")
    for release in present:
        yield from engine_checks.engine_findings(release, engines)


def _first_imports(engines: Path) -> Iterator[Finding]:
    for release in engine_checks.present(catalogue.releases().values(), engines):
        yield from engine_checks.first_import_findings(release, engines)


def _imported(engines: Path, names: list[str]) -> Iterator[Finding]:
    for name in names:
        release = catalogue.release(name)
        if install.find(release, engines) is not None:
            yield from engine_checks.deep_findings(release, engines)
        elif len(names) == 1:
            from launcher.hardware.detect import detect

            yield engine_checks.absent_finding(release, detect())


def _environment() -> Iterator[Finding]:
    yield folders.hub_finding(os.environ)
    yield folders.proxy_finding(os.environ)
    known = {"QLAUNCH_HOME", *(setting.variable for setting in SETTINGS)}
    yield surroundings.variables_finding(os.environ, known)


def _default_port() -> int:
    fields = {field.name: field.default for field in msgspec.structs.fields(Profile)}
    return int(fields["port"])
