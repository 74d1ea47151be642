"""One worker of a Ray cluster: the servers it asks, and its own service.

Ray starts it, in a process of its own, and ends it as it likes; its service ends with it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Final

import msgspec

from launcher import __version__
from launcher.app import corpus_probe, corpus_servers
from launcher.corpus.asking import Answer, Asker
from launcher.corpus.batches import Limits
from launcher.corpus.endpoints import Endpoint, Pool
from launcher.corpus.packing import packed
from launcher.documents.plan import Plan
from launcher.documents.service_state import FINAL, UP
from launcher.errors import ExitCode, QlaunchError
from launcher.fleet import start_command
from launcher.linux.pdeathsig import die_with
from launcher.service import store

PROGRAM: Final = (sys.executable, "-P", "-m", "launcher")
LOOK_S: Final = 0.2
"""Between two looks at a service that starts."""
_SLOTS: Final = 64
"""Services of one plan that one machine may have."""


@dataclass(frozen=True)
class Recipe:
    """What every worker is told."""

    version: str
    """Of qlaunch where the run is: another one may cut or ask differently."""
    endpoints: tuple[tuple[str, str, str, str | None], ...]
    """Servers that any machine reaches: name, address, model, key."""
    service: Plan | None
    """The service that each worker starts for itself."""
    limits: Limits
    worded: Callable[[str], str]
    dimensions: int | None
    concurrency: int
    patience_s: float


class Failure(msgspec.Struct, frozen=True):
    """A `QlaunchError` on its way to another machine."""

    message: str
    code: str
    exit_code: int
    fix: str | None


class Worker:
    """Embeds tables of `index` and `texts`, a batch a row; Ray Data's callable class.

    What fails is told in the answer, since an exception would arrive as a page of text.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._loop = asyncio.new_event_loop()
        self._recipe = recipe
        self._own: OwnService | None = None
        self._pool: Pool | None = None
        self._failure = b""
        self._probe = b""
        try:
            self._probe = self._begin()
        except QlaunchError as error:
            self._failure = _told(error)

    def _begin(self) -> bytes:
        """Have servers, and what they answer to the known sentence."""
        recipe = self._recipe
        if recipe.version != __version__:
            raise QlaunchError(
                f"a worker has qlaunch {__version__}, and this is {recipe.version}",
                code="ray_differs",
                exit_code=ExitCode.CONFLICT,
                fix="install the same version on every machine of the cluster",
            )
        endpoints = [Endpoint(*each) for each in recipe.endpoints]
        if recipe.service is not None:
            self._own = OwnService(recipe.service)
            endpoints.append(corpus_servers.endpoint(self._own.plan))
        self._pool = Pool(
            endpoints,
            connections=recipe.concurrency,
            dimensions=recipe.dimensions,
            patience_s=recipe.patience_s,
        )
        asked = corpus_probe.ask_all(self._pool, recipe.patience_s, lambda _: None)
        return self._loop.run_until_complete(asked).tobytes()

    def __call__(self, table: Any) -> Any:
        """A table of `index`, `answers`, `probe` and `failure` for one of `index` and `texts`."""
        import pyarrow as pa

        index = table.column("index")
        answers, failure = [b""] * len(index), self._failure
        if not failure:
            try:
                asked = self._all(table.column("texts").to_pylist())
                answers = [packed(each) for each in self._loop.run_until_complete(asked)]
            except QlaunchError as error:
                failure = _told(error)
        return pa.table(
            {
                "index": index,
                "answers": pa.array(answers, pa.binary()),
                "probe": pa.array([self._probe] * len(index), pa.binary()),
                "failure": pa.array([failure] * len(index), pa.binary()),
            }
        )

    async def _all(self, batches: Sequence[Sequence[str]]) -> list[list[Answer]]:
        recipe = self._recipe
        assert self._pool is not None
        asker = Asker(self._pool, recipe.limits, recipe.worded)
        slots = asyncio.Semaphore(recipe.concurrency * len(self._pool.endpoints))

        async def ask(texts: Sequence[str]) -> list[Answer]:
            async with slots:
                return await asker.ask(texts)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(ask(texts)) for texts in batches]
        return [task.result() for task in tasks]


class OwnService:
    """A service of this process, which ends with it.

    Raises:
        QlaunchError: the start's own.
    """

    def __init__(self, plan: Plan) -> None:
        for number in range(1, _SLOTS + 1):
            name = f"{plan.service}-ray-{number}"
            state = corpus_servers.known(name)
            if state is not None and state.state not in FINAL:
                continue  # another worker's of this machine
            process = _started(plan, name)
            if process is not None:
                self._process = process
                self.plan = store.read_plan(store.folder(name))
                return
        raise QlaunchError(
            f"{_SLOTS} services {plan.service}-ray-… run on this machine already",
            code="ray_crowded",
            exit_code=ExitCode.CONFLICT,
            fix="stop those that nobody needs: qlaunch ps",
        )

    def stop(self) -> None:
        """Stop it, and wait until it is gone."""
        self._process.terminate()
        self._process.wait()


def _started(plan: Plan, name: str) -> subprocess.Popen[bytes] | None:
    """The service under that name, its vectors proved right; None: the name was taken."""
    placed = start_command.Placed(settings={"name": name, "port": "0"})
    words = start_command.words(plan, placed, lasting=False)
    extra = words.index("--") if "--" in words else len(words)
    argv = [*PROGRAM, *words[:extra], "--json", *words[extra:]]
    with tempfile.TemporaryFile() as out:
        process = _child(argv, out)
        while not _serves(name, process.pid):
            if process.poll() is not None:
                out.seek(0)
                _require_taken(process.returncode, out.read())
                return None
            time.sleep(LOOK_S)
    return process


def _serves(name: str, supervisor: int) -> bool:
    """Whether the service is up, and in this very life."""
    state = corpus_servers.known(name)
    if state is None or state.supervisor is None or state.supervisor.pid != supervisor:
        return False
    return state.state in UP and state.endpoint is not None


def _child(argv: list[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
    """The supervisor, as a child that is told to stop when we end, by whatever death."""
    parent = os.getpid()
    # Ray says how many threads its workers may have; an engine's are the plan's to say.
    env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    return subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=subprocess.DEVNULL,
        env=env,
        start_new_session=True,
        preexec_fn=lambda: die_with(parent, signal.SIGTERM),  # noqa: PLW1509 - one call of libc's, loaded before
    )


def _require_taken(code: int, said: bytes) -> None:
    """Pass where the name was taken.

    Raises:
        QlaunchError: what the start said.
    """
    try:
        error = msgspec.json.decode(said)["errors"][0]
    except (ValueError, LookupError, TypeError):
        error = {"code": "start_failed", "message": f"its start ended with exit code {code}"}
    if error["code"] in ("already_running", "busy"):
        return
    raise QlaunchError(
        f"a worker's own service: {error['message']}",
        code=error["code"],
        exit_code=ExitCode(code) if code in set(ExitCode) else ExitCode.START_FAILED,
        fix=error.get("fix"),
    )


def _told(error: QlaunchError) -> bytes:
    told = Failure(error.message, error.code, int(error.exit_code), error.fix)
    return msgspec.msgpack.encode(told)
