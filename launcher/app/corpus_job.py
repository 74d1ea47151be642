"""`qlaunch embed`: from what was asked for to an output that is whole, or can be gone on with."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from launcher import __version__, extras
from launcher.app import corpus_probe, corpus_ray, corpus_servers
from launcher.app.corpus_ray_worker import Recipe
from launcher.app.corpus_servers import Follow, Say, Servers, serving
from launcher.corpus.asking import Asker
from launcher.corpus.batches import Limits, batches
from launcher.corpus.encoders import Encoder, JsonlEncoder, NpyEncoder
from launcher.corpus.endpoints import Endpoint, Pool
from launcher.corpus.inputs import (
    INPUT_SUFFIXES,
    OUTPUT_SUFFIXES,
    InputFormat,
    InputIdentity,
    Inputs,
    OutputFormat,
    format_of,
    identify,
)
from launcher.corpus.journal import Identity
from launcher.corpus.output import Output, files_of
from launcher.corpus.parquet import ArrowEncoder, scan_jsonl
from launcher.corpus.records import Carry, Vector, unreadable
from launcher.corpus.run import Run
from launcher.corpus.writing import Writer
from launcher.documents.plan import Plan
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import place_problem
from launcher.model.checkpoint import Prompts
from launcher.units import counted
from launcher.verify.instruction import Wording

CALL_BYTES: Final = 256 << 10
"""Most bytes of text of one call to a server that names no limit."""


@dataclass(frozen=True)
class Job:
    """What was asked for."""

    files: tuple[Path, ...]
    out: Path
    servers: Servers
    input_format: InputFormat | None = None
    output_format: OutputFormat | None = None
    column: str | None = None
    output_column: str = "embedding"
    prompt: str | None = None
    truncate: bool = False
    dimensions: int | None = None
    batch: int = 32
    concurrency: int = 4
    patience_s: float = 600.0
    restart: bool = False
    force: bool = False
    cluster: corpus_ray.Cluster | None = None
    """Ray's, whose workers embed; None: this process asks the servers."""


@dataclass
class Outcome:
    """What came of it."""

    out: Path
    format: OutputFormat
    model: str | None = None
    dimensions: int | None = None
    endpoints: list[str] = field(default_factory=list)
    rows: int = 0
    bad: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    bad_file: Path | None = None
    resumed_rows: int | None = None
    """Rows that an earlier run had done; None where there was none."""
    seconds: float = 0.0
    """From the first call to the last commit, of this run alone."""
    rows_per_s: float | None = None
    interrupted: bool = False


@dataclass(frozen=True)
class Moment:
    """How far a run is, for people."""

    rows: int
    bad: int
    share: float
    rows_per_s: float | None
    left_s: float | None


Watch = Callable[[Moment], object]


def check_paths(files: Sequence[Path], out: Path) -> tuple[tuple[Path, ...], Path]:
    """Inputs and output as real paths.

    Raises:
        QlaunchError: `input_unreadable`, `output_is_input`, `output_unusable` (exit 2).
    """
    inputs = []
    for path in files:
        if not path.exists():
            raise unreadable(path, "there is no such file")
        if not path.is_file():
            raise unreadable(path, "it is not a file", fix="write the texts into a file first")
        inputs.append(path.resolve())
    real = out.resolve()
    for path in (real, *files_of(real)):
        if path in inputs or (path.exists() and any(map(path.samefile, inputs))):
            raise _unusable(out, f"{path.name} is an input of this run")
    if len(set(inputs)) < len(inputs):
        twice = next(path for path in inputs if inputs.count(path) > 1)
        raise unreadable(twice, "it is named twice", fix="name every file once")
    # A pipe (/dev/stdout), or a file that somebody has open and that no name leads to.
    if out.exists() and not real.is_file():
        raise _unusable(out, "it is not a file")
    if str(out) == "-":
        raise _unusable(out, "it does not go to stdout")
    if (problem := place_problem(real)) is not None:
        raise _unusable(out, problem)
    return tuple(inputs), real


def _unusable(out: Path, why: str) -> QlaunchError:
    return QlaunchError(
        f"cannot write {out}: {why}",
        code="output_is_input" if "is an input" in why else "output_unusable",
        fix="choose another --output",
    )


