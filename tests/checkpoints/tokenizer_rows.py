"""Rows of the matrix: what a tokenizer class makes of its files, and values of a wrong type."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from tests.checkpoints import make_bert, make_qwen3, make_roberta
from tests.checkpoints.decoder_rows import family, with_biases
from tests.checkpoints.edit import GONE, Change, config, edited, setting, without
from tests.checkpoints.matrix import Row, Section
from tests.checkpoints.tokens import save, unigram
from tests.checkpoints.weights import write_json

bert = partial(make_bert, pooling="mean")
roberta = partial(make_roberta, architecture="RobertaModel", pooling="mean")
_qwen3 = partial(make_qwen3, dtype="float32")


def tokenizer_config(**changes: Any) -> Change:
    """Change tokenizer_config.json."""
    return setting("tokenizer_config.json", **changes)


def tokenizer_model(**changes: Any) -> Change:
    """Change `model` of tokenizer.json."""

    def change(folder: Path) -> None:
        path = folder / "tokenizer.json"
        found = json.loads(path.read_bytes())
        found["model"] |= changes
        write_json(path, found)

    return change


def sentencepiece(kind: str) -> Change:
    """XLM-RoBERTa's kind of tokenizer.json in the place of the one that is there."""

    def change(folder: Path) -> None:
        roles = {"bos": "<s>", "eos": "</s>", "cls": "<s>", "sep": "</s>", "pad": "<pad>"}
        tokens = {f"{role}_token": token for role, token in (roles | {"unk": "<unk>"}).items()}
        save(unigram(500), folder, kind=kind, max_length=512, **tokens)
        (folder / "vocab.txt").unlink(missing_ok=True)

    return change


def lone_metaspace(folder: Path) -> None:
    """The pre-tokenizer and normalizer that transformers 4.40 and later write for sentencepiece."""
    parts: dict[str, Any] = {
        "pre_tokenizer": {
            "type": "Metaspace",
            "replacement": "▁",
            "prepend_scheme": "always",
            "split": True,
        },
        "normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": "▁"},
    }
    setting("tokenizer.json", **parts)(folder)


def vocabulary_files(folder: Path) -> None:
    """Write vocab.json and merges.txt in the place of a byte-level tokenizer.json."""
    path = folder / "tokenizer.json"
    model = json.loads(path.read_bytes())["model"]
    pairs = (each if isinstance(each, str) else " ".join(each) for each in model["merges"])
    write_json(folder / "vocab.json", model["vocab"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs), encoding="utf-8")
    path.unlink()


def words(*lines: str) -> Change:
    """Write vocab.txt."""
    return lambda folder: _write(folder / "vocab.txt", "".join(f"{line}\n" for line in lines))


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def of_class(name: str, source: str, *, json_there: bool = True) -> Row:
    """A BERT whose tokenizer is of a class that makes something else of the files."""
    there = "" if json_there else " and only vocab.txt"
    changes = [] if json_there else [without("tokenizer.json")]
    return Row(
        f"tokenizer-{name.lower()}{'' if json_there else '-only'}",
        f"`tokenizer_class: {name}`{there}",
        source,
        edited(bert, *changes, tokenizer_config(tokenizer_class=name)),
        (name,),
    )


def of_type(key: str, value: Any) -> Row:
    """A value of config.json that transformers 5 refuses once the engine has started."""
    shown = json.dumps(value)
    return Row(
        f"type-{key.replace('_', '-')}",
        f"`{key}: {shown}`",
        "configs written by hand",
        edited(bert, config(**{key: value})),
        (key,),
        code="model_corrupt",
    )


