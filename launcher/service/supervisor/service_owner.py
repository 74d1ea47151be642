"""What every supervisor does, of one engine or of a set: it holds the service's lock, hears
signals, writes its state until the last one, and is wound down once."""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Generator

from launcher.documents.failure import Failure
from launcher.documents.plan import Plan
from launcher.documents.service_state import ServiceState, State
from launcher.service import failures, process_tree
from launcher.service.note import BEAT_S
from launcher.service.store import Folder, Lock, not_written
from launcher.service.supervisor import metrics, states, systemd_notify
from launcher.service.supervisor.batch_counter import BatchCounter
from launcher.service.supervisor.event_loop import Call, Loop, Timers
from launcher.service.supervisor.records import ServiceRecords
from launcher.service.supervisor.resources import PortReservation
from launcher.service.supervisor.timing import Dependencies

STRENGTH = ("run", "idle", "restart", "succeeded", "failed", "stopped")
"""Of what is to come after what runs now, the weakest first."""


class ServiceOwner:
    """The process that owns a service, from `up` to its end. `run` once, in the main thread."""

    may_follow: Callable[[State, State], bool] = staticmethod(states.may_follow)
    """Which state may come after which."""

    def __init__(
        self,
        where: Folder,
        wiring: Dependencies,
        *,
        began: float | None,
        foreground: bool,
        on_change: Callable[[ServiceState], object] | None,
    ) -> None:
        """`began`: monotonic time at which the user asked for the service; now, if None."""
        self._where, self.wiring = where, wiring
        self._timing = wiring.timing
        self._began = time.monotonic() if began is None else began
        self._foreground = foreground
        self._nohup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        self._on_change = on_change
        self._lock = Lock(where.lock)
        self._loop = Loop()
        self._timers = Timers(self._loop)
        self._goal: str = "run"
        self._failure: Failure | None = None
        self._winding = self._forced = False

    # What each has of its own -----------------------------------------------------------------

    @property
    def _plan(self) -> Plan:
        """What to run now."""
        raise NotImplementedError

    def _open(self) -> None:
        """Make what needs the records; nothing is started yet."""
        raise NotImplementedError

    def _start(self) -> None:
        """Begin; a failure ends the service."""
        raise NotImplementedError

    def _wind(self) -> Generator[float, None, None]:
        """End everything in good order, yielding the seconds to wait between two looks."""
        raise NotImplementedError

    def _reap(self) -> None:
        """Take in children that ended."""
        raise NotImplementedError

    def _kill(self) -> None:
        """End all processes the hard way."""
        raise NotImplementedError

    def _ports(self) -> list[PortReservation]:
        """The ports it holds: the last is the service's own."""
        raise NotImplementedError

    def _traffic(self) -> BatchCounter | None:
        """The engine's work, where one engine's log tells it."""
        return None

    def bequest(self) -> dict[str, str] | None:
        """Variables for what this process is to execute next; None: it ends."""
        return None

    def _signals(self) -> dict[int, Call]:
        """What a signal asks for."""
        return {
            signal.SIGTERM: lambda: self._end("stopped"),
            signal.SIGINT: self._interrupted,
            signal.SIGHUP: self._terminal_closed,
            signal.SIGCHLD: self._reap,
        }

    # From start to end ------------------------------------------------------------------------

    def run(self) -> ServiceState:
        """Run the service to its end and return its last state.

        Raises:
            QlaunchError: `already_running` (exit 9) if another supervisor has this service;
                `state_dir_unsafe`, `api_key_unusable`, `state_not_written`: nothing was started.
        """
        if not self._lock.acquire():
            raise failures.already_running(self._where.name)
        try:
            self._prepare()  # before the first state: from then on, `down` may ask
            self.records = ServiceRecords(
                self._where,
                self._plan,
                lock=self._lock,
                began=self._began,
                on_change=self._on_change,
                may_follow=self.may_follow,
            )
            self.status, self._recorder = self.records.status, self.records.recorder
            self.status.change(foreground=self._foreground)
            self._open()
            self.status.keep_noting(self._loop)
            self._loop.call_later(BEAT_S, self._look_for_readers)
            self._scrape = metrics.serve(self._loop, self._plan, self.records, self._traffic)
            return self._run()
        finally:
            self._loop.close()
            self._lock.release()

    def _prepare(self) -> None:
        """Hear signals, adopt orphans, and leave behind what belongs to whoever started us."""
        self._loop.on_signals(self._signals())
        systemd_notify.keep_watchdog(self._loop)
        process_tree.become_subreaper()
        if not self._foreground:
            os.chdir(self._where.path)  # not to hold on to the folder that `up` was called in

    def _run(self) -> ServiceState:
        try:
            self._start()
            while not self.status.final:
                self._loop.turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, no engine may be left behind
            self._crashed(error)
        self._tidy()
        return self.status.now

    def _look_for_readers(self) -> None:
        """End the service where nobody could hear of it any more."""
        self._loop.call_later(BEAT_S, self._look_for_readers)
        if not self._where.path.is_dir() or self._lock.displaced():  # removed by somebody
            self._end("stopped")
        elif (why := self.status.mute) is not None:
            self._end("failed", failures.from_error(not_written(self._where.path, why)))

    # Ending -----------------------------------------------------------------------------------

    def _terminal_closed(self) -> None:
        if self._foreground and not self._nohup:
            self._end("stopped")

    def _interrupted(self) -> None:
        if self._goal == "stopped":
            self._forced = True
        self._end("stopped")

    def _end(self, goal: str, failure: Failure | None = None, detail: str = "") -> None:
        """Wind down, once; of several reasons the strongest decides what comes after."""
        if STRENGTH.index(goal) <= STRENGTH.index(self._goal):
            return
        self._goal = goal
        if failure is not None:
            self._failure = failure
            self.records.journal.write(f"failing: {failure.message}")
        self._announce(failure, detail)
        if not self._winding:
            self._winding = True
            self._loop.drive(self._wind())

    def _announce(self, failure: Failure | None, detail: str) -> None:
        del detail
        if self.status.state != "stopping":
            self.records.enter("stopping", failure.message if failure else "asked to stop")

    def _finish(self, state: State, failure: Failure | None, detail: str = "") -> None:
        self._timers.cancel_all()
        self.records.finish(state, failure, detail)

    def _crashed(self, error: Exception) -> None:
        """A fault of ours: end the engines the hard way, say what happened, and go."""
        self.records.journal.write("".join(traceback.format_exception(error)))
        self._kill()
        if not self.status.final:
            self._finish("failed", failures.internal(error, str(self._where.log)))

    def _tidy(self) -> None:
        if self._scrape is not None:
            self._scrape.close()
        for reservation in self._ports():
            reservation.release()
        self.records.close()
