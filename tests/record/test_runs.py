"""Run records: names, bounds, crashes at any byte, full disks, and broken folders."""

from __future__ import annotations

import errno
import json
import os
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher.documents.failure import Failure
from launcher.documents.run import Peak, Phase, ProcessSample, Run, Sample
from launcher.errors import ExitCode, QlaunchError
from launcher.record import bounded_lines, run_writer
from launcher.record.peak import PeakTracker
from launcher.record.runs import (
    RunWriter,
    list_runs,
    load_run,
    new_run_id,
    read_events,
    read_samples,
)
from tests.samples import plan

if TYPE_CHECKING:
    from collections.abc import Callable

NOON = datetime(2026, 11, 22, 13, 15, tzinfo=UTC)


def sample(number: int, ram: int | None = None) -> Sample:
    return Sample(
        t_s=float(number),
        ram_bytes=1000 + number if ram is None else ram,
        ram_method="pss",
        cpu_percent=None,
        gpu_bytes=None,
        gpu_method="unavailable",
        gpu_reason="no NVIDIA driver",
        processes=tuple(
            ProcessSample(pid=pid, role="other", ram_bytes=9, cpu_percent=1.0, gpu_bytes=None)
            for pid in (1, 2, 3)
        ),
    )


def run(name: str, **changes: Any) -> Run:
    fields: dict[str, Any] = {
        "version": 1,
        "run": name,
        "service": "cpu-minilm",
        "profile": "cpu-minilm",
        "began": "2026-11-22T13:15:00Z",
        "plan": plan(engine={"argv": ("sglang", "serve")}),
        "phases": (Phase(name="starting", t_s=0.0), Phase(name="ready", t_s=13.8)),
        "peak": Peak(ram_peak_bytes=1312, method={"ram": "pss", "gpu": "unavailable"}),
    }
    return Run(**(fields | changes))


@pytest.fixture
def runs_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs"


def record(runs_dir: Path, *, service: str = "cpu-minilm", later_s: int = 0, **changes: Any) -> str:
    """A whole record with ten samples and three events; its id."""
    name = new_run_id(service, NOON + timedelta(seconds=later_s))
    out = RunWriter(runs_dir / name)
    out.write(run(name, **changes))
    for number in range(10):
        out.sample(sample(number))
    for event in ("started", "ready", "stopped"):
        out.event(event, code=0)
    assert out.problem is None
    return name


class TestNames:
    def test_the_form(self) -> None:
        name = new_run_id("cpu-minilm", NOON)
        assert re.fullmatch(r"20261122T131500Z-cpu-minilm-[0-9a-f]{4}", name)

    def test_times_are_utc_and_sort(self) -> None:
        zone = timezone(timedelta(hours=5))
        assert new_run_id("a", NOON.astimezone(zone)).startswith("20261122T131500Z-a-")
        assert new_run_id("z", NOON) < new_run_id("a", NOON + timedelta(seconds=1))

    def test_they_differ(self) -> None:
        assert len({new_run_id("a", NOON) for _ in range(20)}) > 15

    @given(st.text(max_size=300))
    def test_any_service_name_gives_a_safe_file_name(self, service: str) -> None:
        name = new_run_id(service, NOON)
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,80}", name)
        assert ".." not in name.split("-")
        assert name[0].isdigit()


