"""Files that are nearly right: values of other types, links that lead nowhere, odd encodings."""

from __future__ import annotations

import json
from functools import partial
from typing import Final

from tests.checkpoints import make_bert, make_roberta
from tests.checkpoints.edit import (
    Make,
    config,
    edited,
    stored_as,
    without,
)
from tests.checkpoints.matrix import Row, Section
from tests.checkpoints.odd_edits import (
    APPLE_DOUBLE,
    PAGE,
    POINTER,
    dense_bin,
    index,
    joined_beside_shards,
    linked,
    marked,
    more,
    name_of_bytes,
    notes,
    number,
    renamed_weights,
    rewritten,
    scaled,
    twice_in_shards,
)
from tests.checkpoints.tokenizer_rows import roberta, tokenizer_config, vocabulary_files

_CORRUPT, _INCOMPLETE, _UNSUPPORTED = "model_corrupt", "model_incomplete", "model_unsupported"
_bert = partial(make_bert, pooling="mean")
_shards = partial(make_bert, pooling="mean", shards=3)


def refused(name: str, what: str, make: Make, code: str, *says: str) -> Row:
    return Row(name=name, what=what, source="tried by hand", make=make, says=says, code=code)


def served(name: str, what: str, make: Make, how: str = "") -> Row:
    return Row(name=name, what=what, source="tried by hand", make=make, how=how)


_REFUSED_TYPES = tuple(
    refused(
        f"type-{key.replace('_', '-')}",
        f"`{key}: {said!r}`",
        edited(_bert, config(**{key: said})),
        code,
        key,
    )
    for key, said, code in (
        ("hidden_dropout_prob", "0.1", _CORRUPT),
        ("attention_probs_dropout_prob", None, _CORRUPT),
        ("classifier_dropout", "no", _CORRUPT),
        ("eos_token_id", "2", _CORRUPT),
        ("bos_token_id", [1], _CORRUPT),
        ("id2label", ["a"], _CORRUPT),
        ("seq_length", "512", _CORRUPT),
        ("num_labels", "3", _CORRUPT),
        ("chunk_size_feed_forward", None, _CORRUPT),
        ("auto_map", "x", _CORRUPT),
        ("is_causal", True, _UNSUPPORTED),
        ("rope_scaling", {"type": "dynamic"}, _UNSUPPORTED),
    )
)
_REFUSED_KEYS = tuple(
    refused(
        f"key-{key.strip('_').replace('_', '-')}",
        f"`{key}: {json.dumps(said)}`",
        edited(_bert, config(**{key: said})),
        code,
        key,
    )
    for key, said, code in (
        ("use_return_dict", True, _CORRUPT),
        ("is_heterogeneous", None, _CORRUPT),
        ("per_layer_attributes", [], _CORRUPT),
        ("to_dict", True, _CORRUPT),
        ("self", 1, _CORRUPT),
        ("attribute_map", None, _CORRUPT),
        ("sub_configs", None, _CORRUPT),
        ("id2label", {"a": "b"}, _CORRUPT),
        ("quantization_config", {}, _UNSUPPORTED),
        ("text_config", None, _UNSUPPORTED),
        ("llm_config", {}, _UNSUPPORTED),
        ("thinker_config", "x", _UNSUPPORTED),
        ("per_layer_config", {"0": {"hidden_act": "relu"}}, _UNSUPPORTED),
        ("layer_types", ["full_attention"], _UNSUPPORTED),
    )
)
_TYPES = (
    *_REFUSED_TYPES,
    *_REFUSED_KEYS,
    served(
        "key-layer-types-whole",
        "`layer_types` that are full_attention for each layer",
        edited(_bert, config(layer_types=["full_attention"] * 2)),
    ),
    served(
        "chunked", "`chunk_size_feed_forward: 4`", edited(_bert, config(chunk_size_feed_forward=4))
    ),
    served("tuples", "`return_dict: false`", edited(_bert, config(return_dict=False))),
    served(
        "flash-attention",
        "`_attn_implementation: flash_attention_2`",
        edited(_bert, config(_attn_implementation="flash_attention_2")),
    ),
    refused(
        "no-architecture",
        "`architectures: []`",
        edited(_bert, config(architectures=[])),
        _CORRUPT,
        "architectures",
        "empty",
    ),
    *(
        served(
            f"act-{act.replace('_', '-')}",
            f"`hidden_act: {act}`",
            edited(_bert, config(hidden_act=act)),
        )
        for act in ("gelu_fast", "quick_gelu", "swish", "tanh", "gelu_python")
    ),
    served(
        "roberta-relu",
        "RoBERTa with `hidden_act: relu`",
        edited(partial(make_roberta, pooling="mean"), config(hidden_act="relu")),
    ),
)

