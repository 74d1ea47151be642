"""Name the knob that is likely wrong, from which checks failed and how.

The checks say what is wrong with the vectors; this says what an operator should look at. It is a
judgement by the strongest sign found, never more than one suspect, and None where no sign is clear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.verify.card_and_token_checks import card_faults, token_faults
from launcher.verify.checks import was_made
from launcher.verify.observations import cosine
from launcher.verify.thresholds import SMALL_LOSS_MIN, same_min

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.documents.smoke import Check
    from launcher.verify.card_and_token_checks import Fault
    from launcher.verify.checks import Parity
    from launcher.verify.embedding_client import CallError
    from launcher.verify.observations import Reading

_WORDS = {"cls": "CLS", "last": "the last token", "mean": "mean", "max": "maximum"}


@dataclass(frozen=True)
class Diagnosis:
    """The suspect, and one or two sentences for people; both None where nothing failed."""

    suspect: str | None = None
    explanation: str | None = None


UNSTEADY = frozenset({"repeatable", "alone_vs_batched", "any_order", "shared_prefix"})
"""Checks that compare answers to one text."""

SUITE: dict[str, Diagnosis] = {
    "base64": Diagnosis(
        "encoding",
        "Vectors are not the same numbers in base64 as in decimal. Ask for "
        "encoding_format='float', or try another engine release.",
    ),
    "token_ids": Diagnosis(
        "tokenizer",
        "Token ids have another vector than the text they stand for: the engine cuts texts into "
        "other tokens than transformers does, or adds marks to ids. Compare the tokenizer files.",
    ),
    "long_texts": Diagnosis(
        "long_texts",
        "Long texts are not served as short ones are. For encoders add --chunked-prefill-size -1; "
        "else compare --context-length, --max-prefill-tokens and --max-total-tokens with the "
        "length named.",
    ),
    "instruction": Diagnosis(
        "instruction",
        "A query with its instruction has the vector of the query alone: something between client "
        "and model cuts the beginning off.",
    ),
    "dimensions": Diagnosis(
        "dimensions",
        "Vectors cannot be cut to fewer dimensions as the model card says. The engine must be told "
        "that the model may be: -- --json-model-override-args '{\"is_matryoshka\": true}'.",
    ),
    "edges": Diagnosis(
        "limits",
        "The longest input that the engine answers is not the one that the plan says. Compare "
        "--context-length and --max-total-tokens with the positions of the checkpoint's "
        "config.json; an engine that is asked for more may end, or answer with wrong vectors.",
    ),
    "too_long": Diagnosis(
        "limits",
        "A text beyond the context is not refused with a reason: its vector stands for something "
        "other than the text. Cut texts in the client, and report this to the engine.",
    ),
    "empty": Diagnosis(
        "limits",
        "Empty input is not refused with a reason. Leave empty texts out in the client, and report "
        "this to the engine.",
    ),
}
"""What the long suite's own checks point to, in the order of their weight."""


def diagnose(reading: Reading, checks: Sequence[Check], parity: Parity) -> Diagnosis:
    """The likeliest cause of the failed checks."""
    failed = {check.name for check in checks if not check.ok and was_made(check)}
    if not failed:
        return Diagnosis()
    for ask in reading.evidence.asks.values():
        if ask.error is not None and ask.error.kind != "not_finite":
            return _call(ask.name, ask.error)
    if "finite" in failed:
        return _not_finite(reading, parity)
    if "card" in failed:
        return _fault(card_faults(reading.evidence.request)[0])
    if "dimension" in failed:
        return _dimension(reading)
    if failed & {"count", "order"}:
        return Diagnosis(
            "order",
            "The server loses, repeats or mixes up the vectors of a batch; nothing it returns can "
            "be matched to its text. Try another engine release, or one text a call.",
        )
    if "tokens" in failed:
        return _fault(token_faults(reading)[0])
    return _of_values(reading, failed, parity)


