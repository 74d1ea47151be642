"""What a comparison needs of the real machine: proof that it is clean, texts, and the load."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from launcher.bench.load import Bounds, Target, TextSource, measure_level, texts_for
from launcher.bench.unsupervised import MARK
from launcher.documents.comparison import Level, Row
from launcher.documents.service_state import at_work
from launcher.errors import ExitCode, QlaunchError
from launcher.linux import processes
from launcher.service import control

BACK_S = 30.0
"""Until the memory of the life before has to be back: the kernel frees it within the second."""
POLL_S = 0.25
SPARE_BYTES = 512 << 20
"""RAM that others on the machine may have taken meanwhile without a word."""
SPARE_SHARE = 0.03
"""The same as a share of what was available at the beginning."""
GPU_SHARE = 0.75
"""Of the GPU memory that was free at the beginning, what has to be back (as Ollama asks)."""

Read = Callable[[], int | None]


def refuse_company() -> None:
    """Services of ours that run would share the machine with what is measured.

    Raises:
        QlaunchError: `not_quiet` (exit 9) naming them.
    """
    names = [state.service for state in control.services() if at_work(state)]
    if names:
        raise QlaunchError(
            f"these services are running and would be measured too: {', '.join(names)}",
            code="not_quiet",
            exit_code=ExitCode.CONFLICT,
            fix=f"stop them first: qlaunch down {' '.join(names)}",
        )


@dataclass
class Machine:
    """`launcher.bench.trial.Tools` for this machine.

    `ram` and `gpu` read how many bytes a new process can take now; None is not known.
    """

    bounds: Callable[[Level], Bounds]
    ram: Read
    gpu: Read
    say: Callable[[str], None]
    now: Callable[[str], None]
    _ram_before: int | None = None
    _gpu_before: int | None = None
    _texts: dict[str, TextSource] = field(default_factory=dict)

    def settle(self) -> str | None:
        """Wait until memory is back; what is missing after `BACK_S` seconds, in a sentence.

        Raises:
            QlaunchError: `not_quiet` (exit 9): a service of ours runs.
        """
        refuse_company()
        if self._ram_before is None:
            self._ram_before, self._gpu_before = self.ram(), self.gpu()
            return None
        deadline = time.monotonic() + BACK_S
        while (missing := self._missing()) is not None and time.monotonic() < deadline:
            self.now(f"waiting for memory: {missing}")
            time.sleep(POLL_S)
        return missing

    def _missing(self) -> str | None:
        alive = [processes.describe(one) for one in processes.marked(f"{MARK}={os.getpid()}")]
        if alive:
            return f"still alive: {', '.join(alive)}"
        ram, gpu = self.ram(), self.gpu()
        before = self._ram_before
        if ram is not None and before is not None:
            lacking = before - ram
            if lacking > max(SPARE_BYTES, int(before * SPARE_SHARE)):
                return f"{lacking / 1e9:.2f} GB less RAM is available than at the beginning"
        if gpu is not None and self._gpu_before and gpu < GPU_SHARE * self._gpu_before:
            return f"{(self._gpu_before - gpu) / 1e9:.2f} GB of GPU memory have not been freed"
        return None

    def texts(self, model_path: str | None, target: Target) -> TextSource:
        """The same source for everything that serves the same checkpoint: no text is sent twice.

        Raises:
            TextError: the first server of a checkpoint does not count tokens.
        """
        key = model_path or f"{target.mode} {target.model}"
        if key not in self._texts:
            self._texts[key] = texts_for(model_path, target)
        return self._texts[key]

    def measure(
        self,
        target: Target,
        level: Level,
        texts: TextSource,
        progress: Callable[[int, float], None],
    ) -> Row:
        """One level of load; see `launcher.bench.load.measure_level` for what it raises."""
        return measure_level(target, level, texts, self.bounds(level), progress)
