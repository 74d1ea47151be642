"""The best profile for a machine with a given model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from launcher.app import candidates
from launcher.config.loading import list_profiles, load_profile
from launcher.errors import ExitCode, QlaunchError
from launcher.model.source import parse_source
from launcher.plan import recommend
from launcher.plan.recommend import Judged, judge_all
from launcher.plan.suitability import Candidate

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.config.loading import LoadedProfile
    from launcher.hardware.inventory import Hardware
    from launcher.model.checkpoint import Checkpoint, ModelCard
    from launcher.paths import Dirs
    from launcher.plan.calibration import Observed


@dataclass(frozen=True)
class Best:
    """A profile for a model, and why it is that one."""

    profile: str
    words: str
    """One line for people."""
    flags: dict[str, int]
    """Engine options without which it would not fit this machine."""


def best_profile(
    model: str,
    checkpoint: Checkpoint,
    card: ModelCard | None,
    *,
    hardware: Hardware,
    where: Dirs,
    observed: tuple[Observed, ...],
) -> Best:
    """The user's or a shipped profile that is written for the model; else, of the shipped ones for
    its kind (encoder or decoder), the first in the order of recommendation that runs here.

    Args:
        model: as settings have it.
        checkpoint: what the model is.
        card: the model's, where it has one.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) where no profile can serve it here, with the reason
            of the nearest.
    """
    world = candidates.world_of(hardware, where, observed)
    folder = where.config / "profiles"
    refs = [ref for ref in list_profiles(folder) if ref.loaded is not None]
    own = [ref.loaded for ref in refs if ref.loaded and _is_of(ref.loaded, model)]
    # A user's own profile for another model may have ports and keys that are meant for that one.
    others = [
        ref.loaded
        for ref in refs
        if ref.loaded
        and ref.loaded not in own
        and (ref.shipped or ref.shadows)
        and _suits(ref.loaded, checkpoint, where)
    ]
    refusals: list[Judged] = []
    for group, why in ((own, "written for this model"), (others, _kind(checkpoint))):
        judged = judge_all([Candidate(each, card, checkpoint) for each in group], world)
        usable = [each for each in judged if each.verdict.plan is not None]
        if usable:
            return _best(_nearest(usable, checkpoint, where), why)
        refusals += judged
    # What keeps a profile for this machine's hardware from running says most.
    refusals.sort(
        key=lambda each: (each.verdict.release is None, each.profile.hardware.device != "cpu")
    )
    reason = f": {refusals[0].verdict.profile}: {refusals[0].verdict.reason}" if refusals else ""
    machine = "such a machine" if hardware.assumed else "this machine"
    raise QlaunchError(
        f"no profile serves {model} on {machine}{reason}",
        code="does_not_fit",
        exit_code=ExitCode.DOES_NOT_FIT,
        fix="see why: qlaunch profiles list; or name a profile: qlaunch up PROFILE --model MODEL",
    )


def idle_gpu(
    profile: str, hardware: Hardware, where: Dirs, progress: Callable[[str], None]
) -> tuple[str, ...]:
    """That a profile for the CPU was taken on a machine with a GPU, and why; told to people too."""
    if load_profile(profile, where.config / "profiles").profile.hardware.device != "cpu":
        return ()
    why = recommend.idle_gpu(candidates.advise(hardware, where).judged, hardware)
    if why is None:
        return ()
    note = f"the GPU is not used: {why}"
    progress(note)
    return (note,)


def _nearest(usable: list[Judged], checkpoint: Checkpoint, where: Dirs) -> Judged:
    """Of the profiles that suit as well as the first, the one written for a model of most nearly
    the checkpoint's size."""
    first = usable[0]

    def rank(judged: Judged) -> tuple[object, ...]:
        return (
            judged.verdict.bucket,
            judged.kind,
            judged.profile.measured,
            judged.profile.hardware,
        )

    def distance(judged: Judged) -> int:
        card = _card(judged.profile.model, where)
        return abs((card.parameters if card else 0) - checkpoint.parameters)

    return min((each for each in usable if rank(each) == rank(first)), key=distance)


def _card(model: str, where: Dirs) -> ModelCard | None:
    return candidates.card_named(model, where.config / "profiles" / "models")


def _best(judged: Judged, why: str) -> Best:
    name, change = judged.verdict.profile, judged.verdict.change
    words = f"profile {name}: {why}"
    if change is None:
        return Best(name, words, {})
    option, _, value = change.removeprefix("--").partition(" ")
    return Best(name, f"{words}, with {change} so that it fits", {option: int(value)})


def _is_of(loaded: LoadedProfile, model: str) -> bool:
    """Whether a profile is written for the very model."""
    said = loaded.profile.model
    if said == model:
        return True
    if Path(model).is_absolute() and set(said) & set("/~."):
        return _folder_of(said, loaded.file(("model",)).parent) == model
    return False


def _folder_of(said: str, base: Path) -> str | None:
    try:
        return parse_source(said, base=base).location
    except QlaunchError:
        return None


def _suits(loaded: LoadedProfile, checkpoint: Checkpoint, where: Dirs) -> bool:
    """Whether a profile is for models of the checkpoint's kind and number format."""
    need = loaded.profile.checkpoint
    if need is not None and checkpoint.quantization is None:
        return False
    card = _card(loaded.profile.model, where)
    shape = card.shape if card is not None else None
    return shape is None or shape.encoder == checkpoint.encoder


def _kind(checkpoint: Checkpoint) -> str:
    kind = "an encoder" if checkpoint.encoder else "a decoder"
    count = checkpoint.parameters
    size = f"{count / 1e6:.3g} million" if count < 1e9 else f"{count / 1e9:.3g} billion"
    return f"the best here for {kind} of {size} parameters"