def _of_values(reading: Reading, failed: set[str], parity: Parity) -> Diagnosis:
    """The answers are whole and in order: what is wrong with the vectors themselves."""
    if "parity" in failed:
        return _parity(reading, failed, parity)
    if failed & UNSTEADY:
        return _unsteady(reading)
    if "unit_norm" in failed:
        return Diagnosis(
            "normalization",
            "The directions are right but the lengths are not 1: the engine skips the "
            "normalisation that the checkpoint asks for. Normalise in the client, or start the "
            "service with the engine plugin.",
        )
    of_suite = next((SUITE[name] for name in SUITE if name in failed), None)
    if of_suite is not None:
        return of_suite
    return Diagnosis(
        "model",
        "The vectors do not tell related from unrelated texts: this may be another kind of model "
        "or a damaged checkpoint. Compare the checkpoint's files with its source.",
    )


def _fault(fault: Fault) -> Diagnosis:
    return Diagnosis(fault.suspect, f"{fault.what}. {fault.fix}")


def _call(ask: str, error: CallError) -> Diagnosis:
    """A call that failed; the first one speaks for the server, a later one for itself."""
    if error.kind == "timeout":
        return Diagnosis(
            "wedged",
            "The engine accepts calls but stopped answering them, whatever its health page says. "
            "Restart it; if it happens again, add --disable-overlap-schedule or raise "
            "--max-running-requests (SGLang issue 22518).",
        )
    if error.kind == "refused":
        return Diagnosis(
            "not_listening",
            "Nothing answers at the endpoint. Look at the engine's log: it may have ended.",
        )
    if error.status in (401, 403):
        return Diagnosis(
            "api_key", "The server refuses the API key: it was started with another one."
        )
    if ask in ("default", "base64"):
        return _encoding()
    if error.kind == "unreadable":
        return Diagnosis(
            "endpoint",
            "What answers there does not speak the embeddings API: another program may own the "
            "port, or a proxy stands between.",
        )
    if ask.startswith("long") and error.status is not None and error.status < 500:
        return SUITE["long_texts"]
    if ask == "ids" and error.status is not None and error.status < 500:
        return SUITE["token_ids"]
    if ask == "overflow" and error.status is not None and error.status < 500:
        return Diagnosis(
            "batch_limit",
            "The server refuses a call with that many inputs, though it should queue them. Send "
            "smaller calls, or raise --max-running-requests.",
        )
    if error.status is not None and error.status < 500:
        return Diagnosis(
            "engine_flags",
            "The server refuses embedding calls. If its message says that the model is not "
            "an embedding model, start it with --is-embedding.",
        )
    return Diagnosis("engine_error", "The engine failed while computing: its log says why.")


def _not_finite(reading: Reading, parity: Parity) -> Diagnosis:
    if parity.broken_weights:
        return Diagnosis(
            "weights",
            "The checkpoint gives NaN, infinity or zeros even in float32: its weights are damaged. "
            "Fetch it again and compare its hash.",
        )
    dtype = reading.evidence.request.dtype
    return Diagnosis(
        "dtype",
        f"The engine returns invalid values (NaN, infinity or zero vectors) in {dtype}; "
        "float16 overflows in some models. Use bfloat16 or float32.",
    )


def _dimension(reading: Reading) -> Diagnosis:
    reference = reading.evidence.reference
    no_dense = reference.alternatives.get("no_dense") if reference is not None else None
    answer = reading.evidence.asks["first"].answer
    widths = {len(item.vector) for item in answer.items} if answer is not None else set()
    if no_dense and widths == {len(next(iter(no_dense.values())))}:
        return _dense()
    return Diagnosis(
        "dimension",
        "The vectors have another width than the checkpoint's: the server runs another model, or "
        "cuts or loses numbers. Compare the model it was started with.",
    )


def _dense() -> Diagnosis:
    return Diagnosis(
        "dense",
        "The engine returns the pooled vector without the checkpoint's Dense head. Start the "
        "service with the engine plugin.",
    )


