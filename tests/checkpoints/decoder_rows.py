"""Decoders of the matrix."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from tests.checkpoints import make_qwen3
from tests.checkpoints.decoder_edits import (
    head,
    nested,
    post_processor,
    pre_tokenizer,
    renamed_bare,
)
from tests.checkpoints.edit import (
    GONE,
    added,
    added_token,
    config,
    dropped,
    edited,
    prefixed,
    setting,
    without,
    writing,
)
from tests.checkpoints.matrix import Make, Row, Section
from tests.checkpoints.weights import Weight

ST: Final = "sentence_transformers.models"
PROFILE: Final = "cpu-qwen3-0.6b"
_qwen3 = partial(make_qwen3, dtype="float32")
_bare = partial(make_qwen3, dtype="float32", architecture="Qwen3Model")


def family(name: str, architecture: str, **changes: Any) -> Make:
    """A decoder of another family: Qwen3's tensors without the norms of queries and keys."""
    return edited(
        _qwen3,
        dropped("q_norm.weight", "k_norm.weight"),
        config(model_type=name, architectures=[architecture], **changes),
    )


def with_biases(*names: str) -> Any:
    """Biases of the attention's projections, of make_qwen3's size."""
    rows = {"q": 128, "k": 64, "v": 64, "o": 64}
    return added(
        *(
            Weight(f"model.layers.{layer}.self_attn.{name}_proj.bias", (rows[name],), std=0.3)
            for layer in range(2)
            for name in names
        )
    )


_qwen2 = edited(family("qwen2", "Qwen2ForCausalLM"), with_biases("q", "k", "v"), pre_tokenizer)
_llama = family("llama", "LlamaForCausalLM", rope_theta=10000.0)
_mistral = family("mistral", "MistralForCausalLM", rope_theta=10000.0)
_LLAMA3: Final = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
_YARN: Final = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}

