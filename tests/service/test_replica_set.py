"""Several engines as one service: all real but the engines, which are scripted."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import to_builtins

from launcher.cli import service_text
from launcher.config.profile import Restart
from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.linux.processes import ProcessId
from launcher.record.runs import load_run
from launcher.service import control, store
from launcher.service.forget import forget
from launcher.service.replica_set import asking
from tests.cli.commandline import Run
from tests.cli.conftest import run
from tests.patience import no_hang
from tests.service.home import Home, eventually
from tests.service.sets import Load, all_serve, arrange, plan, replica, up, wait
from tests.service.test_cache_gateway import UNHURRIED, ask, page

__all__ = ["run"]

ONCE = Restart(max_attempts=0)


def kill(process: ProcessId | None, number: int = signal.SIGKILL) -> None:
    assert process is not None
    assert processes.send(process, number)


def change(home: Home, count: int, *switches: str, **changes: Any) -> ServiceState:
    """Have the set `svc` become another one, at its old address."""
    afresh, kind = changes.pop("afresh", False), changes.pop("kind", "scale")
    new = msgspec.structs.replace(plan(home, count, *switches, **changes), port=min(home.ports))
    return asking.change(new, kind, afresh=afresh)


def members(state: ServiceState) -> list[ProcessId | None]:
    return [each.engine for each in state.replicas]


def test_a_set_is_one_service_with_one_address(home: Home) -> None:
    seen: list[ServiceState] = []
    arrange(home)
    state = home.up(plan(home, 2), seen)
    assert state.state == "ready"
    assert state.endpoint == f"http://127.0.0.1:{min(home.ports)}/v1"
    assert [each.service for each in state.replicas] == ["svc.1", "svc.2"]
    assert all(each.serving for each in state.replicas)
    assert len({each.endpoint for each in state.replicas} | {state.endpoint}) == 3
    assert [each.service for each in control.services()] == ["svc"]
    assert len(control.services(replicas=True)) == 3
    assert any(each.detail.startswith("1 of 2 replicas verified") for each in seen)
    with Load(state.endpoint) as load:
        load.more()
    assert load.failed == []
    assert len(load.vectors) == 1
    data = to_builtins(control.status_of(control.status("svc")))
    assert (data["serving"], data["pid"], data["gateway"]["hit_rate"]) == (2, None, None)
    assert data["replicas"][1]["pid"] == replica(state, 2).engine.pid  # type: ignore[union-attr]
    assert to_builtins(control.status_of(control.status("svc.2")))["part_of"] == "svc"
    peak = eventually(lambda: control.status("svc").measured.ram_peak_bytes)
    assert peak > 0
    done = control.down("svc")
    assert (done.left, done.forced) == ((), False)
    assert home.processes() == []
    assert [s.state for s in control.services(replicas=True)] == ["stopped"] * 3
    run = load_run(home.root / "state" / "runs", state.run)
    assert (run.outcome, run.smoke is not None) == ("stopped", True)
    forget("svc")
    assert store.list_services() == []


def calls(state: ServiceState) -> dict[str, int]:
    """Calls by replica, as the gateway counts them."""
    counted = re.findall(
        rb'qlaunch_gateway_calls_total\{[^}]*server="([^"]+)"\} ([0-9]+)', page(state)
    )
    return {name.decode(): int(count) for name, count in counted}


def test_both_replicas_are_asked_as_often(home: Home) -> None:
    state = up(home, 2)
    with Load(state.endpoint) as load:
        load.more(60)
    counts = calls(state)
    assert counts.keys() == {"svc.1", "svc.2"}
    # One was there first, and was asked for the proof; since then they take turns.
    assert max(counts.values()) <= 2 * min(counts.values())


def test_kill_9_of_an_engine_and_of_a_supervisor_under_load_fails_no_request(home: Home) -> None:
    state = up(home, 2)
    with Load(state.endpoint) as load:
        kill(replica(state, 1).engine)
        wait(lambda now: now.replicas[0].restarts)
        now = wait(all_serve(2))
        load.more()
        assert replica(now, 1).supervisor == replica(state, 1).supervisor
        kill(replica(state, 2).supervisor)
        wait(lambda now: now.replicas[1].starts)
        now = wait(all_serve(2))
        load.more()
    assert load.failed == []
    assert replica(now, 2).supervisor != replica(state, 2).supervisor
    assert not processes.is_alive(replica(state, 2).engine)
    assert "degraded" in [phase.name for phase in now.phases]
    assert now.restarts >= 1


def test_kill_9_of_the_sets_supervisor_leaves_nothing(home: Home) -> None:
    state = up(home, 2, "--setsid-grandchild")
    kill(state.supervisor)
    eventually(lambda: not processes.is_alive(state.supervisor))
    now = control.status("svc")
    assert (now.state, now.failure.code if now.failure else "") == ("failed", "supervisor_killed")
    assert home.processes() == []
    assert {(each.state, each.serving) for each in now.replicas} == {("failed", False)}
    assert control.down("svc").left == ()
    assert {s.state for s in control.services(replicas=True)} == {"failed"}
    assert up(home, 2).state == "ready"


def test_a_replica_that_drifts_leaves_and_comes_back_right(home: Home, tmp_path: Path) -> None:
    state = up(home, 2, "--other-vectors", str(tmp_path / "other-$REPLICA"))
    with Load(state.endpoint) as load:
        right = set(load.vectors)
        (tmp_path / "other-1").write_text("other")
        now = wait(lambda now: now.serving == 1)
        assert not replica(now, 1).serving
        (tmp_path / "other-1").unlink()
        wait(lambda now: now.replicas[0].starts)
        wait(all_serve(2))
        load.more()
    assert load.failed == []
    assert right <= load.vectors
    run = store.read_state("svc.2")
    assert run is not None
    assert run.restarts == 0


def test_a_replica_that_hangs_leaves_and_comes_back(home: Home, tmp_path: Path) -> None:
    home.options["timing"].update(health_timeout_s=1.0, patient_s=1.0)
    state = up(home, 2, "--hang-flag", str(tmp_path / "hang-$REPLICA"))
    with Load(state.endpoint, clients=2) as load:
        (tmp_path / "hang-2").touch()
        now = wait(lambda now: now.serving == 1)
        assert not replica(now, 2).serving
        (tmp_path / "hang-2").unlink()
        wait(all_serve(2))
        load.more()
    assert load.failed == []


def test_a_replica_whose_vectors_are_others_never_serves(home: Home, tmp_path: Path) -> None:
    (tmp_path / "other-2").write_text("other")
    state = up(home, 2, "--other-vectors", str(tmp_path / "other-$REPLICA"))
    assert (state.state, state.serving) == ("degraded", 1)
    assert "is not that of the replicas before it" in replica(state, 2).detail
    with Load(state.endpoint) as load:
        load.more()
    assert (load.failed, len(load.vectors)) == ([], 1)


def test_a_replica_that_does_not_start_is_named_and_a_restart_takes_it_up_again(
    home: Home, tmp_path: Path
) -> None:
    refuse = ("--refuse-flag", str(tmp_path / "refuse-$REPLICA"))
    (tmp_path / "refuse-2").touch()
    state = up(home, 2, *refuse)
    assert (state.state, state.serving) == ("degraded", 1)
    assert "svc.2 given up: the engine ended with exit code 3" in state.detail
    (tmp_path / "refuse-2").unlink()
    now = change(home, 2, *refuse)
    assert (now.state, now.serving) == ("ready", 2)
    assert replica(now, 1).engine == replica(state, 1).engine


def test_a_set_whose_first_replica_does_not_start_fails(home: Home) -> None:
    arrange(home)
    with pytest.raises(QlaunchError, match="the engine ended with exit code 3") as refused:
        home.up(plan(home, 2, "--exit-code", "3"))
    assert refused.value.exit_code == 6
    assert home.processes() == []
    assert store.read_state("svc.2") is None  # nobody tried


def test_a_set_is_given_up_when_all_its_replicas_are(home: Home, tmp_path: Path) -> None:
    refuse = ("--refuse-flag", str(tmp_path / "refuse"))
    state = up(home, 2, *refuse, restart=ONCE)
    (tmp_path / "refuse").touch()
    kill(replica(state, 1).engine)
    wait(lambda now: "given up" in now.replicas[0].detail and now.state == "degraded")
    kill(replica(state, 2).engine)
    now = home.wait_for("failed")
    assert now.failure is not None
    assert now.failure.exit_code == 6
    eventually(lambda: home.processes() == [])


def test_scale_up_and_down_and_a_rolling_restart_fail_no_request(home: Home) -> None:
    state = up(home, 2)
    with Load(state.endpoint) as load:
        more = change(home, 3)
        assert (more.state, more.serving) == ("ready", 3)
        assert members(more)[:2] == members(state)  # whose share is the same go on
        load.more()
        one = change(home, 1)
        assert (one.state, one.serving, len(one.replicas)) == ("ready", 1, 1)
        assert not processes.is_alive(replica(more, 3).supervisor)
        load.more()
        change(home, 2)
        again = change(home, 2, "--max-total-tokens", "9", kind="restart", afresh=True)
        load.more()
    assert load.failed == []
    assert len(load.vectors) == 1
    assert not {*members(again)} & {*members(state)}
    assert again.rollout is not None
    assert (again.rollout.kind, again.rollout.done, again.rollout.failure) == (
        "restart",
        True,
        None,
    )
    assert "--max-total-tokens" in again.engine_plan.argv
    assert store.read_plan(store.folder("svc")).replica_set.count == 2  # type: ignore[union-attr]


def test_a_change_to_an_engine_that_does_not_start_is_undone(home: Home) -> None:
    state = up(home, 2)
    with Load(state.endpoint) as load:
        with pytest.raises(QlaunchError, match="is as it was: the engine ended") as refused:
            change(home, 2, "--exit-code", "3")
        now = wait(all_serve(2))
        load.more()
    assert refused.value.exit_code == 6
    assert load.failed == []
    assert replica(now, 2).engine == replica(state, 2).engine
    assert "--exit-code" not in store.read_plan(store.folder("svc.1")).engine.argv
    with pytest.raises(QlaunchError, match="is as it was"):
        change(home, 3, "--exit-code", "3", kind="scale")
    assert len(control.status("svc").replicas) == 2


def test_an_upgrade_to_other_vectors_is_refused(home: Home, tmp_path: Path) -> None:
    state = up(home, 2)
    (tmp_path / "other").write_text("other")
    with Load(state.endpoint) as load:
        with pytest.raises(QlaunchError, match="is not that of the replicas before it") as refused:
            change(home, 2, "--other-vectors", str(tmp_path / "other"))
        wait(all_serve(2))
        load.more()
    assert (refused.value.code, refused.value.exit_code) == ("replicas_differ", 7)
    assert (load.failed, len(load.vectors)) == ([], 1)


def test_a_killed_gateway_comes_back_before_the_same_replicas(home: Home) -> None:
    state = up(home, 2, cache=UNHURRIED)
    assert state.gateway is not None
    assert [ask(state, "a")[0]["X-Cache-Hits"] for _ in range(2)] == ["0", "1"]
    before = state.gateway.process
    kill(before)
    wait(lambda now: now.gateway.process not in {None, before})
    now = wait(all_serve(2))
    assert "degraded" in [phase.name for phase in now.phases]
    assert members(now) == members(state)
    with Load(now.endpoint) as load:
        load.more()
    assert load.failed == []


def test_a_stopped_supervisor_of_a_replica_is_replaced_and_ends_with_down(home: Home) -> None:
    home.options["timing"]["frozen_s"] = 0.5
    state = up(home, 2)
    kill(replica(state, 1).supervisor, signal.SIGSTOP)
    now = wait(lambda now: now.replicas[0].starts and now.serving == 2)
    assert not processes.is_alive(replica(state, 1).engine)
    kill(replica(now, 2).supervisor, signal.SIGSTOP)
    with no_hang():
        assert control.down("svc").left == ()
    assert home.processes() == []


def test_down_while_a_set_changes_ends_everything(home: Home) -> None:
    up(home, 2)
    beside: list[control.DownResult] = []

    def begun(state: ServiceState) -> None:
        if not beside:
            with pytest.raises(QlaunchError, match="is being changed already") as busy:
                change(home, 2)
            assert (busy.value.code, busy.value.exit_code) == ("busy", 9)
            beside.append(control.down("svc"))

    new = msgspec.structs.replace(plan(home, 3, "--slow-start", "300"), port=min(home.ports))
    with pytest.raises(QlaunchError) as refused:
        asking.change(new, "scale", afresh=False, on_change=begun)
    assert refused.value.code == "stopped_meanwhile"
    assert beside[0].left == ()
    assert home.processes() == []


def test_names_belong_to_whoever_has_them(home: Home) -> None:
    home.up(home.plan(name="svc.2"))
    arrange(home)
    with pytest.raises(QlaunchError) as taken:
        home.up(plan(home, 2))
    assert (taken.value.code, taken.value.exit_code) == ("name_taken", 9)
    control.down("svc.2")
    forget("svc.2")
    up(home, 2)
    for refused in (
        lambda: control.down("svc.2"),
        lambda: forget("svc.2"),
        lambda: home.up(home.plan(name="svc.2")),
    ):
        with pytest.raises(QlaunchError) as error:
            refused()
        assert (error.value.code, error.value.exit_code) == ("is_replica", 9)


def test_what_is_no_set_cannot_be_changed(home: Home) -> None:
    home.up(home.plan())
    with pytest.raises(QlaunchError) as refused:
        change(home, 2)
    assert (refused.value.code, refused.value.exit_code) == ("not_a_set", 9)
    control.down("svc")
    with pytest.raises(QlaunchError) as refused:
        change(home, 2)
    assert (refused.value.code, refused.value.exit_code) == ("not_running", 3)


def test_in_the_foreground_a_set_ends_with_its_terminal_and_its_key_reaches_all(
    home: Home, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("a-secret-of-some-length\n")
    key.chmod(0o600)
    arrange(home)
    given: Plan = plan(home, 2, api_key_file=str(key))
    with home.starter(given, "foreground") as child:
        state = home.wait_for("ready")
        assert state.supervisor is not None
        assert state.supervisor.pid == child.pid
        assert b"a-secret" not in b"".join(
            path.read_bytes() for path in home.root.rglob("*.json") if path.is_file()
        )
        child.send_signal(signal.SIGINT)
        assert child.wait(120) == 0
    assert home.processes() == []


def test_the_commands_show_a_set_as_one_service(home: Home, run: Run, tmp_path: Path) -> None:
    (tmp_path / "refuse-2").touch()
    state = up(home, 2, "--refuse-flag", str(tmp_path / "refuse-$REPLICA"))
    missing = service_text.missing_replicas(state)  # which makes `up` end with 10
    assert [(each.code, each.message.split(":")[0]) for each in missing] == [
        ("replica_missing", "svc.2")
    ]
    listed = run("ps").out.splitlines()
    assert [line.split()[0] for line in listed[1:4]] == ["svc", "svc.1", "svc.2"]
    assert [each["service"] for each in run("ps", "--json").data["services"]] == ["svc"]
    shown = run("status", "svc")
    assert "replica   svc.2: -, pid -: given up: the engine ended with exit code 3" in shown.out
    assert "gateway   pid " in shown.out
    assert "before the replicas" in shown.out
    assert run("status", "svc", "--endpoint").out.strip() == state.endpoint
    row = run("top", "svc", "--once", "--json").data["services"][0]
    assert (row["service"], [each["service"] for each in row["replicas"]]) == ("svc", ["svc.1"])
    assert row["ram"]["bytes"] > 0
    lines = run("logs", "svc", "--json").data["lines"]
    assert any(line.startswith("1 | ") and "fired up" in line for line in lines)
    assert any(line.startswith("2 | ") for line in lines)
    assert run("logs", "svc.1", "--json").code == 0
    assert run("logs", "svc", "--crash", "--json").code == 0
    (tmp_path / "refuse-2").unlink()
    again = run("restart", "svc", "--json")
    assert (again.code, again.data["rolling"], again.data["serving"]) == (0, True, 2)
    refused = run("down", "svc.1", "--json")
    assert (refused.code, refused.error["code"]) == (9, "is_replica")
    done = run("down", "--all", "--json").data["services"]
    assert [(each["service"], each["left"]) for each in done] == [("svc", [])]
    assert run("scale", "svc", "3", "--json").code == 3
    assert run("forget", "svc", "--json").code == 0
    assert store.list_services() == []
