"""Files that are nearly right: options of a tokenizer, and tokenizer.json for itself."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Final

from tests.checkpoints import make_qwen3
from tests.checkpoints.edit import GONE, Change, edited, setting, without
from tests.checkpoints.matrix import Section
from tests.checkpoints.odd_edits import rewritten, tokenizer_part
from tests.checkpoints.odd_rows import refused, served
from tests.checkpoints.tokenizer_rows import (
    bert,
    roberta,
    sentencepiece,
    tokenizer_config,
    tokenizer_model,
)

_CORRUPT, _UNSUPPORTED = "model_corrupt", "model_unsupported"
_MAP: Final = "special_tokens_map.json"
_as_written = tokenizer_config(tokenizer_class="PreTrainedTokenizerFast")
_of_roberta = tokenizer_config(tokenizer_class="RobertaTokenizer")
_of_xlmr = sentencepiece("XLMRobertaTokenizer")
_TRUNCATION: Final = {"max_length": 512, "strategy": "LongestFirst", "direction": "Right"}
_PADDING: Final = {
    "strategy": {"Fixed": 30}, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
    "pad_to_multiple_of": None,
}  # fmt: skip
_TOKENS: Final = {
    str(number): {"content": token, "special": True}
    for number, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))
}


def _forgotten(token: str) -> Change:
    """Take a token out of tokenizer.json."""

    def change(data: bytes) -> bytes:
        found = json.loads(data)
        del found["model"]["vocab"][token]
        found["added_tokens"] = [e for e in found["added_tokens"] if e["content"] != token]
        return json.dumps(found).encode()

    return rewritten("tokenizer.json", change)


def _first_added(**changes: Any) -> Change:
    """Change the first added token of tokenizer.json; GONE deletes a key."""

    def change(data: bytes) -> bytes:
        found = json.loads(data)
        first = found["added_tokens"][0] | changes
        found["added_tokens"][0] = {k: value for k, value in first.items() if value is not GONE}
        return json.dumps(found).encode()

    return rewritten("tokenizer.json", change)


def _cut_by(**stride: int) -> Change:
    return tokenizer_part(truncation={**_TRUNCATION, **stride})


def _normalizer(**changes: Any) -> Change:
    """Change the normaliser of tokenizer.json."""

    def change(data: bytes) -> bytes:
        found = json.loads(data)
        found["normalizer"] |= changes
        return json.dumps(found).encode()

    return rewritten("tokenizer.json", change)


def _renamed_unknown(folder: Path) -> None:
    """vocab.txt alone, whose `[UNK]` has another name."""
    (folder / "tokenizer.json").unlink()
    rewritten("vocab.txt", lambda data: data.replace(b"[UNK]\n", b"<unk>\n"))(folder)


_OPTIONS = (
    *(
        refused(
            f"option-{key.replace('_', '-')}-{name}",
            f"`{key}: {json.dumps(said)}` in tokenizer_config.json",
            edited(bert, tokenizer_config(**{key: said}), without(_MAP)),
            code,
            "tokenizer_config.json",
            key,
        )
        for key, said, name, code in (
            ("strip_accents", 0, "number", _CORRUPT),
            ("strip_accents", "no", "text", _CORRUPT),
            ("split_special_tokens", None, "null", _CORRUPT),
            ("add_special_tokens", False, "name", _CORRUPT),
            ("pad", "max_length", "name", _CORRUPT),
            ("init_inputs", ["a"], "list", _CORRUPT),
            ("cls_token", None, "null", _CORRUPT),
            ("bos_token", 3, "number", _CORRUPT),
            ("mask_token", {"__type": "AddedToken", "content": 3}, "object", _CORRUPT),
            ("extra_special_tokens", {"a": 3}, "object", _CORRUPT),
            ("additional_special_tokens", [{"content": "<x>"}], "object", _CORRUPT),
            ("added_tokens_decoder", None, "null", _CORRUPT),
            ("added_tokens_decoder", {"2": {"content": "[CLS]", "lstrip": 1}}, "flag", _CORRUPT),
            ("fast_tokenizer_files", ["tokenizer.4.0.json"], "files", _UNSUPPORTED),
        )
    ),
    refused(
        "option-max-len",
        '`max_len: "512"` in tokenizer_config.json',
        edited(bert, tokenizer_config(max_len="512")),
        _CORRUPT,
        "max_len",
    ),
    refused(
        "option-add-prefix-space-null",
        "`add_prefix_space: null` of a RobertaTokenizer",
        edited(roberta, _of_roberta, tokenizer_config(add_prefix_space=None)),
        _CORRUPT,
        "add_prefix_space",
    ),
    refused(
        "option-add-prefix-space-false",
        "`add_prefix_space: false` of an XLMRobertaTokenizer, whose tokenizer.json says always",
        edited(bert, _of_xlmr, tokenizer_config(add_prefix_space=False)),
        _UNSUPPORTED,
        "prepend_scheme always",
    ),
    served(
        "option-of-another-class",
        "`strip_accents: 0` of a PreTrainedTokenizerFast, which has no such option",
        edited(bert, _as_written, tokenizer_config(strip_accents=0)),
    ),
    *(
        refused(
            f"map-{name}",
            f"`{key}: {json.dumps(said)}` in special_tokens_map.json",
            edited(bert, setting(_MAP, **{key: said})),
            _CORRUPT,
            _MAP,
            key,
        )
        for name, key, said in (
            ("number", "cls_token", 3),
            ("list", "pad_token", []),
            ("flag", "strip_accents", "no"),
            ("method", "add_special_tokens", False),
        )
    ),
    refused(
        "map-over-config",
        "`<s>` in special_tokens_map.json where tokenizer_config.json says `[CLS]`",
        edited(bert, setting(_MAP, cls_token="<s>")),
        _UNSUPPORTED,
        "by special_tokens_map.json cls_token is <s>",
    ),
    refused(
        "map-unknown",
        "`<unk>` in special_tokens_map.json where tokenizer.json and tokenizer_config.json say"
        " `[UNK]`",
        edited(bert, setting(_MAP, unk_token="<unk>")),
        _UNSUPPORTED,
        "unk_token [UNK]",
    ),
    served(
        "map-unread",
        "`<s>` in special_tokens_map.json beside `added_tokens_decoder`",
        edited(
            bert,
            setting(_MAP, cls_token="<s>", pad_token=3),
            tokenizer_config(added_tokens_decoder=_TOKENS),
        ),
        "transformers does not open special_tokens_map.json then",
    ),
    served(
        "map-as-written",
        "`<s>` in special_tokens_map.json of a PreTrainedTokenizerFast",
        edited(bert, _as_written, setting(_MAP, cls_token="<s>")),
        "tokenizer.json says what stands around a text",
    ),
)
_JSON = (
    *(
        refused(f"json-{name}", what, edited(bert, *changes), _CORRUPT, "tokenizer.json", *says)
        for name, what, changes, says in (
            (
                "stride",
                "truncation by a stride above its length",
                [_cut_by(stride=513)],
                ["stride of 513"],
            ),
            (
                "stride-marks",
                "the same with what stands around a text, as tokenizer.json is written",
                [_as_written, _cut_by(stride=511)],
                ["stride of 511"],
            ),
            ("stride-unsaid", "truncation without a stride", [_cut_by()], ["stride"]),
            (
                "padding-side",
                "`padding` without a direction",
                [tokenizer_part(padding=_PADDING)],
                ["direction"],
            ),
            (
                "added-flag",
                "an added token without `lstrip`",
                [_first_added(lstrip=GONE)],
                ["lstrip"],
            ),
            (
                "normalizer-flag",
                "a BertNormalizer with `clean_text: 1`",
                [_normalizer(clean_text=1)],
                ["clean_text"],
            ),
            (
                "without-unknown",
                "WordPiece without its `unk_token`",
                [_forgotten("[UNK]")],
                ["[UNK]", "letters that it does not know"],
            ),
            (
                "without-unknown-as-written",
                "the same as tokenizer.json is written",
                [_as_written, _forgotten("[UNK]")],
                ["[UNK]", "letters that it does not know"],
            ),
            (
                "unknown-null",
                "WordPiece with `unk_token: null`",
                [tokenizer_model(unk_token=None)],
                ["WordPiece model without unk_token"],
            ),
            (
                "without-mark",
                "WordPiece without `[CLS]`",
                [_forgotten("[CLS]")],
                ["[CLS]", "cls_token"],
            ),
            (
                "unigram-without-unknown",
                "Unigram with `unk_id: null`, as tokenizer.json is written",
                [_of_xlmr, tokenizer_model(unk_id=None), _as_written],
                ["letters that it does not know"],
            ),
            (
                "unigram-beyond",
                "Unigram with an `unk_id` beyond its tokens",
                [_of_xlmr, tokenizer_model(unk_id=9999)],
                ["unk_id 9999"],
            ),
        )
    ),
    refused(
        "vocab-txt-without-unknown",
        "vocab.txt without `[UNK]`",
        edited(bert, _renamed_unknown),
        _CORRUPT,
        "vocab.txt",
        "[UNK]",
    ),
    refused(
        "dropout-wide",
        "BPE with `dropout: 2.0`",
        edited(roberta, tokenizer_model(dropout=2.0)),
        _CORRUPT,
        "dropout",
    ),
    refused(
        "dropout",
        "BPE with `dropout: 0.1`: other tokens with every call",
        edited(roberta, tokenizer_model(dropout=0.1)),
        _UNSUPPORTED,
        "dropout 0.1",
    ),
    served(
        "dropout-rebuilt",
        "the same of a RobertaTokenizer, which transformers 5 builds without",
        edited(roberta, _of_roberta, tokenizer_model(dropout=0.1)),
    ),
    served(
        "dropout-none", "BPE with `dropout: 0.0`", edited(roberta, tokenizer_model(dropout=0.0))
    ),
    served(
        "stride-as-long",
        "truncation by a stride that is as long",
        edited(bert, _cut_by(stride=512)),
        "texts are not cut by it",
    ),
)
_decoder = partial(make_qwen3, dtype="float32")

SECTIONS = (
    Section("Nearly right: options of tokenizers", "cpu-minilm", _OPTIONS),
    Section("Nearly right: tokenizer.json", "cpu-minilm", _JSON),
    Section(
        "Nearly right: tokenizers of decoders",
        "cpu-qwen3-0.6b",
        (
            refused(
                "bpe-dropout",
                "BPE with `dropout: 0.1`",
                edited(_decoder, tokenizer_model(dropout=0.1)),
                _UNSUPPORTED,
                "dropout 0.1",
            ),
            served(
                "bpe-lower-case",
                "`do_lower_case: 0`, an option of other classes",
                edited(_decoder, tokenizer_config(do_lower_case=0)),
            ),
        ),
    ),
)
