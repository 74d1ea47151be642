"""Options that the engine has, and with which it serves no embeddings or does not start. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from launcher.argv import FlagValue, options
from launcher.errors import ExitCode, QlaunchError
from launcher.plan.decision import Flags
from launcher.plan.memory import count
from launcher.plan.sizes import TOGETHER

USELESS: Final = {
    "skip-tokenizer-init": "the engine then takes no texts, by which a service is proved",
    "tokenizer-path": "a service is proved with the tokenizer of its checkpoint; put another one"
    " into the checkpoint's folder",
    "delete-ckpt-after-loading": "it deletes the model's files",
    "speculative-algorithm": "it is for the next tokens of a text, which an embedding has none of",
}
"""Options by what is wrong with them."""
ONE_OF: Final = ((TOGETHER, "enable-dynamic-batch-tokenizer"),)
"""Options of which SGLang takes one: it says so when it starts."""
LEAST: Final = {
    "max-running-requests": 1,
    "max-total-tokens": 1,
    "max-prefill-tokens": 1,
    "page-size": 1,
    "tokenizer-worker-num": 1,
    "detokenizer-worker-num": 1,
    "context-length": 3,
}
"""Numbers below which nothing is served: the engine starts, and answers no call."""
ALONE: Final = ("tp-size", "pp-size", "nnodes")
"""Parts of a model on several devices: SGLang has them for GPUs, and for CPUs with kernels for AMX
that no release on PyPI holds."""


def given(flags: Mapping[str, FlagValue], extra: tuple[str, ...]) -> Flags:
    """The options that are given and not switched off, the user's own included."""
    own = {name: _value(values) for name, values in options(extra).items()}
    return {name: value for name, value in {**flags, **own}.items() if value is not False}


def _value(words: tuple[str, ...]) -> FlagValue:
    if not words:
        return True
    return int(words[0]) if words[0].removeprefix("-").isdecimal() else words[0]


def check_options(found: Flags, *, device: str) -> None:
    """Refuse options that would end a start, or make it useless.

    Args:
        found: from `given`.
        device: of the engine, `cpu` or `cuda`.

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
    if wrong:
        raise QlaunchError(
            "; ".join(wrong),
            code="flag_invalid",
            exit_code=ExitCode.ENGINE,
            fix="leave it out" if len(wrong) == 1 else "leave them out",
        )
