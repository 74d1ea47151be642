"""Encoders of the matrix: modules, poolings, tokenizers, lengths."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from tests.checkpoints import make_bert, make_roberta
from tests.checkpoints.edit import GONE, Change, config, dropped, edited, modules, setting, without
from tests.checkpoints.matrix import Row, Section
from tests.checkpoints.weights import write_json

ST = "sentence_transformers.models"
BASE = "sentence_transformers.base.modules"
SIX = "sentence_transformers.sentence_transformer.modules"
bert = partial(make_bert, pooling="mean")
roberta = partial(make_roberta, architecture="RobertaModel", pooling="mean")
_POOLING = (f"{ST}.Pooling", "1_Pooling")
_FIRST = (f"{ST}.Transformer", "")
_SETTINGS = "sentence_bert_config.json"
_PLAIN = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}


def pooling(**said: Any) -> Change:
    """Write the pooling module's config anew."""
    return lambda folder: write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, **said}
    )


def tokenizer(**changes: Any) -> Change:
    """Change tokenizer.json."""
    return setting("tokenizer.json", **changes)


def tokenizer_config(**changes: Any) -> Change:
    """Change tokenizer_config.json."""
    return setting("tokenizer_config.json", **changes)


def cased(folder: Path) -> None:
    """Make a tokenizer that keeps capitals, in both of its files."""
    path = folder / "tokenizer.json"
    said = json.loads(path.read_bytes())
    said["normalizer"] |= {"lowercase": False, "strip_accents": False}
    write_json(path, said)
    tokenizer_config(do_lower_case=False, strip_accents=False)(folder)


def refused_module(kind: str, says: str, source: str) -> Row:
    """A row of a module that is not computed."""
    return Row(
        f"module-{kind.rpartition('.')[2].lower()}",
        f"a module `{kind}`",
        source,
        edited(bert, modules(_FIRST, _POOLING, (kind, "2_X"))),
        (says,),
    )


