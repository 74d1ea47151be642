"""Quality loss as a number: retrieval with the served vectors beside the checkpoint's own.

A cosine says how far rounding turned a vector; recall@10 says whether anybody would notice. The set
is small and made for this project (`data/retrieval.json`): ten topics in five pairs that are easy
to confuse, ten documents each, so that most queries have as many relevant documents as places and
a vector that is a little off changes the figure. It compares ways to serve one model, it does not
rank models.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from launcher.documents.smoke import QualityReport
from launcher.verify.embedding_client import CallError, EmbeddingClient
from launcher.verify.instruction import Wording, wording
from launcher.verify.observations import FLOAT32_MAX, cosine, norm
from launcher.verify.reference import obtain
from launcher.verify.texts import Text

if TYPE_CHECKING:
    from launcher.documents.smoke import VerifyRequest
    from launcher.verify.reference import Outcome, Vector

SET = Path(__file__).with_name("data") / "retrieval.json"
PLACES = 10
BATCH = 20
"""Texts a call: some 400 tokens, 1.6 s for Qwen3-0.6B on two cores."""
CALL_LIMIT_S = 120.0


class Document(msgspec.Struct, frozen=True):
    """One text to be found."""

    id: str
    text: str


class Query(msgspec.Struct, frozen=True):
    """One question, and the documents that answer it."""

    id: str
    text: str
    relevant: tuple[str, ...]


class RetrievalSet(msgspec.Struct, frozen=True):
    """Documents, and queries with their relevant documents."""

    about: str
    license: str
    documents: tuple[Document, ...]
    queries: tuple[Query, ...]


def load_set() -> RetrievalSet:
    """The set that ships with qlaunch."""
    return msgspec.json.decode(SET.read_bytes(), type=RetrievalSet)


def measure_quality(
    request: VerifyRequest,
    *,
    key: str | None,
    outcome: Outcome | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> QualityReport:
    """Ask every text of the set and compare; never raises for what a server or checkpoint does.

    Queries and documents carry what the model wants before them (`instruction.Wording`).

    Args:
        outcome: the reference of `texts_of`, where the caller has it; else it is obtained.
    """
    found = load_set()
    asked = texts_of(found, request)
    progress(f"retrieval: {len(found.documents)} documents, {len(found.queries)} queries")
    began = time.monotonic()
    try:
        served = _served(request, key, asked)
    except CallError as error:
        return _report(found, request, time.monotonic() - began, reason=str(error))
    seconds = time.monotonic() - began
    if outcome is None:
        progress("the reference of the retrieval set: from the cache, else computed in float32")
        outcome = obtain(request, asked)
    measured = _report(
        found, request, seconds, recall_at_10=recall(found, served), reference=outcome.status
    )
    return _compared(found, measured, served, outcome)


def texts_of(found: RetrievalSet, request: VerifyRequest) -> tuple[Text, ...]:
    """Documents and queries as clients should send them, named by their ids."""
    return worded(found, wording(request))


def worded(found: RetrievalSet, wanted: Wording) -> tuple[Text, ...]:
    """Documents and queries with what `wanted` puts before them, named by their ids."""
    return (
        *(Text(each.id, wanted.document(each.text)) for each in found.documents),
        *(Text(each.id, wanted.query(each.text)) for each in found.queries),
    )


def _served(request: VerifyRequest, key: str | None, asked: Sequence[Text]) -> dict[str, Vector]:
    """Vectors from the endpoint, by text name; raises CallError also for unusable ones."""
    client = EmbeddingClient(request.endpoint, request.model, key)
    vectors: dict[str, Vector] = {}
    try:
        for start in range(0, len(asked), BATCH):
            batch = asked[start : start + BATCH]
            answer = client.embed([each.text for each in batch], CALL_LIMIT_S)
            by_index = {item.index: item.vector for item in answer.items}
            if by_index.keys() != set(range(len(batch))):
                raise CallError("unreadable", "the answer does not have one vector for each text")
            vectors |= {each.name: by_index[at] for at, each in enumerate(batch)}
    finally:
        client.close()
    bad = [name for name, vector in vectors.items() if not _usable(vector, request.dimensions)]
    if bad:
        raise CallError("unreadable", f"{len(bad)} vectors are invalid, such as that of {bad[0]}")
    return vectors


def _usable(vector: Vector, width: int) -> bool:
    return len(vector) == width and norm(vector) > 0 and max(map(abs, vector)) <= FLOAT32_MAX


def _compared(
    found: RetrievalSet, measured: QualityReport, served: Mapping[str, Vector], outcome: Outcome
) -> QualityReport:
    """`measured` with what the reference says of it."""
    reference = outcome.reference
    if reference is None:
        reason = outcome.status.removeprefix("unavailable: ")
        return msgspec.structs.replace(measured, reason=reason)
    cosines = [cosine(vector, reference.vectors[name]) for name, vector in served.items()]
    if not all(math.isfinite(each) for each in cosines):
        reason = "the reference has invalid vectors, or vectors of another width"
        return msgspec.structs.replace(measured, reason=reason)
    theirs = recall(found, reference.vectors)
    assert measured.recall_at_10 is not None  # `measured` was made with it
    return msgspec.structs.replace(
        measured,
        reference_recall_at_10=theirs,
        recall_difference=measured.recall_at_10 - theirs,
        cosine_mean=math.fsum(cosines) / len(cosines),
        cosine_min=min(cosines),
    )


def recall(found: RetrievalSet, vectors: Mapping[str, Vector]) -> float:
    """Mean over the queries of: relevant documents among the first ten, of those there are.

    Documents are ranked by cosine; equal ones keep the set's order.
    """
    shares = []
    for query in found.queries:
        ranked = sorted(
            found.documents, key=lambda each: -cosine(vectors[query.id], vectors[each.id])
        )
        first = {each.id for each in ranked[:PLACES]}
        shares.append(len(first & set(query.relevant)) / len(query.relevant))
    return math.fsum(shares) / len(shares)


def _report(
    found: RetrievalSet,
    request: VerifyRequest,
    seconds: float,
    *,
    recall_at_10: float | None = None,
    reference: str = "unavailable: not asked for",
    reason: str | None = None,
) -> QualityReport:
    """A report without a comparison yet."""
    return QualityReport(
        documents=len(found.documents),
        queries=len(found.queries),
        recall_at_10=recall_at_10,
        seconds=round(seconds, 3),
        instructed=wording(request).query("") != "",
        reference=reference,
        reason=reason,
    )
