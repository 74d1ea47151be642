"""Files that are nearly right: modules, tokenizers and decoders."""

from __future__ import annotations

import json
from functools import partial
from typing import Any, Final

from tests.checkpoints import make_bert, make_qwen3
from tests.checkpoints.decoder_rows import family
from tests.checkpoints.edit import (
    GONE,
    config,
    edited,
    modules,
    setting,
    without,
    writing,
)
from tests.checkpoints.matrix import Section
from tests.checkpoints.odd_edits import (
    LEGACY,
    dense_bin,
    number,
    rewritten,
    tokenizer_part,
    vocabulary,
)
from tests.checkpoints.odd_rows import refused, served

ST: Final = "sentence_transformers.models"
_CORRUPT, _INCOMPLETE, _UNSUPPORTED = "model_corrupt", "model_incomplete", "model_unsupported"
_bert = partial(make_bert, pooling="mean")
_dense = partial(make_bert, pooling="mean", dense=48)
_qwen3 = partial(make_qwen3, dtype="float32")
_llama = family("llama", "LlamaForCausalLM", rope_theta=10000.0)
_sbert = partial(setting, "sentence_bert_config.json")
_tokens = partial(setting, "tokenizer_config.json")
_FLAGS: Final = dict.fromkeys(
    (
        "pooling_mode_mean_tokens", "pooling_mode_max_tokens", "pooling_mode_cls_token",
        "pooling_mode_lasttoken", "pooling_mode", "pooling_mode_mean_sqrt_len_tokens",
        "pooling_mode_weightedmean_tokens",
    ),
    GONE,
)  # fmt: skip


def _pooling(**changes: Any) -> Any:
    return setting("1_Pooling/config.json", **(_FLAGS | changes))


def _named(*names: Any, idx: int | None = None) -> list[dict[str, Any]]:
    """The usual three modules under other names; None leaves a name out."""
    kinds = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize"}
    number = {} if idx is None else {"idx": idx}
    return [
        {"type": f"{ST}.{kind}", "path": place} | ({} if name is None else {"name": name}) | number
        for name, (kind, place) in zip(names, kinds.items(), strict=True)
    ]


