"""The options that transformers makes a tokenizer with, and values that it does not read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from launcher.errors import QlaunchError
from launcher.model.files import broken, read_json_object

Flag = tuple[str, tuple[type, ...]]
"""An option that is true or false, and the types that it may have."""
_CONFIG: Final = "tokenizer_config.json"
_MAP: Final = "special_tokens_map.json"
_ADDED: Final = "added_tokens.json"
_ROLES: Final = (
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token",
)  # fmt: skip
_SIDES: Final = ("padding_side", "truncation_side")
_TYPES: Final[Mapping[str, tuple[type, ...]]] = MappingProxyType({
    "extra_special_tokens": (list, dict, type(None)),
    "additional_special_tokens": (list, type(None)),
    "added_tokens_decoder": (dict,),
})  # fmt: skip
_TOKEN_FLAGS: Final = ("single_word", "lstrip", "rstrip", "normalized", "special")
_METHODS: Final = frozenset({
    "_add_tokens", "_convert_encoding", "_decode", "_encode_plus", "_pad", "add_special_tokens",
    "add_tokens", "apply_chat_template", "batch_decode", "clean_up_tokenization",
    "convert_added_tokens", "convert_ids_to_tokens", "convert_to_native_format",
    "convert_tokens_to_ids", "convert_tokens_to_string", "decode", "encode",
    "encode_message_with_chat_template", "from_pretrained", "get_added_vocab", "get_chat_template",
    "get_response_parser", "get_special_tokens_mask", "get_vocab", "num_special_tokens_to_add",
    "pad", "parse_response", "push_to_hub", "register_for_auto_class", "save_chat_templates",
    "save_pretrained", "save_vocabulary", "set_truncation_and_padding", "tokenize",
    "train_new_from_iterator", "update_post_processor",
})  # fmt: skip
"""Of every tokenizer of transformers 5: it refuses an option of such a name, whatever its value."""
_ARGUMENTS: Final = frozenset({"cls", "gguf_file", "self", "tokenizer_object"})
"""What its functions are called with beside the options."""
_FLAG: Final = "as true or false"
_VERSIONED: Final = re.compile(r"tokenizer\.(.*)\.json")


@dataclass(frozen=True)
class Options:
    """What the tokenizer's class is called with."""

    folder: Path
    said: Mapping[str, Any]
    mapped: frozenset[str]
    """Those that special_tokens_map.json gives."""

    def place(self, key: str) -> Path:
        """The file that gives an option."""
        return self.folder / (_MAP if key in self.mapped else _CONFIG)

    def token(self, role: str, default: str) -> str | None:
        """The token in a role; None where the files say null."""
        said = self.said.get(role, default)
        return said.get("content") if isinstance(said, dict) else said

    def tokens(self) -> set[str]:
        """Every token that the files name: one that a tokenizer lacks is added to it."""
        found: list[Any] = [value for key, value in self.said.items() if key.endswith("_token")]
        for key in _TYPES:
            listed = self.said.get(key) or ()
            found += listed.values() if isinstance(listed, Mapping) else listed
        found = [each.get("content") if isinstance(each, Mapping) else each for each in found]
        added = self.folder / _ADDED
        found += read_json_object(added) if added.exists() else ()
        return {each for each in found if isinstance(each, str)}


def read_options(folder: Path) -> Options:
    """The options that the files in `folder` give.

    special_tokens_map.json counts over tokenizer_config.json, key by key, unless the latter lists
    its tokens (`added_tokens_decoder`): then transformers does not open the former.

    Raises:
        QlaunchError: `model_incomplete` or `model_corrupt`, exit 2.
    """
    path, other = folder / _CONFIG, folder / _MAP
    own = read_json_object(path) if path.exists() else {}
    legacy = "added_tokens_decoder" not in own and other.exists()
    mapped = read_json_object(other) if legacy else {}
    return Options(folder, own | mapped, frozenset(mapped))