def wording(plan: Plan | None, prompt: str | None) -> Callable[[str], str]:
    """What puts the prompt before a text, as `embed()` of the Python interface does.

    Raises:
        QlaunchError: `prompt_unknown` (exit 2).
    """
    own = (plan.expectation.prompts if plan is not None else None) or Prompts()
    if prompt is None:
        return lambda text: own.plain + text
    card = plan.expectation.card if plan is not None else None
    words = Wording(card.instruction if card is not None else None, own.query, own.document)
    if plan is not None and prompt in ("query", "document"):
        return words.query if prompt == "query" else words.document
    if prompt in own.named:
        return lambda text: own.named[prompt] + text
    if plan is None:
        why, fix = "the model behind --url is not known", "put the prompt into the texts"
    else:
        why = f"model {plan.model_name} has no prompt named {prompt!r}"
        fix = f"its prompts: {', '.join(('query', 'document', *own.named))}"
    raise QlaunchError(why, code="prompt_unknown", fix=fix)


def run_job(job: Job, say: Say, follow: Follow, watch: Watch) -> Outcome:
    """Embed a corpus; an interrupt ends it in order, and it can be gone on with.

    Args:
        job: what was asked for.
        say: told of steps.
        follow: told of a start's states.
        watch: told how far it is.

    Raises:
        QlaunchError: the refusals above; `embed_differs`, `output_exists`, `embed_busy` (exit 9);
            `embed_failed`; `servers_differ` (exit 7); `input_changed` (exit 9); a start's own.
        OSError: the disk.
    """
    return _Work(job, say, follow, watch).run()


