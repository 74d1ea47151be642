"""What to run on a machine, why, and what is known of it from runs. Pure.

The policy is the one of the article whose measurements the profiles cite: from 4 GB of GPU memory
on the model directly; from 2 to 4 GB quantised; without a GPU a smaller model; weights in RAM
beside a GPU only where nothing else fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from launcher.config.profile import Profile
from launcher.documents.evidence import Evidence
from launcher.engine import releases
from launcher.errors import ExitCode, QlaunchError
from launcher.hardware.capability import capability
from launcher.hardware.cards import bare_name
from launcher.hardware.inventory import Gpu, Hardware
from launcher.hardware.nvml import NO_DRIVER
from launcher.hardware.visible import VISIBLE
from launcher.plan import engine_and_card, fit, precision
from launcher.plan.past_runs import PastRun, age, evidence
from launcher.plan.suitability import Bucket, Candidate, Verdict, World, judge

__all__ = ["PastRun", "Recommendation", "age", "evidence", "judge_all", "kind_of", "recommend"]

Kind = Literal[
    "direct", "quantised", "small on the GPU", "small on the CPU", "on the CPU", "offloaded"
]
ORDER: Final[tuple[Kind, ...]] = (
    "direct", "quantised", "small on the GPU", "small on the CPU", "on the CPU", "offloaded"
)  # fmt: skip
"""The policy, best first."""

SMALL_PARAMETERS: Final = 100_000_000
"""Models below are small: the encoders of 17 to 23 million, against 596 million."""

_POLICY: Final[Mapping[Kind, str]] = {
    "direct": "with 4 GB of GPU memory or more, the model runs unquantised, without offload",
    "quantised": "with 2 to 4 GB of GPU memory, a quantised copy of the model",
    "small on the GPU": "a GPU too small for Qwen3-Embedding-0.6B: a smaller model",
    "small on the CPU": "no GPU that can be used: a smaller model",
    "on the CPU": "no GPU that can be used, and no smaller model",
    "offloaded": (
        "nothing else fits: weights in RAM, copied to the GPU for every text (an article measured"
        " more than 4 times the latency, 210 ms against 48 on a T4)"
    ),
}


class Alternative(msgspec.Struct, frozen=True, kw_only=True):
    """Another profile that would run."""

    profile: str
    bucket: Bucket
    kind: Kind
    change: str | None = None
    needs: str | None = None


class Recommendation(msgspec.Struct, frozen=True, kw_only=True):
    """The choice, and what speaks for it."""

    profile: str
    bucket: Bucket
    kind: Kind
    release: str
    version: str
    dtype: str
    argv: tuple[str, ...]
    env: dict[str, str]
    ram_bytes: int | None
    """Predicted."""
    gpu_bytes: int | None
    """Predicted."""
    reasons: tuple[str, ...]
    evidence: Evidence
    alternatives: tuple[Alternative, ...] = ()
    change: str | None = None
    needs: str | None = None
    """What the user has to bring, or None."""


@dataclass(frozen=True)
class Judged:
    """A profile in its bucket, with what the order of recommendation looks at."""

    candidate: Candidate
    verdict: Verdict
    kind: Kind

    @property
    def profile(self) -> Profile:
        """The profile itself."""
        return self.candidate.profile.profile

    @property
    def needs(self) -> str | None:
        """What the user has to bring."""
        if self.profile.checkpoint is None:
            return None
        formats = " or ".join(self.profile.checkpoint.quantization)
        makes = precision.quantize_command(self.profile.model, self.profile.checkpoint.quantization)
        return f"a checkpoint quantised with {formats}, given with --model; `{makes}` makes one"


def judge_all(candidates: Iterable[Candidate], world: World) -> list[Judged]:
    """Every profile in its bucket, best first: what runs, what would with a change, what cannot."""
    found = [Judged(c, judge(c, world), kind_of(c)) for c in candidates]
    return sorted(found, key=lambda judged: _rank(judged, world.hardware))


def recommend(judged: Sequence[Judged], world: World, runs: Sequence[PastRun]) -> Recommendation:
    """The first of `judged` (from `judge_all`) with what speaks for it.

    Args:
        runs: records of this machine, newest first; none for a machine one does not sit at.

    Raises:
        QlaunchError: `does_not_fit` (exit 4) where nothing runs, with the reason of the first.
    """
    usable = [j for j in judged if j.verdict.plan is not None]
    if not usable:
        # What keeps even a profile for the CPU from running says most.
        judged = sorted(judged, key=lambda j: j.profile.hardware.device != "cpu")
        why = f" ({judged[0].verdict.profile}: {judged[0].verdict.reason})" if judged else ""
        raise QlaunchError(
            f"none of the profiles runs on this machine{why}",
            code="does_not_fit",
            exit_code=ExitCode.DOES_NOT_FIT,
            fix="see why: qlaunch profiles list",
        )
    first = usable[0]
    plan = first.verdict.plan
    assert plan is not None
    return Recommendation(
        profile=first.verdict.profile,
        bucket=first.verdict.bucket,
        kind=first.kind,
        release=plan.engine.release,
        version=plan.engine.version,
        dtype=plan.expectation.dtype,
        argv=plan.engine.argv,
        env=plan.engine.env,
        ram_bytes=plan.predicted.ram_bytes,
        gpu_bytes=plan.predicted.gpu_bytes,
        reasons=_reasons(first, judged, world.hardware),
        evidence=evidence(plan, first.verdict.profile, runs),
        alternatives=tuple(_alternative(other) for other in usable[1:]),
        change=first.verdict.change,
        needs=first.needs,
    )


def kind_of(candidate: Candidate) -> Kind:
    """Where a profile stands in the policy."""
    profile, card = candidate.profile.profile, candidate.card
    parameters = card.parameters if card else getattr(candidate.checkpoint, "parameters", None)
    small = parameters is not None and parameters < SMALL_PARAMETERS
    if profile.hardware.device == "cpu":
        return "small on the CPU" if small else "on the CPU"
    if profile.flags.get("cpu-offload-gb"):
        return "offloaded"
    if small:
        return "small on the GPU"
    quantised = profile.checkpoint is not None or "quantization" in profile.flags
    return "quantised" if quantised else "direct"


def _rank(judged: Judged, hardware: Hardware) -> tuple[object, ...]:
    """Smaller is better: bucket, policy, then how well the profile suits this very card."""
    verdict, profile = judged.verdict, judged.profile
    gpu = _card(judged, hardware)
    need = profile.hardware
    named = gpu is not None and bare_name(gpu.name) in {bare_name(name) for name in need.gpus}
    flags = profile.flags
    tokens = flags.get("max-total-tokens")
    return (
        ("runs", "one_change", "cannot").index(verdict.bucket),
        ORDER.index(judged.kind),
        judged.needs is not None,
        gpu is not None and need.shared != _is_shared(gpu),
        not named,
        not profile.measured,
        # More room for texts, the better model, the newer kernels.
        -(tokens if isinstance(tokens, int) else 0),
        -(judged.candidate.card.parameters if judged.candidate.card else 0),
        -getattr(judged.candidate.checkpoint, "weight_bytes", 0),
        tuple(-part for part in capability(need.min_compute_capability) or (0, 0)),
        judged.verdict.profile,
    )


def _card(judged: Judged, hardware: Hardware) -> Gpu | None:
    """The card that the profile would take."""
    if judged.profile.hardware.device == "cpu":
        return None
    release = releases.releases().get(judged.verdict.release or "")
    need = judged.profile.hardware
    taken = fit.card_for(need, release, hardware) if release else None
    return taken or max(hardware.gpus, key=fit.free_bytes, default=None)


def _is_shared(gpu: Gpu) -> bool:
    return gpu.mig or fit.free_bytes(gpu) < gpu.memory_total_bytes / 2


def _reasons(first: Judged, judged: Sequence[Judged], hardware: Hardware) -> tuple[str, ...]:
    plan, change = first.verdict.plan, first.verdict.change
    assert plan is not None
    gpu = _card(first, hardware)
    return (
        *([f"{gpu.name}: {_POLICY[first.kind]}"] if gpu else [_POLICY[first.kind]]),
        *_unused_gpu(first, judged, hardware),
        *([f"{first.verdict.reason}: {change} makes it fit"] if change else []),
        *plan.reasons,
        *([f"needs {first.needs}"] if first.needs else []),
    )


def _unused_gpu(first: Judged, judged: Sequence[Judged], hardware: Hardware) -> tuple[str, ...]:
    """Why the machine's GPU is not used, or which of several is."""
    if first.profile.hardware.device == "cpu":
        return (_why_unused(judged, hardware),)
    if len(hardware.gpus) > 1:
        how = "of those that suit, the one with most memory free"
        return (f"one service takes one GPU of {len(hardware.gpus)}: {how}",)
    return ()


def idle_gpu(judged: Sequence[Judged], hardware: Hardware) -> str | None:
    """Why no profile takes the machine's GPU; None where there is none, or the user hid it."""
    status = hardware.gpu_status
    if not hardware.gpus and (status.startswith(NO_DRIVER) or VISIBLE in status):
        return None
    return _why_unused(judged, hardware).removeprefix("GPU: ")


def _why_unused(judged: Sequence[Judged], hardware: Hardware) -> str:
    old = engine_and_card.too_old(hardware)
    # Of a card that has an engine, what keeps the profile that suits it best from running.
    for other in judged if old is None else ():
        if other.verdict.reason and fit.made_for(other.profile.hardware, hardware.gpus):
            return f"{other.verdict.profile}: {other.verdict.reason}"
    return old or f"GPU: {hardware.gpu_status}"


def _alternative(judged: Judged) -> Alternative:
    return Alternative(
        profile=judged.verdict.profile,
        bucket=judged.verdict.bucket,
        kind=judged.kind,
        change=judged.verdict.change,
        needs=judged.needs,
    )
