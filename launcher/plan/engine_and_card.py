"""Which engine release and which card a profile gets, and what follows from the card. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from launcher.config.profile import HardwareNeed
from launcher.engine import releases as catalogue
from launcher.engine.release import Release
from launcher.engine.releases import Host
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.capability import capability, dots
from launcher.hardware.inventory import Gpu, Hardware
from launcher.model.checkpoint import Checkpoint
from launcher.plan import fit
from launcher.plan.decision import Decision, Flags

AUTO: Final = "auto"
BACKEND: Final = "attention-backend"

TRITON_HEAD_DIM: Final = 32
"""FlashInfer has no kernels for heads this small (flashinfer issue 1048); Triton compiles them."""

QUANTIZATION_CAPABILITY: Final[Mapping[str, tuple[int, int]]] = MappingProxyType(
    {
        "w8a8_int8": (7, 5),
        "gptq": (6, 0),
        "gptq_marlin": (8, 0),
        "awq": (7, 5),
        "awq_marlin": (8, 0),
        "compressed-tensors": (7, 0),
        "fp8": (8, 9),
        "w8a8_fp8": (8, 9),
    }
)
"""Least compute capability by quantisation method: `get_min_capability` of SGLang's own classes
(srt/layers/quantization, the same in 0.5.1.post2, 0.5.10.post1 and 0.5.23). For fp8 the engine says
8.0, but below 8.9 no card multiplies it: the weights are unpacked again for every product."""


@dataclass(frozen=True)
class Choice:
    """An engine release, and the card of this machine that it will use."""

    release: Release
    gpu: Gpu | None
    """None for an engine on the CPU."""
    only_gpu: bool
    """Whether the machine shows the engine no other card."""
    reasons: tuple[str, ...]


def choose(wanted: str, need: HardwareNeed, hardware: Hardware, host: Host) -> Choice:
    """The release for this machine, and of its cards that suit the one with most memory free.

    `wanted` is a release's name or `auto`: the first of the catalogue that runs here.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) with the reason, `engine_unknown` (exit 5).
    """
    reasons: dict[str, str] = {}
    for release in candidates(wanted, need):
        # A release named outright may be there already, or is refused when it is installed.
        why = host.why_not(release) if wanted == AUTO else None
        why = why or fit.why_not_on(need, release, hardware)
        if why is None:
            gpu = fit.card_for(need, release, hardware)
            said = (_why(release, gpu, hardware),) if wanted == AUTO else ()
            # A card that cannot be read is hidden from the engine too: CUDA would try it.
            only = len(hardware.gpus) == 1 and hardware.gpu_status == "ok"
            return Choice(release, gpu, only, said)
        reasons[release.name] = why
    refusal = _refusal(reasons, need, hardware)
    raise QlaunchError(refusal, code="does_not_fit", exit_code=ExitCode.DOES_NOT_FIT)


def candidates(wanted: str, need: HardwareNeed) -> tuple[Release, ...]:
    """The releases a profile allows, best first.

    Raises:
        QlaunchError: `engine_unknown` (exit 5).
    """
    if wanted != AUTO:
        return (catalogue.release(wanted),)
    return tuple(
        release
        for release in catalogue.releases().values()
        if release.device == need.device
        and not release.named_only
        and fit.limits_meet(need, release)
    )


def too_old(hardware: Hardware) -> str | None:
    """Why no release at all runs on this machine's cards; None where one does, or there is none."""
    lows = [capability(r.min_compute_capability) for r in catalogue.releases().values()]
    oldest = min(low for low in lows if low)
    newest = max(hardware.gpus, key=lambda gpu: gpu.compute_capability, default=None)
    if newest is None or newest.compute_capability >= oldest:
        return None
    return (
        f"{newest.name} has compute capability {dots(newest.compute_capability)}, and no SGLang"
        f" release has kernels for it: {dots(oldest)} (Turing) is the oldest they serve"
    )


