"""How a checkpoint turns token vectors into one: `modules.json` and `1_Pooling`.

The files are those of sentence-transformers: `modules.json` lists modules in order, each with a
class and a folder; the folder of a Pooling or Dense module holds a `config.json`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from launcher.model.files import broken, read_json, read_json_object
from launcher.model.settings import (
    Settings,
    check_input,
    check_kind,
    check_read,
    dense_width,
    read_settings,
)
from launcher.yaml_reader import shown

if TYPE_CHECKING:
    from launcher.errors import QlaunchError
    from launcher.model.checkpoint import Pooling

# Old key -> our word; None where no engine offers the mode.
_OLD_KEYS: dict[str, Pooling | None] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_mean_sqrt_len_tokens": None,
    "pooling_mode_weightedmean_tokens": None,
}
# Value of the new key `pooling_mode` -> our word.
_NEW_VALUES: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "max": "max", "lasttoken": "last"}
_WIDTHS = ("word_embedding_dimension", "embedding_dimension")
_READ = frozenset({*_OLD_KEYS, *_WIDTHS, "pooling_mode", "include_prompt"})
"""Keys of a Pooling's config.json; sentence-transformers 6 ends at any other."""
_TAKEN = frozenset({
    "backend", "compile", "config", "device", "encode", "forward", "load", "model_card_data",
    "modules", "processor", "prompts", "similarity", "tokenize", "tokenizer", "training", "type",
})  # fmt: skip
"""What a SentenceTransformer has itself and might be a module's name."""
_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering",
          "ForMultipleChoice", "ForNextSentencePrediction")  # fmt: skip
_WITHOUT_EFFECT = frozenset({"Dropout"})
_OLD_TRANSFORMERS = frozenset({
    "ALBERT", "BERT", "CamemBERT", "DistilBERT", "RoBERTa", "T5", "XLMRoBERTa", "XLNet",
})  # fmt: skip
"""What early releases of sentence-transformers called its Transformer, by network; 6 has none."""
_SERVED = "serve a model with one of the poolings mean, cls, last or max"
_ORDER = "serve a model of a Transformer, one Pooling, Dense modules and Normalize, in this order"
_LIBRARY = re.compile(
    r"sentence_transformers\.(?:models|base\.modules|sentence_transformer\.modules)"
    r"(?:\.\w+)?\.(?P<kind>[A-Z]\w*)"
)
"""Module types as sentence-transformers 2 to 5 (`…models.Pooling`) and 6
(`…sentence_transformer.modules.pooling.Pooling`) write them. Any other is a checkpoint's own code,
which only running it would define."""


@dataclass(frozen=True)
class PoolingHead:
    """What stands between the transformer's hidden states and the served vector."""

    pooling: Pooling
    pooling_source: str
    normalize: bool
    normalize_source: str
    include_prompt: bool
    dense_dims: tuple[int, ...]
    """Output widths of Dense modules, in order."""
    max_seq_length: int | None
    """Tokens after which sentence-transformers cuts a text; None where nothing says so."""
    lower_case: bool
    """sentence-transformers puts texts in lower case before the tokenizer sees them."""
    folders: tuple[str, ...]
    """Folders of modules, whose files belong to the fingerprint."""


def read_head(folder: Path, *, hidden_size: int, causal: bool, class_name: str) -> PoolingHead:
    """Read pooling, Dense modules and normalisation of the checkpoint in `folder`.

    Args:
        hidden_size: width of the transformer's hidden states.
        causal: whether only the last token sees all others, so that it is the one to take where no
            file says how to pool.
        class_name: architecture, to name in that default's reason.

    Raises:
        QlaunchError: `model_incomplete` (modules.json names a file that is absent),
            `model_corrupt`, `model_unsupported` (modules or pooling no engine here offers, or
            nothing says how to pool); exit 2.
    """
    check_kind(folder)
    settings = read_settings(folder)
    if (folder / "modules.json").exists():
        return _from_modules(folder, hidden_size, settings)
    stray = folder / "1_Pooling" / "config.json"
    if stray.exists():
        config = read_json_object(stray)
        pooling, include_prompt = _pooling(stray, config, hidden_size)
        source = "1_Pooling/config.json"
    elif causal:
        pooling, include_prompt = "last", True
        source = f"default for decoders ({class_name}): there is no modules.json and no 1_Pooling"
    else:
        raise _undefined(folder, hidden_size, class_name)
    return PoolingHead(
        pooling=pooling,
        pooling_source=source,
        normalize=True,
        normalize_source="default: there is no modules.json, and the engine normalises",
        include_prompt=include_prompt,
        dense_dims=(),
        max_seq_length=settings.max_seq_length,
        lower_case=settings.lower_case,
        folders=("1_Pooling",) if stray.exists() else (),
    )


