"""Calls of the long suite, one after the other, within a budget of the engine's time.

A slow CPU takes minutes for what a GPU takes a second for. So the rate is measured first, what
does not fit the budget is left out, and the report says so. The reference's time does not count:
it is cached.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Literal

from launcher.verify.embedding_client import CallError, EmbeddingAnswer
from launcher.verify.observations import Ask
from launcher.verify.texts import fresh_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from launcher.verify.embedding_client import EmbeddingClient
    from launcher.verify.texts import Text

CALL_LIMIT_S = 30.0
"""Least patience for one call; more where the measured rate asks for it."""
PATIENCE = 4.0
"""Times the expected duration that a call may take: other clients have their share too."""
BYTES_PER_TOKEN = 3
"""For texts whose tokens nobody has counted yet: about the average over the corpus."""


def estimate(text: str) -> int:
    """Tokens of a text that was not counted: bytes / 3, and two marks."""
    return len(text.encode()) // BYTES_PER_TOKEN + 2


class Session:
    """What was asked and answered so far, and the time that is left.

    Args:
        client: asks the endpoint.
        seconds: engine time the suite may take.
    """

    def __init__(self, client: EmbeddingClient, seconds: float) -> None:
        self._client = client
        self._left = seconds
        self.seconds = seconds
        self.asks: dict[str, Ask] = {}
        self.left_out: list[str] = []
        self.over = False
        """Set when the server gave no answer: what would follow says nothing new."""
        self.tokens = 0
        """Tokens asked, by the engine's own count."""
        self.rate: float | None = None
        """Tokens a second, once measured."""

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def measure(self, sample: Sequence[Text]) -> None:
        """Warm the engine up and measure its rate; if it does not answer, all is over."""
        # Texts nobody asked before: a prefix cache would make the rate look better than it is.
        fresh = [f"{fresh_text()} {each.text}" for each in sample]
        warm = self.once(fresh[:1])
        batch = warm if isinstance(warm, CallError) else self.once(fresh)
        if isinstance(batch, CallError):
            self.asks["first"] = Ask("first", tuple(each.name for each in sample), error=batch)
            self.over = True
            return
        tokens = batch.tokens or sum(map(estimate, fresh))
        self.rate = tokens / max(batch.seconds, 1e-3)

    def affords(self, tokens: int, share: float = 1.0) -> bool:
        """Whether `tokens` fit in this share of what is left."""
        return self._left > 0 and tokens <= self.tokens_for(self._left * share)

    def tokens_for(self, seconds: float) -> float:
        """Tokens the engine takes in `seconds`."""
        return float("inf") if self.rate is None else self.rate * seconds

    def once(
        self,
        inputs: Sequence[str] | Sequence[Sequence[int]],
        *,
        dimensions: int | None = None,
        encoding: Literal["float", "base64", "default"] = "float",
    ) -> EmbeddingAnswer | CallError:
        """One call that is not kept as evidence; its time is taken from the budget."""
        size = sum(estimate(each) if isinstance(each, str) else len(each) for each in inputs)
        patience = max(CALL_LIMIT_S, PATIENCE * size / self.rate if self.rate else 0.0)
        began = time.monotonic()
        try:
            if encoding == "default":
                return self._client.embed_default(str(inputs[0]), patience)
            answer = self._client.embed(inputs, patience, dimensions=dimensions, encoding=encoding)
        except CallError as error:
            self.over = self.over or error.kind in ("timeout", "refused")
            return error
        else:
            self.tokens += answer.tokens or 0
            return answer
        finally:
            self._left -= time.monotonic() - began

    def ask(
        self,
        call: str,
        texts: Iterable[Text],
        *,
        ids: Sequence[Sequence[int]] | None = None,
        encoding: Literal["float", "base64", "default"] = "float",
        always: bool = False,
    ) -> Ask:
        """One call that is kept as evidence, under the name `call`.

        Not made if all is over; not even kept if the time is up.

        Args:
            texts: what to ask.
            ids: their token ids, to be sent in their place.
            always: ask it even if the time is up.
        """
        asked = tuple(texts)
        names = tuple(each.name for each in asked)
        if self.over:
            return self.asks.setdefault(call, Ask(call, names))
        if self._left <= 0 and not always:
            self.left_out.append(f"the call {call!r}: the time was up")
            return Ask(call, names)
        found = self.once(ids or [each.text for each in asked], encoding=encoding)
        if isinstance(found, CallError):
            self.over = self.over or call == "first"
            self.asks[call] = Ask(call, names, error=found)
        else:
            self.asks[call] = Ask(call, names, found)
            if call == "first" and found.tokens:
                # The largest call so far: a better measure than the first small one.
                self.rate = found.tokens / max(found.seconds, 1e-3)
        return self.asks[call]