def wrong(options: Options, key: str, said: object, wanted: str) -> QlaunchError:
    """The error for an option's value."""
    return broken(
        options.place(key),
        f"gives {key} as {str(said)[:40]!r}, not {wanted}",
        fix=f"correct {key} in that file; transformers does not read it as it is",
    )


def check_options(options: Options) -> None:
    """Refuse options that transformers does not read, whatever the tokenizer's class.

    Raises:
        QlaunchError: `model_corrupt` or `model_unsupported`, exit 2.
    """
    said = options.said
    _check_names(options)
    for key in ("model_max_length", "max_len"):
        if said.get(key) is not None and type(said[key]) not in (int, float):
            raise wrong(options, key, said[key], "as a number")
    for key in _SIDES:
        if said.get(key, "right") not in ("left", "right"):
            raise wrong(options, key, said[key], "as left or right")
    check_flags(options, ("split_special_tokens", (bool,)))
    templates = said.get("chat_template")
    for each in templates if isinstance(templates, list) else ():
        if not isinstance(each, dict) or not {"name", "template"} <= each.keys():
            raise wrong(options, "chat_template", each, "as a name and a template")
    _check_tokens(options)


def _check_tokens(options: Options) -> None:
    """Refuse special tokens that are none."""
    said = options.said
    for key, types in _TYPES.items():
        if key in said and not isinstance(said[key], types):
            raise wrong(options, key, said[key], "as a list or an object")
    for role in _ROLES:
        _check_token(options, role, said.get(role), marked=role not in options.mapped)
    for key in ("additional_special_tokens", "extra_special_tokens"):
        listed: Any = said.get(key) or ()
        legacy = key in options.mapped and key == "extra_special_tokens"
        named = isinstance(listed, dict)
        for token in listed.values() if named else listed:
            if token is None:
                raise wrong(options, key, token, "as texts")
            _check_token(options, key, token, marked=named or not legacy)
    for number, token in said.get("added_tokens_decoder", {}).items():
        if not number.isdecimal() or not _is_added(token):
            raise wrong(options, "added_tokens_decoder", number, "as ids and their tokens")


def check_flags(options: Options, *flags: Flag) -> None:
    """Refuse flags that are none.

    Raises:
        QlaunchError: `model_corrupt`, exit 2.
    """
    for key, types in flags:
        if key in options.said and not isinstance(options.said[key], types):
            raise wrong(options, key, options.said[key], _FLAG)


def _check_names(options: Options) -> None:
    """Refuse options that cannot be given, and those that lead to other files."""
    for key in options.said:
        if key in _METHODS or (key in _ARGUMENTS and options.said[key] is not None):
            raise broken(
                options.place(key),
                f"gives {key}, which is a name of transformers' own that no option may have",
                fix=f"remove {key} from that file",
            )
    if options.said.get("init_inputs", ()) not in ((), [], {}, ""):
        raise wrong(options, "init_inputs", options.said["init_inputs"], "as an empty list")
    files = options.said.get("fast_tokenizer_files", [])
    if not isinstance(files, list) or any(_VERSIONED.search(str(each)) for each in files):
        raise broken(
            options.place("fast_tokenizer_files"),
            "names tokenizers by release (fast_tokenizer_files), of which qlaunch reads none",
            code="model_unsupported",
            fix="keep the tokenizer for transformers 5 as tokenizer.json, and remove the key",
        )


def _check_token(options: Options, key: str, token: object, *, marked: bool) -> None:
    """Refuse a token that is neither a text nor an object that says that it is a token."""
    if token is None or isinstance(token, str):
        return
    if marked and isinstance(token, dict) and token.get("__type") != "AddedToken":
        raise broken(
            options.place(key),
            f"gives {key} as an object that is not marked as an AddedToken",
            fix=f"write {key} as a text in that file",
        )
    if not _is_added(token):
        raise wrong(options, key, token, "as a text")


def _is_added(token: object) -> bool:
    """Whether an object holds what AddedToken is made with."""
    return (
        isinstance(token, dict)
        and isinstance(token.get("content"), str)
        and all(isinstance(token.get(flag, False), bool) for flag in _TOKEN_FLAGS)
    )
