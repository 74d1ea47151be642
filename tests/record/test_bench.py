from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from launcher.documents.measurement import Measurement
from launcher.record import bench
from launcher.record.bench import BENCH, append_bench, read_bench
from launcher.record.bounded_lines import LINE_LIMIT_BYTES
from tests.report import report_samples


def measured(number: int = 0) -> Measurement:
    return report_samples.measurement(
        [replace(report_samples.BENCH[0], batch=number, reason=None)], number
    )


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    assert read_bench(tmp_path) == []
    for number in range(3):
        append_bench(tmp_path, measured(number))
    assert read_bench(tmp_path) == [measured(number) for number in range(3)]
    assert (tmp_path / BENCH).stat().st_mode & 0o777 == 0o600


def test_a_cut_at_any_byte_costs_one_line(tmp_path: Path) -> None:
    for number in range(2):
        append_bench(tmp_path, measured(number))
    whole = (tmp_path / BENCH).read_bytes()
    first = whole.index(b"\n")
    for end in range(len(whole)):
        (tmp_path / BENCH).write_bytes(whole[:end])
        assert len(read_bench(tmp_path)) == (end >= first) + (end >= len(whole) - 1)
        append_bench(tmp_path, measured(9))
        assert read_bench(tmp_path)[-1] == measured(9)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"\x00\xff",
        b'{"made": "\xff"}',
        b'{"\xc3": 1}',
        b'{"version": 2, "rows": []}',
        b'{"version": 1}',
        b'{"version": 1, "rows": [3]}',
        b"[" * 10_000,
        b'{"version": 1, "rows": [], "x": "' + b"y" * LINE_LIMIT_BYTES + b'"}',
    ],
)
def test_what_is_none_of_ours_is_passed_over(tmp_path: Path, line: bytes) -> None:
    (tmp_path / BENCH).write_bytes(line + b"\n")
    append_bench(tmp_path, measured())
    assert read_bench(tmp_path) == [measured()]


def test_a_full_file_drops_its_older_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "LIMIT_BYTES", 20_000)
    for number in range(60):
        append_bench(tmp_path, measured(number))
    kept = [each.rows[0].batch for each in read_bench(tmp_path)]
    assert kept == list(range(kept[0], 60))
    assert 10 < len(kept) < 60
    assert (tmp_path / BENCH).stat().st_size < 25_000


def test_what_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="longer than a line"):
        append_bench(tmp_path, replace(measured(), dtype="x" * LINE_LIMIT_BYTES))
    with pytest.raises(OSError, match="No such file"):
        append_bench(tmp_path / "gone", measured())
    assert read_bench(tmp_path / "gone") == []
