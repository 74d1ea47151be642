"""Reports as text: complete, honest about what was not measured, harmless, the same every time."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from launcher import report
from launcher.documents.comparison import Level, Mode
from launcher.documents.run import Run
from launcher.report import formatting
from tests.report import report_samples as given

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """A page taken apart; refuses what is not nested well."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def life(run: Any = None) -> str:
    return report.run_html(run or given.run(), given.SAMPLES, given.EVENTS, given.BENCH)


PAGES: dict[str, Callable[[str], str]] = {
    "comparison": lambda name: report.comparison_html(given.comparison(name)),
    "seed": lambda name: report.comparison_html(given.comparison(name), seed=True),
    "run": lambda name: life(given.run(name)),
    "failed run": lambda name: life(given.failed(name)),
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_loads_nothing_and_runs_nothing(kind: str) -> None:
    page = Page(PAGES[kind]("m"))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in {"src", "href", "srcset", "data", "action"}:
                assert value is not None
                assert value.startswith("#"), (tag, name, value)
    [policy] = [m for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"
    style = PAGES[kind]("m")
    assert not re.search(r"url\((?!#)", style)
    assert "@import" not in style


@pytest.mark.parametrize("kind", PAGES)
def test_names_are_shown_and_never_obeyed(kind: str) -> None:
    text = PAGES[kind](given.HOSTILE)
    page = Page(text)
    assert "<script" not in text
    assert "\x1b" not in text
    assert not page.all("script")
    shown = "".join(page.text)
    assert given.HOSTILE in shown


@pytest.mark.parametrize("kind", PAGES)
def test_figures_are_text_in_the_pages_colours_and_described(kind: str) -> None:
    page = Page(PAGES[kind]("m$x_1^2$"))
    drawings = page.all("svg")
    assert len(drawings) == 2
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    for drawing in drawings:
        assert drawing["role"] == "img"
        labels = (drawing["aria-labelledby"] or "").split()
        assert set(labels) <= set(ids)
        assert "width" not in drawing
    assert len(page.all("title")) == len(drawings) + 1
    assert page.all("text"), "text became outlines"
    text = PAGES[kind]("m")
    assert "currentColor" in text
    assert not re.search(r"#0[01]0[12]\d\d\b", text), "a stand-in colour was left"
    assert not re.search(r"<(?:dc|rdf|cc):|xlink|<!DOCTYPE svg|<\?xml", text)


@pytest.mark.parametrize("kind", PAGES)
def test_the_same_record_gives_the_same_bytes(kind: str) -> None:
    assert PAGES[kind]("m") == PAGES[kind]("m")


def test_two_processes_draw_the_same_page() -> None:
    """The lines of a plot were drawn in the order of a set, which is another in every process."""
    program = (
        "from tests.report import report_samples as given\n"
        "from launcher import report\n"
        "import hashlib\n"
        "print(hashlib.sha256(report.comparison_html(given.comparison()).encode()).hexdigest())\n"
    )
    hashes = {
        subprocess.check_output(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parents[2],
        )
        for seed in ("1", "2", "3")
    }
    assert len(hashes) == 1


@pytest.mark.parametrize("kind", PAGES)
def test_tables_have_heads_and_regions_have_names(kind: str) -> None:
    page = Page(PAGES[kind]("m"))
    assert page.all("table")
    assert all(head.get("scope") for head in page.all("th"))
    assert all(a.get("aria-label") for _, a in page.tags if a.get("role") == "region")
    assert page.all("html")[0]["lang"] == "en"


def test_a_mode_that_cannot_run_has_its_reason_and_no_figure() -> None:
    for row in csv.DictReader(io.StringIO(report.comparison_csv(given.comparison()))):
        if row["mode"] in {"t4-fp16", "dead", "late"}:
            figures = {key: value for key, value in row.items() if key.endswith(("_ms", "_median"))}
            assert set(figures.values()) == {""}
            assert row["ram_peak_bytes"] == ""
    text = report.comparison_markdown(given.comparison())
    lines = [line for line in text.splitlines() if line.startswith("| t4-fp16 |")]
    assert len(lines) == 1
    for line in lines:
        assert "cannot run here: needs a GPU b" in line
        assert not re.search(r"\d", line.replace("t4-fp16", ""))
    page = report.comparison_html(given.comparison())
    assert page.count("cannot run here: needs a GPU b") == 1
    assert "not reached" in page


def test_a_level_that_was_not_measured_is_said_so() -> None:
    text = report.comparison_markdown(given.comparison())
    last = text.split("### 20 requests/s × batch 1, 128 tokens")[1]
    assert re.search(r"\| b \|( –? ?\|){8} not measured \|", last)


def test_an_interrupted_comparison_says_that_first() -> None:
    doc = given.comparison(complete=False, interrupted="Ctrl-C", verdict=(), remeasured=None)
    for text in (report.comparison_markdown(doc), report.comparison_html(doc)):
        assert text.index("Not complete: Ctrl-C.") < text.index("No verdict: nothing")


def test_flags_of_a_cell() -> None:
    level = Level()
    shaky = given.cell(
        level, 10.0, embeddings_per_s=given.spread(10.0, noisy=True), saturated=True, errors=2
    )
    doc = given.comparison(levels=(level,), modes=(given.mode("x", (), 1.0, cells=(shaky,)),))
    for text in (report.comparison_markdown(doc), report.comparison_html(doc)):
        assert "2 errors, saturated, noisy" in text
        assert "saturated: the measuring client" in text


def test_nothing_measured_at_all() -> None:
    nothing = Mode(name="x", kind="profile", outcome="cannot_run", reason="no")
    doc = given.comparison(modes=(nothing,), verdict=(), winner=None, remeasured=None)
    text = report.comparison_html(doc)
    assert "<svg" not in text
    assert "Not measured: no mode gave a figure" in text
    empty = given.comparison(modes=(), levels=(), verdict=(), winner=None, remeasured=None)
    assert report.comparison_html(empty)
    assert report.comparison_markdown(empty)
    assert len(report.comparison_csv(empty).splitlines()) == 1


def test_the_best_of_a_level_is_marked_where_there_are_two() -> None:
    text = report.comparison_html(given.comparison())
    rows = re.findall(r"<tr.*?</tr>", text, re.DOTALL)
    marked = [row for row in rows if 'class="best"' in row]
    assert [">b<" in row for row in marked] == [True] * 3


def test_a_spreadsheet_sees_no_formula() -> None:
    doc = given.comparison("=HYPERLINK(1)")
    cells = [cell for row in csv.reader(io.StringIO(report.comparison_csv(doc))) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@"))]


# A run --------------------------------------------------------------------------------------------


def test_a_run_in_words() -> None:
    text = report.run_markdown(given.run(), given.SAMPLES, given.BENCH)
    assert "proved right 8.0 s after it was asked for: 1 of 1 checks passed." in text
    assert (
        "RAM: 1.05 GB peak (PSS); 1.00 GB until verified, predicted 1.20 GB, 20 % too high."
    ) in text
    assert "| scheduler | 700 MB |" in text
    assert "| loading | 2.0 s |" in text
    assert "16 clients × batch 4, 128 tokens" in text
    assert "| GPU by | unavailable: m |" in text


def test_a_failed_run_says_why_and_what_to_do() -> None:
    for text in (life(given.failed()), report.run_markdown(given.failed(), ())):
        assert "It failed (kv_budget): no room for m" in text
        assert "lower --max-total-tokens" in text
        assert "RuntimeError: m" in text


def test_memory_without_a_figure_is_called_not_measured() -> None:
    """It was: GPU memory, (unavailable)."""
    assert "<span>GPU memory, not measured</span>" in life(given.run())


def test_a_record_with_nothing_in_it() -> None:
    empty = Run(version=1, run="r", service="", profile="", began="", outcome="broken")
    text = report.run_html(empty, (), ())
    assert "<svg" not in text
    assert "It was broken before it was verified." in text
    assert "No checks were made." in text
    assert report.run_markdown(empty, ())
    assert len(report.run_csv(()).splitlines()) == 1


def test_a_running_services_peak_is_that_of_its_samples() -> None:
    doc = report.document(given.run(outcome="running"), given.SAMPLES, ())
    assert doc["peak"]["ram_peak_bytes"] == 1_050_000_000
    assert doc["peak_by_role"] == {
        "front": 400_000_000,
        "scheduler": 700_000_000,
        "detokenizer": 50_000_000,
    }


def test_csv_of_samples_leaves_out_what_could_not_be_read() -> None:
    rows = list(csv.DictReader(io.StringIO(report.run_csv(given.SAMPLES))))
    assert [row["ram_bytes"] for row in rows] == ["100000000", "1000000000", "", "1050000000"]
    assert rows[2]["scheduler_ram_bytes"] == ""
    assert rows[0]["scheduler_ram_bytes"] == ""


def test_gpu_memory_over_time() -> None:
    samples = [
        given.sample(t, ("scheduler", 10**9), gpu_bytes=2 * 10**9, gpu_method="device_delta")
        for t in (1.0, 2.0)
    ]
    text = report.run_html(given.run(), samples, ())
    assert 'aria-labelledby="gpu-time-title' in text


def test_many_samples_are_thinned_to_the_largest() -> None:
    samples = [given.sample(float(t), ("front", 10**8)) for t in range(9000)]
    samples[4321] = given.sample(4321.0, ("front", 9 * 10**9))
    text = report.run_html(given.run(plan=None), samples, ())
    assert len(text) < 600_000
    assert "9000 samples: at most 9.00 GB" in text
    assert "minutes since it was asked for" in text


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((None, "–"), (0, "0"), (0.0, "0.00"), (0.1234, "0.123"), (12.34, "12.3"), (16, "16")),
        *((5369.2, "5\u202f369"), (999.6, "1000")),
    ],
)
def test_figures(value: float | None, shown: str) -> None:
    assert formatting.figure(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (9.96, "10.0 s"), (125, "2 min 5 s"), (11520, "3 h 12 min"), (356400, "4 d 3 h")],
)
def test_times(value: float | None, shown: str) -> None:
    assert formatting.seconds(value) == shown


