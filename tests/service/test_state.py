"""State files, locks and names: readable whatever happened to them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.documents.service_state import ServiceState
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.service import store
from launcher.service.recover import settle
from tests.children import running
from tests.patience import PATIENCE_S


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QLAUNCH_HOME", str(tmp_path))


def state(**changes: object) -> ServiceState:
    whole = msgspec.structs.replace(
        store.unreadable("svc", ""),
        state="ready",
        run="20261122T000000Z-svc-0000",
        supervisor=processes.process_id(os.getpid()),
        problem=None,
    )
    return msgspec.structs.replace(whole, **changes)


def test_what_is_written_is_read() -> None:
    where = store.folder("svc", create=True)
    store.write_state(where, state())
    assert store.read_state("svc") == state()
    assert where.path.stat().st_mode & 0o777 == 0o700
    assert where.state.stat().st_mode & 0o777 == 0o600


def test_a_state_cut_at_every_byte_reads_as_unknown_with_a_problem() -> None:
    data = msgspec.json.encode(state())
    for length in range(len(data)):
        found = store.decode_state("svc", data[:length])
        assert found.state == "unknown"
        assert found.problem
        assert "\n" not in found.problem
    assert store.decode_state("svc", data).state == "ready"


@given(st.binary(max_size=300))
def test_any_bytes_read_as_some_state(data: bytes) -> None:
    assert store.decode_state("svc", data).state == "unknown"


@pytest.mark.parametrize(
    "text",
    ["[]", "null", "{}", '{"version": 99}', '{"version": "1"}', '{"version": 1}', "[" * 50_000],
)
def test_wrong_versions_and_types_read_as_unknown(text: str) -> None:
    found = store.decode_state("svc", text.encode())
    assert found.state == "unknown"
    assert found.problem


def test_a_state_of_another_service_is_not_believed() -> None:
    data = msgspec.json.encode(state(service="other"))
    assert "another service" in str(store.decode_state("svc", data).problem)


def test_unknown_fields_of_a_later_release_are_passed_over() -> None:
    data = msgspec.json.decode(msgspec.json.encode(state()))
    assert store.decode_state("svc", msgspec.json.encode({**data, "later": 1})).state == "ready"


def test_a_symlinked_or_huge_or_missing_state_is_handled(tmp_path: Path) -> None:
    where = store.folder("svc", create=True)
    assert store.read_state("svc") is None
    target = tmp_path / "target"
    target.write_bytes(msgspec.json.encode(state()))
    where.state.symlink_to(target)
    assert store.decode_state("svc", target.read_bytes()).state == "ready"
    found = store.read_state("svc")
    assert found is not None
    assert found.state == "unknown"
    where.state.unlink()
    where.state.write_bytes(b" " * (store.STATE_LIMIT + 1))
    found = store.read_state("svc")
    assert found is not None
    assert "larger than" in str(found.problem)


def test_a_symlinked_service_folder_is_refused(tmp_path: Path) -> None:
    store.folder("svc", create=True)
    (tmp_path / "state" / "services" / "evil").symlink_to(tmp_path)
    with pytest.raises(QlaunchError) as caught:
        store.folder("evil", create=True)
    assert caught.value.code == "state_dir_unsafe"


def test_a_symlinked_lock_is_refused(tmp_path: Path) -> None:
    where = store.folder("svc", create=True)
    where.lock.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        store.Lock(where.lock).acquire()


def test_a_damaged_plan_is_one_sentence() -> None:
    where = store.folder("svc", create=True)
    for data in (None, b"", b"{", b"[]", b"\xff"):
        if data is not None:
            where.plan.write_bytes(data)
        with pytest.raises(QlaunchError) as caught:
            store.read_plan(where)
        assert caught.value.code == "bad_plan"
        assert str(where.plan) in caught.value.message


def test_a_damaged_tree_is_no_processes() -> None:
    where = store.folder("svc", create=True)
    assert store.read_tree(where) == []
    for data in (b"", b"{", b'[{"pid": "x"}]'):
        where.tree.write_bytes(data)
        assert store.read_tree(where) == []
    one = ProcessId(pid=5, start_ticks=6, boot_id="b")
    store.write_tree(where, [one])
    assert store.read_tree(where) == [one]


def test_strangers_in_the_services_folder_are_no_services(tmp_path: Path) -> None:
    assert store.list_services() == []
    for name in ("b", "a"):
        store.folder(name, create=True)
    (tmp_path / "state" / "services" / ".ports").mkdir()
    (tmp_path / "state" / "services" / "Bad Name").mkdir()
    assert store.list_services() == ["a", "b"]


def accepts(name: str) -> bool:
    try:
        return store.check_name(name) == name
    except QlaunchError:
        return False


@given(st.text(max_size=70))
def test_names_are_safe_or_refused(name: str) -> None:
    if accepts(name):
        assert name == name.lower()
        assert not set(name) & set("/\\\0\n ")
        assert name[0].isalnum()


def test_a_lock_has_one_holder_and_ends_with_it() -> None:
    where = store.folder("svc", create=True)
    one, two = store.Lock(where.lock), store.Lock(where.lock)
    assert one.acquire()
    assert not two.acquire()
    one.release()
    assert two.acquire()
    two.release()
    code = (
        "import sys\nfrom pathlib import Path\nfrom launcher.service.store import Lock\n"
        "assert Lock(Path(sys.argv[1])).acquire()\nprint('held', flush=True)\nsys.stdin.read()\n"
    )
    with running(
        [sys.executable, "-c", code, str(where.lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert not one.acquire()
        holder.kill()
        holder.wait()
        assert one.acquire(wait_s=1)
    one.release()


def test_settling_changes_nothing_while_the_supervisor_lives_or_is_over() -> None:
    where = store.folder("svc", create=True)
    assert settle("svc") is None
    for kept in (state(), state(state="stopped", supervisor=None), state(state="failed")):
        store.write_state(where, kept)
        assert settle("svc") == kept


def test_settling_waits_for_a_supervisor_that_is_just_taking_over() -> None:
    where = store.folder("svc", create=True)
    gone = ProcessId(pid=os.getpid(), start_ticks=1, boot_id="gone")
    store.write_state(where, state(supervisor=gone))
    with store.Lock(where.lock) as lock:
        lock.acquire()
        me = processes.process_id(os.getpid())
        assert me is not None
        lock.sign(me)
        found = settle("svc")
        assert found is not None
        assert found.state == "ready"
    found = settle("svc")
    assert found is not None
    assert found.state == "failed"
    assert found.failure is not None
    assert found.failure.code == "supervisor_killed"
    assert store.read_state("svc") == found


def test_two_readers_settle_once_and_agree() -> None:
    where = store.folder("svc", create=True)
    store.write_state(where, state(supervisor=ProcessId(pid=2, start_ticks=1, boot_id="gone")))
    first = store.Lock(where.lock)
    assert first.acquire()  # a reader that is settling: it does not sign
    with ThreadPoolExecutor() as pool:
        second = pool.submit(settle, "svc")
        time.sleep(0.05)
        assert not second.done()
        store.write_state(where, state(state="failed", supervisor=None, detail="by the first"))
        first.release()
        found = second.result(PATIENCE_S)
    assert found is not None
    assert found.detail == "by the first"


def test_settling_sweeps_what_a_killed_writer_left() -> None:
    where = store.folder("svc", create=True)
    store.write_state(where, state(supervisor=ProcessId(pid=2, start_ticks=1, boot_id="gone")))
    half = where.path / ".state.json.12.abcd.tmp"
    half.write_bytes(b"{")
    where.secrets_config.write_text("api-key: x")
    settle("svc")
    assert not half.exists()
    assert not where.secrets_config.exists()


def test_settling_on_a_full_disk_still_tells_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    where = store.folder("svc", create=True)
    store.write_state(where, state(supervisor=ProcessId(pid=2, start_ticks=1, boot_id="gone")))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_state", full)
    found = settle("svc")
    assert found is not None
    assert found.state == "failed"
