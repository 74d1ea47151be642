"""`runs report` and `runs diff` on records as supervisors leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from launcher.documents.run import Peak, Timings
from launcher.documents.run import Run as RunRecord
from launcher.documents.run_diff import Figure
from launcher.documents.smoke import Check, SmokeReport
from launcher.paths import dirs
from launcher.record import diff as difference
from launcher.record.bench import append_bench
from tests.cli.commandline import Run
from tests.cli.services import leave_run
from tests.report import report_samples as given
from tests.samples import plan

ONE, TWO = "20261124T120000Z-svc-0001", "20261124T130000Z-svc-0002"


def leave(run: str, record: Any, bench: Any = ()) -> Path:
    fields = {name: getattr(record, name) for name in record.__struct_fields__ if name != "run"}
    folder = leave_run(run, **{"service": "svc"} | fields)
    lines = [msgspec.json.encode(sample) for sample in given.SAMPLES]
    (folder / "samples.ndjson").write_bytes(b"\n".join(lines) + b"\n")
    if bench:
        append_bench(folder, given.measurement(bench))
        with (folder / "bench.ndjson").open("ab") as file:
            file.write(b'{"cut')
    return folder


def with_plan(run: RunRecord, **changes: Any) -> RunRecord:
    return msgspec.structs.replace(run, plan=plan(**changes))


def with_smoke(run: RunRecord, **changes: Any) -> RunRecord:
    assert run.smoke is not None
    return msgspec.structs.replace(run, smoke=msgspec.structs.replace(run.smoke, **changes))


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_bytes(msgspec.json.encode(given.comparison()))
    return path


class TestReport:
    def test_the_page_goes_into_the_runs_folder(self, run: Run, home: Path) -> None:
        leave(ONE, given.run(), given.BENCH)
        answer = run("runs", "report")
        path = dirs().runs / ONE / "report.html"
        assert answer.out == f"{path}\n"
        text = path.read_text("utf-8")
        assert text.startswith("<!doctype html>")
        assert "16 clients × batch 4" in text
        assert path.stat().st_mode & 0o022 == 0

    def test_formats_go_where_they_are_asked_for(
        self, run: Run, home: Path, tmp_path: Path
    ) -> None:
        leave(ONE, given.run())
        html, text = tmp_path / "a.html", tmp_path / "b.md"
        words = ["runs", "report", ONE[:12], "--html", str(html), "--markdown", str(text)]
        answer = run(*words, "--json")
        assert answer.data["files"] == {"html": str(html), "markdown": str(text)}
        assert answer.data["report"]["peak_by_role"]["scheduler"] == 700_000_000
        assert text.read_text("utf-8").startswith("# m: stopped")
        assert not (dirs().runs / ONE / "report.html").exists()
        shown = run("runs", "report", "--csv", "-")
        assert shown.out.startswith("t_s,ram_bytes")
        assert len(shown.out.splitlines()) == 1 + len(given.SAMPLES)

    def test_a_broken_record_is_still_reported(self, run: Run, home: Path) -> None:
        folder = leave(ONE, given.run())
        whole = (folder / "run.json").read_bytes()
        for size in (0, 40, len(whole) // 2, len(whole) - 2):
            (folder / "run.json").write_bytes(whole[:size])
            assert run("runs", "report", "--json").code == 0
            assert "is broken" in run("runs", "report", "--markdown", "-").out

    def test_a_comparison(self, run: Run, home: Path, comparison: Path) -> None:
        answer = run("runs", "report", str(comparison), "--json")
        assert answer.data["files"] == {"html": str(comparison.with_suffix(".html"))}
        assert answer.data["report"]["winner"] == "b"
        assert "5 times as quick" in comparison.with_suffix(".html").read_text("utf-8")

    def test_a_comparison_by_its_id(self, run: Run, home: Path, comparison: Path) -> None:
        folder = dirs().state / "comparisons" / "20261124T140000Z-compare-0003"
        folder.mkdir(parents=True)
        comparison.rename(folder / "comparison.json")
        leave(ONE, given.run())
        for name in (folder.name, "20261124T14", str(folder)):
            answer = run("runs", "report", name, "--json")
            assert answer.data["files"] == {"html": str(folder / "comparison.html")}
        assert run("runs", "report", "2026", "--json").data["report"]["run"] == ONE
        assert run("runs", "report", "[*", "--json").error["code"] == "run_unknown"

    @pytest.mark.parametrize("wrap", [lambda d: {"data": d}, lambda d: {"data": {"comparison": d}}])
    def test_the_output_of_compare_is_one_too(
        self, run: Run, home: Path, comparison: Path, wrap: Any
    ) -> None:
        comparison.write_text(json.dumps(wrap(json.loads(comparison.read_text()))))
        assert "# Comparison" in run("runs", "report", str(comparison), "--markdown", "-").out

    def test_the_comparison_of_a_search_by_the_id_that_tune_names(
        self, run: Run, home: Path, comparison: Path
    ) -> None:
        """It was: comparison.json: No such file or directory."""
        folder = dirs().state / "comparisons" / "20261124T140000Z-tune-0003"
        folder.mkdir(parents=True)
        tuning = folder / "tuning.json"
        made = json.loads(comparison.read_text())
        tuning.write_text(json.dumps({"version": 1, "trials": [], "comparison": made}))
        answer = run("runs", "report", folder.name, "--json")
        assert answer.data["files"] == {"html": str(folder / "tuning.html")}
        tuning.write_text(json.dumps({"version": 1, "trials": [], "comparison": None}))
        answer = run("runs", "report", folder.name, "--json")
        assert (answer.code, answer.error["code"]) == (2, "comparison_unreadable")
        assert "no candidate was better" in answer.error["message"]

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"modes": 1}', "[" * 100_000, "\0"])
    def test_a_file_that_is_none(self, text: str, run: Run, home: Path, comparison: Path) -> None:
        comparison.write_text(text)
        answer = run("runs", "report", str(comparison), "--json")
        assert answer.code == 2
        assert answer.error["code"] == "comparison_unreadable"

    def test_another_version_is_refused(self, run: Run, home: Path, comparison: Path) -> None:
        comparison.write_bytes(msgspec.json.encode(given.comparison(version=2)))
        assert "version 2" in run("runs", "report", str(comparison), "--json").error["message"]

    def test_a_file_that_cannot_be_written(self, run: Run, home: Path, tmp_path: Path) -> None:
        leave(ONE, given.run())
        answer = run("runs", "report", "--html", str(tmp_path / "no" / "x.html"), "--json")
        assert (answer.code, answer.error["code"]) == (2, "usage")
        assert f"there is no folder {tmp_path / 'no'}" in answer.error["message"]

    def test_one_report_goes_to_stdout_and_no_other_beside_it(self, run: Run, home: Path) -> None:
        leave(ONE, given.run())
        assert run("runs", "report", "--html", "-").out.startswith("<!doctype html>")
        for words in (["--html", "-", "--csv", "-"], ["--markdown", "-", "--json"]):
            assert run("runs", "report", *words).code == 2

    def test_a_link_in_a_run_s_folder_is_replaced_and_not_followed(
        self, run: Run, home: Path, tmp_path: Path
    ) -> None:
        leave(ONE, given.run())
        target = tmp_path / "precious"
        target.write_text("mine")
        (dirs().runs / ONE / "report.html").symlink_to(target)
        assert run("runs", "report").code == 0
        assert target.read_text() == "mine"


class TestDiff:
    def test_what_differs(self, run: Run, home: Path) -> None:
        leave(ONE, given.run(), given.BENCH)
        engine = {
            "argv": ("sglang", "serve", "--model-path", "m", "--dtype", "float32", "--new"),
            "env": {"OMP_NUM_THREADS": "4"},
        }
        other = given.run(
            plan=plan(engine=engine),
            peak=Peak(ram_peak_bytes=2_100_000_000, method={"ram": "rss"}),
            versions={"engine": "0.5.24"},
            smoke=SmokeReport(ok=False, checks=(Check(name="count", ok=False, detail="1 of 2"),)),
        )
        leave(TWO, other, [msgspec.structs.replace(given.BENCH[0], mean_ms=25.0)])
        found = run("runs", "diff", ONE, "--json").data
        assert found["argv"] == [
            {"change": "replaced", "a": "--dtype bfloat16", "b": "--dtype float32"},
            {"change": "added", "a": None, "b": "--new"},
        ]
        assert {"name": "OMP_NUM_THREADS", "a": "2", "b": "4"} in found["env"]
        assert {"name": "engine", "a": "0.5.23", "b": "0.5.24"} in found["versions"]
        figures = {figure["name"]: figure for figure in found["figures"]}
        assert figures["ram_peak_bytes"]["ratio"] == 2.0
        assert figures["ram_peak_bytes"]["methods"] == ["pss", "rss"]
        assert found["checks"][0]["b"] == {"ok": False, "detail": "1 of 2"}
        [level] = found["bench"]
        assert {f["name"]: f["ratio"] for f in level["figures"]}["mean_ms"] == 2.0
        text = run("runs", "diff", ONE, TWO).out
        for line in ("- --dtype bfloat16", "+ --dtype float32", "2.00 ×", "+ FAILED: 1 of 2"):
            assert line in text

    def test_a_service_alone_means_its_last_two_runs(self, run: Run, home: Path) -> None:
        """It was compared with itself."""
        leave(ONE, given.run())
        alone = run("runs", "diff", "svc", "--json")
        assert (alone.code, alone.error["code"]) == (2, "run_unknown")
        leave(TWO, given.run())
        found = run("runs", "diff", "svc", "--json").data
        assert (found["a"]["run"], found["b"]["run"]) == (ONE, TWO)

    def test_the_same_twice(self, run: Run, home: Path) -> None:
        leave(ONE, given.run())
        found = run("runs", "diff", ONE, ONE, "--json").data
        assert [found[key] for key in ("argv", "env", "settings", "versions", "checks")] == [[]] * 5
        assert "command: the same" in run("runs", "diff", ONE, ONE).out

    def test_records_with_nothing_in_them(self, run: Run, home: Path) -> None:
        leave_run(ONE, "svc")
        leave_run(TWO, "svc")
        assert run("runs", "diff", ONE, TWO).code == 0

    def test_vectors_of_two_runs_may_be_mixed_only_where_both_were_proved(self) -> None:
        proved = SmokeReport(ok=True, checks=(), worst_cosine=0.9995, sample=(0.5, 0.25))
        run = msgspec.structs.replace(given.run(), plan=plan(), smoke=proved)
        others = {
            "the same": (run, True, "worst cosine with its float32 reference 0.99950 and 0.99950"),
            "weights": (with_plan(run, fingerprint="g"), False, "the checkpoint is another one"),
            "pooling": (
                with_plan(run, expectation={"pooling": "cls"}),
                False,
                "pooling was mean and is cls",
            ),
            "failed": (with_smoke(run, ok=False), None, "run B failed its smoke"),
            "no reference": (
                with_smoke(run, worst_cosine=None),
                None,
                "run B was not held against the reference",
            ),
            "no smoke": (msgspec.structs.replace(run, smoke=None), None, "run B has no smoke"),
        }
        for name, (other, same, reason) in others.items():
            found = difference.diff(run, other).vectors
            assert (found.same, reason in found.reason) == (same, True), name
        moved = with_smoke(run, sample=(0.5, 0.24))
        assert difference.diff(run, moved).vectors.sample_distance == pytest.approx(0.01)

    def test_what_was_not_measured_has_no_ratio(self) -> None:
        a, b = given.run(timings=Timings()), given.run(timings=Timings(ready_s=3.0))
        figures = {figure.name: figure for figure in difference.diff(a, b).figures}
        assert figures["ready_s"] == Figure(name="ready_s", a=None, b=3.0, ratio=None)
        assert "gpu_peak_bytes" not in figures