def require_kernels(hardware: Hardware) -> None:
    """Refuse cards that were asked about and that no engine runs on.

    Raises:
        QlaunchError: `does_not_fit` (exit 4).
    """
    why = too_old(hardware)
    if why:
        raise QlaunchError(
            why,
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="beside such a card the CPU can serve a small model: profile cpu-minilm",
        )


def backend(
    choice: Choice | None, checkpoint: Checkpoint, *, taken: Collection[str] = ()
) -> Decision[Flags]:
    """The attention backend that follows from the card and the model.

    Empty where the engine's own choice is right (FlashInfer on compute capability 8.x), and where
    the user's or the profile's own is among the options `taken`.
    """
    if choice is None or choice.gpu is None or BACKEND in taken:
        return Decision({})
    have = choice.gpu.compute_capability
    if have < (8, 0):
        name = "triton"
        why = (
            "FlashAttention 3 needs compute capability 8.0, and FlashInfer gives trouble on"
            f" {dots(have)}"
        )
    elif checkpoint.encoder or checkpoint.head_dim <= TRITON_HEAD_DIM:
        name = "triton"
        heads = f"heads of {checkpoint.head_dim}"
        why = f"FlashInfer has no kernels for encoders with {heads} in every release"
    elif have[0] == 9:
        name, why = "fa3", "FlashAttention 3 is written for this card"
    else:
        return Decision({})
    return Decision({BACKEND: name}, (f"attention backend {name}: {why}",))


def workarounds(release: Release) -> Decision[Flags]:
    """The flags that every plan on a release must pass, and why."""
    return Decision(
        {w.flag: w.value for w in release.workarounds},
        tuple(f"--{w.flag}: {w.reason}" for w in release.workarounds),
    )


def check_card(choice: Choice | None, checkpoint: Checkpoint, dtype: str, method: object) -> None:
    """Refuse what the card cannot compute, and the engine would silently do otherwise.

    Args:
        method: the value of `--quantization`, None without it.

    Raises:
        QlaunchError: `does_not_fit` (exit 4).
    """
    if choice is None or choice.gpu is None:
        return
    gpu = choice.gpu
    said = f"{gpu.name} has compute capability {dots(gpu.compute_capability)}"
    if dtype == "bfloat16" and gpu.compute_capability < (8, 0):
        raise QlaunchError(
            f"{said}, which has no bfloat16: the engine would serve float16 instead",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="give --dtype float16, or leave it auto",
        )
    name = str(method or checkpoint.quantization or "")
    low = QUANTIZATION_CAPABILITY.get(name)
    if low and gpu.compute_capability < low:
        raise QlaunchError(
            f"{said}, and {name} weights need {dots(low)} or newer",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="take a profile that is not quantised, or one for this card",
        )


def _why(release: Release, gpu: Gpu | None, hardware: Hardware) -> str:
    words = f"engine {release.name} (SGLang {release.version})"
    if gpu is None:
        return f"{words}: the CPU engine"
    capability = dots(gpu.compute_capability)
    others = {
        r.name
        for r in candidates(AUTO, HardwareNeed(device="cuda"))
        if fit.in_range(gpu.compute_capability, r)
    }
    if others == {release.name}:
        return f"{words}: the last release with kernels for compute capability {capability}"
    if hardware.driver_version is None:
        return f"{words}: compute capability {capability}"
    newer = [
        other
        for other in catalogue.releases().values()
        if other.device == "cuda" and fit.driver_too_old(other, hardware)
    ]
    lacks = f", too old for {newer[0].name}" if newer else ""
    return f"{words}: compute capability {capability}, driver {hardware.driver_version}{lacks}"


def _refusal(reasons: Mapping[str, str], need: HardwareNeed, hardware: Hardware) -> str:
    """The reason that says most: of the release made for this card, else of the first."""
    old = too_old(hardware) if need.device == "cuda" else None
    if old or not reasons:
        return old or "no engine release of the catalogue serves what the profile needs"
    releases = catalogue.releases()
    suiting = [
        name
        for name in reasons
        if any(fit.in_range(gpu.compute_capability, releases[name]) for gpu in hardware.gpus)
    ]
    # The last of them asks least of the driver.
    return reasons[(suiting or list(reasons)[:1])[-1]]
