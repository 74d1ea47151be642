"""What transformers 5 builds anew of a tokenizer, and whether that is what the files mean.

transformers 5, which the engines use, takes only the vocabulary from tokenizer.json for most of its
tokenizer classes and builds the rest anew: a normalizer or pre-tokenizer of another kind is lost
without a word, and with it the vectors. transformers 4, with which most models were trained, took
them as they stand in the file. Where the two differ a checkpoint is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import msgspec

from launcher.errors import QlaunchError
from launcher.model.files import broken, check_stand_in, read_bytes, read_json_object
from launcher.model.special_tokens import around
from launcher.model.tokenizer_json import TokenizerFile
from launcher.model.tokenizer_options import Flag, Options, check_flags, wrong
from launcher.yaml_reader import shown

_YES_OR_NO: Final = (bool,)
_OR_UNSAID: Final = (bool, type(None))


@dataclass(frozen=True)
class _Built:
    """What a tokenizer class of transformers 5 puts in the place of a tokenizer.json's parts."""

    model: str
    normalizers: frozenset[str | None]
    pre_tokenizers: frozenset[str | None]
    vocabulary: tuple[str, ...] = ()
    """Files that make a tokenizer of this class where there is no tokenizer.json."""
    marks: tuple[tuple[str, str], ...] = ()
    """(role, token by default) of what stands before and after each text; none: as in the file."""
    flags: tuple[Flag, ...] = ()
    """Options of the class that are true or false."""
    outermost: str = "Sequence"
    """Type of its pre-tokenizer."""


