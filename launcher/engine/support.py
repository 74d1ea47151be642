"""Whether a release has a class for a checkpoint, and what it must be told to take that class.

The records in `architectures/` are derived from each release's own source by
`tools/architectures.py`; the plugin's classes come on top.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from launcher.engine import command
from launcher.engine.cutting import overrides_in
from launcher.engine.release import Release
from launcher.errors import QlaunchError
from launcher.model.checkpoint import Checkpoint
from launcher.yaml_reader import shown

RECORDS: Final = Path(__file__).with_name("architectures")


class _Record(msgspec.Struct, forbid_unknown_fields=True):
    sglang: str
    classes: list[str]


@functools.cache
def classes(version: str) -> frozenset[str] | None:
    """Names in the model registry of SGLang `version`; None where nobody recorded them."""
    file = RECORDS / f"{version}.json"
    if not file.exists():
        return None
    return frozenset(msgspec.json.decode(file.read_bytes(), type=_Record).classes)


def require_any(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint for which no catalogued release has a class.

    Raises:
        QlaunchError: `model_unsupported`, exit 2.
    """
    if checkpoint.engine_class in command.EXTERNAL_PACKAGES:
        return
    every = [found for file in RECORDS.glob("*.json") if (found := classes(file.stem))]
    if not any(checkpoint.engine_class in found for found in every):
        raise _no_class(checkpoint, "no engine release has")


def require(checkpoint: Checkpoint, release: Release, version: str, *, plugin: bool) -> None:
    """Refuse a checkpoint that this release would not serve with its own vectors.

    Args:
        version: of the SGLang that is started, which for a user's own is not the release's.
        plugin: whether qlaunch's plugin runs inside it.

    Raises:
        QlaunchError: `model_unsupported`, exit 2.
    """
    require_any(checkpoint)
    ours = plugin and checkpoint.engine_class in command.EXTERNAL_PACKAGES
    known = classes(version)
    if not ours and known is not None and checkpoint.engine_class not in known:
        raise _no_class(checkpoint, f"SGLang {version} does not have")
    without = "" if plugin else " without the plugin"
    if checkpoint.lower_case and not (plugin and release.plugin == "framework"):
        raise QlaunchError(
            f"{checkpoint.path} says do_lower_case: true in sentence_bert_config.json, and engine"
            f" {release.name}{without} cannot put texts in lower case",
            code="model_unsupported",
            fix="take the engine cpu or cuda13 with the plugin",
        )
    # What runs by `registry` has transformers 4, which changes nothing that SGLang would put back.
    mends = release.plugin != "registry" and not (plugin and release.plugin == "framework")
    if checkpoint.mended_tokenizer and mends:
        raise QlaunchError(
            f"engine {release.name}{without} would cut texts into other tokens than transformers"
            f" with the tokenizer of {checkpoint.path}, of which SGLang changes parts",
            code="model_unsupported",
            fix="take the engine cpu or cuda13 with the plugin; or, if its tokenizer.json is right"
            " as it stands, write PreTrainedTokenizerFast as tokenizer_class in"
            " tokenizer_config.json",
        )


def _no_class(checkpoint: Checkpoint, where: str) -> QlaunchError:
    said = shown(checkpoint.engine_class)
    return QlaunchError(
        f"{checkpoint.path / 'config.json'} describes a {said}, a class that {where}",
        code="model_unsupported",
        fix="serve a model of another architecture",
    )


def overrides(checkpoint: Checkpoint) -> dict[str, list[str]]:
    """What must be laid over config.json for the engine to take the right class; often nothing."""
    if checkpoint.architectures[:1] == (checkpoint.engine_class,) and not checkpoint.unnamed:
        return {}
    return {"architectures": [checkpoint.engine_class]}


def merged(value: object, more: Mapping[str, Any]) -> str:
    """`more` and over it the JSON object that an option already has, as the option's new value.

    A value that is no JSON object is left as it is: `plan.option_checks` refuses it.
    """
    if not isinstance(value, str):
        return json.dumps(more)
    said = overrides_in(value)
    return value if said is None else json.dumps({**more, **said})
