"""What the guard before the engine's handlers lets through: limits from the plan. Pure.

`launcher/plugin/guard/` enforces them inside the engine's front; why each is what it is
stands in docs/decisions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from launcher.argv import FlagValue
from launcher.documents.plan import Guard, MemoryPrediction, Term
from launcher.engine.command import GUARD
from launcher.errors import QlaunchError
from launcher.model.checkpoint import Checkpoint
from launcher.plan.option_checks import given
from launcher.plan.sizes import OVERFLOW

VARIABLE: Final = "REQUEST_GUARD"
"""Environment variable of the engine that holds the limits as JSON."""

INPUTS: Final = 2048
"""Most inputs of one call: what OpenAI's own interface takes."""
MOST_INPUTS: Final = 4096
CALL_TOKENS: Final = 300_000
"""Most token ids of one call: what OpenAI's own interface takes."""
CALL_BYTES_PER_TOKEN: Final = 6
"""So many bytes of text a call may have for each token that it may: text has 3 to 6."""
CPU_CALL_WORK: Final = 3.3e13
"""On a CPU a call may have at most so many tokens × parameters beside the embedding table's, some
five minutes of two cores: Qwen3-0.6B's shape does 260 tokens a second with 440 million. Calls are
computed in the order in which they come, and a service whose checks wait longer is restarted."""
CPU_CALL_TOKENS: Final = 16_384
"""And no fewer than these."""
BODY_BYTES: Final = 4 * 1024 * 1024
"""300,000 token ids take 2.1 MB, as many characters of Chinese escaped in JSON 1.8 MB."""
TEXT_BYTES: Final = 64 * 1024
TEXT_BYTES_PER_TOKEN: Final = 32
"""A text of more bytes than that for each token that fits is refused before it is tokenised. Real
text has 3 to 6; only runs of blanks, or of characters a tokenizer drops, come near."""
BODY_SECONDS: Final = 30.0
OPEN_CALLS: Final = 1024
VECTOR_BYTES: Final = 48
"""Of the front for each number of a vector that has come and is not sent yet. Measured: 8192 inputs
of MiniLM at once take 148 MB of it (SGLang 0.5.23)."""
TOKEN_BYTES: Final = 40
"""Of the front for each token id: Python's whole number and its place in a list."""
OPEN: Final = {"cpu": 4, "cuda": 8}
"""Calls of the largest size whose memory is planned for, by where the engine computes."""

UNGUARDED_FLAGS: Final = (
    "grpc-port",
    "grpc-mode",
    "smg-grpc-mode",
    "smg-http-sidecar-port",
    "sidecar",
    "use-ray",
    "encoder-only",
    "disaggregation-mode",
    "enable-lora",
    "lora-paths",
)
"""Engine options that open another door beside the guarded one, or one more model behind it."""
UNGUARDED_VARIABLES: Final = ("SGLANG_RUST_SERVER", "SGLANG_GRPC_PORT")


def text_tokens(checkpoint: Checkpoint, context: int) -> int:
    """Most tokens of one input that is answered, special tokens counted.

    The engine refuses a text that fills its context, so it answers one token less; and no text
    may have more tokens than the model has positions.
    """
    return min(context - 1, checkpoint.context_length)


@dataclass(frozen=True)
class Sizes:
    """What the limits depend on, of the plan."""

    context: int
    """The engine's context length, tokens."""
    running: int
    """Inputs that the engine runs at once."""
    cut: bool
    """Whether vectors may be cut to fewer dimensions."""
    device: Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Reach:
    """Who may ask."""

    loopback: bool
    """Whether only this machine can connect."""
    hosts: tuple[str, ...] = ()
    """Further names that requests may ask for, where `loopback` is true."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may ask."""