class _Work:
    def __init__(self, job: Job, say: Say, follow: Follow, watch: Watch) -> None:
        self._job, self._say, self._follow, self._watch = job, say, follow, watch
        self._files, self._out = check_paths(job.files, job.out)
        self._format: OutputFormat = format_of(
            job.out, OUTPUT_SUFFIXES, job.output_format, "--format"
        )
        self._plan = job.servers.plan
        self._worded = wording(self._plan, job.prompt)
        self._limits = _limits(job, self._plan)
        self._input_format = self._one_format()
        self._open = functools.partial(
            Inputs, self._files, self._input_format, job.column, job.output_column, self._carry()
        )
        self._inputs = self._open()
        self._began = 0.0
        self._share_before = 0.0

    def _carry(self) -> Carry:
        if self._format == "npy":
            return "nothing"
        if self._format == "parquet":
            extras.require("embed")
            return "values"
        return "json"

    def _one_format(self) -> InputFormat:
        job = self._job
        kinds: list[InputFormat] = [
            format_of(path, INPUT_SUFFIXES, job.input_format, "--input-format")
            for path in self._files
        ]
        for path, kind in zip(self._files, kinds, strict=True):
            if kind != kinds[0]:
                raise unreadable(
                    path, f"it is {kind}, and {self._files[0]} is {kinds[0]}",
                    fix="embed files of one format at a time",
                )  # fmt: skip
        return kinds[0]

    def run(self) -> Outcome:
        self._say("reading the input once, to know it again")
        inputs = tuple(map(identify, self._files))
        output = Output(
            self._out,
            self._identity(inputs),
            differences,
            restart=self._job.restart,
            force=self._job.force,
        )
        outcome = Outcome(self._out, self._format)
        if output.resumed:
            outcome.resumed_rows = output.at.rows
            self._say(f"going on after {counted(output.at.rows + output.at.bad, 'row', ',')}")
        try:
            if not output.journal.last.whole:
                self._embed(output, outcome)
            if not outcome.interrupted:
                self._finish(output, outcome, inputs)
        finally:
            output.close()
        self._fill(output, outcome)
        return outcome

    def _identity(self, inputs: tuple[InputIdentity, ...]) -> Identity:
        job, plan = self._job, self._plan
        return Identity(
            inputs=inputs,
            model={
                "name": plan.model_name if plan is not None else job.servers.url_model,
                "fingerprint": plan.fingerprint if plan is not None else None,
                "dtype": plan.expectation.dtype if plan is not None else None,
            },
            settings={
                "--input-format": self._input_format,
                "--format": self._format,
                "--column": self._inputs.column,
                "--output-column": job.output_column,
                "--prompt": self._worded("…"),
                "--truncate": job.truncate,
                "--dimensions": job.dimensions,
                "--batch": job.batch,
                "the server's limit of a call": self._limits.call_bytes,
                "the server's limit of a text": self._limits.text_bytes,
            },
        )

    def _embed(self, output: Output, outcome: Outcome) -> None:
        servers, before = self._job.servers, output.at.started
        if self._job.cluster is not None:
            recipe = self._recipe()
            with corpus_ray.connected(self._job.cluster) as connection:
                outcome.interrupted = self._on_ray(connection, recipe, output, outcome)
            outcome.seconds = time.monotonic() - self._began
            return
        with serving(servers, before, self._say, self._follow) as (endpoints, life):
            outcome.endpoints = [endpoint.name for endpoint in endpoints]
            with asyncio.Runner() as runner:
                outcome.interrupted = runner.run(self._ask(endpoints, output, life))
        outcome.seconds = time.monotonic() - self._began

    async def _ask(self, endpoints: list[Endpoint], output: Output, life: str | None) -> bool:
        job = self._job
        pool = Pool(
            endpoints,
            connections=job.concurrency,
            dimensions=job.dimensions,
            patience_s=job.patience_s,
            say=self._say,
        )
        async with pool:
            self._began = time.monotonic()
            try:
                probe = await corpus_probe.ask_all(pool, job.patience_s, self._say)
            except asyncio.CancelledError:
                return True
            writer = self._writer(output, probe, endpoints[0].model)
            output.started(life)
            asker = Asker(pool, self._limits, self._worded)
            at_once = job.concurrency * len(endpoints)
            return await Run(self._inputs, asker, writer, at_once).whole()

    def _writer(self, output: Output, probe: Vector, model: str) -> Writer:
        """The output, opened for vectors of the model that answered the known sentence so."""
        if not output.resumed:
            output.identity.model["name"] = model
        corpus_probe.hold_to(output, probe)
        encoder = self._encoder(len(probe))
        output.open(encoder)
        self._share_before = self._inputs.share(output.at.position)
        before = output.at.rows + output.at.bad
        return Writer(output, encoder, lambda here: self._tell(here, before))

    def _on_ray(
        self, connection: corpus_ray.Connection, recipe: Recipe, output: Output, outcome: Outcome
    ) -> bool:
        """Have a cluster embed what is left; whether it was interrupted."""
        start = output.at.position
        workers = connection.workers(recipe)
        outcome.endpoints = [each[0] for each in recipe.endpoints]
        if recipe.service is not None:
            outcome.endpoints.append(f"{recipe.service.service}-ray")
        self._say(f"{workers} worker{'s' if workers > 1 else ''} of the cluster, starting")
        self._began = time.monotonic()
        answered = connection.answers(recipe, self._open, start)
        model = recipe.service.model_name if recipe.service else recipe.endpoints[0][2]
        writer: Writer | None = None
        try:
            writer = self._writer(output, next(answered).probe, model)
            source = batches(self._inputs.rows(start), self._limits, self._worded)
            for batch, each in zip(source, answered, strict=True):
                writer.take(batch, each.answers)
                if writer.due:
                    writer.commit()
            writer.release()
        except KeyboardInterrupt:
            return True
        finally:
            if writer is not None:
                writer.commit()
        return False

    def _recipe(self) -> Recipe:
        """What workers are told.

        Raises:
            QlaunchError: `ray_local_service` (exit 2), `models_unknown` (exit 1).
        """
        job, servers = self._job, self._job.servers
        named = [corpus_servers.of_url(url, servers, self._say) for url in servers.urls]
        here = [plan.service for plan in servers.plans if plan is not servers.to_start]
        if here:
            raise QlaunchError(
                f"service {here[0]} runs on this machine, where workers do not reach it",
                code="ray_local_service",
                fix="name a profile, which every worker starts for itself: --profile NAME; or an "
                "address that all of them reach: --url URL",
            )
        return Recipe(
            version=__version__,
            endpoints=tuple((each.name, each.url, each.model, each.key) for each in named),
            service=servers.to_start,
            limits=self._limits,
            worded=self._worded,
            dimensions=job.dimensions,
            concurrency=job.concurrency,
            patience_s=job.patience_s,
        )

    def _encoder(self, dimensions: int) -> Encoder:
        name = self._job.output_column
        if self._format == "npy":
            return NpyEncoder(dimensions)
        if self._format == "jsonl":
            return JsonlEncoder(name, dimensions)
        columns: dict[str, str] | None = dict.fromkeys(self._inputs.columns, "string")
        if self._input_format == "parquet":
            columns = None
        elif self._input_format == "jsonl":
            columns = scan_jsonl(self._files)
            columns.setdefault(self._inputs.column, "string")
            columns.pop(name, None)  # rows that have it are bad rows
        return ArrowEncoder(columns, self._inputs.schema, name, dimensions)

    def _tell(self, output: Output, before: int) -> None:
        at, took = output.at, time.monotonic() - self._began
        share = self._inputs.share(at.position)
        done = share - self._share_before
        rate = (at.rows + at.bad - before) / took if took > 0 else None
        left = took * (1 - share) / done if done > 0 else None
        self._watch(Moment(at.rows, at.bad, share, rate, left))

    def _finish(self, output: Output, outcome: Outcome, inputs: tuple[InputIdentity, ...]) -> None:
        for path, known in zip(self._files, inputs, strict=True):
            facts = path.stat()
            if (facts.st_size, facts.st_mtime_ns) != (known.bytes, known.mtime_ns):
                raise QlaunchError(
                    f"{path} was changed while it was read",
                    code="input_changed",
                    exit_code=ExitCode.CONFLICT,
                    fix="run it again with --restart, once the file no longer changes",
                )
        dimensions = len(corpus_probe.decoded(output.identity.probe))
        output.commit(whole=True)
        output.finish(self._encoder(dimensions))
        outcome.bad_file = output.bad if output.at.bad else None

    def _fill(self, output: Output, outcome: Outcome) -> None:
        at = output.at
        outcome.rows, outcome.bad, outcome.reasons = at.rows, at.bad, dict(at.reasons)
        outcome.model = output.identity.model["name"]
        outcome.dimensions = len(corpus_probe.decoded(output.identity.probe)) or None
        done = at.rows + at.bad - (outcome.resumed_rows or 0)
        if outcome.seconds > 0 and done > 0:
            outcome.rows_per_s = done / outcome.seconds


