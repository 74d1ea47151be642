"""Replicas that are forked from one import: the real template, over an engine that needs none."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import msgspec
import pytest

from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState
from launcher.linux import processes, procfs
from launcher.linux.processes import ProcessId
from launcher.service import control, process_tree, store
from launcher.service.supervisor import template
from launcher.service.supervisor.event_loop import Loop
from tests.patience import PATIENCE_S
from tests.service import sets, test_template
from tests.service.home import Home, eventually
from tests.service.sets import all_serve, replica, wait
from tests.service.test_template import kill

pytestmark = pytest.mark.skipif(
    not process_tree.can_be_subreaper(), reason="this kernel lets no process adopt orphans"
)
CORES = "SGLANG_CPU_OMP_THREADS_BIND"


def plan(home: Home, count: int = 2, **env: str) -> Plan:
    one = test_template.plan(home)
    engines = sets.plan(home, count).replica_set
    assert engines is not None
    shares = tuple({CORES: str(number)} for number in range(count))
    return msgspec.structs.replace(
        one,
        replica_set=msgspec.structs.replace(engines, shares=shares),
        engine=msgspec.structs.replace(one.engine, env={**one.engine.env, **env}),
    )


def up(home: Home, count: int = 2, **env: str) -> ServiceState:
    sets.arrange(home)
    return home.up(plan(home, count, **env))


def journal(name: str = "svc") -> str:
    return store.folder(name).log.read_text()


def parent(process: ProcessId | None) -> int:
    assert process is not None
    stat = processes.read_stat(process.pid)
    assert stat is not None
    return stat.parent


def test_all_replicas_are_forked_from_one_import(home: Home) -> None:
    now = up(home)
    assert now.template is not None
    assert now.supervisor is not None
    assert parent(now.template) == now.supervisor.pid
    assert journal().count("a supervisor, process ") == 2
    for number in (1, 2):
        one = replica(now, number)
        state = control.status(one.service)
        assert one.supervisor is not None
        assert parent(one.supervisor) == now.supervisor.pid
        assert parent(state.template) == one.supervisor.pid
        assert parent(state.engine) == one.supervisor.pid
        assert "the engine, process " in journal(one.service)
    control.down("svc")
    home.assert_nothing_left()


def test_a_replica_whose_supervisor_was_killed_is_forked_again(home: Home) -> None:
    before = up(home)
    kill(replica(before, 2).supervisor)
    gone = replica(before, 2).supervisor
    now = wait(lambda now: all_serve(2)(now) and replica(now, 2).supervisor != gone)
    assert now.template == before.template
    assert journal().count("a supervisor, process ") == 3


def test_after_the_templates_death_a_replica_imports_for_itself(home: Home) -> None:
    before = up(home)
    kill(before.template)
    wait(lambda now: now.template is None)
    assert control.status("svc").state == "ready"
    gone = replica(before, 1).supervisor
    kill(gone)
    now = wait(lambda now: all_serve(2)(now) and replica(now, 1).supervisor != gone)
    assert journal().count("a supervisor, process ") == 2
    assert parent(replica(now, 1).supervisor) == (now.supervisor and now.supervisor.pid)


def test_an_import_that_does_not_end_is_given_up_and_each_replica_imports(home: Home) -> None:
    home.options["timing"]["import_s"] = 0.3
    now = up(home, STAND_IN_HANGS="yes")
    assert now.template is None
    assert "there is none: each replica's start imports" in journal()
    assert all(control.status(each.service).template for each in now.replicas)


def test_what_each_replica_has_of_its_own_is_no_other_import() -> None:
    env = {"OMP_NUM_THREADS": "2", CORES: "0"}
    shared = template.imported("python", env)
    assert template.imported("python", {**env, CORES: "7", "TMPDIR": "/elsewhere"}) == shared
    assert template.imported("python", {**env, "OMP_NUM_THREADS": "3"}) != shared
    assert template.imported("/another/python", env) != shared


def test_an_engine_or_plugin_upgraded_in_its_place_is_another_import(tmp_path: Path) -> None:
    """Else a restart after `qlaunch upgrade` would go on with the old modules."""
    packages = tmp_path / "engine/lib/python3.11/site-packages"
    plugin = tmp_path / "plugin/package"
    for folder in (packages, plugin):
        folder.mkdir(parents=True)
    (plugin / "module.py").write_text("one")
    python, env = str(tmp_path / "engine/bin/python"), {"PYTHONPATH": str(plugin.parent)}
    seen = [template.imported(python, env), template.imported(python, env)]
    (packages / "sglang-2.dist-info").mkdir()
    os.utime(packages, ns=(1, 1))  # whatever the file system's clock resolves
    seen.append(template.imported(python, env))
    os.utime(plugin / "module.py", ns=(1, 1))
    seen.append(template.imported(python, env))
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3


def test_a_template_of_another_environment_is_let_go(tmp_path: Path) -> None:
    """As after a change of the plan: what was imported is no longer what is to be served."""
    child = process_tree.spawn(("/bin/sleep", "60"), {}, cwd=tmp_path)
    lines: list[str] = []
    one = template.Template(Loop(), lines.append, lambda _: None)
    one.process = child.process
    assert one.branch("something else", ("/bin/true",), {}, tmp_path) is None
    assert "was imported from other files or with other variables" in lines[0]
    assert child.handle is not None
    assert child.handle.wait(PATIENCE_S) == -signal.SIGKILL
    os.close(child.output)


def test_everything_dies_with_the_sets_supervisor(home: Home) -> None:
    now = up(home)
    table = processes.all_processes()
    assert now.supervisor is not None
    below = procfs.descendants([now.supervisor.pid], table) - {now.supervisor.pid}
    everybody = [processes.identity_of(table[pid]) for pid in below]
    assert now.template in everybody
    kill(now.supervisor)
    eventually(lambda: not any(processes.is_alive(each) for each in everybody))


def test_a_set_without_templates_has_none(home: Home) -> None:
    sets.arrange(home)
    now = home.up(sets.plan(home, 2))
    assert now.template is None
    assert "a supervisor, process " not in journal()


@pytest.mark.parametrize(
    "said", ["", "1", "x y z", "9999 1 abc", "0 SELF abc", "-1 -1 abc", "1 2 3 4"]
)
def test_what_is_no_template_of_ours_is_not_inherited(said: str) -> None:
    """The variable may come from anybody's shell."""
    environ = {template.INHERITED: said.replace("SELF", str(os.getpid())), "OTHER": "kept"}
    one = template.Template(Loop(), lambda _: None, lambda _: None)
    one.inherit(environ)
    assert one.process is None
    assert not one.expected
    assert environ == {"OTHER": "kept"}


def test_a_descriptor_that_is_no_socket_is_not_inherited(tmp_path: Path) -> None:
    child = process_tree.spawn(("/bin/sleep", "60"), {}, cwd=tmp_path)
    with (tmp_path / "file").open("w") as file:
        environ = {template.INHERITED: f"{file.fileno()} {child.process.pid} abc"}
        one = template.Template(Loop(), lambda _: None, lambda _: None)
        one.inherit(environ)
        assert one.process is None
        file.write("still ours")
    kill(child.process)
    assert child.handle is not None
    assert child.handle.wait(PATIENCE_S) == -signal.SIGKILL
    os.close(child.output)
