"""The search for better settings: one dimension after the other, each candidate a life of its own.

The machine's figures are noisy and the space is small, so the search is staged and greedy: from
the profile's own values it tries what a dimension offers, keeps what is clearly better, and goes
on from there. What it finds is only a proposal: pick and default are then measured again, in turn,
and the pick counts where every repeat of it is better than every repeat of the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from launcher.argv import FlagValue
from launcher.bench import verdict
from launcher.bench.compare import counts
from launcher.bench.trial import Contender, Tools, live
from launcher.documents.comparison import Comparison, Level, MachineFacts, Mode, Row

VERSION = 1
KEEP = 0.03
"""A candidate is kept when it is better by more: below, it is noise that would add up."""

TrialOutcome = Literal["measured", "refused", "failed"]


class Overlay(msgspec.Struct, frozen=True, kw_only=True):
    """What a candidate changes: settings of qlaunch, and options of the engine."""

    settings: dict[str, int | str] = {}
    flags: dict[str, FlagValue] = {}

    def with_(self, other: Overlay) -> Overlay:
        """Both, `other` on top."""
        return Overlay(
            settings={**self.settings, **other.settings}, flags={**self.flags, **other.flags}
        )

    @property
    def words(self) -> str:
        """For people: `dtype float32, dp-size 2`."""
        changed = {**self.settings, **self.flags}
        return ", ".join(f"{name} {value}" for name, value in changed.items()) or "as it is"

    @property
    def given(self) -> dict[str, object]:
        """As settings from the command line (`launcher.config.settings.resolve`)."""
        return {**self.settings, **({"flags": dict(self.flags)} if self.flags else {})}


@dataclass(frozen=True)
class Dimension:
    """One thing that may be set otherwise."""

    name: str
    options: tuple[Overlay, ...]


@dataclass(frozen=True)
class Aim:
    """What is better: more texts a second; with a limit, as long as the p95 stays below it."""

    max_p95_ms: float | None = None

    def score(self, row: Row) -> tuple[int, float]:
        """Larger is better. Candidates within the limit come before all others."""
        assert row.embeddings_per_s is not None
        if self.max_p95_ms is None or row.p95_ms is None:
            return 1, row.embeddings_per_s
        if row.p95_ms <= self.max_p95_ms:
            return 1, row.embeddings_per_s
        return 0, -row.p95_ms

    def better(self, row: Row, than: Row) -> bool:
        """Whether by more than noise may be."""
        ours, theirs = self.score(row), self.score(than)
        if ours[0] != theirs[0]:
            return ours[0] > theirs[0]
        return ours[1] - theirs[1] > KEEP * abs(theirs[1])


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One candidate, and what came of it."""

    overlay: Overlay
    outcome: TrialOutcome
    reason: str | None = None
    """Why it is out: it does not fit, the engine refuses it, its vectors are wrong."""
    row: Row | None = None
    run: str | None = None


class Tuning(msgspec.Struct, frozen=True, kw_only=True):
    """The document of `tune`, `tuning.json`: written after every trial."""

    version: int = VERSION
    id: str
    made: str
    profile: str
    level: Level
    max_p95_ms: float | None = None
    complete: bool = False
    interrupted: str | None = None
    ended: str | None = None
    """Why the search ended before everything was tried; None: it did not."""
    trials: tuple[Trial, ...] = ()
    pick: Overlay | None = None
    """The best candidate of the search; None: nothing was better than the profile as it is."""
    confirmed: bool | None = None
    """Whether the pick beat the profile as it is when both were measured again; None: not done."""
    comparison: Comparison | None = None
    """That measurement."""
    verdict: tuple[str, ...] = ()
    machine: MachineFacts = MachineFacts()
    versions: dict[str, str | None] = {}


