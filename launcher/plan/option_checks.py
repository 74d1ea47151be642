"""Options that the engine has, and with which it serves no embeddings or does not start. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from launcher.argv import FlagValue, options, whole
from launcher.engine.cutting import OVERRIDE, overrides_in
from launcher.errors import ExitCode, QlaunchError
from launcher.plan.decision import Flags
from launcher.plan.memory import NO_CACHE, count
from launcher.plan.sizes import OVERFLOW, RUNNING, TOGETHER

_TLS: Final = (
    "qlaunch asks an engine for its health without TLS; `qlaunch gateway --tls-cert FILE` has it"
    " for the clients"
)
USELESS: Final = {
    "skip-tokenizer-init": "the engine then takes no texts, by which a service is proved",
    "tokenizer-path": "a service is proved with the tokenizer of its checkpoint; put another one"
    " into the checkpoint's folder",
    "delete-ckpt-after-loading": "it deletes the model's files",
    "ssl-certfile": _TLS,
    "ssl-keyfile": _TLS,
    "speculative-algorithm": "it is for the next tokens of a text, which an embedding has none of",
}
"""Options by what is wrong with them."""
ONE_OF: Final = (
    (TOGETHER, "enable-dynamic-batch-tokenizer"),
    ("enable-hierarchical-cache", "disable-radix-cache"),
)
"""Options of which SGLang takes one: it says so when it starts."""
PROVED_TOKENS: Final = 32
"""The smoke's sentence with a new number has 11 tokens of BERT's and some 16 where each digit is
one; so many hold it in every tokenizer that is not byte by byte."""
LEAST: Final = {
    "max-running-requests": 1,
    "max-total-tokens": PROVED_TOKENS,
    "max-prefill-tokens": 1,
    "page-size": 1,
    "tokenizer-worker-num": 1,
    "detokenizer-worker-num": 1,
    **dict.fromkeys(("tp-size", "pp-size", "nnodes"), 1),
    "context-length": PROVED_TOKENS - 1,  # what a KV cache of so many tokens leaves
}
"""Numbers below which nothing is served: the engine starts, and answers no call of the proof."""
BETWEEN: Final[Mapping[str, tuple[float, float | None]]] = {
    "random-seed": (0, 2**32 - 1),
    "base-gpu-id": (0, None),
    "gpu-id-step": (1, None),
    "pp-max-micro-batch-size": (1, None),
    "mm-processor-worker-num": (0, None),
    "mm-io-worker-num": (0, None),
    "schedule-conservativeness": (0, None),
    "grpc-port": (1, 65535),
    "nccl-port": (1, 65535),
    "grpc-response-timeout-secs": (1, None),
    "dcp-size": (1, None),
}
"""Numbers that the engine's start ends at, outside of these bounds (srt/arg_groups of SGLang)."""
WHOLE_BITS: Final = 31
"""SGLang's table of requests holds places of the cache as 32-bit integers, with a sign."""
COUNTED: Final = (
    *("max-total-tokens", "max-prefill-tokens", "max-running-requests", "max-queued-requests"),
    *("chunked-prefill-size", "context-length", "page-size", "prefill-max-requests"),
    *("dp-size", "tp-size", "pp-size", "nnodes", "cpu-offload-gb"),
    *("tokenizer-worker-num", "detokenizer-worker-num"),
)
"""Numbers of tokens and requests, and of processes, which are fewer."""
LARGEST: Final = 2**63 - 1
"""Of any whole number: PyTorch's have 64 bits."""
FRACTIONS: Final = ("mem-fraction-static",)
"""Parts of a card's memory: above 0 and below 1."""
TEXTS_OF_A_CALL: Final = 128
"""At least as many as a call of `verify` has. They wait in one queue, and SGLang refuses a call of
which one text finds no place."""
LOG_LEVELS: Final = ("critical", "error", "warning", "info", "debug")
"""Levels that Python's logging and uvicorn both have; SGLang hands the name to both."""
ALONE: Final = ("tp-size", "pp-size", "nnodes")
"""Parts of a model on several devices: SGLang has them for GPUs, and for CPUs with kernels for AMX
that no release on PyPI holds."""

_ATTENDS: Final = ("torch_native", "intel_amx", "flex_attention")
ON_CPU: Final[Mapping[str, tuple[str, ...]]] = {
    "attention-backend": _ATTENDS,
    "prefill-attention-backend": _ATTENDS,
    "decode-attention-backend": _ATTENDS,
    "kv-cache-dtype": ("auto", "bf16", "bfloat16", "fp8_e4m3"),
}
"""Values with which a start on a CPU may come through. With others SGLang 0.5.23 ended in seconds
(14 backends and 4 formats tried: MiniLM), some on errors that read like a damaged environment."""
BY_KERNELS: Final = ("kv-cache-dtype", "fp8_e4m3")
"""Option and value that SGLang refuses on a CPU without AMX and compiled kernels for it
(srt/mem_cache/kv_cache_configurator.py), which no release on PyPI holds."""
CAUSAL: Final = "flex_attention"
"""Attends to earlier tokens alone, on every device (srt/layers/attention/torch_flex_backend.py)."""
PREFILL_BACKEND: Final = "prefill-attention-backend"


def given(flags: Mapping[str, FlagValue], extra: tuple[str, ...]) -> Flags:
    """The options that are given and not switched off, the user's own included."""
    own = {name: _value(values) for name, values in options(extra).items()}
    return {name: value for name, value in {**flags, **own}.items() if value is not False}


