"""A busy server is not a dead one, and a hanging one is not a busy one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from launcher.service.supervisor.liveness import EXCUSED, Activity, LivenessJudge, ProbeResult

WELL = ProbeResult(healthy=True)
ANSWERED = ProbeResult(healthy=True, embedding="")
HANGS = ProbeResult(healthy=True, embedding="no answer within 25 s")
DEAF = ProbeResult(healthy=False, embedding="no answer within 25 s")
BATCH = "[2026-11-22 14:03:19] Prefill batch, #new-seq: 16, #new-token: 330, #cached-token: 0"
PROBE = "[2026-11-22 14:03:18] Prefill batch, #new-seq: 1, #new-token: 1, #cached-token: 0"
OLDER = "[2025-09-01 10:00:00] Prefill batch. #new-seq: 2, #new-token: 36, #cached-token: 0"
ACCESS = '[2026-11-22 14:03:19] INFO:     127.0.0.1:4711 - "POST /v1/embeddings HTTP/1.1" 200 OK'


def judge() -> LivenessJudge:
    return LivenessJudge(misses=2, hangs=3)


def signs(*lines: str, cores: float = 0.0) -> Activity:
    found = Activity(cores=cores)
    for line in lines:
        found.read(line)
    return found


def test_a_batch_with_its_number_is_work_too() -> None:
    """There were two patterns for this line, and only that of the counters read engines which
    print a number: to the judge of an engine at work such a batch was nothing."""
    assert (
        signs("[t] Prefill batch [12], #new-seq: 3, #new-token: 40, #queue-req: 0").sequences == 3
    )


def test_batches_of_others_are_seen_and_those_of_a_health_check_are_not() -> None:
    assert signs(BATCH, PROBE, OLDER).sequences == 18
    assert signs(ACCESS, ACCESS.replace(" 200", " 400")).served == 1
    assert signs("Prefill batch", "", '" 200').sequences == 0


def test_an_embedding_that_hangs_while_health_is_fine_ends_in_wedged() -> None:
    v = judge()
    assert [v.judge(HANGS, Activity()) for _ in range(3)] == ["doubtful", "ill", "wedged"]


def test_our_own_call_in_the_log_is_no_sign_of_work() -> None:
    v = judge()
    own = signs("Prefill batch, #new-seq: 1, #new-token: 4, #cached-token: 0")
    assert [v.judge(HANGS, own) for _ in range(3)] == ["doubtful", "ill", "wedged"]


def test_at_work_one_failure_is_excused_and_the_patient_one_counts() -> None:
    v = judge()
    assert v.judge(DEAF, signs(BATCH)) == "busy"
    assert bool(v.patient)
    assert v.judge(ANSWERED, signs(BATCH)) == "well"
    verdicts = [v.judge(DEAF, signs(cores=0.9)) for _ in range(4)]
    assert verdicts == ["busy", "doubtful", "ill", "wedged"]


def test_a_large_call_of_others_does_not_end_the_service_behind_it() -> None:
    """Seen: 290 texts of 500 tokens in one call, on a loaded machine; batches went on."""
    v = judge()
    assert [v.judge(DEAF, signs(BATCH)) for _ in range(1 + EXCUSED)] == ["busy"] * (1 + EXCUSED)
    assert v.judge(ANSWERED, signs(BATCH)) == "well"


def test_progress_without_an_answer_is_not_believed_for_ever() -> None:
    v = judge()
    verdicts = [v.judge(DEAF, signs(BATCH)) for _ in range(EXCUSED + 4)]
    assert verdicts[EXCUSED + 1 :] == ["doubtful", "ill", "wedged"]


def test_cpu_time_of_the_scheduler_is_work_too() -> None:
    assert judge().judge(DEAF, signs(cores=0.9)) == "busy"
    assert judge().judge(DEAF, signs(cores=0.02)) == "doubtful"


def test_health_alone_degrades_and_never_restarts() -> None:
    v = judge()
    deaf = ProbeResult(healthy=False, embedding="")
    verdicts = [v.judge(deaf, Activity()) for _ in range(20)]
    assert verdicts == ["doubtful"] + ["ill"] * 19
    assert v.judge(WELL, Activity()) == "well"


def test_a_busy_server_that_answers_is_never_degraded_by_503() -> None:
    v = judge()
    deaf = ProbeResult(healthy=False, embedding="")
    assert {v.judge(deaf, signs(BATCH)) for _ in range(20)} == {"busy"}


def test_answers_in_the_access_log_prove_embeddings() -> None:
    v = judge()
    assert {v.judge(HANGS, signs(ACCESS)) for _ in range(20)} == {"well"}


beats = st.builds(
    ProbeResult, healthy=st.booleans(), embedding=st.sampled_from([None, "", "hangs"])
)
works = st.builds(
    Activity, sequences=st.integers(0, 3), served=st.integers(0, 1), cores=st.floats(0, 1)
)


@given(st.lists(st.tuples(beats, works), max_size=60))
def test_only_embeddings_that_failed_in_a_row_are_wedged(
    course: list[tuple[ProbeResult, Activity]],
) -> None:
    v, failed = judge(), 0
    for beat, seen in course:
        verdict = v.judge(beat, seen)
        if beat.embedding == "" or seen.served:
            failed = 0
        elif beat.embedding:
            failed += 1
        if verdict == "wedged":
            assert failed >= 3
        if beat.healthy and not beat.embedding:
            assert verdict == "well"


@given(st.text(max_size=200))
def test_any_line_can_be_read(line: str) -> None:
    Activity().read(line)
    Activity().read(f'Prefill batch{line}" 200')