_WORDPIECE = _Built(
    "WordPiece",
    frozenset({"BertNormalizer"}),
    frozenset({"BertPreTokenizer"}),
    ("vocab.txt",),
    (("cls_token", "[CLS]"), ("sep_token", "[SEP]")),
    (
        ("do_lower_case", _YES_OR_NO),
        ("tokenize_chinese_chars", _YES_OR_NO),
        ("strip_accents", _OR_UNSAID),
    ),
    "BertPreTokenizer",
)
_BYTES = _Built(
    "BPE",
    frozenset({None}),
    frozenset({"ByteLevel"}),
    ("vocab.json", "merges.txt"),
    (("cls_token", "<s>"), ("sep_token", "</s>")),
    (("add_prefix_space", _YES_OR_NO), ("trim_offsets", _YES_OR_NO)),
    "ByteLevel",
)
_UNIGRAM = _Built(
    "Unigram",
    frozenset({None, "Precompiled", "Replace", "Strip"}),
    frozenset({"Metaspace", "WhitespaceSplit"}),
    marks=(("bos_token", "<s>"), ("eos_token", "</s>")),
)
_QWEN = _Built(
    "BPE",
    frozenset({"NFC"}),
    frozenset({"Split", "ByteLevel"}),
    ("vocab.json", "merges.txt"),
    flags=(("add_prefix_space", _OR_UNSAID),),
)
_BUILT: Final[Mapping[str, _Built]] = MappingProxyType({
    "BertTokenizer": _WORDPIECE,
    "DistilBertTokenizer": _WORDPIECE,
    "ElectraTokenizer": _WORDPIECE,
    "RobertaTokenizer": _BYTES,
    "BartTokenizer": _BYTES,
    "LongformerTokenizer": _BYTES,
    "XLMRobertaTokenizer": _UNIGRAM,
    "CamembertTokenizer": _UNIGRAM,
    "Qwen2Tokenizer": _QWEN,
})  # fmt: skip
_AS_WRITTEN: Final = frozenset({"PreTrainedTokenizer", "TokenizersBackend", "PythonBackend"})
"""Classes (without `Fast`) that take tokenizer.json as it stands."""
_BY_MODEL_TYPE: Final[Mapping[str, str]] = MappingProxyType({
    "bert": "BertTokenizer",
    "ernie": "BertTokenizer",
    "electra": "BertTokenizer",
    "distilbert": "BertTokenizer",
    "roberta": "RobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
})  # fmt: skip
"""The class that transformers takes where the files name none; it takes others as written."""
_UNIGRAM_UNKNOWN: Final = 3
_DOUBLED_BLANKS: Final = {"Regex": " {2,}"}
_QWEN_SPLIT: Final = {
    "pattern": {
        "Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    },
    "behavior": "Isolated",
    "invert": False,
}
"""How transformers' Qwen2Tokenizer splits texts."""
_WHATEVER_IS_NAMED: Final[Mapping[str, str]] = MappingProxyType({
    "qwen2": "Qwen2Tokenizer",
    "mistral": "PreTrainedTokenizer",
})  # fmt: skip
"""Model types for which transformers 5 takes a class of its own, whatever the files name."""
_NO_OTHER: Final = (
    "serve a model with that class's own tokenizer: transformers 5 takes {} for model_type {},"
    " whatever tokenizer_class says"
)
_WORD_LIMIT: Final = 100
"""Letters of a word beyond which WordPiece gives the unknown token, as BertTokenizer has it."""
_FIX: Final = (
    "if tokenizer.json is right as it stands, write PreTrainedTokenizerFast as tokenizer_class in"
    " tokenizer_config.json"
)


class Chosen(NamedTuple):
    """The class that transformers makes a tokenizer of."""

    name: str
    """Without `Fast`; PreTrainedTokenizer where tokenizer.json is taken as it stands."""
    named: str
    """What the files name, or the same."""
    fix: str = _FIX
    """What to do where it would cut texts into other tokens."""


def chosen(folder: Path, config: Mapping[str, Any], model_type: str) -> Chosen:
    """The tokenizer's class as transformers 5 chooses it.

    Args:
        folder: of the checkpoint.
        config: content of config.json, whose `tokenizer_class` counts after that of
            tokenizer_config.json.
        model_type: as config.json gives it.

    Raises:
        QlaunchError: `model_corrupt`: it is no name.
    """
    path = folder / "tokenizer_config.json"
    own = read_json_object(path) if path.exists() else {}
    for where, said in ((path, own), (folder / "config.json", config)):
        name = said.get("tokenizer_class")
        if name is None or name == "":
            continue
        if not isinstance(name, str):
            raise broken(where, f"gives tokenizer_class as {str(name)[:40]!r}, not as a name")
        name = name.removesuffix("Fast")
        if model_type in _WHATEVER_IS_NAMED:
            taken = _WHATEVER_IS_NAMED[model_type]
            return Chosen(taken, name, _NO_OTHER.format(taken, model_type))
        return Chosen(name, name)
    name = _BY_MODEL_TYPE.get(model_type, "PreTrainedTokenizer")
    return Chosen(name, name)


def check_known(folder: Path, name: str) -> None:
    """Refuse a class of which is not known that it makes of the files what they mean.

    Raises:
        QlaunchError: `model_unsupported`, exit 2.
    """
    if name in _BUILT or name in _AS_WRITTEN:
        return
    raise broken(
        folder / "tokenizer_config.json",
        f"names the tokenizer class {shown(name)}, which may split texts into other tokens than"
        " tokenizer.json does",
        code="model_unsupported",
        fix=_FIX,
    )


def is_mended(found: TokenizerFile, choice: Chosen) -> bool:
    """Whether SGLang by itself changes what transformers makes of the files.

    It takes the pre-tokenizer of tokenizer.json again where its type is another than the class's,
    and makes a tokenizer that was taken as written anew by the class that is named.
    """
    built = _BUILT.get(choice.name)
    if built is None:
        return choice.named not in _AS_WRITTEN
    kind = (found.pre_tokenizer or {}).get("type")
    return kind is not None and kind != built.outermost


def is_alike(options: Options, found: TokenizerFile, choice: Chosen) -> bool:
    """Whether tokenizer.json, read by itself, cuts texts as the class does that is made of it."""
    if options.tokens() - {added.content for added in found.added_tokens}:
        return False
    built = _BUILT.get(choice.name)
    if built is None:
        return True
    said, before = options.said, found.pre_tokenizer or {}
    if built is _WORDPIECE:
        rules = found.normalizer or {}
        return (
            rules.get("lowercase") == said.get("do_lower_case", True)
            and rules.get("strip_accents") == said.get("strip_accents")
            and rules.get("handle_chinese_chars") == said.get("tokenize_chinese_chars", True)
        )
    if built is _UNIGRAM:
        return not is_mended(found, choice) and _kinds(found.normalizer, "normalizers") <= {
            None,
            "Precompiled",
        }
    spaced = built is _QWEN or before.get("add_prefix_space") == said.get("add_prefix_space", False)
    return spaced and not found.model.dropout


def check_vocabulary(options: Options, name: str, rows: int) -> None:
    """Refuse a folder without tokenizer.json of which class `name` makes no whole tokenizer.

    Args:
        options: of the tokenizer.
        name: of its class.
        rows: of the embedding table.

    Raises:
        QlaunchError: `model_unsupported`, `model_incomplete` or `model_corrupt`, exit 2.
    """
    folder, built = options.folder, _BUILT.get(name)
    if built is None or not built.vocabulary or not _all_there(folder, built.vocabulary):
        raise broken(
            folder,
            f"has no tokenizer.json, and its other files make no {shown(name)}",
            code="model_unsupported",
            fix="write a tokenizer.json beside them: AutoTokenizer.from_pretrained(folder)"
            ".save_pretrained(folder), where the model was made",
        )
    for file in built.vocabulary:
        check_stand_in(folder / file, read_bytes(folder / file))
    path = folder / built.vocabulary[0]
    words = _words(path)
    if len(words) > rows:
        raise broken(
            path,
            f"has {len(words)} tokens, but the model's embedding table has {rows} rows",
            fix="take tokenizer and weights from the same model, or resize the embeddings",
        )
    _check_options(options, built)
    _check_held(path, options, built, words)


def _all_there(folder: Path, names: tuple[str, ...]) -> bool:
    return all((folder / name).exists() for name in names)


def _words(path: Path) -> list[str]:
    """Tokens of a vocabulary file, as many as there are ids."""
    if path.suffix == ".json":
        ids = {number: word for word, number in read_json_object(path).items()}
        top = max((number for number in ids if type(number) is int), default=-1)
        return [str(ids.get(number, "")) for number in range(top + 1)]
    try:
        # Not splitlines: vocabularies hold letters that it takes for ends of lines.
        text = read_bytes(path).decode().replace("\r\n", "\n")
        return text.removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise broken(path, f"cannot be read: {shown(str(error))}") from error


def check_rebuilt(
    options: Options, found: TokenizerFile, choice: Chosen, ids: Mapping[str, int]
) -> None:
    """Refuse what a class would build anew as something else, or cannot cut texts with.

    Args:
        options: of the tokenizer.
        found: its tokenizer.json.
        choice: its class.
        ids: by token, of the vocabulary.

    Raises:
        QlaunchError: `model_unsupported` or `model_corrupt`, exit 2.
    """
    path, built = options.folder / "tokenizer.json", _BUILT.get(choice.name)
    _check_stride(path, found, built)
    if built is None:
        _check_as_written(path, found, ids)
        return
    _check_options(options, built)
    lost = next(_differences(options, found, built), None)
    if lost is not None:
        raise broken(
            path,
            f"has the {lost}, in whose place {choice.name} of transformers 5 puts its own, so that"
            " texts would be cut into other tokens",
            code="model_unsupported",
            fix=choice.fix,
        )
    late = {added.content for added in found.added_tokens if added.id >= len(ids)}
    _check_held(path, options, built, ids, late)


def _check_options(options: Options, built: _Built) -> None:
    """Refuse options that a class cannot be called with."""
    check_flags(options, *built.flags)
    for role, default in built.marks:
        # transformers would put a token of a fixed id around texts, or end.
        if options.token(role, default) is None:
            raise wrong(options, role, None, "as a text")


def _check_held(
    path: Path,
    options: Options,
    built: _Built,
    words: Collection[str],
    late: Collection[str] = (),
) -> None:
    """Refuse a vocabulary (at `path`) without what stands around texts, or for unknown words."""
    for role, default in built.marks:
        token = str(options.token(role, default))
        if token not in words and token not in late:
            raise broken(path, f"does not hold the token {shown(token)}, the {role}")
    unknown = options.token("unk_token", "[UNK]")
    if built is _WORDPIECE and unknown not in words:
        raise _without_unknown(path, unknown)


def _without_unknown(path: Path, token: str | None) -> QlaunchError:
    named = f"the token {shown(token)} for them" if token is not None else "a token for them"
    return broken(
        path, f"does not hold {named}: a text with letters that it does not know would be an error"
    )


def _check_as_written(path: Path, found: TokenizerFile, ids: Mapping[str, int]) -> None:
    """Refuse a tokenizer.json that is taken as it stands and cuts texts by chance, or not all."""
    model = found.model
    if model.dropout and model.type in ("BPE", msgspec.UNSET):
        raise broken(
            path,
            f"joins tokens by chance (dropout {model.dropout}): a text would have another vector"
            " with every call",
            code="model_unsupported",
            fix="set dropout to null in that file",
        )
    if model.type in ("WordPiece", "WordLevel") and model.unk_token not in ids:
        raise _without_unknown(path, model.unk_token)
    if model.type == "Unigram" and model.unk_id is None:
        raise _without_unknown(path, None)


def _check_stride(path: Path, found: TokenizerFile, built: _Built | None) -> None:
    """Refuse a truncation whose parts would overlap whole, though nothing is cut by it."""
    cut = found.truncation
    if cut is None:
        return
    marks = 0 if built is not None else len(around(found.post_processor)) - 1
    if cut.stride > max(0, cut.max_length - marks):
        raise broken(
            path,
            f"truncates to {cut.max_length} tokens by a stride of {cut.stride}, which is not less",
            fix="set truncation to null in that file; texts are not cut by it",
        )


def _differences(options: Options, found: TokenizerFile, built: _Built) -> Iterator[str]:
    """Parts of tokenizer.json that would be lost, as `what value`."""
    if found.model.type not in (msgspec.UNSET, built.model):
        yield f"model {shown(str(found.model.type))}"
        return
    for what, part, inside, allowed in (
        ("normalizer", found.normalizer, "normalizers", built.normalizers),
        ("pre_tokenizer", found.pre_tokenizer, "pretokenizers", built.pre_tokenizers),
    ):
        kinds = _kinds(part, inside)
        # Qwen's two belong together: alone, ByteLevel splits by another pattern.
        if kinds - allowed or (built is _QWEN and kinds != allowed):
            odd = kinds - allowed or kinds
            yield f"{what} {shown(', '.join(sorted('none' if k is None else k for k in odd)))}"
    yield from _details(options, found, built)
    if built.marks:
        yield from _lost_marks(options, found, built)


def _details(options: Options, found: TokenizerFile, built: _Built) -> Iterator[str]:
    """Settings of parts that are of the right kind."""
    model, normalizer = found.model, found.normalizer or {}
    if built is _WORDPIECE:
        if normalizer.get("clean_text") is False:
            yield "normalizer BertNormalizer with clean_text false"
        if model.continuing_subword_prefix not in (None, "##"):
            yield f"continuing_subword_prefix {shown(str(model.continuing_subword_prefix))}"
        if model.max_input_chars_per_word not in (None, _WORD_LIMIT):
            yield f"max_input_chars_per_word {model.max_input_chars_per_word}"
        if model.unk_token not in (None, options.token("unk_token", "[UNK]")):
            yield f"unk_token {shown(model.unk_token)}"
    elif built is _UNIGRAM:
        if model.unk_id not in (None, _UNIGRAM_UNKNOWN):
            yield f"unk_id {model.unk_id}"
        yield from _replacements(normalizer)
        scheme = next(_schemes(found.pre_tokenizer), None)
        if scheme is None and not options.said.get("add_prefix_space", True):
            scheme = "always"
        if scheme is not None:
            yield f"pre_tokenizer Metaspace with prepend_scheme {shown(scheme)}"
    else:
        if model.ignore_merges is True:
            yield "model BPE with ignore_merges"
        yield from _splits(options, found.pre_tokenizer, built)


def _replacements(normalizer: Mapping[str, Any]) -> Iterator[str]:
    """Replacements of anything but doubled blanks, of which no trace is left by words."""
    for part in _opened(normalizer, "normalizers"):
        if part.get("type") == "Replace" and part.get("pattern") != _DOUBLED_BLANKS:
            yield f"normalizer Replace of {shown(str(part.get('pattern')))}"


def _splits(options: Options, part: Mapping[str, Any] | None, built: _Built) -> Iterator[str]:
    """Settings of a pre-tokenizer by bytes that the class does not take from the file."""
    spaced = options.said.get("add_prefix_space") is True
    for each in _opened(part or {}, "pretokenizers"):
        if each.get("type") == "Split":
            told = {key: each.get(key) for key in _QWEN_SPLIT}
            if told != _QWEN_SPLIT:
                yield f"pre_tokenizer Split by {shown(str(each.get('pattern')))}"
        elif each.get("use_regex", True) is (built is _QWEN):
            yield f"pre_tokenizer ByteLevel with use_regex {str(built is _QWEN).lower()}"
        elif built is _QWEN and each.get("add_prefix_space") is True and not spaced:
            yield "pre_tokenizer ByteLevel with add_prefix_space true"


def _schemes(part: Mapping[str, Any] | None) -> Iterator[str]:
    """How Metaspace puts its mark before words, where not before all."""
    for each in _opened(part or {}, "pretokenizers"):
        said = each.get("prepend_scheme")
        if each.get("type") == "Metaspace" and said not in (None, "always"):
            yield str(said)


def _lost_marks(options: Options, found: TokenizerFile, built: _Built) -> Iterator[str]:
    """The post-processor, if it puts other tokens around a text than the class does."""
    marks = around(found.post_processor)
    first, last = (options.token(role, default) for role, default in built.marks)
    if marks == [first, None, last]:
        return
    listed = " ".join("$A" if each is None else each for each in marks)
    others = (
        f" (and by {options.place(role).name} {role} is {shown(str(token))})"
        for role, default in built.marks
        if role in options.said and (token := options.token(role, default)) not in marks
    )
    told = shown(listed) if found.post_processor else "none"
    yield f"post_processor {told}{next(others, '') if found.post_processor else ''}"


def _kinds(part: Mapping[str, Any] | None, inside: str) -> frozenset[str | None]:
    """Types of a part, a Sequence opened."""
    if part is None:
        return frozenset({None})
    return frozenset(str(each.get("type")) for each in _opened(part, inside))


def _opened(part: Mapping[str, Any], inside: str) -> list[Mapping[str, Any]]:
    """The parts of a Sequence, or the part itself."""
    parts = part.get(inside) if part.get("type") == "Sequence" else [part]
    return [each for each in parts if isinstance(each, dict)] if isinstance(parts, list) else []