@dataclass
class Search:
    """A search under way; `trials` holds everything tried, the profile as it is first.

    Args:
        evaluate: tries one candidate; raises KeyboardInterrupt.
        may_go_on: why not to try another, or None.
        on_trial: called after every trial.
    """

    evaluate: Callable[[Overlay], Trial]
    aim: Aim = Aim()
    may_go_on: Callable[[Sequence[Trial]], str | None] = lambda _: None
    on_trial: Callable[[], object] = lambda: None
    trials: list[Trial] = field(default_factory=list)
    best: Trial | None = None
    ended: str | None = None

    def run(self, dimensions: Iterable[Dimension]) -> Trial | None:
        """The best candidate that was measured; None where not even the default was."""
        first = self._try(Overlay())
        if first.row is None:
            return None
        self.best = first
        for dimension in dimensions:
            # All options start from the same place: what came before, not a sibling.
            start = self.best.overlay
            for option in dimension.options:
                if not self._tried(start.with_(option)):
                    return self.best
        return self.best

    def _tried(self, overlay: Overlay) -> bool:
        """Try a candidate that was not tried yet; False where the search is over."""
        if any(trial.overlay == overlay for trial in self.trials):
            return True
        self.ended = self.may_go_on(self.trials)
        if self.ended is not None:
            return False
        trial = self._try(overlay)
        assert self.best is not None
        assert self.best.row is not None
        if trial.row is not None and self.aim.better(trial.row, self.best.row):
            self.best = trial
        return True

    def _try(self, overlay: Overlay) -> Trial:
        trial = self.evaluate(overlay)
        self.trials.append(trial)
        self.on_trial()
        return trial


def measured(overlay: Overlay, contender: Contender, level: Level, tools: Tools) -> Trial:
    """Try one candidate: a whole life at one level.

    Raises:
        KeyboardInterrupt: Ctrl-C; the candidate has been stopped.
    """
    facts = contender.facts
    if facts.outcome == "cannot_run":
        return Trial(overlay=overlay, outcome="refused", reason=facts.reason)
    life = live(contender, [level], tools)
    if life.interrupted:
        raise KeyboardInterrupt
    run = life.running.run if life.running else None
    row = life.rows[0] if life.rows else None
    if life.failure is not None or row is None or not counts(row):
        reason = life.failure or (row.reason if row else "nothing was measured")
        return Trial(overlay=overlay, outcome="failed", reason=reason, run=run)
    return Trial(overlay=overlay, outcome="measured", row=row, run=run)


def beats(found: Comparison, pick: str, default: str, aim: Aim) -> bool:
    """Whether every repeat of the pick is better than every repeat of the default.

    With a limit, a pick that keeps it in every repeat also beats a default that never does.
    """
    rows = {
        mode.name: [row for row in mode.rows if counts(row)]
        for mode in found.modes
        if verdict.wrong(mode) is None
    }
    ours, theirs = rows.get(pick, []), rows.get(default, [])
    if not ours or not theirs:
        return False
    return min(map(aim.score, ours)) > max(map(aim.score, theirs))


def sentences(found: Tuning, pick: str) -> tuple[str, ...]:
    """The outcome in words."""
    out = []
    counted = {
        kind: sum(trial.outcome == kind for trial in found.trials)
        for kind in ("measured", "refused", "failed")
    }
    out.append(
        f"{counted['measured']} candidates measured, {counted['refused']} refused before a start,"
        f" {counted['failed']} failed."
    )
    if found.ended:
        out.append(f"The search ended early: {found.ended}.")
    if found.interrupted:
        out.append(f"{found.interrupted}: what was tried is kept, no profile was written.")
    elif found.pick is None:
        out.append(f"Nothing beat {found.profile} as it is by more than {KEEP:.0%}.")
    elif found.confirmed:
        out.append(f"{pick} ({found.pick.words}) is better, in every repeat.")
    elif found.comparison is not None:
        out.append(
            f"{found.pick.words} looked better in the search, but did not beat {found.profile}"
            " beyond the noise when both were measured again."
        )
    if found.comparison is None:
        return tuple(out)
    if found.pick is not None and "dtype" in found.pick.settings:
        out += [said for mode in found.comparison.modes if (said := _vectors(mode))]
    return (*out, *found.comparison.verdict)


def _vectors(mode: Mode) -> str | None:
    """What another number format does to the vectors: speed alone would not be the whole truth."""
    quality = mode.quality
    if quality is None or quality.cosine_min is None:
        return None
    recall = quality.recall_at_10
    return (
        f"Vectors of {mode.name}: worst cosine with float32 {quality.cosine_min:.4f}"
        + (f", recall@10 {recall:.3f}" if recall is not None else "")
        + "."
    )
