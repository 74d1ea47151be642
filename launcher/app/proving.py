"""From this machine to its proof: what there is to prove, what is kept of an earlier try."""

from __future__ import annotations

import datetime as dt
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from launcher import __version__
from launcher.app import candidates
from launcher.app.prepare import profiles_dir
from launcher.config.loading import load_profile
from launcher.documents.proof import Card, Proof, ProvedMachine
from launcher.engine.releases import release, why_not_hardware
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.capability import dots
from launcher.hardware.detect import detect
from launcher.hardware.inventory import Hardware
from launcher.model.cards import resolve_model
from launcher.model.fetch import locate
from launcher.paths import Dirs, dirs, private_dir
from launcher.plan.recommend import Judged
from launcher.prove import bundle, run
from launcher.prove.agenda import PORTABLE, Machine, Runnable, agenda
from launcher.units import now

FOLDER: Final = "proofs"


@dataclass(frozen=True)
class Proved:
    """A proof as far as it came, and the file to be sent."""

    proof: Proof
    folder: Path
    bundle: Path

    @property
    def whole(self) -> bool:
        """Whether every chapter was done and ended well."""
        return all(chapter.outcome == "ok" for chapter in self.proof.chapters)


def prove(
    *,
    minutes: float,
    only: Sequence[str],
    offline: bool,
    again: bool,
    progress: Callable[[str], None],
) -> Proved:
    """Go through everything that is to be proved here, for at most `minutes`.

    Raises:
        QlaunchError: exit 2 for a profile that there is not; `does_not_fit` (exit 4) where no
            profile runs on this machine.
    """
    deadline = time.monotonic() + 60 * minutes
    where, hardware = dirs(), detect()
    machine = of(hardware, where, only, offline=offline)
    private_dir(where.state)
    root = private_dir(where.state / FOLDER)
    begun = None if again else unfinished(root, machine.device, facts(hardware))
    if begun is not None:
        progress(f"going on with {begun.id}")
    else:
        begun = _new(machine, hardware, minutes)
    folder = private_dir(root / begun.id)
    try:
        found = run.run(begun, agenda(machine), folder, deadline, progress)
    finally:
        # Also after Ctrl-C: what was proved until then can be looked at and sent.
        if (folder / run.DOCUMENT).exists():
            bundle.write(load(folder), folder, where)
    return Proved(found, folder, bundle.path(folder))


def of(hardware: Hardware, where: Dirs, only: Sequence[str], *, offline: bool) -> Machine:
    """What runs on a machine, as the agenda looks at it."""
    user = profiles_dir(where)
    for name in only:
        load_profile(name, user)
    judged = candidates.advise(hardware, where).judged
    found = tuple(_runnable(each, where) for each in judged if _runs(each))
    missing = [name for name in only if name not in {each.name for each in found}]
    if missing or not found:
        reason = next((j.verdict.reason for j in judged if j.verdict.profile in missing), None)
        raise QlaunchError(
            f"{', '.join(missing) or 'no profile'} does not run on this machine: {reason}"
            if missing
            else "no profile runs on this machine",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="qlaunch profiles list -v says why",
        )
    cuda = any(each.cuda for each in found)
    why = why_not_hardware(release(PORTABLE), hardware)
    return Machine("cuda" if cuda else "cpu", found, tuple(only), offline, why)


def _runs(judged: Judged) -> bool:
    """Whether it runs as it stands; one that lacks a quantised checkpoint is given one here."""
    return judged.verdict.bucket == "runs"


def _runnable(judged: Judged, where: Dirs) -> Runnable:
    profile = judged.profile
    _card, sources = resolve_model(profile.model, profiles_dir(where) / "models")
    return Runnable(
        name=judged.verdict.profile,
        model=profile.model,
        cuda=profile.hardware.device == "cuda",
        offloads=bool(profile.flags.get("cpu-offload-gb")),
        quantised=profile.checkpoint is not None,
        release=judged.verdict.release,
        here=locate(sources, models_dir=where.models) is not None,
    )


def load(folder: Path) -> Proof:
    """The proof in `folder`.

    Raises:
        QlaunchError: `proof_unreadable` (exit 1).
    """
    try:
        return msgspec.json.decode((folder / run.DOCUMENT).read_bytes(), type=Proof)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise QlaunchError(
            f"{folder / run.DOCUMENT} cannot be read: {error}",
            code="proof_unreadable",
            exit_code=ExitCode.UNEXPECTED,
            fix="do it from the start: qlaunch prove --again",
        ) from error


def unfinished(root: Path, device: str, machine: ProvedMachine) -> Proof | None:
    """The newest proof of this program, if it is of this machine and was cut short."""
    for folder in sorted(root.iterdir(), reverse=True):
        try:
            found = load(folder)
        except QlaunchError:
            continue
        cut = found.ended is None or any(
            c.outcome in ("timed_out", "interrupted") for c in found.chapters
        )
        # A home may move to another machine, and a machine get another card: nothing is mixed.
        same = (found.qlaunch, found.device) == (__version__, device)
        return found if cut and same and _told(found.machine) == _told(machine) else None
    return None


def _told(machine: ProvedMachine) -> ProvedMachine:
    """What a machine is known by: its processor, driver and cards, whatever is free now."""
    cards = tuple(msgspec.structs.replace(c, memory_free_bytes=None) for c in machine.cards)
    return ProvedMachine(cpu=machine.cpu, driver=machine.driver, cards=cards)


def _new(machine: Machine, hardware: Hardware, minutes: float) -> Proof:
    stamp = dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return Proof(
        id=f"{stamp}-{machine.device}-{secrets.token_hex(2)}",
        qlaunch=__version__,
        began=now(),
        minutes=minutes,
        device=machine.device,
        machine=facts(hardware),
    )


def facts(hardware: Hardware) -> ProvedMachine:
    """What a proof says of the machine."""
    return ProvedMachine(
        cpu=hardware.cpu.model,
        threads=hardware.cpu.usable,
        memory_bytes=hardware.memory.total_bytes,
        driver=hardware.driver_version,
        cards=tuple(
            Card(
                name=gpu.name,
                compute_capability=dots(gpu.compute_capability),
                memory_total_bytes=gpu.memory_total_bytes,
                memory_free_bytes=gpu.memory_free_bytes,
            )
            for gpu in hardware.gpus
        ),
    )