_MODULES = (
    Row(
        "custom-transformer",
        "a first module of the checkpoint's own code (`custom_st.Transformer`)",
        "infinity#474",
        edited(bert, modules(("custom_st.Transformer", ""), _POOLING)),
        ("custom_st.Transformer", "code of its own"),
    ),
    Row(
        "custom-pooling",
        "a Pooling of the checkpoint's own code (`my_pool.Pooling`)",
        "infinity#474",
        edited(bert, modules(_FIRST, ("my_pool.Pooling", "1_Pooling"))),
        ("my_pool.Pooling", "code of its own"),
    ),
    Row(
        "custom-normalize",
        "a Normalize of a package that only sounds right (`sentence_transformers_x.Normalize`)",
        "practice",
        edited(bert, modules(_FIRST, _POOLING, ("sentence_transformers_x.Normalize", "2_X"))),
        ("sentence_transformers_x.Normalize", "code of its own"),
    ),
    Row(
        "modules-6",
        "module types, pooling and settings as sentence-transformers 6 writes them",
        "sentence-transformers 6.2",
        edited(
            bert,
            modules(
                (f"{BASE}.transformer.Transformer", ""),
                (f"{SIX}.pooling.Pooling", "1_Pooling"),
                (f"{BASE}.normalize.Normalize", "2_Normalize"),
            ),
            lambda folder: write_json(
                folder / "1_Pooling" / "config.json",
                {"embedding_dimension": 64, "pooling_mode": "max", "include_prompt": True},
            ),
            setting(
                _SETTINGS,
                max_seq_length=GONE,
                do_lower_case=GONE,
                transformer_task="feature-extraction",
                modality_config=_PLAIN,
                module_output_name="token_embeddings",
            ),
        ),
    ),
    Row(
        "no-modules",
        "a bare encoder: neither modules.json nor 1_Pooling",
        "facebook/contriever (mean), cambridgeltl/SapBERT (first token)",
        edited(bert, without("modules.json", "1_Pooling/config.json")),
        ("BertModel", "nothing says how", "1_Pooling/config.json"),
    ),
    Row(
        "truncate-dim",
        "`truncate_dim` in config_sentence_transformers.json",
        "sentence-transformers 6: Matryoshka models saved with it",
        edited(bert, setting("config_sentence_transformers.json", truncate_dim=32)),
        ("truncate_dim 32", "an engine all"),
    ),
    *(
        Row(
            f"no-modules-{name.lower().replace('_', '-')}",
            f"a bare `{name}`, which makes no vector of a text",
            source,
            edited(
                bert,
                config(architectures=[name]),
                without("modules.json", "1_Pooling/config.json"),
            ),
            (name, "nothing says how"),
        )
        for name, source in (
            ("BertForMaskedLM", "naver/splade-cocondenser-ensembledistil"),
            ("HF_ColBERT", "colbert-ir/colbertv2.0"),
        )
    ),
    Row(
        "stray-pooling",
        "1_Pooling without modules.json",
        "practice",
        edited(bert, without("modules.json")),
    ),
    Row("no-normalize", "no Normalize", "practice", partial(bert, normalize=False)),
    Row(
        "normalize-twice",
        "Normalize twice",
        "practice",
        edited(bert, modules(_FIRST, _POOLING, (f"{ST}.Normalize", "2"), (f"{ST}.Normalize", "3"))),
    ),
    Row(
        "transformer-folder",
        "the transformer in a folder `0_Transformer`",
        "sentence-transformers 1 and 2",
        edited(bert, modules((f"{ST}.Transformer", "0_Transformer"), _POOLING)),
        ("0_Transformer",),
    ),
    *(
        refused_module(kind, says, source)
        for kind, says, source in (
            (f"{ST}.LayerNorm", "LayerNorm module", "practice"),
            (f"{ST}.WeightedLayerPooling", "WeightedLayerPooling module", "practice"),
            (f"{ST}.CNN", "CNN module", "practice"),
            (f"{ST}.LSTM", "LSTM module", "practice"),
            (
                "sentence_transformers.sparse_encoder.models.SpladePooling",
                "SpladePooling",
                "SPLADE",
            ),
        )
    ),
    *(
        Row(
            f"first-{kind.lower()}",
            f"a first module `{kind}`",
            source,
            edited(bert, modules((f"{ST}.{kind}", ""), _POOLING)),
            (f"begins with the module {kind}", "Transformer"),
        )
        for kind, source in (
            ("StaticEmbedding", "sentence-transformers/static-retrieval-mrl-en-v1"),
            ("WordEmbeddings", "sentence-transformers/average_word_embeddings_glove.6B.300d"),
            ("BoW", "practice"),
            ("Router", "sentence-transformers 5"),
            ("CLIPModel", "sentence-transformers/clip-ViT-B-32"),
        )
    ),
    *(
        Row(
            f"kind-{kind.lower()}",
            f"a folder that says it is a {kind}",
            "sentence-transformers 6",
            edited(bert, setting("config_sentence_transformers.json", model_type=kind)),
            (kind,),
        )
        for kind in ("CrossEncoder", "SparseEncoder", "MultiVectorEncoder")
    ),
    Row(
        "message-modality",
        "texts that go in as chat messages (`modality_config`)",
        "sentence-transformers 6",
        edited(bert, setting(_SETTINGS, modality_config={**_PLAIN, "message": {}})),
        ("modality_config",),
    ),
    Row(
        "config-args",
        "`config_args` that change the network when it is loaded",
        "practice",
        edited(bert, setting(_SETTINGS, config_args={"num_hidden_layers": 1})),
        ("num_hidden_layers", "config_args"),
    ),
)
_POOLINGS = (
    Row("pooling-cls", "first token", "practice", partial(make_bert, pooling="cls")),
    Row(
        "pooling-max", "the greatest of each column", "practice", partial(make_bert, pooling="max")
    ),
    Row("pooling-last", "last token", "practice", partial(make_bert, pooling="last")),
    Row(
        "pooling-default",
        "a pooling config with a width and nothing else",
        "practice",
        edited(partial(make_bert, pooling="cls"), pooling()),
        how="mean, sentence-transformers' default",
    ),
    Row(
        "pooling-none",
        "every pooling flag false",
        "practice",
        edited(bert, pooling(pooling_mode_mean_tokens=False, pooling_mode_cls_token=False)),
        ("no pooling mode",),
        code="model_corrupt",
    ),
    Row(
        "pooling-half-said",
        "one flag true and none for the mean, which releases read differently",
        "sentence-transformers 5 and 6",
        edited(bert, pooling(pooling_mode_cls_token=True)),
        ("pooling_mode_mean_tokens", "sentence-transformers 5"),
    ),
    Row(
        "pooling-joined",
        "two poolings side by side",
        "practice",
        edited(bert, pooling(pooling_mode_mean_tokens=True, pooling_mode_max_tokens=True)),
        ("joins several pooling modes",),
    ),
    Row(
        "pooling-unknown",
        "a pooling mode that nobody knows",
        "practice",
        edited(bert, pooling(pooling_mode="attention")),
        ("pooling mode 'attention'",),
    ),
    Row(
        "pooling-without-prompt",
        "`include_prompt: false` with a mean",
        "hkunlp/instructor-large",
        edited(bert, pooling(pooling_mode="mean", include_prompt=False)),
        ("include_prompt: false",),
    ),
    Row("dense", "a Dense module with tanh", "practice", partial(bert, dense=24)),
    Row(
        "dense-without-bias",
        "a Dense module without bias and activation",
        "practice",
        edited(
            partial(bert, dense=24),
            setting(
                "2_Dense/config.json",
                bias=False,
                activation_function="torch.nn.modules.linear.Identity",
            ),
            lambda folder: _drop_bias(folder / "2_Dense"),
        ),
    ),
    Row(
        "dense-gelu",
        "a Dense module with GELU, not normalised",
        "practice",
        edited(
            partial(bert, dense=24, normalize=False),
            setting("2_Dense/config.json", activation_function="torch.nn.modules.activation.GELU"),
        ),
    ),
    Row(
        "dense-bias-missing",
        "a Dense module that says it has a bias and has none",
        "practice",
        edited(partial(bert, dense=24), lambda folder: _drop_bias(folder / "2_Dense")),
        ("linear.bias",),
        code="model_corrupt",
    ),
    Row(
        "dense-own-activation",
        "a Dense module whose activation is the checkpoint's own code",
        "practice",
        edited(
            partial(bert, dense=24),
            setting("2_Dense/config.json", activation_function="my_code.GELU"),
        ),
        ("my_code.GELU",),
    ),
    Row(
        "dense-residual",
        "a Dense module with a residual connection",
        "sentence-transformers 5.7",
        edited(partial(bert, dense=64), setting("2_Dense/config.json", use_residual=True)),
        ("use_residual",),
    ),
    Row(
        "dense-token-embeddings",
        "a Dense module over every token, as ColBERT has",
        "PyLate",
        edited(
            partial(bert, dense=24),
            setting("2_Dense/config.json", module_input_name="token_embeddings"),
        ),
        ("token_embeddings",),
    ),
)
_TOKENIZERS = (
    Row(
        "lower-case-settings",
        "`do_lower_case` in sentence_bert_config.json over a tokenizer that keeps capitals",
        "vllm#11815",
        edited(bert, cased, setting(_SETTINGS, do_lower_case=True)),
        how="by the engine's front, as sentence-transformers 2 to 5 do it",
        start=True,
    ),
    Row(
        "lower-case-settings-roberta",
        "`do_lower_case` in sentence_roberta_config.json",
        "practice",
        edited(roberta, setting("sentence_roberta_config.json", do_lower_case=True)),
        how="by the engine's front",
    ),
    Row("cased", "a tokenizer that keeps capitals", "practice", edited(bert, cased)),
    Row(
        "lower-case-tokenizer-config",
        "`do_lower_case: false` in tokenizer_config.json over a tokenizer.json that says true",
        "practice",
        edited(bert, tokenizer_config(do_lower_case=False)),
        how="tokenizer_config.json counts, in transformers 4 as in 5",
    ),
    Row(
        "chinese-characters",
        "`tokenize_chinese_chars` and `strip_accents` in tokenizer_config.json",
        "practice",
        edited(bert, tokenizer_config(tokenize_chinese_chars=False, strip_accents=False)),
    ),
    Row(
        "vocabulary-file",
        "vocab.txt without tokenizer.json",
        "practice",
        edited(bert, without("tokenizer.json")),
    ),
    Row(
        "tokenizer-settings-absent",
        "tokenizer.json without tokenizer_config.json",
        "practice",
        edited(bert, without("tokenizer_config.json")),
    ),
    Row(
        "stored-truncation",
        "truncation to 6 tokens and padding to 30 stored in tokenizer.json",
        "text-embeddings-inference#180",
        edited(
            bert,
            tokenizer(
                truncation={
                    "max_length": 6,
                    "stride": 0,
                    "strategy": "LongestFirst",
                    "direction": "Right",
                },
                padding={
                    "strategy": {"Fixed": 30},
                    "direction": "Right",
                    "pad_to_multiple_of": None,
                    "pad_id": 0,
                    "pad_type_id": 0,
                    "pad_token": "[PAD]",
                },
            ),
        ),
        how="texts are neither cut nor padded by it",
    ),
    Row(
        "normalizer-sequence",
        "a normalizer that transformers 5 replaces by BERT's",
        "transformers 5",
        edited(
            bert,
            tokenizer(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}]}),
        ),
        ("normalizer NFKC", "BertTokenizer"),
    ),
    Row(
        "normalizer-kept",
        "the same with `tokenizer_class: PreTrainedTokenizerFast`",
        "transformers 5",
        edited(
            bert,
            tokenizer(normalizer={"type": "Sequence", "normalizers": [{"type": "NFKC"}]}),
            tokenizer_config(tokenizer_class="PreTrainedTokenizerFast"),
        ),
    ),
    Row(
        "pre-tokenizer",
        "a pre-tokenizer that transformers 5 replaces",
        "transformers 5",
        edited(bert, tokenizer(pre_tokenizer={"type": "WhitespaceSplit"})),
        ("pre_tokenizer WhitespaceSplit",),
    ),
    Row(
        "no-post-processor",
        "no post-processor: transformers 5 adds marks that tokenizer.json does not",
        "transformers 5",
        edited(bert, tokenizer(post_processor=None)),
        ("post_processor none",),
    ),
    Row(
        "tokenizer-of-another-class",
        "`tokenizer_class: XLMRobertaTokenizer` over a WordPiece tokenizer.json",
        "practice",
        edited(bert, tokenizer_config(tokenizer_class="XLMRobertaTokenizer")),
        ("model WordPiece", "XLMRobertaTokenizer"),
    ),
    Row(
        "tokenizer-own-code",
        "a tokenizer of the checkpoint's own code",
        "practice",
        edited(bert, tokenizer_config(auto_map={"AutoTokenizer": ["tok.Tok", None]})),
        ("auto_map", "tokenizer"),
    ),
    Row(
        "sentencepiece-only",
        "sentencepiece.bpe.model without tokenizer.json",
        "huggingface_hub#58",
        edited(
            make_roberta,
            without("tokenizer.json"),
            lambda folder: _write(folder / "sentencepiece.bpe.model"),
        ),
        ("sentencepiece.bpe.model", "tokenizer.json"),
    ),
    Row(
        "max-seq-length-below",
        "`max_seq_length` 16 and `model_max_length` 32 below 512 positions",
        "practice",
        edited(bert, setting(_SETTINGS, max_seq_length=16), tokenizer_config(model_max_length=32)),
        how="a text is not cut below the positions",
    ),
    Row(
        "roberta-514",
        "RoBERTa: 514 positions hold 512 tokens",
        "transformers#14243, sentence-transformers#3302",
        edited(roberta, tokenizer_config(model_max_length=514)),
        how="514 positions less the padding index and one",
    ),
)


def _drop_bias(folder: Path) -> None:
    dropped("linear.bias")(folder)


def _write(path: Path) -> None:
    path.write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")


SECTIONS = (
    Section("Encoders: modules", "cpu-minilm", _MODULES),
    Section("Encoders: pooling and Dense", "cpu-minilm", _POOLINGS),
    Section("Encoders: tokenizers and lengths", "cpu-minilm", _TOKENIZERS),
)
