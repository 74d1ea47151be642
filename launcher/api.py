"""`from launcher import embed`: vectors from a service, which is started where it does not run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from launcher.errors import ExitCode, QlaunchError
from launcher.model.checkpoint import Prompts

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from launcher.documents.plan import Plan
    from launcher.verify.embedding_client import CallError

    Vectors = NDArray[np.float32] | list[list[float]]

BATCH = 64
"""Most texts a call: what the profiles' engines run at once."""
CALL_LIMIT_S = 300.0
"""Longest wait for one call: 64 long texts on a slow CPU."""


@dataclass(frozen=True)
class Service:
    """Where to ask, and what the model expects."""

    endpoint: str
    model: str
    key: str | None
    dimensions: int
    instruction: str | None
    prompts: Prompts | None = None
    call_bytes: int | None = None
    """Most bytes of text that it takes in one call; None where it says nothing."""


def embed(
    texts: Sequence[str],
    *,
    service: str = "cpu-minilm",
    kind: Literal["document", "query"] | None = None,
    task: str | None = None,
    prompt: str | None = None,
    start: bool = True,
) -> Vectors:
    """Vectors of `texts`, in their order.

    Args:
        texts: what to embed; none of them empty.
        service: name of a running service, or of one that ran before, or of a profile; or a model
            as `qlaunch up` takes it (`./folder`, `hf:ORG/NAME`). One that does not run is started
            and left running; its first start fetches what is missing.
        kind: `query` and `document` put before each text what the model wants there: the prompt of
            its own files, else, for queries, the instruction of the model card. None is a document,
            or takes the default prompt where the model's files name one, as sentence-transformers'
            `encode` does.
        task: what the queries are for, in a sentence, for models with an instruction; None is web
            search.
        prompt: name of a prompt in the model's files (such as `STS`), put before each text instead.
        start: False refuses instead of starting.

    Returns:
        (texts, dimensions): a float32 array where numpy can be imported, else a list of lists.

    Raises:
        TypeError: `texts` is one text and not several, or holds something that is no text.
        ValueError: `kind` is none of those above, or a text is no valid Unicode.
        QlaunchError: `no_such_service` or `not_running` (3) with `start=False`; the start's own;
            `prompt_unknown` (2), naming those there are;
            `embed_failed` (1; 2 where the service refuses a text, 8 after a timeout) with what the
            server said.
    """
    _check(texts, kind)
    found = find(service, start=start)
    vectors = ask(found, _worded(found, texts, kind, task, prompt))
    if find_spec("numpy") is None:
        return vectors
    import numpy as np

    return np.asarray(vectors, dtype=np.float32).reshape(len(vectors), found.dimensions)


def _check(texts: Sequence[str], kind: str | None) -> None:
    """Refuse what no service could embed, before one is looked for; raises as `embed`."""
    if isinstance(texts, str | bytes):
        raise TypeError("texts is one text: give a list of texts, such as [text]")
    if kind not in (None, "query", "document"):
        raise ValueError(f"kind is {kind!r}: give 'query', 'document' or None")
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{at}] is of type {type(text).__name__}: give texts only")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"texts[{at}] is not valid Unicode: half a character (a lone surrogate) stands at"
                f" {error.start}"
            ) from None


def _worded(
    service: Service, texts: Sequence[str], kind: str | None, task: str | None, prompt: str | None
) -> list[str]:
    """`texts` as they are to be sent."""
    from launcher.verify.instruction import Wording

    own = service.prompts or Prompts()
    if prompt is not None:
        if prompt not in own.named:
            raise QlaunchError(
                f"model {service.model} has no prompt named {prompt!r}",
                code="prompt_unknown",
                fix=f"its prompts: {', '.join(own.named) or 'none'}",
            )
        return [own.named[prompt] + text for text in texts]
    wording = Wording(service.instruction, own.query, own.document)
    if kind == "query":
        return [wording.query(text, task) for text in texts]
    before = own.plain if kind is None else own.document
    return [before + text for text in texts]


