"""The article's table beside ours: one set of rows, in every form that a comparison is shown in."""

from __future__ import annotations

import msgspec

from launcher import report
from launcher.documents.comparison import Comparison
from launcher.report import seed_table
from tests.report import report_samples as given


def measured(name: str = "cpu-a") -> Comparison:
    modes = (
        given.mode(name, seed_table.LEVELS, 10.0, ram_peak_bytes=1_210_000_000),
        given.mode("half", seed_table.LEVELS[:1], 100.0),
        msgspec.structs.replace(given.comparison().modes[2], device="cpu"),
    )
    return given.comparison(levels=seed_table.LEVELS, modes=modes)


def test_the_article_is_beside_ours_and_marked_as_its() -> None:
    rows = seed_table.rows(measured())
    assert [row.article.batch_1_ms for row in rows] == [48, 210, 1120]
    assert [row.reason for row in rows] == [seed_table.NEEDS_GPU, seed_table.NEEDS_GPU, None]
    ours, half = rows[2].ours
    assert (ours.name, ours.batch_1_ms, ours.batch_4_ms) == ("cpu-a (m, float32)", 100.0, 200.0)
    assert (half.batch_1_ms, half.batch_4_ms) == (10.0, None)
    assert "its figures, not ours" in seed_table.SOURCE


def test_its_rows_are_shown_one_way() -> None:
    shown = seed_table.texts(measured())
    assert {len(row) for row in shown} == {len(seed_table.HEADINGS)}
    assert shown[0] == ("GPU, fp16", "the article (T4)", "48", "62", "1.5 GB GPU")
    assert shown[1] == ("", "this machine: needs a GPU: not measured", "–", "–", "–")
    assert shown[-2] == ("", "cpu-a (m, float32)", "100", "200", "1.21 GB RAM")
    assert shown[-1] == ("", "half (m, float32)", "10.0", "–", "1.20 GB RAM")
    nothing = msgspec.structs.replace(measured(), modes=())
    assert seed_table.texts(nothing)[-1] == ("", "this machine: not measured", "–", "–", "–")


def test_reports_have_it_where_it_was_asked_for() -> None:
    doc = measured(given.HOSTILE)
    page, text = report.comparison_html(doc, seed=True), report.comparison_markdown(doc, seed=True)
    for shown in (page, text):
        assert seed_table.TITLE in shown
        assert "its figures, not ours." in shown
        assert shown.count("1.8 GB RAM, 0.6 GB GPU") == 1
    assert text.count("| the article (T4) |") == page.count(">the article (T4)<") == 3
    assert "<script" not in page + text
    assert seed_table.TITLE not in report.comparison_html(doc) + report.comparison_markdown(doc)