class TestWholeRecords:
    def test_what_is_written_is_read_back(self, runs_dir: Path) -> None:
        name = record(runs_dir, outcome="stopped")
        found = load_run(runs_dir, name)
        assert found == run(name, outcome="stopped")
        assert list(read_samples(runs_dir / name)) == [sample(n) for n in range(10)]
        events = list(read_events(runs_dir / name))
        assert [event["event"] for event in events] == ["started", "ready", "stopped"]
        assert list(events[0]) == ["t_s", "at", "event", "code"]
        datetime.fromisoformat(events[0]["at"])

    def test_files_are_private(self, runs_dir: Path) -> None:
        folder = runs_dir / record(runs_dir)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert {p.stat().st_mode & 0o777 for p in folder.iterdir()} == {0o600}

    def test_fields_of_an_event_cannot_stand_in_for_its_name_or_time(self, runs_dir: Path) -> None:
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        out.event("real", event="false", at="never", t_s=-1, name="n")
        (event,) = read_events(out.directory)
        assert event["event"] == "real"
        assert event["t_s"] >= 0
        assert event["name"] == "n"

    def test_times_count_from_the_beginning_of_the_run(self, runs_dir: Path) -> None:
        out = RunWriter(runs_dir / new_run_id("a", NOON), began=100.0, clock=lambda: 107.5)
        out.event("late")
        assert next(read_events(out.directory))["t_s"] == 7.5

    def test_secrets_do_not_reach_the_record(self, runs_dir: Path) -> None:
        key = 'sk-"quoted"/key'
        out = RunWriter(runs_dir / new_run_id("a", NOON), secrets=[key])
        out.event("failed", detail=f"Authorization: Bearer {key}", nested={key: [key]})
        out.event("big", detail=[key] * 9000)
        failure = Failure(
            code="start_failed", exit_code=6, failure_class=None, message=key, fix=None
        )
        out.write(run("x", plan=plan(engine={"argv": ("--api-key", key)}), failure=failure))
        text = b"".join(p.read_bytes() for p in out.directory.iterdir()).decode()
        assert out.problem is None
        assert "quoted" not in text
        assert text.count("[redacted]") >= 4

    def test_fields_that_are_no_json_do_not_raise(self, runs_dir: Path) -> None:
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        loop: list[Any] = []
        loop.append(loop)
        out.event("path", where=Path("/x"), error=OSError("broken"), infinite=float("inf"))
        out.event("loop", loop=loop)
        out.event("long", text="x" * 100_000)
        out.event("many", items=["y" * 3000] * 1000)
        events = list(read_events(out.directory))
        assert events[0]["where"] == "/x"
        assert [e["event"] for e in events] == ["path", "long", "many"]
        assert len(events[1]["text"]) < 5000
        assert events[2]["too_large_bytes"] > 1_000_000
        assert out.lost == 1
        assert out.problem is not None


