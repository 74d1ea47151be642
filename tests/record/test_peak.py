"""Peaks, and samples merged without losing them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from launcher.documents.run import ProcessSample, Sample
from launcher.record.peak import PeakTracker, merge

if TYPE_CHECKING:
    from launcher.documents.run import GpuMethod, RamMethod


def sample(
    ram: int | None = 1,
    ram_method: RamMethod = "pss",
    gpu: int | None = None,
    gpu_method: GpuMethod = "unavailable",
    t_s: float = 0.0,
    cpu: float | None = None,
    processes: tuple[ProcessSample, ...] = (),
) -> Sample:
    return Sample(
        t_s=t_s,
        ram_bytes=ram,
        ram_method=ram_method,
        cpu_percent=cpu,
        gpu_bytes=gpu,
        gpu_method=gpu_method,
        processes=processes,
        gpu_reason="no driver" if gpu_method == "unavailable" else None,
    )


def row(pid: int, ram: int | None, role: str = "other") -> ProcessSample:
    return ProcessSample(pid=pid, role=role, ram_bytes=ram, cpu_percent=None, gpu_bytes=None)


def test_no_sample_is_unavailable_with_a_reason() -> None:
    peak = PeakTracker().peak()
    assert (peak.ram_peak_bytes, peak.gpu_peak_bytes) == (None, None)
    assert peak.method["ram"] == peak.method["gpu"] == "unavailable"
    assert peak.method["ram_reason"] == "no sample was taken"


def test_the_largest_figures_and_their_methods() -> None:
    samples = [sample(5), sample(9), sample(7, gpu=4, gpu_method="per_process")]
    peak = PeakTracker(samples).peak()
    assert (peak.ram_peak_bytes, peak.gpu_peak_bytes) == (9, 4)
    assert peak.method == {"ram": "pss", "gpu": "per_process"}


def test_a_worse_method_does_not_beat_a_better_one() -> None:
    samples = [
        sample(100, "rss", gpu=50, gpu_method="device_delta"),
        sample(60, "pss", gpu=20, gpu_method="per_process"),
        sample(None, "unavailable"),
    ]
    peak = PeakTracker(samples).peak()
    assert (peak.ram_peak_bytes, peak.gpu_peak_bytes) == (60, 20)


def test_an_unavailable_figure_keeps_its_reason() -> None:
    peak = PeakTracker([sample(5)]).peak()
    assert peak.method == {"ram": "pss", "gpu": "unavailable", "gpu_reason": "no driver"}


def test_merging_keeps_the_processes_of_the_larger_and_their_maxima() -> None:
    merged = merge(
        sample(30, processes=(row(1, 20), row(2, 10)), t_s=1.0, cpu=80.0),
        sample(25, processes=(row(1, 22), row(3, 3)), t_s=2.0),
    )
    assert (merged.ram_bytes, merged.t_s, merged.cpu_percent) == (30, 2.0, 80.0)
    assert [(p.pid, p.ram_bytes) for p in merged.processes] == [(1, 22), (2, 10)]


def test_a_reused_id_in_another_role_is_not_merged() -> None:
    merged = merge(
        sample(30, processes=(row(1, 20, "front"),)), sample(5, processes=(row(1, 99, "other"),))
    )
    assert merged.processes[0].ram_bytes == 20


figures = st.one_of(st.none(), st.integers(0, 1000))
samples_of_any_kind = st.builds(
    lambda ram, ram_method, gpu, gpu_method: sample(
        None if ram_method == "unavailable" else ram or 0,
        ram_method,
        None if gpu_method == "unavailable" else gpu or 0,
        gpu_method,
    ),
    figures,
    st.sampled_from(["pss", "rss", "unavailable"]),
    figures,
    st.sampled_from(["per_process", "device_delta", "unavailable"]),
)


@given(st.lists(samples_of_any_kind, min_size=2, max_size=12), st.data())
def test_merging_any_neighbours_leaves_the_peak_as_it_was(
    samples: list[Sample], data: st.DataObject
) -> None:
    before = PeakTracker(samples).peak()
    while len(samples) > 1:
        at = data.draw(st.integers(0, len(samples) - 2))
        samples[at : at + 2] = [merge(samples[at], samples[at + 1])]
    assert PeakTracker(samples).peak() == before