def test_matplotlib_keeps_its_files_where_ours_are(tmp_path: Path) -> None:
    program = (
        "from tests.report import report_samples as g\n"
        "from launcher import report\n"
        "import sys\n"
        "assert 'matplotlib' not in sys.modules and 'jinja2' not in sys.modules\n"
        "report.run_html(g.run(), g.SAMPLES, ())\n"
    )
    home = tmp_path / "home"
    home.mkdir()
    env = {**os.environ, "HOME": str(home), "QLAUNCH_HOME": str(tmp_path / "q")}
    env.pop("MPLCONFIGDIR", None)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(home.iterdir()) == []


def test_a_refusal_is_said_once() -> None:
    """It stood in the table of the modes and again at every level."""
    page = report.comparison_html(given.comparison("b"))
    assert page.count("kv_budget: no room") == 1
    assert page.count("needs a GPU b") == 1
    text = report.comparison_markdown(given.comparison("b"))
    assert text.count("kv_budget: no room") == 1
    assert "Modes without figures are in the table above." in page


def test_a_crowd_of_marks_leaves_labels_out_rather_than_on_each_other() -> None:
    from matplotlib.figure import Figure

    from launcher.report import svg

    figure = Figure(figsize=(4, 3), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 10)
    labels = [("16×4", 5.0 + n / 1000, 5.0) for n in range(100)]
    left_out = svg.place_labels(figure, axes, labels)
    assert 0 < len(left_out) < 100
    assert len(axes.texts) == 100 - len(left_out)
    assert svg.place_labels(figure, axes, [("1×1", 2.0, 2.0), ("4×1", 8.0, 8.0)]) == []