def _undefined(folder: Path, hidden_size: int, class_name: str) -> QlaunchError:
    """The error for token vectors of which nothing says what becomes of them.

    Some such models take the first token (SapBERT), some the mean (Contriever), and some make no
    vector of a text at all (ColBERT, SPLADE, cross-encoders): a guess would be proved right.
    """
    other = ", a classifier such as a cross-encoder," if class_name.endswith(_HEADS) else ""
    return broken(
        folder,
        f"holds a {shown(class_name)}{other} and neither modules.json nor 1_Pooling/config.json:"
        " nothing says how a text's tokens become one vector",
        code="model_unsupported",
        fix="if it makes one vector a text, write the pooling that its model card names into"
        f' 1_Pooling/config.json: {{"word_embedding_dimension": {hidden_size}, "pooling_mode":'
        ' "mean"}, or "cls" for the first token',
    )


def _from_modules(folder: Path, hidden_size: int, settings: Settings) -> PoolingHead:
    path = folder / "modules.json"
    modules = _modules(path)
    pooled: tuple[Pooling, bool, str] | None = None
    normalized_by: str | None = None
    dense: list[int] = []
    for kind, place in modules[1:]:
        if kind in _WITHOUT_EFFECT:
            continue
        if normalized_by is not None and kind != "Normalize":
            _unsupported(path, f"runs a {kind} module after Normalize", _ORDER)
        if kind == "Pooling" and pooled is None:
            config = folder / place / "config.json"
            pooling, include_prompt = _pooling(config, read_json_object(config), hidden_size)
            pooled = pooling, include_prompt, f"{place}/config.json"
        elif kind == "Dense" and pooled is not None:
            dense.append(dense_width(folder / place, dense[-1] if dense else hidden_size))
        elif kind == "Normalize" and pooled is not None:
            check_input(folder / place / "config.json")
            normalized_by = place or "Normalize"
        else:
            _unsupported(path, f"has a {kind} module where qlaunch can serve none", _ORDER)
    if pooled is None:
        _unsupported(path, "has no Pooling module, so it yields one vector a token", _ORDER)
    return PoolingHead(
        pooling=pooled[0],
        pooling_source=pooled[2],
        normalize=normalized_by is not None,
        normalize_source=f"modules.json {'lists' if normalized_by else 'has no'} Normalize",
        include_prompt=pooled[1],
        dense_dims=tuple(dense),
        max_seq_length=settings.max_seq_length,
        lower_case=settings.lower_case,
        folders=tuple(place for _, place in modules if place),
    )


def check_modules(folder: Path) -> None:
    """Refuse a folder whose modules.json lists what is not served, before anything else is read.

    Such a folder seldom has the files of a transformer in its root: to miss those would be a wrong
    reason.

    Raises:
        QlaunchError: `model_corrupt` or `model_unsupported`; exit 2.
    """
    if (folder / "modules.json").exists():
        _modules(folder / "modules.json")


def _modules(path: Path) -> list[tuple[str, str]]:
    """(class without its package, folder) of every module, in order; the transformer first."""
    value = read_json(path)
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        raise broken(path, "is not a list of modules")
    found: list[tuple[str, str]] = []
    names: set[str] = set()
    for entry in value:
        kind, place = entry.get("type"), entry.get("path")
        if not isinstance(kind, str) or not isinstance(place, str):
            raise broken(path, "has a module without type or path")
        if Path(place).is_absolute() or ".." in Path(place).parts or "\0" in place:
            raise broken(path, f"names a module outside this folder: {place[:80]!r}")
        _check_name(path, entry.get("name"), names)
        place = "" if Path(place) == Path() else place
        if kind.endswith("Pooling") and not place:
            raise broken(path, f"gives {shown(kind)} no folder of its own")
        found.append((_kind(path, kind), place))
    _check_first(path, found)
    return found


def _check_first(path: Path, found: list[tuple[str, str]]) -> None:
    """Refuse modules that do not begin with a Transformer in the folder itself."""
    if not found:
        raise broken(path, "lists no modules")
    kind, place = found[0]
    if kind in _OLD_TRANSFORMERS:
        _unsupported(
            path,
            f"begins with the module {kind}, which sentence-transformers calls Transformer now",
            f"write sentence_transformers.models.Transformer for that type in {path.name}",
        )
    if kind != "Transformer" and any(other == "Transformer" for other, _ in found):
        _unsupported(
            path,
            f"begins with the module {kind}: modules run in the order of that file, and the"
            " Transformer comes first",
            "put the modules in the order in which they run",
        )
    if kind != "Transformer":
        _unsupported(
            path,
            f"begins with the module {kind}, and an engine runs a Transformer only",
            "serve a model whose modules.json begins with a Transformer",
        )
    if place:
        _unsupported(
            path,
            f"keeps its transformer in the folder {place[:80]!r}, where no engine finds the modules"
            " beside it",
            f'in a copy, move the files of {place[:80]} one folder up, and write "path": "" for the'
            f" Transformer in {path.name}",
        )