def make_guard(
    checkpoint: Checkpoint,
    sizes: Sizes,
    *,
    served_name: str,
    switches: frozenset[str],
    reach: Reach,
    aliases: tuple[str, ...] = (),
) -> Guard:
    """The limits of one service.

    Args:
        checkpoint: what is served.
        sizes: of the plan.
        served_name: of the model, for clients.
        switches: names of the engine options that are given and not switched off.
        reach: who may ask.
        aliases: further names of the model, for clients.
    """
    most = text_tokens(checkpoint, sizes.context)
    many = OPEN[sizes.device]
    text_bytes = max(TEXT_BYTES, TEXT_BYTES_PER_TOKEN * most)
    body_bytes = max(BODY_BYTES, 2 * text_bytes)
    call_tokens = max(_call_tokens(checkpoint, sizes), most)
    inputs = min(max(INPUTS, sizes.running + OVERFLOW), MOST_INPUTS)
    return Guard(
        model=served_name,
        aliases=tuple(name for name in aliases if name != served_name),
        vocabulary=checkpoint.vocab_size,
        text_tokens=None if "allow-auto-truncate" in switches else most,
        text_bytes=text_bytes,
        inputs=inputs,
        call_tokens=call_tokens,
        call_bytes=max(CALL_BYTES_PER_TOKEN * call_tokens, text_bytes),
        body_bytes=body_bytes,
        dimensions=checkpoint.dimensions,
        cut=sizes.cut,
        metrics="enable-metrics" in switches,
        loopback=reach.loopback,
        hosts=reach.hosts,
        origins=reach.origins,
        open_calls=OPEN_CALLS,
        open_bytes=many * body_bytes,
        open_inputs=many * inputs // 2,
        open_tokens=many * max(CALL_TOKENS, most),
        body_seconds=BODY_SECONDS,
    )


def _call_tokens(checkpoint: Checkpoint, sizes: Sizes) -> int:
    """Most tokens of a call that does not keep the others waiting for too long."""
    if sizes.device != "cpu":
        return CALL_TOKENS
    each = max(checkpoint.parameters - checkpoint.vocab_size * checkpoint.hidden_size, 1)
    return min(max(int(CPU_CALL_WORK / each), CPU_CALL_TOKENS), CALL_TOKENS)


def environment(guard: Guard, env: Mapping[str, str]) -> dict[str, str]:
    """`env` with the guard switched on: its folder first on the path, and its limits."""
    path = ":".join(filter(None, (str(GUARD), env.get("PYTHONPATH", ""))))
    limits = msgspec.json.encode(guard, order="deterministic").decode()
    return {**env, "PYTHONPATH": path, VARIABLE: limits}


def check_doors(
    flags: Mapping[str, FlagValue], extra: tuple[str, ...], env: Mapping[str, str]
) -> None:
    """Refuse what would let requests in beside the guard.

    Raises:
        QlaunchError: `unguarded` (exit 2).
    """
    open_ = [f"--{name}" for name in UNGUARDED_FLAGS if name in given(flags, extra)]
    open_ += [name for name in UNGUARDED_VARIABLES if env.get(name)]
    if open_:
        raise QlaunchError(
            f"{open_[0]} lets requests into the engine that qlaunch's guard cannot check",
            code="unguarded",
            fix="leave it out: qlaunch serves embeddings over HTTP only",
        )


def reason(guard: Guard) -> str:
    """The limits in one sentence."""
    tokens = "cut to fit" if guard.text_tokens is None else f"at most {guard.text_tokens} tokens"
    return (
        f"guard: an input {tokens} and {guard.text_bytes} bytes, a call at most {guard.inputs}"
        f" inputs, {guard.call_tokens} token ids or {guard.call_bytes} bytes of text"
    )


def predicted(without: MemoryPrediction, guard: Guard, *, fronts: int = 1) -> MemoryPrediction:
    """A prediction with what the fronts hold of requests, at most, when all that may be is open:
    each has the guard's limits for itself."""
    several = f"{fronts} fronts × " if fronts > 1 else ""
    vectors = guard.open_inputs * guard.dimensions * VECTOR_BYTES
    term = Term(
        name="requests at once",
        device="ram",
        process="front",
        bytes=fronts * (vectors + guard.open_tokens * TOKEN_BYTES + guard.open_bytes),
        basis="computed",
        kind="requests",
        source=f"{several}({guard.open_inputs} vectors × {guard.dimensions} × {VECTOR_BYTES} B,"
        f" {guard.open_tokens} tokens × {TOKEN_BYTES} B, {guard.open_bytes} B of bodies)",
        reserve=True,
    )
    full = (without.ram_full_bytes or 0) + term.bytes
    return msgspec.structs.replace(without, ram_full_bytes=full, terms=(*without.terms, term))
