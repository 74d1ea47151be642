"""The import that all replicas of a set share.

The set's supervisor has the engine imported once, into a template (supervisor/template.py) that is
no life of any engine. From it the replicas' supervisors are forked, each with a copy of the
template as its own first child: no replica's start imports, and what was imported is in memory
once. Where there is no such template, a replica's supervisor is started as ever, and its first
life imports.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from pathlib import Path
from typing import Final

from launcher.documents.plan import Plan
from launcher.errors import QlaunchError
from launcher.linux import processes
from launcher.service import process_tree, scratch
from launcher.service.process_tree import Child
from launcher.service.supervisor import engine_life
from launcher.service.supervisor.engine_log import Pump, hear, let_go
from launcher.service.supervisor.event_loop import Loop
from launcher.service.supervisor.records import ServiceRecords
from launcher.service.supervisor.template import Template, imported

STEP_S: Final = 0.05
KILL_S: Final = 3.0
"""For the kernel to end what got SIGKILL: milliseconds."""


class SharedTemplate:
    """A set's template, from its import to its end."""

    def __init__(self, loop: Loop, records: ServiceRecords, import_s: float) -> None:
        """Nothing is started; a template that a single engine's supervisor left us is taken."""
        self._loop, self._records, self._import_s = loop, records, import_s
        self._template = Template(loop, records.journal.write, records.template)
        self._template.inherit(os.environ)
        self._pump: Pump | None = None
        self._scratch: scratch.Scratch | None = None
        self.child: Child | None = None
        """The process that imports, and then is the template."""

    def pids(self) -> list[int]:
        """Its process: memory of the set's."""
        if self.child is None or self.child.exited:
            return self._template.pids()
        return [self.child.process.pid]

    def stand(self, plan: Plan) -> Generator[float, None, None]:
        """Import what replicas of `plan` will need, yielding the seconds to wait until it is done
        or given up. `plan`: of a replica."""
        if self._template.process is not None:
            return
        if not plan.template or not process_tree.is_subreaper():
            return
        try:
            self._scratch = scratch.make(os.environ, spare=self._records.path)
            env = self._environment(plan, self._scratch.path)
            self.child = self._template.stand(plan.engine.python, env, self._records.path)
        except (OSError, QlaunchError) as error:
            self._records.journal.write(f"template: not started: {error}")
            return
        self._pump = Pump(self._heard, clean=self._records.clean)
        self._loop.watch(self.child.output, self._readable)
        deadline = time.monotonic() + self._import_s
        while self._template.expected and not self.child.exited and time.monotonic() < deadline:
            yield STEP_S
        if self._template.process is None:
            self._records.journal.write("template: there is none: each replica's start imports")
            self._template.forget()

    def start(self, plan: Plan, argv: tuple[str, ...], env: dict[str, str], cwd: Path) -> Child:
        """Start a replica's supervisor: a fork of the template where that is what `plan` needs.

        Raises:
            OSError: it cannot be started.
        """
        child = None
        if plan.template and self._template.process is not None:
            what = imported(plan.engine.python, self._environment(plan, cwd))
            child = self._template.branch(what, argv, env, cwd)
        return child or process_tree.spawn(argv, env, cwd=cwd)

    def _environment(self, plan: Plan, temporary: Path) -> dict[str, str]:
        """What an engine of `plan` will see, but for what each has of its own."""
        return engine_life.engine_command(
            plan,
            port=0,
            key=None,
            secrets_config=temporary,
            run=self._records.recorder.run_id,
            cwd=temporary,
            scratch=temporary,
        ).env

    def _heard(self, text: str) -> None:
        for line in text.splitlines():
            if line.strip():
                self._records.journal.write(f"template: {line.strip()}")

    def _readable(self) -> None:
        assert self.child is not None
        assert self._pump is not None
        hear(self.child, self._pump, self._loop)

    # Its end ----------------------------------------------------------------------------------

    def stop(self) -> Generator[float, None, list[str]]:
        """End it, yielding the seconds to wait; what could not be ended, named."""
        left = yield from self._template.stop()
        child = self.child
        if child is not None:
            self.kill()  # one that was still importing has not said yet that it is there
            yield from process_tree.until(lambda: child.exited, KILL_S)
            if self._pump is not None:
                let_go(child, self._pump, self._loop)
        if self._scratch is not None:
            self._scratch.close()
        return left

    def kill(self) -> None:
        """End it the hard way."""
        self._template.forget()
        if self.child is not None and not self.child.exited:
            processes.send(self.child.process, signal.SIGKILL)