_DENSE: Final = "2_Dense/config.json"
_MODULES = (
    *(
        refused(
            f"flag-{key.replace('_', '-')}",
            f"`{key}: {said!r}` in 1_Pooling",
            edited(_bert, _pooling(**({"pooling_mode_cls_token": True} | {key: said}))),
            _CORRUPT,
            key,
            "true or false",
        )
        for key, said in (("pooling_mode_mean_tokens", 1), ("include_prompt", "false"))
    ),
    refused(
        "lower-case-text",
        '`do_lower_case: "false"` in sentence_bert_config.json',
        edited(_bert, _sbert(do_lower_case="false")),
        _CORRUPT,
        "do_lower_case",
    ),
    refused(
        "pooling-without-folder",
        "a Pooling whose folder is the transformer's",
        edited(_bert, modules((f"{ST}.Transformer", ""), (f"{ST}.Pooling", ""))),
        _CORRUPT,
        "no folder of its own",
    ),
    refused(
        "nul-in-path",
        "a module's folder with a NUL in its name",
        edited(_bert, modules((f"{ST}.Transformer", ""), (f"{ST}.Pooling", "a\0b"))),
        _CORRUPT,
        "outside this folder",
    ),
    refused(
        "dense-nan",
        "NaN in a Dense module",
        edited(_dense, number("linear.weight", float("nan"), "2_Dense/model.safetensors")),
        _CORRUPT,
        "NaN",
    ),
    refused(
        "dense-code",
        "a Dense module's pytorch_model.bin that calls os.system",
        edited(_dense, dense_bin(b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.")),
        _CORRUPT,
        "PyTorch did not save it",
    ),
    refused(
        "dense-old-code",
        "the same in the form of PyTorch before 1.6",
        edited(
            _dense,
            dense_bin(LEGACY + b"K\x01.K\x01.\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R."),
        ),
        _UNSUPPORTED,
        "calls os system",
    ),
    refused(
        "dense-empty",
        "an empty pytorch_model.bin of a Dense module",
        edited(_dense, dense_bin(b"")),
        _INCOMPLETE,
        "is empty",
    ),
    refused(
        "dense-flag",
        "`bias: 0` of a Dense module",
        edited(_dense, setting(_DENSE, bias=0)),
        _CORRUPT,
        "bias",
    ),
    *(
        refused(
            f"pooling-{name}",
            what,
            edited(_bert, setting("1_Pooling/config.json", **changes)),
            _CORRUPT,
            "1_Pooling/config.json",
            key,
        )
        for name, what, key, changes in (
            (
                "no-width",
                "1_Pooling without `word_embedding_dimension`",
                "word_embedding_dimension",
                {"word_embedding_dimension": GONE},
            ),
            (
                "unknown-key",
                "a key in 1_Pooling that sentence-transformers 6 does not know",
                "pooling_mode_attention",
                {"pooling_mode_attention": False},
            ),
        )
    ),
    *(
        refused(
            f"module-name-{name}",
            f"{what} for the name of a module in modules.json",
            edited(_bert, writing("modules.json", _named(*names))),
            _CORRUPT,
            "modules.json",
            says,
        )
        for name, what, names, says in (
            ("number", "a number", ("0", 1, "2"), "name of a module as '1'"),
            ("absent", "nothing", ("0", None, "2"), "name of a module as 'None'"),
            ("point", "`a.b`", ("0", "a.b", "2"), "without points"),
            ("empty", "an empty text", ("0", "1", ""), "without points"),
            ("taken", "`forward`", ("forward", "1", "2"), "the name forward"),
            ("twice", "one name twice", ("0", "1", "1"), "two modules the name 1"),
        )
    ),
    served(
        "module-idx",
        "modules.json without `idx`, or with others",
        edited(_bert, writing("modules.json", _named("0", "1", "2", idx=7))),
        "sentence-transformers takes them as they stand",
    ),
    *(
        refused(
            f"settings-{key.replace('_', '-')}-{name}",
            f"`{key}: {json.dumps(said)}` in sentence_bert_config.json",
            edited(_bert, _sbert(**{key: said})),
            code,
            "sentence_bert_config.json",
            key,
        )
        for key, said, name, code in (
            ("max_seq_length", "256", "text", _CORRUPT),
            ("max_seq_length", 256.0, "point", _CORRUPT),
            ("max_seq_length", 0, "none", _CORRUPT),
            ("max_seq_length", True, "flag", _CORRUPT),
            ("model_args", "x", "text", _CORRUPT),
            ("config_args", None, "null", _CORRUPT),
            ("processor_kwargs", [], "list", _CORRUPT),
            ("max_length", 256, "unknown", _CORRUPT),
            ("tokenizer_name_or_path", "bert-base-uncased", "other", _UNSUPPORTED),
        )
    ),
    served(
        "settings-null",
        "`max_seq_length: null` and `model_args: {}` in sentence_bert_config.json",
        edited(_bert, _sbert(max_seq_length=None, model_args={}, tokenizer_name_or_path=None)),
    ),
    served(
        "pooling-off",
        "a pooling config that turns one mode off and says no more",
        edited(_bert, _pooling(pooling_mode_cls_token=False)),
        "mean, sentence-transformers' default",
    ),
    served(
        "folder-dot",
        "`.` for the transformer's folder",
        edited(
            _bert,
            modules(
                (f"{ST}.Transformer", "."),
                (f"{ST}.Pooling", "1_Pooling"),
                (f"{ST}.Normalize", "2_Normalize"),
            ),
        ),
    ),
)

_TOKENIZERS = (
    *(
        refused(
            f"setting-{key.replace('_', '-')}",
            f"`{key}: {said!r}` in tokenizer_config.json",
            edited(_bert, _tokens(**{key: said})),
            _CORRUPT,
            key,
        )
        for key, said in (
            ("padding_side", "middle"),
            ("truncation_side", "middle"),
            ("extra_special_tokens", "x"),
            ("additional_special_tokens", [1]),
            ("added_tokens_decoder", {"x": {"content": "a"}}),
            ("do_lower_case", None),
            ("chat_template", [{"name": "a"}]),
        )
    ),
    *(
        refused(
            f"part-{part.replace('_', '-')}",
            f"`{part}: {said!r}` in tokenizer.json",
            edited(_bert, tokenizer_part(**{part: said}), _tokens(tokenizer_class=GONE)),
            _CORRUPT,
            part if part != "version" else "2.0",
        )
        for part, said in (
            ("version", "2.0"),
            ("decoder", {"type": "Odd"}),
            ("normalizer", {"type": "Odd"}),
            ("something", 1),
        )
    ),
    refused(
        "negative-id",
        "a negative id in tokenizer.json",
        edited(_bert, vocabulary("word", -5)),
        _CORRUPT,
        "the id '-5'",
    ),
    refused(
        "id-as-text",
        "an id that is a text in tokenizer.json",
        edited(_bert, vocabulary("word", "5")),
        _CORRUPT,
        "the id '5'",
    ),
    refused(
        "added-list",
        "added_tokens.json that is a list",
        edited(_bert, writing("added_tokens.json", ["a"])),
        _CORRUPT,
        "added_tokens.json",
    ),
    refused(
        "template-encoding",
        "a chat template in UTF-16",
        edited(_bert, rewritten("chat_template.jinja", lambda _: "é".encode("utf-16"))),
        _CORRUPT,
        "chat_template.jinja",
        "UTF-8",
    ),
    refused(
        "generation-list",
        "generation_config.json that is a list",
        edited(_bert, writing("generation_config.json", [])),
        _CORRUPT,
        "generation_config.json",
    ),
    served(
        "generation-broken",
        "generation_config.json that is cut short",
        edited(_bert, rewritten("generation_config.json", lambda _: b"{")),
    ),
    served("no-length", "`model_max_length: 0`", edited(_bert, _tokens(model_max_length=0))),
    served(
        "windows-vocabulary",
        "vocab.txt with Windows' ends of lines and no tokenizer.json",
        edited(
            _bert,
            without("tokenizer.json"),
            rewritten("vocab.txt", lambda data: data.replace(b"\n", b"\r\n")),
        ),
    ),
)


def _scaling(kind: str, factor: Any, **more_keys: Any) -> Any:
    return config(rope_scaling={"type": kind, "factor": factor, **more_keys})


_LINEAR = "linear"
_DECODERS = (
    *(
        refused(f"decoder-{name}", what, edited(_qwen3, change), code, *says)
        for name, what, change, code, says in (
            (
                "factor-half",
                "linear `rope_scaling` of 0.5",
                _scaling(_LINEAR, 0.5),
                _CORRUPT,
                ("factor",),
            ),
            (
                "factor-none",
                "linear `rope_scaling` of 0",
                _scaling(_LINEAR, 0),
                _CORRUPT,
                ("factor",),
            ),
            (
                "factor-huge",
                "YaRN of a thousand million",
                _scaling("yarn", 1e9, original_max_position_embeddings=512),
                _CORRUPT,
                ("stretches",),
            ),
            (
                "theta-text",
                '`rope_theta: "1e6"`',
                config(rope_theta="1e6"),
                _CORRUPT,
                ("rope_theta",),
            ),
            (
                "theta-null",
                "`rope_theta: null`",
                config(rope_theta=None),
                _CORRUPT,
                ("rope_theta",),
            ),
            (
                "theta-negative",
                "`rope_theta: -1.0`",
                config(rope_theta=-1.0),
                _CORRUPT,
                ("rope_theta",),
            ),
            (
                "window-text",
                '`sliding_window: "128"`',
                config(sliding_window="128"),
                _CORRUPT,
                ("sliding_window",),
            ),
            (
                "window-none",
                "`sliding_window: 0`",
                config(sliding_window=0, use_sliding_window=True, max_window_layers=0),
                _CORRUPT,
                ("sliding_window",),
            ),
            (
                "layers-null",
                "`max_window_layers: null`",
                config(max_window_layers=None),
                _CORRUPT,
                ("max_window_layers",),
            ),
            (
                "kinds-few",
                "`layer_types` of fewer layers",
                config(layer_types=["full_attention"]),
                _CORRUPT,
                ("layer_types",),
            ),
            (
                "kinds-odd",
                "`layer_types` with linear attention",
                config(layer_types=["linear_attention", "full_attention"]),
                _UNSUPPORTED,
                ("linear_attention",),
            ),
            (
                "kinds-without-window",
                "`layer_types` with a window that is not given",
                config(layer_types=["sliding_attention", "full_attention"]),
                _CORRUPT,
                ("sliding_attention",),
            ),
            (
                "one-position",
                "`max_position_embeddings: 1`",
                config(max_position_embeddings=1),
                _CORRUPT,
                ("positions",),
            ),
            (
                "dropout",
                '`attention_dropout: "0"`',
                config(attention_dropout="0"),
                _CORRUPT,
                ("attention_dropout",),
            ),
        )
    ),
    *(
        refused(
            f"decoder-{name}",
            f"Llama with `{key}: {said!r}`, which SGLang alone reads",
            edited(_llama, config(**{key: said})),
            _UNSUPPORTED,
            key,
        )
        for name, key, said in (
            ("bias", "bias", True),
            ("rotation-style", "rope_is_neox_style", False),
            ("weights-named", "transformers_weights", "x.safetensors"),
            ("hybrid-window", "is_hybrid_swa", True),
            ("ngrams", "use_ngram_embedding", True),
        )
    ),
    served(
        "decoder-linear-whole",
        "linear `rope_scaling` whose factor is a whole number",
        edited(_llama, _scaling(_LINEAR, 2)),
    ),
    served(
        "decoder-window-off",
        "`sliding_window` with `use_sliding_window: false`",
        edited(_qwen3, config(sliding_window=128, use_sliding_window=False)),
    ),
)

SECTIONS = (
    Section("Nearly right: modules", "cpu-minilm", _MODULES),
    Section("Nearly right: tokenizers", "cpu-minilm", _TOKENIZERS),
    Section("Nearly right: decoders", "cpu-qwen3-0.6b", _DECODERS),
)
