"""Whether clients get through a service's gateway what its engine gives: made, kept, mixed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, Literal

from launcher.documents.smoke import Check, VerifyRequest
from launcher.verify.embedding_client import CallError, EmbeddingClient
from launcher.verify.observations import cosine
from launcher.verify.texts import BY_NAME, fresh_text
from launcher.verify.thresholds import same_min

if TYPE_CHECKING:
    from launcher.verify.reference import Vector

NAME: Final = "gateway"
CALL_S: Final = 60.0
_KNOWN: Final = ("zh_weather", "one_token", "emoji")


def check_gateway(request: VerifyRequest, gateway: str, key: str | None) -> Check:
    """Ask the same texts through the gateway (`http://host:port/v1`) and past it, and compare.

    Never raises for what either answers. The texts are some that were never asked, which it must
    have made, and some that it may have kept; the second call has them in another order.
    """
    texts = [*(BY_NAME[name] for name in _KNOWN if name in BY_NAME), fresh_text(), fresh_text()]
    front = EmbeddingClient(gateway, request.model, key)
    engine = EmbeddingClient(request.endpoint, request.model, key)
    try:
        first = _vectors(front, texts, "base64")
        again = _vectors(front, texts[::-1], "float")
        direct = _vectors(engine, texts, "base64")
    except CallError as error:
        return Check(name=NAME, ok=False, detail=f"{gateway}: {error}")
    finally:
        front.close()
        engine.close()
    faults = list(_faults(texts, first, again, direct, same_min(request.dtype)))
    least = min(cosine(first[text], direct[text]) for text in texts) if not faults else 0.0
    found = f"{len(texts)} texts, made and kept, in two orders: least cosine {least:.5f}"
    return Check(name=NAME, ok=not faults, detail="; ".join(faults) or found)


def _vectors(
    client: EmbeddingClient, texts: list[str], encoding: Literal["float", "base64"]
) -> dict[str, Vector]:
    """By text; none for one whose index is missing."""
    answer = client.embed(texts, CALL_S, encoding=encoding)
    placed = {item.index: item.vector for item in answer.items}
    return {text: placed[at] for at, text in enumerate(texts) if at in placed}


def _faults(
    texts: Sequence[str],
    first: Mapping[str, Vector],
    again: Mapping[str, Vector],
    direct: Mapping[str, Vector],
    least: float,
) -> Iterator[str]:
    """What is wrong, in words that quote no text."""
    for at, text in enumerate(texts):
        if not all(text in vectors for vectors in (first, again, direct)):
            yield f"text {at} has no vector"
        elif not cosine(first[text], again[text]) >= 0.999999:
            yield f"text {at} has another vector when it is asked again"
        elif not cosine(first[text], direct[text]) >= least:
            close = cosine(first[text], direct[text])
            yield f"text {at} has cosine {close:.5f} with the engine's own, at least {least} asked"