_FAMILIES = (
    Row(
        name="qwen3",
        what="Qwen3-Embedding as published: `Qwen3ForCausalLM`, last token, Normalize",
        source="Qwen/Qwen3-Embedding-0.6B",
        make=make_qwen3,
    ),
    Row(
        name="qwen3-bare",
        what="`Qwen3Model`, tensors without `model.`",
        source="microsoft/harrier-oss-v1-0.6b",
        make=_bare,
    ),
    Row(
        name="qwen3-bare-names",
        what="`Qwen3ForCausalLM` with the bare class's tensor names",
        source="fine-tunes saved by AutoModel",
        make=edited(_bare, config(architectures=["Qwen3ForCausalLM"])),
    ),
    Row(
        name="qwen3-causal-names",
        what="`Qwen3Model` with the causal class's tensor names",
        source="fine-tunes saved by AutoModelForCausalLM",
        make=edited(_qwen3, config(architectures=["Qwen3Model"])),
    ),
    Row(
        name="qwen3-unnamed",
        what="no `architectures`",
        source="configs written by hand",
        make=edited(_bare, config(architectures=GONE)),
        how="the class that transformers takes by `model_type`",
    ),
    Row(
        name="qwen2-bare",
        what="`Qwen2Model`, tensors without `model.`",
        source="fine-tunes of Qwen2.5",
        make=edited(_qwen2, renamed_bare, config(architectures=["Qwen2Model"])),
        how="the plugin registers the bare class",
    ),
    Row(
        name="llama",
        what="`LlamaForCausalLM`",
        source="fine-tunes of Llama",
        make=_llama,
    ),
    Row(
        name="llama-bare",
        what="`LlamaModel` with `rope_scaling` of Llama 3.1",
        source="transformers' AutoModel",
        make=edited(
            _llama, renamed_bare, config(architectures=["LlamaModel"], rope_scaling=_LLAMA3)
        ),
        how="the plugin registers the bare class",
    ),
    Row(
        name="mistral-bare",
        what="`MistralModel` with a sliding window of 1024",
        source="intfloat/e5-mistral-7b-instruct",
        make=edited(
            _mistral, renamed_bare, config(architectures=["MistralModel"], sliding_window=1024)
        ),
        how="the context ends with the window",
    ),
)
_ATTENTION = (
    Row(
        name="qwen3-not-causal",
        what="Qwen3 with `is_causal: false`",
        source="sglang#35531",
        make=edited(make_qwen3, config(is_causal=False)),
        how="the plugin lets every token see all others; no prefix cache, no chunks",
        start=True,
    ),
    Row(
        name="qwen2-not-causal-mean",
        what="Qwen2 with `is_causal: false`, mean pooling",
        source="gte-Qwen2 without its code",
        make=edited(_qwen2, config(is_causal=False), head(pooling="mean")),
        how="the plugin pools and attends as the files say",
    ),
    Row(
        name="qwen3-use-bidirectional",
        what="Qwen3 with `use_bidirectional_attention: true`",
        source="exports of other trainers",
        make=edited(make_qwen3, config(use_bidirectional_attention=True)),
        says=("use_bidirectional_attention: true", "nothing defines"),
    ),
    Row(
        name="qwen3-not-causal-no-pooling",
        what="Qwen3 with `is_causal: false`, no modules.json, no 1_Pooling",
        source="fine-tunes saved by transformers",
        make=edited(
            make_qwen3,
            config(is_causal=False),
            without("modules.json", "1_Pooling/config.json"),
        ),
        says=("nothing says how", "1_Pooling"),
    ),
    Row(
        name="qwen3-is-causal-text",
        what='`is_causal: "false"`',
        source="hand-written configs",
        make=edited(make_qwen3, config(is_causal="false")),
        says=("is_causal", "true or false"),
        code="model_corrupt",
    ),
    Row(
        name="llama-bidirectional-class",
        what="`LlamaBidirectionalModel` with code of its own",
        source="nvidia/llama-embed-nemotron-8b",
        make=edited(
            _llama,
            config(
                architectures=["LlamaBidirectionalModel"],
                model_type="llama_bidirec",
                auto_map={"AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel"},
            ),
        ),
        says=("code of the checkpoint's own", "llama_bidirectional_model"),
    ),
    Row(
        name="qwen2-remote-code",
        what="gte-Qwen2: `Qwen2ForCausalLM` with `auto_map`",
        source="Alibaba-NLP/gte-Qwen2-1.5B-instruct",
        make=edited(
            _qwen2, config(is_causal=False, auto_map={"AutoModel": "modeling_qwen.Qwen2Model"})
        ),
        says=("code of the checkpoint's own", "modeling_qwen.Qwen2Model"),
    ),
)
_HEADS = (
    Row(
        name="qwen3-mean",
        what="Qwen3 with mean pooling",
        source="sentence-transformers' default for a decoder",
        make=edited(_qwen3, head(pooling="mean")),
        how="the plugin pools; no prefix cache, no chunks",
    ),
    Row(
        name="qwen3-max",
        what="Qwen3 with max pooling",
        source="sentence-transformers",
        make=edited(_qwen3, head(pooling="max")),
        how="the plugin pools; no prefix cache, no chunks",
    ),
    Row(
        name="qwen3-no-normalize",
        what="Qwen3 without Normalize",
        source="fine-tunes with sentence-transformers",
        make=edited(_qwen3, head(normalize=False)),
        how="the plugin does not normalise",
    ),
    Row(
        name="qwen3-dense",
        what="Qwen3 with a Dense module of 48",
        source="jasper, stella",
        make=edited(_qwen3, head(dense=48)),
        how="the plugin computes the Dense module in float32",
    ),
    Row(
        name="qwen3-no-modules",
        what="Qwen3 without modules.json and 1_Pooling",
        source="fine-tunes saved by transformers",
        make=edited(_qwen3, without("modules.json", "1_Pooling/config.json")),
        how="the last token, normalised: a decoder's default",
    ),
    Row(
        name="qwen3-weighted-mean",
        what="a decoder with weighted mean pooling",
        source="SGPT",
        make=edited(
            _qwen3,
            setting(
                "1_Pooling/config.json",
                pooling_mode_lasttoken=False,
                pooling_mode_weightedmean_tokens=True,
            ),
        ),
        says=("weightedmean",),
    ),
    Row(
        name="qwen3-reranker",
        what="`Qwen3ForSequenceClassification`",
        source="Qwen3-Reranker converted",
        make=edited(_qwen3, config(architectures=["Qwen3ForSequenceClassification"])),
        says=("classifier or reranker",),
    ),
    Row(
        name="qwen3-untied-head",
        what="`tie_word_embeddings: false` with lm_head.weight",
        source="Qwen3-Embedding-8B's base",
        make=edited(
            _qwen3, config(tie_word_embeddings=False), added(Weight("lm_head.weight", (512, 64)))
        ),
        how="the head is not loaded",
    ),
    Row(
        name="qwen3-untied-no-head",
        what="`tie_word_embeddings: false` without lm_head.weight",
        source="fine-tunes saved by AutoModel",
        make=edited(_qwen3, config(tie_word_embeddings=False)),
        how="the head is not needed",
    ),
)
_CONFIGS = (
    Row(
        name="qwen3-transformers-5",
        what="`rope_parameters` for `rope_theta`, `dtype` for `torch_dtype`",
        source="saved by transformers 5",
        make=edited(
            _qwen3,
            config(
                rope_theta=GONE,
                rope_scaling=GONE,
                rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
                torch_dtype=GONE,
                dtype="float32",
                layer_types=["full_attention"] * 2,
            ),
        ),
    ),
    Row(
        name="qwen3-rope-linear",
        what="linear `rope_scaling`",
        source="long-context fine-tunes",
        make=edited(_qwen3, config(rope_scaling={"type": "linear", "factor": 2.0})),
    ),
    Row(
        name="qwen3-rope-yarn",
        what="YaRN `rope_scaling`",
        source="Qwen3's README",
        make=edited(_qwen3, config(rope_scaling=_YARN)),
    ),
    Row(
        name="qwen3-rope-two",
        what="`rope_theta` and another one in `rope_parameters`",
        source="configs edited by hand",
        make=edited(
            _qwen3, config(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
        ),
        says=("rope_theta twice",),
        code="model_corrupt",
    ),
    Row(
        name="qwen3-rope-dynamic",
        what="dynamic `rope_scaling`",
        source="long-context fine-tunes of Llama 2",
        make=edited(_qwen3, config(rope_scaling={"type": "dynamic", "factor": 2.0})),
        says=("rotation dynamic",),
    ),
    Row(
        name="qwen3-rope-yarn-factor",
        what="YaRN with an `attention_factor` of its own",
        source="transformers' documentation",
        make=edited(_qwen3, config(rope_scaling=_YARN | {"attention_factor": 1.5})),
        says=("attention_factor", "yarn"),
    ),
    Row(
        name="qwen3-rope-yarn-short",
        what="YaRN for fewer positions than `max_position_embeddings`",
        source="configs edited by hand",
        make=edited(_qwen3, config(rope_scaling=_YARN | {"factor": 2.0})),
        says=("2048 positions", "for 1024"),
    ),
    Row(
        name="qwen3-rope-yarn-bare",
        what="YaRN without `original_max_position_embeddings`",
        source="configs edited by hand",
        make=edited(_qwen3, config(rope_scaling={"type": "yarn", "factor": 4.0})),
        says=("without original_max_position_embeddings",),
        code="model_corrupt",
    ),
    Row(
        name="qwen3-rope-longrope",
        what="`longrope`",
        source="Phi-3",
        make=edited(_qwen3, config(rope_scaling={"type": "longrope", "factor": 2.0})),
        says=("longrope",),
    ),
    Row(
        name="qwen3-partial-rotary",
        what="`partial_rotary_factor: 0.5`",
        source="newer families",
        make=edited(_qwen3, config(partial_rotary_factor=0.5)),
        says=("partial_rotary_factor",),
    ),
    Row(
        name="qwen3-sliding",
        what="sliding attention in half of the layers, window 256",
        source="Qwen2.5 with `use_sliding_window`",
        make=edited(
            _qwen3,
            config(use_sliding_window=True, sliding_window=256, max_window_layers=1),
        ),
        how="the context ends with the window",
    ),
    Row(
        name="mistral-window-unsaid",
        what="a Mistral without the key `sliding_window`, which transformers takes for 4096",
        source="configs written by hand",
        make=edited(_mistral, config(sliding_window=GONE, max_position_embeddings=8192)),
        how="the context ends with the window",
    ),
    Row(
        name="qwen3-context-elsewhere",
        what="`model_max_length: 256`, which SGLang takes for the context",
        source="fine-tunes of early Llama (`max_sequence_length`), configs edited by hand",
        make=edited(_qwen3, config(model_max_length=256)),
        how="the context ends there",
    ),
    Row(
        name="qwen3-mlx",
        what="`quantization_config` without `quant_method`",
        source="mlx-community",
        make=edited(_qwen3, config(quantization_config={"group_size": 64, "bits": 4})),
        says=("quant_method", "MLX"),
    ),
    Row(
        name="qwen3-biases",
        what="`attention_bias: true`",
        source="converted checkpoints",
        make=edited(_qwen3, config(attention_bias=True), with_biases("q", "k", "v", "o")),
    ),
    Row(
        name="qwen3-stray-biases",
        what="biases that config.json does not give",
        source="converted checkpoints",
        make=edited(_qwen3, with_biases("q")),
        says=("does not account for", "bias"),
        code="model_corrupt",
    ),
    Row(
        name="qwen3-vocabulary",
        what="a vocabulary larger than the embedding's rows",
        source="tokens added without resizing",
        make=edited(_qwen3, config(vocab_size=600)),
        says=("embed_tokens.weight", "600", "512"),
        code="model_corrupt",
    ),
    Row(
        name="qwen3-other-names",
        what="tensors named by a trainer's wrapper (`module.model.…`)",
        source="DDP, FSDP",
        make=edited(_qwen3, prefixed("module.")),
        says=("module.model.embed_tokens.weight", "'model.' before"),
    ),
    Row(
        name="qwen3-text-config",
        what="settings under `text_config`",
        source="models of texts and images",
        make=edited(_qwen3, nested),
        says=("text_config", "texts and images"),
    ),
    Row(
        name="gpt2",
        what="`GPT2LMHeadModel`",
        source="SGPT, old decoders",
        make=edited(_qwen3, config(architectures=["GPT2LMHeadModel"], model_type="gpt2")),
        says=("GPT2LMHeadModel", "cannot serve"),
    ),
    Row(
        name="gemma3",
        what="`Gemma3TextModel`, attention in both directions",
        source="google/embeddinggemma-300m",
        make=edited(
            _qwen3,
            config(
                architectures=["Gemma3TextModel"],
                model_type="gemma3_text",
                use_bidirectional_attention=True,
            ),
        ),
        says=("Gemma3TextModel", "cannot serve"),
    ),
    Row(
        name="t5-encoder",
        what="`T5EncoderModel`",
        source="sentence-t5, gtr-t5",
        make=edited(_qwen3, config(architectures=["T5EncoderModel"], model_type="t5")),
        says=("T5EncoderModel", "cannot serve"),
    ),
)
_TOKENIZERS = (
    Row(
        name="qwen3-own-tokenizer-class",
        what="the published `tokenizer_class: Qwen2Tokenizer` with its pre-tokenizer",
        source="Qwen/Qwen3-Embedding-0.6B",
        make=edited(
            _qwen3,
            setting("tokenizer_config.json", tokenizer_class="Qwen2Tokenizer"),
            pre_tokenizer,
        ),
    ),
    Row(
        name="qwen3-no-end-token",
        what="a tokenizer that lost its post-processor",
        source="QwenLM/Qwen3-Embedding#54",
        make=edited(_qwen3, post_processor(None)),
        says=("appends no end token",),
        code="model_incomplete",
    ),
    Row(
        name="qwen3-token-beyond",
        what="a token added to the tokenizer alone, beyond the embedding's rows",
        source="`add_special_tokens` without `resize_token_embeddings`",
        make=edited(_qwen3, added_token("<instruct>", 512)),
        how="a text with such a token is refused by the guard, every other is served",
    ),
    Row(
        name="qwen3-padding-left",
        what="`padding_side: left`, a chat template, generation_config.json",
        source="Qwen/Qwen3-Embedding-0.6B",
        make=edited(
            _qwen3,
            setting("tokenizer_config.json", padding_side="left", chat_template="{{ messages }}"),
            writing("generation_config.json", {"temperature": 0.6, "do_sample": True}),
        ),
    ),
    Row(
        name="qwen3-mean-no-end-token",
        what="mean pooling, and a tokenizer that appends nothing",
        source="LLM2Vec",
        make=edited(_qwen3, head(pooling="mean"), post_processor(None)),
        how="the mean needs no end token",
    ),
)
SECTIONS = (
    Section("Decoders: classes and names", PROFILE, _FAMILIES),
    Section("Decoders: attention", PROFILE, _ATTENTION),
    Section("Decoders: pooling and heads", PROFILE, _HEADS),
    Section("Decoders: settings", PROFILE, _CONFIGS),
    Section("Decoders: tokenizers", PROFILE, _TOKENIZERS),
)