def find(name: str, *, start: bool = True) -> Service:
    """The service called `name`, started if need be; raises as `embed`."""
    from launcher.app import named_model
    from launcher.app.prepare import profiles_dir
    from launcher.app.running_service import api_key, running
    from launcher.paths import dirs

    name = named_model.meant(name, profiles_dir(dirs()))
    try:
        plan, endpoint = running(name)
    except QlaunchError as error:
        startable = ("no_such_service", "not_running", "bad_service_name")
        if error.code not in startable or not start:
            raise
        plan, endpoint = _started(name, known=error.code == "not_running")
    card = plan.expectation.card
    return Service(
        endpoint=endpoint,
        model=plan.model_name,
        key=api_key(plan),
        dimensions=plan.expectation.dimensions,
        instruction=None if card is None else card.instruction,
        prompts=plan.expectation.prompts,
        call_bytes=None if plan.guard is None else plan.guard.call_bytes,
    )


def _started(name: str, *, known: bool) -> tuple[Plan, str]:
    """Start a service that ran before from its own plan, else the profile of that name."""
    from launcher.app.prepare import Request, prepare, require_fit
    from launcher.service import control, store

    if known:
        plan = store.read_plan(store.folder(name))
    else:
        prepared = prepare(Request(profile=name, given={}), lambda _: None)
        require_fit(prepared)
        plan = prepared.plan
    state = control.launch(plan)
    assert state.endpoint is not None  # launch returns services that are up
    return plan, state.endpoint


def ask(service: Service, texts: Sequence[str]) -> list[list[float]]:
    """Vectors of `texts` as they are, at most `BATCH` a call, and fewer where they are long.

    Raises:
        QlaunchError: `embed_failed`.
    """
    from launcher.verify.embedding_client import CallError, EmbeddingClient

    client = EmbeddingClient(service.endpoint, service.model, service.key)
    vectors: list[list[float]] = []
    try:
        for batch in _batches(texts, service.call_bytes):
            answer = client.embed(batch, CALL_LIMIT_S, encoding="base64")
            placed = {item.index: item.vector for item in answer.items}
            widths = {len(vector) for vector in placed.values()}
            if placed.keys() != set(range(len(batch))) or widths != {service.dimensions}:
                raise CallError(
                    "unreadable", "the answer does not hold one whole vector for each text"
                )
            vectors += [placed[at] for at in range(len(batch))]
    except CallError as error:
        raise _failed(service, len(texts), error) from error
    finally:
        client.close()
    return vectors


def _batches(texts: Sequence[str], most: int | None) -> Iterator[list[str]]:
    """`texts` in order, cut into calls of at most `BATCH` texts and `most` bytes.

    A text of more bytes than that goes alone: the service says what is wrong with it.
    """
    batch: list[str] = []
    size = 0
    for text in texts:
        more = len(text.encode())
        if batch and (len(batch) == BATCH or (most is not None and size + more > most)):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += more
    if batch:
        yield batch


REFUSED = range(400, 500)
"""HTTP status where the service works, and what it was asked for is wrong."""
NOT_OF_TEXTS = (401, 403, 404, 408, 429)
"""But these say nothing of the texts: key, origin, model, patience."""


def _failed(service: Service, count: int, error: CallError) -> QlaunchError:
    """A call's failure as `embed` raises it."""
    message = f"{service.endpoint} did not embed {count} text{'s' if count != 1 else ''}: {error}"
    if error.status in REFUSED and error.status not in NOT_OF_TEXTS:
        return QlaunchError(
            message,
            code="embed_failed",
            fix="change that text: cut it, or leave it out where it is empty",
        )
    return QlaunchError(
        message,
        code="embed_failed",
        exit_code=ExitCode.TIMEOUT if error.kind == "timeout" else ExitCode.UNEXPECTED,
        fix="look at the service: qlaunch ps, then qlaunch logs NAME",
    )
