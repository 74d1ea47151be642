"""Encoders of the matrix."""

from __future__ import annotations

from functools import partial

from tests.checkpoints import make_bert, make_roberta
from tests.checkpoints.edit import GONE, config, edited, modules, prefixed
from tests.checkpoints.matrix import Row, Section

ST = "sentence_transformers.models"
_bert = partial(make_bert, pooling="mean")
_roberta = partial(make_roberta, pooling="mean")

_SAVED_BY = (
    Row(
        name="bert-transformers-5",
        what="BERT by transformers 5: no `position_embedding_type`, `dtype` for `torch_dtype`",
        source="transformers#41170, vllm#30770",
        make=edited(
            _bert,
            config(position_embedding_type=GONE, torch_dtype=GONE, dtype="float32", use_cache=GONE),
        ),
        how="the attribute that SGLang reads is given its default",
        start=True,
    ),
)
_MODULES = (
    Row(
        name="custom-transformer",
        what="a first module of the checkpoint's own code (`custom_st.Transformer`)",
        source="infinity#474",
        make=edited(_bert, modules(("custom_st.Transformer", ""), (f"{ST}.Pooling", "1_Pooling"))),
        says=("custom_st.Transformer", "code of its own"),
    ),
)

SECTIONS = (
    Section("Encoders: what saved them", "cpu-minilm", _SAVED_BY),
    Section("Encoders: modules", "cpu-minilm", _MODULES),
)
_ = prefixed, _roberta