def _parity(reading: Reading, failed: set[str], parity: Parity) -> Diagnosis:
    if parity.broken_weights:
        return _not_finite(reading, parity)
    if parity.reason is not None:
        return Diagnosis(
            "reference",
            f"The vectors could not be compared with the checkpoint's own: {parity.reason}.",
        )
    least = reading.evidence.request.parity_min
    bad = [each for each in parity.cosines if not each[0] >= least]
    first = sorted({name for _, name, ask in bad if ask == "first"})
    if not first:
        return _unsteady(reading)
    alternative = _matching_alternative(reading, first)
    if alternative is not None:
        return _pooling(reading, alternative)
    if failed & UNSTEADY:
        return _unsteady(reading)
    if min(bad)[0] >= SMALL_LOSS_MIN:
        return Diagnosis(
            "dtype",
            f"The vectors are close but not the same: {reading.evidence.request.dtype} or a "
            "quantised kernel loses more than it should. Try bfloat16 or float32.",
        )
    everywhere = len(reading.vectors.get("first", {}))
    if len(first) * 2 <= everywhere:
        return Diagnosis(
            "tokenizer",
            f"Only some texts differ ({', '.join(first)}): the engine may cut them into other "
            "tokens than transformers does. Compare the tokenizer files and their versions.",
        )
    return Diagnosis(
        "model",
        "The vectors match no pooling of this checkpoint: the engine serves other weights or "
        "another revision, or computes the model wrongly. Compare the model path it was started "
        "with.",
    )


def _matching_alternative(reading: Reading, names: Sequence[str]) -> str | None:
    """The one-error variant of the reference that all of `names` match, the closest if several."""
    reference = reading.evidence.reference
    if reference is None:
        return None
    served = reading.vectors["first"]
    fits = {
        alternative: min(cosine(served[name], vectors[name]) for name in names)
        for alternative, vectors in reference.alternatives.items()
    }
    # A NaN (another width) is not >= anything, and drops out here.
    near = {name: value for name, value in fits.items() if value >= SMALL_LOSS_MIN}
    return max(near, key=lambda name: near[name]) if near else None


def _pooling(reading: Reading, alternative: str) -> Diagnosis:
    reference = reading.evidence.reference
    asked = " + ".join(_WORDS.get(m, m) for m in reference.pooling) if reference else "otherwise"
    if alternative == "no_dense":
        return _dense()
    if alternative == "last_but_one":
        return Diagnosis(
            "end_token",
            "The engine leaves out the end token that the checkpoint's tokenizer appends. Compare "
            "the tokenizer files it loads; texts can be sent as token ids meanwhile.",
        )
    engine = _WORDS.get(alternative.removesuffix("_no_dense"), alternative)
    return Diagnosis(
        "pooling",
        f"The engine pools by {engine}; the checkpoint says {asked}. Start the service with the "
        "engine plugin, which pools as the checkpoint says.",
    )


def _unsteady(reading: Reading) -> Diagnosis:
    """Vectors that change from call to call: a cache's fault if asked again, else of batching."""
    first, least = reading.vectors.get("first", {}), same_min(reading.evidence.request.dtype)
    drifting = {
        ask
        for ask, found in reading.vectors.items()
        for name, vector in found.items()
        if name in first and not cosine(first[name], vector) >= least
    }
    if drifting and drifting <= {"default", "base64"}:
        return _encoding()
    if any(ask.endswith("again") for ask in drifting):
        return Diagnosis(
            "prefix_cache",
            "The same texts asked again have other vectors: the prefix cache reuses what it must "
            "not. Add --disable-radix-cache, and --chunked-prefill-size -1 for encoder models.",
        )
    return Diagnosis(
        "batching",
        "A text's vector depends on what is asked beside it. Add --disable-radix-cache and "
        "--chunked-prefill-size -1, or try another attention backend.",
    )


def _encoding() -> Diagnosis:
    return Diagnosis(
        "encoding",
        "Vectors are right as decimal numbers but not in the client's default format, base64. "
        "Ask for encoding_format='float', or try another engine release.",
    )