_LAYER: Final = "encoder.layer.1.output.dense.weight"
_WEIGHTS = (
    refused(
        "fewer-layers",
        "`num_hidden_layers` below the layers that are stored",
        edited(_bert, config(num_hidden_layers=1)),
        _CORRUPT,
        "does not account for",
        "encoder.layer.1.",
    ),
    refused(
        "adapter-tensors",
        "tensors of an adapter among those of the network",
        edited(_bert, more("encoder.layer.0.output.adapters.a.weight", _LAYER)),
        _CORRUPT,
        "does not account for",
        "adapters",
    ),
    refused(
        "gamma-and-weight",
        "a LayerNorm under both of its names",
        edited(_bert, more("embeddings.LayerNorm.gamma", "embeddings.LayerNorm.weight")),
        _CORRUPT,
        "does not account for",
    ),
    refused("one-nan", "one NaN", edited(_bert, number(_LAYER, float("nan"))), _CORRUPT, _LAYER),
    refused(
        "one-infinity",
        "an infinite number in one row of the embeddings",
        edited(_bert, number("embeddings.word_embeddings.weight", float("inf"))),
        _CORRUPT,
        "NaN or infinity",
    ),
    refused(
        "never-written",
        "a file that a download set aside and did not fill",
        edited(_bert, scaled(0, "")),
        _CORRUPT,
        "only zeros",
    ),
    refused(
        "notes", "`__metadata__` with a number", edited(_bert, notes({"a": 1})), _CORRUPT, "__meta"
    ),
    refused(
        "another-name",
        "weights.safetensors for model.safetensors",
        edited(_bert, renamed_weights("weights.safetensors")),
        _INCOMPLETE,
        "weights.safetensors",
        "reads model.safetensors only",
    ),
    refused(
        "variant",
        "model.fp16.safetensors alone",
        edited(_bert, renamed_weights("model.fp16.safetensors")),
        _INCOMPLETE,
        "model.fp16.safetensors",
    ),
    refused(
        "shards-without-index",
        "shards without their index",
        edited(_shards, without("model.safetensors.index.json")),
        _INCOMPLETE,
        "model.safetensors.index.json",
    ),
    refused(
        "index-without-metadata",
        "an index of shards without `metadata`",
        edited(_shards, index(lambda found: found.pop("metadata"))),
        _CORRUPT,
        "metadata",
    ),
    refused(
        "shards-and-whole",
        "model.safetensors beside shards and their index",
        edited(_shards, joined_beside_shards),
        _CORRUPT,
        "model.safetensors and an index of other files",
    ),
    refused(
        "twice", "a tensor in two shards", edited(_shards, twice_in_shards), _CORRUPT, "as model-"
    ),
    served("float64", "weights in float64", edited(_bert, stored_as("F64"))),
    served(
        "tiny",
        "layers of numbers below what float16 has",
        edited(_bert, scaled(1e-6, "dense.weight", "query.weight")),
    ),
    served(
        "large",
        "layers of numbers beyond what float16 has",
        edited(
            _bert, scaled(1e6, "intermediate.dense.weight"), scaled(1e-6, "output.dense.weight")
        ),
    ),
)

