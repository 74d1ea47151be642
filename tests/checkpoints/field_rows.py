"""Rows of the matrix: whole folders as the hub has them, where a part of them is not served."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from tests.checkpoints import make_bert, make_qwen3, make_roberta
from tests.checkpoints.decoder_edits import pre_tokenizer
from tests.checkpoints.decoder_rows import family
from tests.checkpoints.edit import (
    GONE,
    Change,
    Stored,
    added,
    cast,
    config,
    edited,
    modules,
    prefixed,
    read_tensors,
    renamed,
    setting,
    tensors,
    write_tensors,
)
from tests.checkpoints.encoder_files import to_distilbert
from tests.checkpoints.matrix import Row, Section
from tests.checkpoints.odd_edits import rewritten
from tests.checkpoints.tokenizer_rows import roberta, sentencepiece, tokenizer_config
from tests.checkpoints.weights import Weight, write_json, write_weights

ST: Final = "sentence_transformers.models"
_CORRUPT: Final = "model_corrupt"
_POOLING: Final = (f"{ST}.Pooling", "1_Pooling")
_bert = partial(make_bert, pooling="mean")
_dense = partial(make_bert, pooling="mean", dense=48)
_qwen3 = partial(make_qwen3, dtype="float32")
_qwen = edited(_qwen3, pre_tokenizer, tokenizer_config(tokenizer_class="Qwen2Tokenizer"))


def _alone(kind: str, place: str, *after: tuple[str, str]) -> Any:
    """A folder with modules and without a config.json of its own."""

    def make(path: Path) -> Path:
        (path / place).mkdir(parents=True)
        weights = [Weight("embedding.weight", (512, 64))]
        write_weights(path / place, weights, seed=1, dtype="float32")
        modules((f"{ST}.{kind}", place), *after)(path)
        return path

    return make


def _static(path: Path) -> Path:
    """What model2vec saves: a table of words beside a config.json of its own."""
    make: Path = _alone("StaticEmbedding", ".", (f"{ST}.Normalize", "1_Normalize"))(path)
    said = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": 64}
    write_json(make / "config.json", said)
    return make


def _in_a_folder(kind: str, place: str) -> Change:
    """Move the transformer into a folder, as early releases of sentence-transformers saved it."""

    def change(folder: Path) -> None:
        (folder / place).mkdir()
        for file in [each for each in folder.iterdir() if each.is_file()]:
            if file.name != "modules.json":
                file.rename(folder / place / file.name)
        modules((f"{ST}.{kind}", place), _POOLING)(folder)

    return change


def _moved_up(folder: Path) -> None:
    """What the refusal of such a folder says to do."""
    for file in (folder / "0_Transformer").iterdir():
        file.rename(folder / file.name)
    (folder / "0_Transformer").rmdir()
    listed = json.loads((folder / "modules.json").read_bytes())
    write_json(folder / "modules.json", [listed[0] | {"path": ""}, *listed[1:]])


def _dense_tensors(change: Any) -> Change:
    """Change the tensors of the Dense module."""

    def made(folder: Path) -> None:
        file = folder / "2_Dense" / "model.safetensors"
        write_tensors(file, change(read_tensors(file)))

    return made


def _eight_bits(found: dict[str, Stored]) -> dict[str, Stored]:
    return {name: ("F8_E4M3", shape, data[::4]) for name, (_, shape, data) in found.items()}


def _twice(name: str) -> Change:
    """Store another tensor under the name of the bare class too, before or behind the others."""
    numbers = np.arange(64, dtype="<f4").tobytes()
    return tensors(lambda found: {name: ("F32", (64,), numbers)} | found)


def _without_a_number(word: str) -> Change:
    text = f'{{"time_limit": [0.0, {word}], '.encode()
    return rewritten("config.json", lambda data: data.replace(b"{", text, 1))


def _part(name: str, at: int, **changes: Any) -> Change:
    """Change one part of a Sequence in tokenizer.json."""

    def change(data: bytes) -> bytes:
        found = json.loads(data)
        found[name]["pretokenizers"][at] |= changes
        return json.dumps(found).encode()

    return rewritten("tokenizer.json", change)


_FOLDERS = (
    *(
        Row(
            f"alone-{kind.lower()}",
            f"`{kind}` in the folder `{place}`, and no config.json beside modules.json",
            source,
            _alone(kind, place, *after),
            (f"begins with the module {kind}",),
        )
        for kind, place, source, after in (
            (
                "StaticEmbedding",
                "0_StaticEmbedding",
                "sentence-transformers/static-retrieval-mrl-en-v1",
                (),
            ),
            (
                "WordEmbeddings",
                "0_WordEmbeddings",
                "sentence-transformers/average_word_embeddings_glove.6B.300d",
                (_POOLING,),
            ),
            ("CLIPModel", "0_CLIPModel", "sentence-transformers/clip-ViT-B-32", ()),
            ("Router", "query_0_Transformer", "sentence-transformers 5", ()),
        )
    ),
    Row(
        "static-with-config",
        "`StaticEmbedding` beside a config.json of model2vec",
        "minishlab/potion-base-8M",
        _static,
        ("modules.json begins with the module StaticEmbedding",),
    ),
    Row(
        "whole-transformer-folder",
        "the transformer in `0_Transformer` with all its files, config.json among them",
        "sentence-transformers, early releases",
        edited(_bert, _in_a_folder("Transformer", "0_Transformer")),
        ("modules.json", "keeps its transformer in the folder '0_Transformer'"),
    ),
    Row(
        "moved-up",
        "the same after its files were moved one folder up",
        "what the refusal says",
        edited(_bert, _in_a_folder("Transformer", "0_Transformer"), _moved_up),
    ),
    Row(
        "old-name",
        "a first module `sentence_transformers.models.BERT`",
        "sentence-transformers, early releases",
        edited(_bert, modules((f"{ST}.BERT", ""), _POOLING)),
        ("the module BERT", "calls Transformer now"),
    ),
    Row(
        "modules-in-disorder",
        "modules.json whose entries stand in another order than they run",
        "files written by hand",
        edited(_bert, modules(_POOLING, (f"{ST}.Transformer", ""))),
        ("begins with the module Pooling", "in the order of that file"),
    ),
    Row(
        "modules-none",
        "a modules.json that lists nothing",
        "files written by hand",
        edited(_bert, modules()),
        ("lists no modules",),
        code=_CORRUPT,
    ),
    *(
        Row(
            f"constant-{word.lower()}",
            f"`{word}` in config.json, which Python writes and JSON does not have",
            "Python's json, which writes it",
            edited(_bert, _without_a_number(word)),
            (f"holds {word}",),
            code=_CORRUPT,
        )
        for word in ("NaN", "Infinity")
    ),
)
_WEIGHTS = (
    Row(
        "dense-bias-unsaid",
        "a Dense module that says it has no bias and has one",
        "tried by hand",
        edited(_dense, setting("2_Dense/config.json", bias=False)),
        ("2_Dense/model.safetensors", "holds linear.bias"),
        code=_CORRUPT,
    ),
    Row(
        "dense-more",
        "a Dense module with a tensor of another module",
        "tried by hand",
        edited(
            _dense,
            _dense_tensors(lambda found: found | {"norm.weight": ("F32", (1,), bytes(4))}),
        ),
        ("2_Dense/model.safetensors", "norm.weight"),
        code=_CORRUPT,
    ),
    Row(
        "dense-eight-bits",
        "a Dense module in fp8",
        "tried by hand",
        edited(_dense, _dense_tensors(_eight_bits)),
        ("2_Dense/model.safetensors", "F8_E4M3", "quantised"),
    ),
    Row(
        "dense-half",
        "a Dense module in float16",
        "models saved by `model.half()`",
        edited(_dense, _dense_tensors(lambda found: {n: cast(s, "F16") for n, s in found.items()})),
    ),
    Row(
        "decoder-twice",
        "a tensor with and without `model.` before its name, which differ",
        "checkpoints joined by hand",
        edited(_qwen3, _twice("norm.weight")),
        ("holds norm.weight twice",),
        code=_CORRUPT,
    ),
    Row(
        "decoder-wrapped",
        "tensors named by peft (`base_model.model.model.…`)",
        "adapters saved with their base",
        edited(_qwen3, prefixed("base_model.model.")),
        ("base_model.model.model.embed_tokens.weight", "'model.' before"),
    ),
    Row(
        "encoder-misspelt",
        "a misspelt `model_type`",
        "config.json edited by hand",
        edited(_bert, config(model_type="brt")),
        ("model_type brt", "did you mean `bert`?"),
    ),
    *(
        Row(
            f"decoder-type-{name}",
            f"`model_type: {json.dumps(said)}` beside `Qwen3ForCausalLM`",
            "config.json edited by hand",
            edited(_qwen3, config(model_type=said)),
            ("names the class Qwen3ForCausalLM", says, "not qwen3"),
            code=_CORRUPT,
        )
        for name, said, says in (
            ("capital", "Qwen3", "model_type Qwen3"),
            ("dash", "qwen-3", "model_type qwen-3"),
            ("none", None, "no model_type"),
            ("of-another", "qwen2", "model_type qwen2"),
            ("of-an-encoder", "bert", "model_type bert"),
        )
    ),
    Row(
        "decoder-type-alone",
        "a misspelt `model_type` of a decoder, and no class",
        "config.json edited by hand",
        edited(_qwen3, config(model_type="Qwen3", architectures=None)),
        ("model_type Qwen3", "did you mean `qwen3`"),
        code=_CORRUPT,
    ),
    Row(
        "encoder-type-of-a-decoder",
        "`model_type: qwen3` beside `BertModel`",
        "config.json edited by hand",
        edited(_bert, config(model_type="qwen3")),
        ("BertModel", "model_type qwen3"),
    ),
    Row(
        "decoder-adapter",
        "weights beside a LoRA adapter of peft (`q_proj.base_layer.weight`)",
        "adapters saved without being merged",
        edited(_qwen3, renamed(lambda name: name.replace("q_proj.", "q_proj.base_layer."))),
        ("q_proj.base_layer.weight", "not merged"),
    ),
    Row(
        "decoder-score",
        "a reranker's `score.weight` beside an embedding model's class",
        "practice",
        edited(_qwen3, added(Weight("score.weight", (1, 64)))),
        ("does not account for", "score.weight"),
        code=_CORRUPT,
    ),
)
_SIZES = (
    *(
        Row(
            f"alias-{key.replace('_', '-')}",
            f"`{other}` for `{key}` in the config.json of a {title}",
            "configs of other families",
            edited(make, config(**{key: GONE, other: value})),
            (f"gives {other}", f"not {key}"),
            code=_CORRUPT,
        )
        for key, other, value, title, make in (
            ("num_attention_heads", "n_heads", 4, "BERT", _bert),
            ("num_hidden_layers", "n_layers", 2, "BERT", _bert),
            ("intermediate_size", "n_inner", 128, "BERT", _bert),
            ("hidden_size", "n_embd", 64, "Qwen3", _qwen3),
        )
    ),
    Row(
        "distilbert-usual-names",
        "`DistilBertModel` with `hidden_size`, `num_hidden_layers` and `num_attention_heads`",
        "configs of other families",
        edited(
            _bert,
            to_distilbert,
            config(dim=GONE, hidden_size=64, n_layers=GONE, num_hidden_layers=2),
            config(n_heads=GONE, num_attention_heads=4),
        ),
    ),
)
_NULLS = (
    Row(
        "kv-heads-null",
        "Qwen3 with `num_key_value_heads: null`: as many as there are heads",
        "configs written by hand",
        edited(partial(_qwen3, kv_heads=4), config(num_key_value_heads=None)),
    ),
    Row(
        "kv-heads-null-mistral",
        "Mistral with `num_key_value_heads: null`",
        "configs written by hand",
        edited(family("mistral", "MistralForCausalLM"), config(num_key_value_heads=None)),
        ("num_key_value_heads",),
        code=_CORRUPT,
    ),
    Row(
        "head-dim-null",
        "Qwen3 with `head_dim: null`",
        "configs written by hand",
        edited(partial(_qwen3, head_dim=16), config(head_dim=None)),
        ("head_dim",),
        code=_CORRUPT,
    ),
)
_POSITIONS = tuple(
    Row(
        f"positions-null-{title.lower()}",
        f"`max_position_embeddings: null` of a {title}",
        "configs written by hand",
        edited(
            make,
            config(max_position_embeddings=None),
            setting("sentence_bert_config.json", max_seq_length=256),
        ),
        ("config.json gives max_position_embeddings as null",),
        code=_CORRUPT,
    )
    for title, make in (("BERT", _bert), ("Qwen3", _qwen3))
)
_TOKENIZERS = (
    Row(
        "qwen-split",
        "`Qwen2Tokenizer` over a pre-tokenizer that splits by another pattern",
        "tokenizers trained anew",
        edited(_qwen, _part("pre_tokenizer", 0, pattern={"Regex": r"\p{L}+|\p{N}{1,3}|\s+"})),
        ("pre_tokenizer Split by", "Qwen2Tokenizer of transformers 5"),
    ),
    Row(
        "qwen-prefix",
        "`Qwen2Tokenizer` over a tokenizer.json that puts a blank before each text",
        "tokenizers trained anew",
        edited(_qwen, _part("pre_tokenizer", 1, add_prefix_space=True)),
        ("add_prefix_space", "Qwen2Tokenizer of transformers 5"),
    ),
    Row(
        "roberta-whole",
        "`RobertaTokenizer` over bytes that are not split into words (`use_regex: false`)",
        "tokenizers trained anew",
        edited(
            roberta,
            tokenizer_config(tokenizer_class="RobertaTokenizer"),
            rewritten(
                "tokenizer.json",
                lambda data: data.replace(b'"use_regex":true', b'"use_regex":false').replace(
                    b'"use_regex": true', b'"use_regex": false'
                ),
            ),
        ),
        ("use_regex false", "RobertaTokenizer of transformers 5"),
    ),
    Row(
        "xlmr-replace",
        "`XLMRobertaTokenizer` over a normalizer that replaces letters",
        "tokenizers trained anew",
        edited(
            partial(make_roberta, pooling="mean"),
            sentencepiece("XLMRobertaTokenizer"),
            setting(
                "tokenizer.json",
                normalizer={"type": "Replace", "pattern": {"String": "ё"}, "content": "е"},
            ),
        ),
        ("normalizer Replace of", "XLMRobertaTokenizer of transformers 5"),
    ),
)
SECTIONS = (
    Section("From the field: folders and modules", "cpu-minilm", _FOLDERS),
    Section("From the field: sizes", "cpu-minilm", (*_SIZES, *_POSITIONS)),
    Section("From the field: null", "cpu-qwen3-0.6b", _NULLS),
    Section("From the field: weights", "cpu-minilm", _WEIGHTS[:4]),
    Section("From the field: weights of decoders", "cpu-qwen3-0.6b", _WEIGHTS[4:]),
    Section("From the field: tokenizers", "cpu-minilm", _TOKENIZERS),
)