def _value(words: tuple[str, ...]) -> FlagValue:
    if not words:
        return True
    number = whole(words[0])
    return words[0] if number is None else number


def check_options(
    found: Flags, *, device: str, kernels: bool = False, both_ways: bool = False
) -> None:
    """Refuse options that would end a start, or make it useless.

    Args:
        found: from `given`.
        device: of the engine, `cpu` or `cuda`.
        kernels: whether the engine may have compiled kernels for CPUs: one of the user's own.
        both_ways: whether a token of the model attends to later ones too; False: or not known.

    Raises:
        QlaunchError: `flag_invalid` (exit 5).
    """
    wrong = [f"--{name}: {why}" for name, why in USELESS.items() if name in found]
    if found.get("load-format") == "dummy":
        wrong.append("--load-format dummy: the weights are random then, and not the model's")
    wrong += [
        f"--{one} and --{other}: SGLang takes one of them"
        for one, other in ONE_OF
        if one in found and other in found
    ]
    wrong += [
        f"--{name} {value}: {least} is the least that serves anything"
        for name, least in LEAST.items()
        if (value := count(found, name)) is not None and value < least
    ]
    wrong += [
        f"--{name} {value}: on a CPU an engine computes a whole model (copies of it: --dp-size)"
        for name in ALONE
        if device == "cpu" and (value := count(found, name)) is not None and value > 1
    ]
    wrong += _unable(found, device=device, kernels=kernels, both_ways=both_ways)
    outside = list(_outside(found))
    wrong += outside
    wrong += (*_bad_values(found), *_beyond_its_nodes(found))
    if wrong:
        raise QlaunchError(
            "; ".join(wrong),
            code="flag_invalid",
            exit_code=ExitCode.ENGINE,
            fix=("write a number that is taken, or " if wrong == outside else "")
            + ("leave it out" if len(wrong) == 1 else "leave them out"),
        )


def _unable(found: Flags, *, device: str, kernels: bool, both_ways: bool) -> Iterator[str]:
    """Values that the engine has for other devices, other kernels or other models."""
    for name, every in ON_CPU.items():
        values = [one for one in every if kernels or (name, one) != BY_KERNELS]
        if device == "cpu" and name in found and found[name] not in values:
            yield f"--{name} {found[name]}: on a CPU the engine has {', '.join(values)}"
    if device == "cpu" and NO_CACHE in found:
        yield f"--{NO_CACHE}: SGLang has it for FlashAttention alone, which is for GPUs"
    name = PREFILL_BACKEND if PREFILL_BACKEND in found else "attention-backend"
    if both_ways and found.get(name) == CAUSAL:
        yield f"--{name} {CAUSAL}: it attends to earlier tokens alone, and the model to all"


def _beyond_its_nodes(found: Flags) -> Iterator[str]:
    rank, nodes = count(found, "node-rank"), count(found, "nnodes") or 1
    if rank is not None and not 0 <= rank < nodes:
        bounds = f"numbers from 0 to {nodes - 1}"
        yield f"--node-rank {rank}: with --nnodes {nodes} the engine takes {bounds}"


def _outside(found: Flags) -> Iterator[str]:
    """Numbers beyond what the engine takes."""
    for name, (least, most) in BETWEEN.items():
        value = number(found, name)
        if value is not None and not (least <= value and (most is None or value <= most)):
            bounds = f"at least {least}" if most is None else f"from {least} to {most}"
            yield f"--{name} {found[name]}: the engine takes numbers {bounds}"
    for name, given_ in found.items():
        most = 2**WHOLE_BITS - 1 if name in COUNTED else LARGEST
        if name in BETWEEN or isinstance(given_, bool) or not isinstance(given_, int | float):
            continue
        if not -most <= given_ <= most:  # an infinity is not, nor what is no number
            yield f"--{name} {given_}: the engine takes numbers up to {most}"
    for name in FRACTIONS:
        value = number(found, name)
        if value is not None and not 0 < value < 1:
            yield f"--{name} {found[name]}: a part of the memory is above 0 and below 1"


def number(found: Flags, name: str) -> float | None:
    """The number that an option has; None where it is not given, or is none."""
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return value if isinstance(value, int) else float(value)
    except ValueError:
        return None  # the engine's table of options says so


def _bad_values(found: Flags) -> Iterator[str]:
    """Values that SGLang's parser takes, and on which its start ends in a traceback."""
    queued, running = count(found, "max-queued-requests"), count(found, RUNNING) or 0
    least = max(running + OVERFLOW, TEXTS_OF_A_CALL)
    if queued is not None and queued < least:
        yield (
            f"--max-queued-requests {queued}: the texts of a call wait together, and a service is"
            f" proved with calls of up to {least}"
        )
    for name in ("log-level", "log-level-http"):
        level = found.get(name)
        if level is not None and str(level).lower() not in LOG_LEVELS:
            yield f"--{name} {level}: there is {', '.join(LOG_LEVELS)}"
    page, pool = count(found, "page-size"), count(found, "max-total-tokens")
    # What a cache of whole pages holds of one text is a page less (context.py).
    if page and pool and page > 1 and pool - pool % page - page < PROVED_TOKENS:
        yield f"--page-size {page}: a cache of {pool} tokens has no room for a text in such pages"
    override = found.get(OVERRIDE)
    if override is not None and overrides_in(str(override)) is None:
        yield f"--{OVERRIDE} {override}: a JSON object is wanted, such as '{{}}'"