def _check_name(path: Path, said: object, names: set[str]) -> None:
    """Refuse a module's name that PyTorch refuses, or that is one of `names`; add it to them."""
    if not isinstance(said, str) or not said or "." in said:
        why = f"gives the name of a module as {str(said)[:40]!r}, not as a text without points"
    elif said in _TAKEN:
        why = f"gives a module the name {said}, which sentence-transformers needs itself"
    elif said in names:
        why = f"gives two modules the name {shown(said)}, and sentence-transformers runs the last"
    else:
        names.add(said)
        return
    raise broken(path, why, fix='number the names of modules in that file: "0", "1", "2"')


def _kind(path: Path, said: str) -> str:
    """Class of a module of sentence-transformers' own, without its package."""
    known = _LIBRARY.fullmatch(said)
    if known is not None:
        return known["kind"]
    if said.startswith("sentence_transformers."):
        _unsupported(path, f"has a module of type {shown(said)}, which qlaunch does not compute")
    raise broken(
        path,
        f"has a module of type {shown(said)}: what it computes is code of its own, which qlaunch"
        " does not run",
        code="model_unsupported",
        fix="serve a model whose modules are those of sentence-transformers",
    )


def _pooling(path: Path, config: dict[str, Any], hidden_size: int) -> tuple[Pooling, bool]:
    """(mode, include_prompt) of a Pooling module's config, in its old or its new spelling."""
    check_read(path, config, _READ)
    width = next((config[key] for key in _WIDTHS if key in config), None)
    if width is None:
        raise broken(
            path,
            "gives no word_embedding_dimension, without which sentence-transformers 6 reads no"
            " pooling",
            fix=f'write "word_embedding_dimension": {hidden_size} into that file',
        )
    if width != hidden_size:
        raise broken(path, f"pools vectors of {width!r}, but config.json says {hidden_size}")
    _check_are_flags(path, config)
    if "pooling_mode" in config:
        said = config["pooling_mode"]
        names = list(said) if isinstance(said, list) else [said]
        modes = [_NEW_VALUES.get(name) if isinstance(name, str) else None for name in names]
    else:
        names = [key for key in _OLD_KEYS if config.get(key) is True]
        modes = [_OLD_KEYS[key] for key in names]
        _check_flags(path, config, names)
        if not names:
            names, modes = ["pooling_mode_mean_tokens"], ["mean"]
    if not names:
        raise broken(path, "turns no pooling mode on")
    if len(names) > 1:
        listed = " and ".join(str(name)[:40] for name in names)
        _unsupported(path, f"joins several pooling modes ({listed})")
    if modes[0] is None:
        _unsupported(path, f"asks for the pooling mode {str(names[0])[:40]!r}")
    _check_prompt(path, config, modes[0])
    return modes[0], config.get("include_prompt") is not False


def _check_prompt(path: Path, config: dict[str, Any], mode: Pooling) -> None:
    """Refuse what would be wrong for some callers: a server sees one text, prompt included."""
    if config.get("include_prompt") is not False or mode == "last":
        return
    raise broken(
        path,
        f"says include_prompt: false: a prompt's tokens stay out of the {mode}, but a server cannot"
        " tell where one ends",
        code="model_unsupported",
        fix="if you never send this model a prompt, set include_prompt to true in that file",
    )


def _check_are_flags(path: Path, config: dict[str, Any]) -> None:
    """Refuse what sentence-transformers would take for true or false, one release so, one so."""
    for key in (*_OLD_KEYS, "include_prompt"):
        if key in config and type(config[key]) is not bool:
            raise broken(
                path,
                f"gives {key} as {str(config[key])[:40]!r}, not as true or false",
                fix=f"correct {key} in that file",
            )


def _check_flags(path: Path, config: dict[str, Any], names: list[str]) -> None:
    """Refuse flags that releases of sentence-transformers take for different poolings."""
    given = "pooling_mode_mean_tokens" in config
    if names and not given:
        raise broken(
            path,
            f"turns {names[0]} on and does not give pooling_mode_mean_tokens, which"
            " sentence-transformers 5 takes for true and 6 for false",
            code="model_unsupported",
            fix="write the key pooling_mode_mean_tokens into that file, false or true",
        )
    if not names and given:
        raise broken(path, "turns no pooling mode on")


def _unsupported(path: Path, why: str, fix: str = _SERVED) -> NoReturn:
    raise broken(path, why, code="model_unsupported", fix=fix)
