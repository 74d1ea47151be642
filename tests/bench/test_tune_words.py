"""What `tune` says of its pick."""

from __future__ import annotations

from launcher.bench.tune import Overlay, Tuning, sentences
from launcher.documents.comparison import Comparison, Level, Mode, Quality


def said(pick: Overlay, *modes: Mode) -> tuple[str, ...]:
    level = Level(clients=16, batch=1, tokens=128)
    found = Tuning(
        id="t",
        made="2026-11-24T00:00:00Z",
        profile="p",
        level=level,
        pick=pick,
        confirmed=True,
        comparison=Comparison(
            made="2026-11-24T00:00:00Z", complete=True, repeats=3, levels=(level,), modes=modes
        ),
    )
    return sentences(found, "p-tuned")


def test_another_number_format_is_told_with_its_vectors() -> None:
    modes = (
        Mode(
            name="p",
            kind="profile",
            outcome="measured",
            quality=Quality(cosine_min=0.99986, recall_at_10=0.484),
        ),
        Mode(
            name="p-tuned",
            kind="profile",
            outcome="measured",
            quality=Quality(cosine_min=0.99612),
        ),
        Mode(name="p-other", kind="profile", outcome="measured"),
    )
    words = said(Overlay(settings={"dtype": "int8"}), *modes)
    assert "Vectors of p: worst cosine with float32 0.9999, recall@10 0.484." in words
    assert "Vectors of p-tuned: worst cosine with float32 0.9961." in words
    assert not any("p-other" in line for line in words)
    same = said(Overlay(settings={"threads": 1}), *modes)
    assert not any(line.startswith("Vectors") for line in same)