def _limits(job: Job, plan: Plan | None) -> Limits:
    guard = plan.guard if plan is not None else None
    if job.dimensions is not None and guard is not None:
        whole = guard.dimensions
        if job.dimensions > whole or (job.dimensions < whole and not guard.cut):
            raise QlaunchError(
                f"this model's vectors have {whole} numbers"
                + ("" if guard.cut else ", and cannot be cut"),
                code="bad_dimensions",
                fix="leave --dimensions out" if not guard.cut else f"give at most {whole}",
            )
    if guard is None:
        return Limits(job.batch, CALL_BYTES, None, job.truncate)
    texts = min(job.batch, guard.inputs)
    return Limits(texts, min(CALL_BYTES, guard.call_bytes), guard.text_bytes, job.truncate)


def differences(before: Identity, now: Identity) -> list[str]:
    """In what a journal's run differs from this one, in words; empty where it is the same."""
    if before.version != now.version:
        return ["it was written by another version of qlaunch"]
    said = []
    old, new = before.inputs, now.inputs
    if len(old) != len(new):
        said.append(f"it has {counted(len(old), 'input')}, and now there are {len(new)}")
    for one, other in zip(old, new, strict=False):
        if (one.bytes, one.digest) != (other.bytes, other.digest):
            name = other.path
            changed = "has changed since" if one.path == name else f"is not {one.path}"
            said.append(f"{name} {changed}")
    for name, value in now.model.items():
        if value is not None and before.model.get(name) not in (None, value):
            said.append(f"its model's {name} is {before.model[name]}, and now {value}")
    for name, setting in now.settings.items():
        if before.settings.get(name) != setting:
            said.append(f"{name} was {before.settings.get(name)!r}, and is {setting!r}")
    return said
