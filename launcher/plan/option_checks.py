"""Options that the engine has, and with which it serves no embeddings or does not start. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from launcher.errors import ExitCode, QlaunchError
from launcher.plan.sizes import TOGETHER

USELESS: Final = {
    "skip-tokenizer-init": "the engine then takes no texts, by which a service is proved",
}
"""Options by what is wrong with them."""
ONE_OF: Final = ((TOGETHER, "enable-dynamic-batch-tokenizer"),)
"""Options of which SGLang takes one: it says so when it starts."""


def check_options(given: Collection[str]) -> None:
    """Refuse options that would end a start, or make it useless.

    Args:
        given: names of the options that are given and not switched off.

    Raises:
        QlaunchError: `flag_invalid` (exit 5).
    """
    wrong = [f"--{name}: {why}" for name, why in USELESS.items() if name in given]
    wrong += [
        f"--{one} and --{other}: SGLang takes one of them"
        for one, other in ONE_OF
        if one in given and other in given
    ]
    if wrong:
        raise QlaunchError(
            "; ".join(wrong),
            code="flag_invalid",
            exit_code=ExitCode.ENGINE,
            fix="leave it out" if len(wrong) == 1 else "leave them out",
        )