class TestBounds:
    def test_samples_are_merged_and_peaks_survive(
        self, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_writer, "SAMPLES_LIMIT_BYTES", 20_000)
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        tracker = PeakTracker()
        for number in range(2000):
            one = sample(number, ram=999_999 if number == 37 else None)
            tracker.add(one)
            out.sample(one)
        kept = list(read_samples(out.directory))
        assert (out.directory / "samples.ndjson").stat().st_size <= 20_500
        assert out.problem is None
        assert PeakTracker(kept).peak() == tracker.peak()
        times = [one.t_s for one in kept]
        assert times == sorted(times)
        assert times[-5:] == [1995.0, 1996.0, 1997.0, 1998.0, 1999.0]
        assert len(kept) > 20

    def test_at_the_real_limit(self, runs_dir: Path) -> None:
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        line = msgspec.json.encode(sample(1)) + b"\n"
        path = out.directory / "samples.ndjson"
        path.write_bytes(line * (2_000_000 // len(line) + 1))
        out.sample(sample(2))
        assert path.stat().st_size < 1_400_000
        assert PeakTracker(read_samples(out.directory)).peak().ram_peak_bytes == 1002

    def test_events_are_dropped_from_the_middle_and_counted(
        self, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_writer, "EVENTS_LIMIT_BYTES", 8_000)
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        for number in range(1000):
            out.event("restarted", number=number)
        assert (out.directory / "events.ndjson").stat().st_size <= 8_200
        events = list(read_events(out.directory))
        notes = [event for event in events if event["event"] == "events_dropped"]
        numbers = [event["number"] for event in events if "number" in event]
        assert len(notes) == 1
        assert notes[0]["count"] == 1000 - len(numbers)
        assert numbers[:3] == [0, 1, 2]
        assert numbers[-1] == 999
        assert numbers == sorted(numbers)


class TestFullDisks:
    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
    def test_a_failing_disk_is_counted_and_told_once(
        self, runs_dir: Path, monkeypatch: pytest.MonkeyPatch, code: int
    ) -> None:
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        out.sample(sample(1))

        def fail(*_: object, **__: object) -> int:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr("os.write", fail)
            patch.setattr(run_writer, "write_atomic", fail)
            out.sample(sample(2))
            out.event("x")
            out.write(run("x"))
        out.sample(sample(3))
        assert out.lost == 3
        assert out.problem == (f"the run record is incomplete: {os.strerror(code)} (3 writes lost)")
        assert [s.t_s for s in read_samples(out.directory)] == [1.0, 3.0]

    def test_a_line_written_in_part_does_not_spoil_the_next(
        self, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        out.sample(sample(1))
        real = os.write
        with monkeypatch.context() as patch:
            patch.setattr("os.write", lambda fd, data: real(fd, data[:20]))
            out.sample(sample(2))
        out.sample(sample(3))
        assert out.lost == 1
        assert [s.t_s for s in read_samples(out.directory)] == [1.0, 3.0]

    def test_a_file_that_cannot_be_made_smaller_stops_growing(
        self, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(run_writer, "SAMPLES_LIMIT_BYTES", 5_000)
        out = RunWriter(runs_dir / new_run_id("a", NOON))

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.ENOSPC, "full")

        monkeypatch.setattr(bounded_lines, "write_atomic", fail)
        for number in range(200):
            out.sample(sample(number))
        assert (out.directory / "samples.ndjson").stat().st_size < 12_000
        assert out.problem is not None

    def test_a_folder_that_cannot_be_made_is_tried_again(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("a file where a folder belongs")
        out = RunWriter(tmp_path / "runs" / new_run_id("a", NOON))
        out.sample(sample(1))
        assert out.lost == 1
        (tmp_path / "runs").unlink()
        out.sample(sample(2))
        assert [s.t_s for s in read_samples(out.directory)] == [2.0]

    def test_a_record_removed_in_mid_run_does_not_raise(self, runs_dir: Path) -> None:
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        out.sample(sample(1))
        (out.directory / "samples.ndjson").unlink()
        out.directory.rmdir()
        out.sample(sample(2))
        out.write(run("a"))
        assert out.lost == 2

    def test_a_link_planted_in_the_folder_is_not_followed(self, runs_dir: Path) -> None:
        out = RunWriter(runs_dir / new_run_id("a", NOON))
        target = runs_dir / "elsewhere"
        target.write_text("mine")
        (out.directory / "samples.ndjson").symlink_to(target)
        out.sample(sample(1))
        assert target.read_text() == "mine"
        assert out.lost == 1


class TestFinding:
    def test_by_id_prefix_and_latest(self, runs_dir: Path) -> None:
        first = record(runs_dir)
        second = record(runs_dir, service="other", later_s=60)
        assert load_run(runs_dir, first).run == first
        assert load_run(runs_dir, "20261122T1316").run == second
        assert load_run(runs_dir, "latest").run == second
        assert [row.run for row in list_runs(runs_dir)] == [second, first]

    def test_one_of_a_clock_that_was_ahead_is_not_the_latest(self, runs_dir: Path) -> None:
        """It was until its year came, and what is kept of the newest was kept of those."""
        ahead = record(runs_dir, later_s=3_000_000_000)
        first = record(runs_dir)
        second = record(runs_dir, later_s=60)
        assert load_run(runs_dir, "latest").run == second
        assert load_run(runs_dir, "cpu-minilm").run == second
        assert [row.run for row in list_runs(runs_dir)] == [second, first, ahead]

    def test_an_unknown_run_names_the_nearest(self, runs_dir: Path) -> None:
        name = record(runs_dir)
        with pytest.raises(QlaunchError) as caught:
            load_run(runs_dir, name[:-1] + "x")
        assert (caught.value.code, caught.value.exit_code) == ("run_unknown", ExitCode.USAGE)
        assert name in (caught.value.fix or "")

    def test_an_ambiguous_beginning_is_refused(self, runs_dir: Path) -> None:
        record(runs_dir)
        record(runs_dir, later_s=1)
        with pytest.raises(QlaunchError) as caught:
            load_run(runs_dir, "2026")
        assert (caught.value.code, caught.value.exit_code) == ("run_ambiguous", ExitCode.USAGE)

    @pytest.mark.parametrize("wanted", ["latest", "", "x", "../..", "/etc", "\0", "a" * 5000])
    def test_nothing_is_found_where_nothing_is(self, runs_dir: Path, wanted: str) -> None:
        with pytest.raises(QlaunchError) as caught:
            load_run(runs_dir, wanted)
        assert caught.value.code == "run_unknown"
        assert caught.value.fix == "no run has been recorded yet"
        assert len(caught.value.message) < 500

    def test_other_things_in_the_folder_are_left_out(self, runs_dir: Path) -> None:
        name = record(runs_dir)
        (runs_dir / "notes").mkdir()
        (runs_dir / "20261122T131500Z-file-1a2b").write_text("")
        (runs_dir / "20261122T131500Z-link-1a2b").symlink_to(runs_dir / name)
        assert [row.run for row in list_runs(runs_dir)] == [name]

    def test_a_runs_folder_that_is_a_file_holds_no_runs(self, tmp_path: Path) -> None:
        (tmp_path / "runs").write_text("")
        assert list_runs(tmp_path / "runs") == []


def break_by(action: Callable[[Path], object]) -> Callable[[Path], None]:
    def act(path: Path) -> None:
        path.unlink()
        action(path)

    return act


class TestBrokenRecords:
    @pytest.mark.parametrize("name", ["run.json", "samples.ndjson", "events.ndjson"])
    def test_readable_after_a_cut_at_any_byte(self, runs_dir: Path, name: str) -> None:
        run_id = record(runs_dir)
        path = runs_dir / run_id / name
        whole = path.read_bytes()
        for size in range(0, len(whole), 7 if name == "run.json" else 29):
            path.write_bytes(whole[:size])
            found = load_run(runs_dir, run_id)
            assert found.service == "cpu-minilm"
            (row,) = list_runs(runs_dir)
            assert (row.problem is None) == (name != "run.json" or size >= len(whole))
            samples = list(read_samples(runs_dir / run_id))
            assert samples == [sample(n) for n in range(len(samples))]
            assert len(list(read_events(runs_dir / run_id))) <= 3

    def test_what_a_cut_record_still_tells(self, runs_dir: Path) -> None:
        name = record(runs_dir)
        path = runs_dir / name / "run.json"
        data = path.read_bytes()
        path.write_bytes(data[: data.index(b'"phases"') + 30])
        found = load_run(runs_dir, name)
        assert (found.outcome, found.profile) == ("broken", "cpu-minilm")
        assert found.plan == plan(engine={"argv": ("sglang", "serve")})
        assert found.began == "2026-11-22T13:15:00Z"
        assert found.peak.ram_peak_bytes == 1009
        assert found.failure is not None
        assert found.failure.code == "record_broken"
        assert str(path) in found.failure.message

    @pytest.mark.parametrize(
        "action",
        [
            break_by(lambda path: None),
            break_by(lambda path: path.mkdir()),
            break_by(os.mkfifo),
            break_by(lambda path: path.symlink_to("/etc/passwd")),
            break_by(lambda path: path.write_bytes(b"[" * 100_000)),
            break_by(lambda path: path.write_bytes(b'{"a":' * 100_000)),
            break_by(lambda path: path.write_bytes(b"\xff\xfe")),
            break_by(lambda path: path.write_bytes(b"9" * 9000)),
            break_by(lambda path: path.write_text('{"profile": "\\ud800", "plan": {}, "x": 1}')),
            break_by(lambda path: path.write_text('{"version": 1, "failure": "\\udfff", "x": 1}')),
            break_by(lambda path: path.write_bytes(b" " * ((8 << 20) + 1))),
            break_by(lambda path: path.write_text('{"version": 1, "run": 5, "phases": "x"}')),
            break_by(lambda path: path.write_text(json.dumps({"version": 2, "run": "x"}))),
        ],
    )
    def test_anything_in_place_of_run_json_is_a_problem_not_a_crash(
        self, runs_dir: Path, action: Callable[[Path], None]
    ) -> None:
        name = record(runs_dir)
        action(runs_dir / name / "run.json")
        (row,) = list_runs(runs_dir)
        assert row.outcome == "broken"
        assert row.problem
        assert (row.run, row.service) == (name, "cpu-minilm")
        assert load_run(runs_dir, name).outcome == "broken"

    def test_a_newer_version_says_so(self, runs_dir: Path) -> None:
        record(runs_dir, version=2)
        (row,) = list_runs(runs_dir)
        assert row.problem is not None
        assert row.problem.endswith("has version 2; this qlaunch reads version 1")

    def test_a_fifo_in_place_of_the_samples_does_not_hang(self, runs_dir: Path) -> None:
        name = record(runs_dir)
        (runs_dir / name / "samples.ndjson").unlink()
        os.mkfifo(runs_dir / name / "samples.ndjson")
        assert list(read_samples(runs_dir / name)) == []

    def test_an_endless_line_is_passed_over(self, runs_dir: Path) -> None:
        name = record(runs_dir)
        path = runs_dir / name / "samples.ndjson"
        path.write_bytes(b"x" * 1_000_000 + b"\n" + path.read_bytes())
        assert len(list(read_samples(runs_dir / name))) == 10

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.binary(max_size=300), lines=st.binary(max_size=300))
    def test_listing_never_raises(self, tmp_path: Path, data: bytes, lines: bytes) -> None:
        runs_dir = tmp_path / "runs"
        folder = runs_dir / "20261122T131500Z-any-0000"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "run.json").write_bytes(data)
        (folder / "samples.ndjson").write_bytes(lines)
        (folder / "events.ndjson").write_bytes(lines)
        (row,) = list_runs(runs_dir)
        assert row.problem
        assert load_run(runs_dir, "latest").outcome == "broken"
        list(read_events(folder))

    @given(st.binary(max_size=2000))
    def test_compaction_takes_any_lines(self, data: bytes) -> None:
        lines = data.split(b"\n")
        assert run_writer.compact_samples(lines) == []
        assert set(run_writer.compact_events(iter(lines))) <= set(lines)