_GONE: Final = "/nowhere/blob"
_HIDDEN: Final = (
    ".DS_Store", "._config.json", "._model.gguf", "._model.safetensors", "._tokenizer.json",
    "1_Pooling/._config.json",
)  # fmt: skip
_FILES = (
    *(
        refused(
            f"gone-{file.replace('_', '-').replace('/', '-')}",
            f"{file}, a link to a file that is gone",
            edited(_bert, linked(file, _GONE)),
            _INCOMPLETE,
            file,
            "link to a file that is gone",
        )
        for file in (
            "modules.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "vocab.txt",
            "sentence_bert_config.json",
            "config.json",
        )
    ),
    refused(
        "circle",
        "modules.json, a link to itself",
        edited(_bert, linked("modules.json", "modules.json")),
        _INCOMPLETE,
        "modules.json",
        "circle",
    ),
    refused(
        "byte-order-mark",
        "config.json with a byte order mark",
        edited(_bert, marked("config.json")),
        _CORRUPT,
        "byte order mark",
    ),
    refused(
        "tokenizer-byte-order-mark",
        "tokenizer.json with a byte order mark",
        edited(_bert, marked("tokenizer.json")),
        _CORRUPT,
        "byte order mark",
    ),
    refused(
        "utf-16",
        "modules.json in UTF-16",
        edited(_bert, rewritten("modules.json", lambda data: data.decode().encode("utf-16"))),
        _CORRUPT,
        "UTF-16",
    ),
    *(
        refused(
            f"pointer-{file.replace('_', '-').replace('/', '-')}",
            f"{file} that is a pointer of git-lfs",
            edited(_bert, rewritten(file, lambda _: POINTER)),
            _INCOMPLETE,
            file,
            "git-lfs pointer",
        )
        for file in (
            "1_Pooling/config.json",
            "chat_template.jinja",
            "config.json",
            "modules.json",
            "sentence_bert_config.json",
            "special_tokens_map.json",
            "tokenizer.json",
            "tokenizer_config.json",
        )
    ),
    *(
        refused(
            f"pointer-{file.replace('.', '-')}",
            f"{file} that is a pointer of git-lfs, without tokenizer.json",
            edited(make, *changes, rewritten(file, lambda _: POINTER)),
            _INCOMPLETE,
            file,
            "git-lfs pointer",
        )
        for file, make, *changes in (
            ("vocab.txt", _bert, without("tokenizer.json")),
            (
                "merges.txt",
                roberta,
                tokenizer_config(tokenizer_class="RobertaTokenizer"),
                vocabulary_files,
            ),
        )
    ),
    refused(
        "pointer-dense",
        "a Dense module's pytorch_model.bin that is a pointer of git-lfs",
        edited(partial(make_bert, pooling="mean", dense=48), dense_bin(POINTER)),
        _INCOMPLETE,
        "2_Dense/pytorch_model.bin",
        "git-lfs pointer",
    ),
    *(
        refused(
            f"page-{file.rpartition('.')[0].replace('_', '-')}",
            f"{file} that is a web page",
            edited(_bert, rewritten(file, lambda _: PAGE)),
            _INCOMPLETE,
            file,
            "is a web page",
        )
        for file in ("config.json", "model.safetensors", "tokenizer.json", "modules.json")
    ),
    served(
        "pointer-unread",
        "vocab.txt that is a pointer of git-lfs, beside tokenizer.json",
        edited(_bert, rewritten("vocab.txt", lambda _: POINTER)),
    ),
    served(
        "hidden-files",
        "hidden files: `._model.safetensors`, `._config.json` and others of a Mac's copy",
        edited(_bert, *(rewritten(file, lambda _: APPLE_DOUBLE) for file in _HIDDEN)),
    ),
    served("name-of-bytes", "a file whose name is Latin-1", edited(_bert, name_of_bytes)),
)

SECTIONS = (
    Section("Nearly right: config.json of encoders", "cpu-minilm", _TYPES),
    Section("Nearly right: weights", "cpu-minilm", _WEIGHTS),
    Section("Nearly right: links and encodings", "cpu-minilm", _FILES),
)
