"""A corpus on a Ray cluster, by Ray Data: texts go out, vectors come back in their order.

One task, on the machine of the run, reads the files and cuts them into the very batches that a run
without a cluster asks; workers answer them; and the run reads the rows once more and writes them
beside the answers, with the same journal. So the output is the same, byte for byte, and a run may
be begun here and gone on with there. Other columns never leave this machine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from launcher import extras
from launcher.app.corpus_probe import PROBE, check_alike
from launcher.app.corpus_ray_worker import Failure, Recipe, Worker
from launcher.corpus.asking import Answer
from launcher.corpus.batches import batches
from launcher.corpus.inputs import Inputs
from launcher.corpus.packing import unpacked, vector
from launcher.corpus.records import Position, Vector
from launcher.errors import ExitCode, QlaunchError

BLOCK_BYTES: Final = 64 << 10
"""Of texts that go to a worker at once, about: all of them shall have work."""
CONNECT_S: Final = 10.0
"""For a connection to the cluster."""
_AHEAD: Final = 4
"""Batches of a call of a worker, for each that it asks at once."""
_FIRST: Final = -1
"""Index of the sentence that is asked before all batches."""

Open = Callable[[], Inputs]
"""Opens the inputs, here or in another process."""


@dataclass(frozen=True)
class Cluster:
    """Where to embed."""

    address: str
    """Ray's: `auto`, `HOST:PORT`, or `local` for one of this machine and this run."""
    workers: int | None = None
    """How many; None: one a machine, or one a GPU."""


class Answered(msgspec.Struct, frozen=True):
    """What came of one batch."""

    index: int
    answers: list[Answer]
    probe: Vector
    """What the worker's servers answer to the known sentence."""


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[Connection]:
    """The cluster, until the end of the run: its workers end then.

    Raises:
        QlaunchError: `extra_missing`, `ray_client` (exit 2), `ray_unreachable` (exit 1).
    """
    extras.require("ray")
    import ray

    if cluster.address.startswith("ray://"):
        raise QlaunchError(
            "a run on Ray reads its files on a machine of the cluster, which Ray Client is not",
            code="ray_client",
            fix="run it on one of its machines: --ray auto; or by `ray job submit`",
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told of a run
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # to stderr, which is ours
    own = {"include_dashboard": False} if cluster.address == "local" else {}
    try:
        _require_listener(cluster.address)
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except (OSError, ValueError, RuntimeError) as error:
        raise QlaunchError(
            f"no Ray cluster answers at {cluster.address}: {_first_line(error)}",
            code="ray_unreachable",
            exit_code=ExitCode.UNEXPECTED,
            fix="see `ray status` there; --ray local starts one for this run",
        ) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's own making, and no one's to act on
            yield Connection(ray, cluster)
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Fail at once where nobody listens: Ray itself tries for minutes.

    Raises:
        OSError: nobody does.
        ValueError: the port is no number.
    """
    host, colon, port = address.rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()


class Connection:
    """A cluster that answers."""

    def __init__(self, ray: Any, cluster: Cluster) -> None:
        self._ray, self._cluster = ray, cluster

    def workers(self, recipe: Recipe) -> int:
        """How many workers there will be.

        Raises:
            QlaunchError: `ray_no_gpu` (exit 4).
        """
        if self._cluster.workers is not None:
            return self._cluster.workers
        if profile := _on_gpu(recipe):
            gpus = int(self._ray.cluster_resources().get("GPU", 0))
            if not gpus:
                raise QlaunchError(
                    f"the cluster has no GPU, and {profile} needs one",
                    code="ray_no_gpu",
                    exit_code=ExitCode.DOES_NOT_FIT,
                    fix="name a profile for a CPU, or servers elsewhere: --url",
                )
            return gpus
        return max(1, sum(bool(node["Alive"]) for node in self._ray.nodes()))

    def answers(self, recipe: Recipe, opened: Open, start: Position) -> Iterator[Answered]:
        """What comes of all batches from `start` on, in their order; first, of the sentence.

        Raises:
            QlaunchError: `servers_differ` (exit 7), `embed_failed` (exit 1); a worker's own.
        """
        first: Vector | None = None
        expected = _FIRST
        try:
            for row in self._rows(recipe, opened, start):
                if row["failure"]:
                    raise _raised(row["failure"])
                answered = Answered(row["index"], unpacked(row["answers"]), vector(row["probe"]))
                first = first if first is not None else answered.probe
                check_alike([("the first worker", first), ("another worker", answered.probe)])
                assert answered.index == expected, "Ray keeps the order: preserve_order"
                expected += 1
                yield answered
        except self._ray.exceptions.RayError as error:
            raise QlaunchError(
                f"a worker of the cluster failed: {_first_line(error)}",
                code="embed_failed",
                exit_code=ExitCode.UNEXPECTED,
                fix="see to it (`ray status`), then run the same command again to go on",
            ) from error

    def _rows(self, recipe: Recipe, opened: Open, start: Position) -> Iterator[Mapping[str, Any]]:
        data, workers = self._ray.data, self.workers(recipe)
        self._configure()
        here = self._ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
            self._ray.get_runtime_context().get_node_id(), soft=False
        )
        at_once = _AHEAD * recipe.concurrency
        texts = data.from_items([{"row": start.row}]).map_batches(
            _reader(recipe, opened, start, at_once),
            batch_size=None,
            batch_format="pyarrow",
            num_cpus=0,
            scheduling_strategy=here,
        )
        found = texts.map_batches(
            Worker,
            fn_constructor_args=(recipe,),
            batch_size=at_once,
            batch_format="pyarrow",
            compute=data.ActorPoolStrategy(size=workers),
            scheduling_strategy="SPREAD",
            **({"num_gpus": 1} if _on_gpu(recipe) else {"num_cpus": 1}),
        )
        for table in found.iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from table.to_pylist()

    def _configure(self) -> None:
        context = self._ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.target_max_block_size = BLOCK_BYTES
        context.target_min_block_size = BLOCK_BYTES // 4


def _reader(
    recipe: Recipe, opened: Open, start: Position, many: int
) -> Callable[[Any], Iterator[Any]]:
    """What reads the files: tables of `index` and `texts`, a batch a row, `many` rows each."""

    def table(rows: list[tuple[int, list[str]]]) -> Any:
        import pyarrow as pa

        indices, texts = zip(*rows, strict=True)
        return pa.table(
            {
                "index": pa.array(indices, pa.int64()),
                "texts": pa.array(texts, pa.list_(pa.large_string())),
            }
        )

    def read(_: Any) -> Iterator[Any]:
        rows: list[tuple[int, list[str]]] = [(_FIRST, [PROBE])]
        source = batches(opened().rows(start), recipe.limits, recipe.worded)
        for index, batch in enumerate(source):
            if len(rows) >= many:
                yield table(rows)
                rows = []
            rows.append((index, batch.texts))
        yield table(rows)

    return read


def _on_gpu(recipe: Recipe) -> str | None:
    """The profile of workers that need a GPU each; None where they need none."""
    own = recipe.service
    return own.profile if own is not None and own.device == "cuda" else None


def _raised(data: bytes) -> QlaunchError:
    told = msgspec.msgpack.decode(data, type=Failure)
    return QlaunchError(
        told.message, code=told.code, exit_code=ExitCode(told.exit_code), fix=told.fix
    )


def _first_line(error: BaseException) -> str:
    """What a person can use of Ray's pages of text: the last line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
