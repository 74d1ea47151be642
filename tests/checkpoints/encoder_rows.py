"""Encoders of the matrix: what saved them, architectures, tensors."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from tests.checkpoints import Weight, make_bert, make_roberta
from tests.checkpoints.edit import (
    GONE,
    added,
    added_token,
    config,
    dropped,
    edited,
    prefixed,
    renamed,
    stored_as,
    without,
)
from tests.checkpoints.encoder_files import hub_cache, nan, to_distilbert, word_rows
from tests.checkpoints.matrix import Row, Section

bert = partial(make_bert, pooling="mean")
roberta = partial(make_roberta, pooling="mean")
plain_roberta = partial(make_roberta, architecture="RobertaModel", pooling="mean")
_FIVE = {
    "position_embedding_type": GONE,
    "torch_dtype": GONE,
    "dtype": "float32",
    "use_cache": GONE,
}
_HEAD = (
    Weight("cls.predictions.bias", (512,)),
    Weight("cls.predictions.transform.dense.weight", (64, 64)),
    Weight("cls.seq_relationship.weight", (2, 64)),
)
_LM_HEAD = (Weight("lm_head.bias", (512,)), Weight("lm_head.dense.weight", (64, 64)))

_SAVED_BY = (
    Row(
        "bert-transformers-5",
        "BERT by transformers 5: no `position_embedding_type`, `dtype` for `torch_dtype`",
        "transformers#41170, vllm#30770",
        edited(bert, config(**_FIVE, transformers_version="5.2.0", add_cross_attention=False)),
        how="the attribute that SGLang reads is given its default",
    ),
    Row(
        "xlm-roberta-transformers-5",
        "XLM-RoBERTa by transformers 5",
        "transformers#41170",
        edited(roberta, config(**_FIVE, transformers_version="5.2.0", is_decoder=False)),
    ),
    Row(
        "bert-transformers-3",
        "BERT by transformers 3: `gradient_checkpointing`, no `torch_dtype`, `position_ids` stored",
        "sentence-transformers/all-MiniLM-L6-v2 (2021)",
        edited(
            bert,
            config(position_embedding_type=GONE, torch_dtype=GONE, gradient_checkpointing=False),
            added(Weight("embeddings.position_ids", (1, 512))),
        ),
    ),
    Row(
        "bert-transformers-4",
        "BERT by transformers 4: `classifier_dropout`, no `transformers_version`",
        "practice",
        edited(bert, config(classifier_dropout=None, transformers_version=GONE)),
    ),
    Row(
        "bert-gamma-beta",
        "LayerNorms called gamma and beta, as conversions from TensorFlow left them",
        "google-bert/bert-base-uncased",
        edited(
            bert,
            renamed(
                lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                    "LayerNorm.bias", "LayerNorm.beta"
                )
            ),
        ),
    ),
    Row(
        "bert-no-defaults",
        "config.json without `hidden_act`, `layer_norm_eps`, `type_vocab_size`, `pad_token_id`",
        "practice",
        edited(
            bert,
            config(hidden_act=GONE, layer_norm_eps=GONE, type_vocab_size=GONE, pad_token_id=GONE),
        ),
    ),
)
_ARCHITECTURES = (
    Row(
        "bert-masked-lm",
        "`BertForMaskedLM`, names with `bert.` before them, with `cls.predictions` and no pooler",
        "vllm#16146, vllm#11821",
        edited(
            bert,
            config(architectures=["BertForMaskedLM"]),
            dropped("pooler.dense.weight", "pooler.dense.bias"),
            prefixed("bert."),
            added(*_HEAD),
        ),
        how="by BertModel, its head left out",
    ),
    Row(
        "bert-pre-training",
        "`BertForPreTraining`, names without a prefix",
        "vllm#16146",
        edited(bert, config(architectures=["BertForPreTraining"]), added(*_HEAD)),
        how="by BertModel",
    ),
    Row(
        "bert-prefix",
        "`BertModel` whose names have `bert.` before them",
        "vllm#11821",
        edited(bert, prefixed("bert.")),
    ),
    Row(
        "bert-sequence-classification",
        "`BertForSequenceClassification` with a modules.json that pools",
        "practice",
        edited(
            bert,
            config(architectures=["BertForSequenceClassification"]),
            prefixed("bert."),
            added(Weight("classifier.weight", (2, 64)), Weight("classifier.bias", (2,))),
        ),
        how="by BertModel, its classifier left out, as sentence-transformers does",
    ),
    Row(
        "cross-encoder",
        "`BertForSequenceClassification` without modules.json: a cross-encoder",
        "cross-encoder/ms-marco-MiniLM-L-6-v2",
        edited(
            bert,
            config(architectures=["BertForSequenceClassification"]),
            without("modules.json", "1_Pooling/config.json"),
            prefixed("bert."),
        ),
        ("BertForSequenceClassification", "cross-encoder"),
    ),
    Row(
        "roberta-masked-lm",
        "`RobertaForMaskedLM`, names with `roberta.` before them, with `lm_head`",
        "vllm#11821",
        edited(
            plain_roberta,
            config(architectures=["RobertaForMaskedLM"]),
            prefixed("roberta."),
            added(*_LM_HEAD),
        ),
        how="by RobertaModel",
    ),
    Row(
        "xlm-roberta-masked-lm",
        "`XLMRobertaForMaskedLM`, names with `roberta.` before them, with `lm_head`",
        "practice",
        edited(
            roberta,
            config(architectures=["XLMRobertaForMaskedLM"]),
            prefixed("roberta."),
            added(*_LM_HEAD),
        ),
        how="by XLMRobertaModel",
    ),
    Row(
        "camembert",
        "`CamembertModel`: RoBERTa's network",
        "dangvantuan/sentence-camembert-base",
        edited(plain_roberta, config(architectures=["CamembertModel"], model_type="camembert")),
        how="by RobertaModel",
    ),
    Row(
        "electra",
        "`ElectraModel` whose embeddings are as wide as its layers",
        "practice",
        edited(
            bert,
            config(architectures=["ElectraModel"], model_type="electra", embedding_size=64),
            dropped("pooler.dense.weight", "pooler.dense.bias"),
        ),
        how="by BertModel",
    ),
    Row(
        "electra-narrow",
        "`ElectraModel` with `embedding_size` below `hidden_size`",
        "google/electra-small-discriminator",
        edited(
            bert, config(architectures=["ElectraModel"], model_type="electra", embedding_size=32)
        ),
        ("embedding_size 32", "hidden_size 64"),
    ),
    Row(
        "distilbert",
        "`DistilBertModel`: BERT's layers under other names, no token types",
        "sentence-transformers/msmarco-distilbert-base-v4",
        edited(bert, to_distilbert),
        how="by a class of the plugin",
        start=True,
    ),
    Row(
        "distilbert-masked-lm",
        "`DistilBertForMaskedLM`, names with `distilbert.` before them",
        "opensearch-project's DistilBERTs",
        edited(
            bert,
            to_distilbert,
            config(architectures=["DistilBertForMaskedLM"], activation="relu"),
            prefixed("distilbert."),
            added(Weight("vocab_transform.weight", (64, 64))),
        ),
        how="by a class of the plugin",
    ),
    Row(
        "ernie",
        "`ErnieModel` without task types",
        "nghuyong/ernie-3.0-base-zh",
        edited(bert, config(architectures=["ErnieModel"], model_type="ernie", use_task_id=False)),
        how="by BertModel",
    ),
    Row(
        "architectures-null",
        "`architectures` is null",
        "practice",
        edited(bert, config(architectures=None)),
        how="by the class of its model_type, as transformers does",
    ),
    Row(
        "architectures-absent",
        "`architectures` is not there",
        "practice",
        edited(roberta, config(architectures=GONE)),
        how="by the class of its model_type",
    ),
    Row(
        "architectures-lower-case",
        "`architectures` in lower case",
        "practice",
        edited(bert, config(architectures=["bertmodel"])),
        how="by the class of its model_type",
    ),
    Row(
        "contriever",
        "`Contriever`, a BERT with a class name of its own",
        "facebook/contriever",
        edited(bert, config(architectures=["Contriever"])),
    ),
    Row(
        "architecture-contradicts",
        "`MPNetForMaskedLM` beside `model_type: bert`",
        "vllm#16146",
        edited(bert, config(architectures=["MPNetForMaskedLM"])),
        ("MPNetForMaskedLM", "model_type bert"),
    ),
    *(
        Row(
            name,
            f"`{architecture}`, for which no engine release has a class",
            source,
            edited(bert, config(architectures=[architecture], model_type=model_type)),
            (architecture, f"model_type {model_type}", "BERT"),
        )
        for name, architecture, model_type, source in (
            ("mpnet", "MPNetModel", "mpnet", "sentence-transformers/all-mpnet-base-v2"),
            ("mpnet-masked-lm", "MPNetForMaskedLM", "mpnet", "vllm#16146"),
            ("albert", "AlbertModel", "albert", "sentence-transformers/paraphrase-albert"),
            ("modernbert", "ModernBertModel", "modernbert", "Alibaba-NLP/gte-modernbert-base"),
            ("deberta", "DebertaV2Model", "deberta-v2", "practice"),
            ("nomic-bert-native", "NomicBertModel", "nomic_bert", "nomic-ai, without auto_map"),
            ("no-model-type", "BertModel", "none", "practice"),
        )
    ),
    *(
        Row(
            name,
            f"`{architecture}` of the checkpoint's own code (`auto_map`)",
            source,
            edited(
                bert,
                config(
                    architectures=[architecture],
                    model_type=model_type,
                    auto_map={"AutoModel": f"modeling.{architecture}"},
                ),
            ),
            (f"modeling.{architecture}", "auto_map", "code"),
        )
        for name, architecture, model_type, source in (
            ("nomic-bert", "NomicBertModel", "nomic_bert", "nomic-ai/nomic-embed-text-v1.5"),
            ("gte-new", "NewModel", "new", "Alibaba-NLP/gte-multilingual-base"),
            ("jina-alibi", "JinaBertModel", "bert", "jinaai/jina-embeddings-v2-base-en"),
            ("bert-own-code", "BertModel", "bert", "a known model_type with code beside it"),
        )
    ),
)
_CONFIG = (
    *(
        Row(
            f"act-{activation.replace('_', '-')}",
            f"`hidden_act: {activation}`",
            "practice",
            edited(bert, config(hidden_act=activation)),
            how="by transformers' own function",
        )
        for activation in ("relu", "gelu_new", "gelu_pytorch_tanh", "silu")
    ),
    Row(
        "act-unknown",
        "a `hidden_act` of the checkpoint's own",
        "practice",
        edited(bert, config(hidden_act="geglu")),
        ("hidden_act geglu",),
    ),
    Row(
        "layer-norm-eps",
        "`layer_norm_eps: 0.1`",
        "practice",
        edited(bert, config(layer_norm_eps=0.1)),
    ),
    Row(
        "relative-key",
        "`position_embedding_type: relative_key`",
        "practice",
        edited(bert, config(position_embedding_type="relative_key")),
        ("relative_key", "absolute"),
    ),
    Row(
        "alibi",
        "`position_embedding_type: alibi` without auto_map",
        "jinaai/jina-embeddings-v2 in copies",
        edited(bert, config(position_embedding_type="alibi")),
        ("alibi",),
    ),
    Row(
        "is-decoder",
        "`is_decoder: true`: attention sees no later token",
        "practice",
        edited(bert, config(is_decoder=True)),
        ("is_decoder",),
    ),
    Row(
        "cross-attention",
        "`add_cross_attention: true`",
        "practice",
        edited(bert, config(add_cross_attention=True)),
        ("add_cross_attention",),
    ),
    Row(
        "heads-do-not-divide",
        "`hidden_size` that the heads do not divide",
        "practice",
        edited(bert, config(num_attention_heads=5)),
        ("hidden_size 64", "5 attention heads"),
        code="model_corrupt",
    ),
    Row(
        "token-types-differ",
        "`type_vocab_size` of another model",
        "practice",
        edited(bert, config(type_vocab_size=1)),
        ("token_type_embeddings", "2 by 64", "1 by 64"),
        code="model_corrupt",
    ),
    Row(
        "pad-token-other",
        "RoBERTa whose positions begin behind another padding index (`pad_token_id: 0`)",
        "practice",
        edited(plain_roberta, config(pad_token_id=0)),
    ),
    Row(
        "pad-token-null",
        "RoBERTa with `pad_token_id: null`",
        "practice",
        edited(plain_roberta, config(pad_token_id=None)),
        ("pad_token_id", "positions"),
        code="model_corrupt",
    ),
    Row(
        "quantised",
        "an encoder with a `quantization_config`",
        "practice",
        edited(bert, config(quantization_config={"quant_method": "bitsandbytes"})),
        ("quantization_config", "unquantised"),
    ),
)
_TENSORS = (
    *(
        Row(
            f"prefix-{prefix.strip('.').replace('.', '-').replace('_', '-')}",
            f"names with `{prefix}` before them, which transformers does not read",
            "practice",
            edited(bert, prefixed(prefix)),
            (f"{prefix}embeddings.word_embeddings.weight", "'bert.'"),
        )
        for prefix in ("0.auto_model.", "model.", "transformer.", "roberta.")
    ),
    Row(
        "two-models",
        "two networks in one file, as bi-encoders are stored",
        "facebook/dpr",
        edited(
            bert,
            lambda folder: (
                prefixed("ctx_encoder.")(folder),
                added(Weight("question_encoder.embeddings.word_embeddings.weight", (512, 64)))(
                    folder
                ),
            )[0],
        ),
        ("ctx_encoder.embeddings", "question_encoder.embeddings"),
    ),
    Row(
        "no-pooler",
        "no pooler among the weights",
        "practice",
        edited(bert, dropped("pooler.dense.weight", "pooler.dense.bias")),
    ),
    Row(
        "tensor-missing",
        "a layer's tensor is not there: transformers would fill it with random numbers",
        "practice",
        edited(bert, dropped("layer.1.output.dense.weight")),
        ("lacks the tensor encoder.layer.1.output.dense.weight",),
        code="model_incomplete",
    ),
    Row("float16", "weights in float16", "practice", partial(bert, dtype="float16")),
    Row("bfloat16", "weights in bfloat16", "practice", partial(bert, dtype="bfloat16")),
    Row(
        "mixed-dtypes",
        "weights in bfloat16, LayerNorms in float32",
        "practice",
        edited(bert, stored_as("BF16", "dense.weight", "query.weight", "embeddings.weight")),
    ),
    Row(
        "sharded",
        "three shards and their index",
        "practice",
        partial(roberta, shards=3),
    ),
    Row("hub-cache", "files that are links, as the hub's cache has them", "practice", hub_cache),
    Row(
        "bin-beside",
        "a pytorch_model.bin beside the safetensors file",
        "practice",
        edited(bert, lambda folder: _write(folder / "pytorch_model.bin", b"never read")),
    ),
    Row(
        "bin-only",
        "only pytorch_model.bin",
        "practice",
        edited(
            bert,
            without("model.safetensors"),
            lambda folder: _write(folder / "pytorch_model.bin", b"never read"),
        ),
        ("pytorch_model.bin", "safetensors"),
    ),
    Row(
        "vocabulary-too-large",
        "the tokenizer's own vocabulary has more ids than the embedding table has rows",
        "a tokenizer of another model",
        edited(bert, config(vocab_size=150), word_rows(150)),
        ("150 rows", "token ids up to"),
        code="model_corrupt",
    ),
    Row(
        "tokens-added",
        "tokens were added, and the model was not resized",
        "transformers#1730; Qwen3-Embedding-4B",
        edited(bert, added_token("<extra>", 10_000)),
        how="a text with such a token is refused by the guard, every other is served",
    ),
    Row(
        "vocabulary-padded",
        "more embedding rows than ids",
        "practice",
        edited(bert, config(vocab_size=640), word_rows(640)),
    ),
    Row(
        "vocabulary-disagrees",
        "`vocab_size` is not the number of embedding rows",
        "practice",
        edited(bert, config(vocab_size=640)),
        ("word_embeddings.weight", "640 by 64"),
        code="model_corrupt",
    ),
    Row(
        "nan",
        "weights that a diverged training left as NaN",
        "practice",
        edited(bert, nan),
        ("NaN",),
        code="model_corrupt",
    ),
)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


SECTIONS = (
    Section("Encoders: what saved them", "cpu-minilm", _SAVED_BY),
    Section("Encoders: architectures", "cpu-minilm", _ARCHITECTURES),
    Section("Encoders: settings of the network", "cpu-minilm", _CONFIG),
    Section("Encoders: weights", "cpu-minilm", _TENSORS),
)