_CLASSES = (
    Row(
        "bert-with-xlmr-tokenizer",
        "`BertModel` with XLM-RoBERTa's tokenizer",
        "intfloat/multilingual-e5-small",
        edited(bert, sentencepiece("XLMRobertaTokenizer")),
    ),
    Row(
        "tokenizer-class-in-config",
        "the same, `tokenizer_class` in config.json only",
        "intfloat/multilingual-e5-small in copies",
        edited(
            bert,
            sentencepiece("XLMRobertaTokenizer"),
            tokenizer_config(tokenizer_class=GONE),
            config(tokenizer_class="XLMRobertaTokenizer"),
        ),
    ),
    Row(
        "xlmr-lone-metaspace",
        "XLM-RoBERTa's tokenizer whose pre-tokenizer is Metaspace alone",
        "transformers 4.40 and later",
        edited(bert, sentencepiece("XLMRobertaTokenizer"), lone_metaspace),
        how="the plugin keeps SGLang from putting Metaspace back, by which doubled blanks and ends"
        " of lines were tokens",
    ),
    Row(
        "wrong-class-in-config",
        "a WordPiece tokenizer.json, and XLM-RoBERTa's class in config.json",
        "configs edited by hand",
        edited(
            bert,
            tokenizer_config(tokenizer_class=GONE),
            config(tokenizer_class="XLMRobertaTokenizer"),
        ),
        ("model WordPiece", "XLMRobertaTokenizer"),
    ),
    of_class("BertJapaneseTokenizer", "sonoisa/sentence-bert-base-ja", json_there=False),
    of_class("KoBertTokenizer", "KoBERT", json_there=False),
    of_class("PreTrainedTokenizer", "practice", json_there=False),
    of_class("AlbertTokenizer", "practice"),
    of_class("RoFormerTokenizer", "practice"),
    Row(
        "roberta-vocab-txt",
        "a RoBERTa with vocab.txt and bpe.codes",
        "vinai/phobert-base",
        edited(
            roberta,
            without("tokenizer.json"),
            words("a 1", "b 2"),
            tokenizer_config(tokenizer_class="RobertaTokenizer"),
        ),
        ("no tokenizer.json", "RobertaTokenizer"),
    ),
    Row(
        "roberta-vocab-merges",
        "vocab.json and merges.txt without tokenizer.json",
        "FacebookAI/roberta-base (2019)",
        edited(roberta, vocabulary_files, tokenizer_config(tokenizer_class="RobertaTokenizer")),
    ),
    Row(
        "vocab-txt-too-long",
        "vocab.txt with more lines than the embedding table has rows",
        "a tokenizer of another model",
        edited(bert, without("tokenizer.json"), words(*map(str, range(900)))),
        ("vocab.txt", "900 tokens", "512 rows"),
        code="model_corrupt",
    ),
    Row(
        "vocab-txt-without-marks",
        "vocab.txt without `[CLS]`",
        "a file cut short",
        edited(bert, without("tokenizer.json"), words("[PAD]", "[UNK]", "a")),
        ("vocab.txt", "[CLS]"),
        code="model_corrupt",
    ),
    Row(
        "post-processor-of-another-kind",
        "a post-processor that puts no `[SEP]` behind a text",
        "tokenizers made by hand",
        edited(
            bert,
            setting(
                "tokenizer.json",
                post_processor={
                    "type": "BertProcessing",
                    "sep": ["[MASK]", 4],
                    "cls": ["[CLS]", 2],
                },
            ),
        ),
        ("post_processor [CLS] $A [MASK]",),
    ),
    Row(
        "wordpiece-prefix",
        "WordPiece with another `continuing_subword_prefix`",
        "tokenizers made by hand",
        edited(bert, tokenizer_model(continuing_subword_prefix="@@")),
        ("continuing_subword_prefix @@",),
    ),
    Row(
        "llama-tokenizer",
        "`tokenizer_class: LlamaTokenizer`, of which transformers builds a tokenizer anew",
        "fine-tunes of Llama 2",
        edited(_qwen3, tokenizer_config(tokenizer_class="LlamaTokenizer", add_eos_token=True)),
        ("LlamaTokenizer",),
    ),
    Row(
        "mistral-llama-tokenizer",
        "`MistralModel` with `tokenizer_class: LlamaTokenizer` and an end token in tokenizer.json",
        "Salesforce/SFR-Embedding-Mistral, Linq-AI-Research/Linq-Embed-Mistral",
        edited(
            family("mistral", "MistralModel"),
            tokenizer_config(tokenizer_class="LlamaTokenizer", add_eos_token=True),
        ),
        how="transformers takes tokenizer.json as it stands; the plugin keeps SGLang from building"
        " another, without the end token",
    ),
    Row(
        "add-eos-token-alone",
        "`add_eos_token: true` over a tokenizer.json that appends nothing",
        "intfloat/e5-mistral-7b-instruct (mteb#5237)",
        edited(
            _qwen3,
            setting("tokenizer.json", post_processor=None),
            tokenizer_config(add_eos_token=True),
        ),
        ("appends no end token", "add_eos_token"),
        code="model_incomplete",
    ),
    Row(
        "qwen2-takes-its-own",
        "Qwen2 with another pre-tokenizer and `tokenizer_class: PreTrainedTokenizerFast`",
        "fine-tunes with a tokenizer of their own",
        edited(
            family("qwen2", "Qwen2Model"),
            with_biases("q", "k", "v"),
            tokenizer_config(tokenizer_class="PreTrainedTokenizerFast"),
        ),
        ("normalizer", "Qwen2Tokenizer of transformers 5"),
    ),
    Row(
        "qwen2-tokenizer-bytes",
        "`tokenizer_class: Qwen2Tokenizer` over another pre-tokenizer",
        "fine-tunes with a tokenizer of their own",
        edited(_qwen3, tokenizer_config(tokenizer_class="Qwen2Tokenizer")),
        ("Qwen2Tokenizer",),
    ),
)
_TYPES = (
    of_type("layer_norm_eps", None),
    of_type("torch_dtype", "auto"),
    of_type("dtype", "float8_e4m3fn"),
    of_type("use_cache", None),
    of_type("pad_token_id", 9999),
    Row(
        "type-model-max-length",
        '`model_max_length: "512"` in tokenizer_config.json',
        "configs written by hand",
        edited(bert, tokenizer_config(model_max_length="512")),
        ("model_max_length",),
        code="model_corrupt",
    ),
    Row(
        "type-mask-token",
        "`mask_token` as an object without `__type` in tokenizer_config.json",
        "configs written by hand",
        edited(
            bert,
            tokenizer_config(mask_token={"content": "[MASK]"}),
            without("special_tokens_map.json"),
        ),
        ("mask_token", "AddedToken"),
        code="model_corrupt",
    ),
    Row(
        "electra-embedding-size-unsaid",
        "`ElectraModel` without `embedding_size`, which transformers takes for 128",
        "configs written by hand",
        edited(bert, config(model_type="electra", architectures=["ElectraModel"])),
        ("embedding_size 128",),
    ),
)
SECTIONS = (
    Section("Tokenizer classes", "cpu-minilm", _CLASSES[:-5]),
    Section("Tokenizer classes of decoders", "cpu-qwen3-0.6b", _CLASSES[-5:]),
    Section("Values of a wrong type", "cpu-minilm", _TYPES),
)
