"""Attention over whole texts, without a cache of keys and values: where it holds. Pure.

On a CPU the plugin's attention reads a text's keys from its batch (`qlaunch_sglang/attention.py`),
and the engine's cache is left out (`qlaunch_sglang/no_cache.py`): an embedding reads none of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from launcher.argv import FlagValue
from launcher.documents.plan import NO_DETOKENIZER, NO_KV_CACHE
from launcher.engine import command
from launcher.plan.inputs import Inputs

ENVIRONMENT: Final = {NO_KV_CACHE: "none"}
"""What tells the plugin."""
SOURCE: Final = "none: the plugin attends over whole texts, and the tokens are only counted"
WHOLE: Final[Mapping[str, FlagValue]] = {
    "disable-radix-cache": True,
    "chunked-prefill-size": -1,
}
"""Options under which every text is whole in its batch."""
WANTED: Final[Mapping[str, FlagValue]] = {"attention-backend": "torch_native", **WHOLE}
"""Options under which nobody reads the cache; the plugin looks at the same ones."""


STRAIGHT: Final = {NO_DETOKENIZER: "none"}
"""What tells the plugin that the scheduler sends vectors straight to the front."""
STRAIGHT_SINCE: Final = "0.5.23"
"""First SGLang in which that way was tried."""
FRONTS: Final = frozenset({"tokenizer-worker-num", "detokenizer-worker-num", "skip-tokenizer-init"})
"""Options under which SGLang arranges the ways itself."""


def no_detokenizer(flags: Collection[str], inputs: Inputs) -> bool:
    """Whether no detokenizer is started with these options: it would only hand vectors on."""
    from packaging.version import Version

    release = inputs.engine.release
    ours = inputs.settings.plugin and release.device == "cpu" and release.plugin == "framework"
    known = Version(inputs.engine.version) >= Version(STRAIGHT_SINCE)
    return ours and known and FRONTS.isdisjoint(flags)


def no_cache(flags: Mapping[str, FlagValue], inputs: Inputs) -> str | None:
    """Why the engine needs no memory for keys and values; None where it does.

    Args:
        flags: the engine's options as they will be given, the user's own included.
        inputs: engine, checkpoint and settings of the plan.
    """
    without = possible(inputs) and all(flags.get(name) == value for name, value in WANTED.items())
    return SOURCE if without else None


def possible(inputs: Inputs) -> bool:
    """Whether the plugin can attend over whole texts, under the right options."""
    release = inputs.engine.release
    return (
        inputs.settings.plugin
        and release.device == "cpu"
        and release.plugin == "framework"
        and inputs.checkpoint.engine_class in command.EXTERNAL_PACKAGES
    )


def left_open(said: Mapping[str, FlagValue], inputs: Inputs) -> bool:
    """Whether texts can be kept whole, and nothing that was said is against it."""
    return possible(inputs) and all(
        said.get(name, value) == value for name, value in WANTED.items()
    )
