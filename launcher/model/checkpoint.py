"""What a model is: its card, where it comes from, and what its checkpoint says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import msgspec

Pooling = Literal["mean", "cls", "last", "max"]
Similarity = Literal["cosine", "dot", "euclidean", "manhattan"]
SIMILARITIES: frozenset[Any] = frozenset(get_args(Similarity))
"""How vectors of a model are compared, as sentence-transformers names it."""
_DOCUMENT = ("document", "passage", "corpus")
"""Names of the prompt for documents, in sentence-transformers' order."""


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """Where a model's files come from.

    `kind` `path`: `location` is a folder. `package`: a Python package that ships the weights, with
    `revision` its version. `hf` and `modelscope`: a repository id, with `revision` or None for the
    hub's default.
    """

    kind: Literal["path", "package", "hf", "modelscope"]
    location: str
    revision: str | None = None

    def __str__(self) -> str:
        """The form users write: `hf:Qwen/Qwen3-Embedding-0.6B@main`."""
        if self.kind == "path":
            return self.location
        suffix = f"@{self.revision}" if self.revision else ""
        return f"{self.kind}:{self.location}{suffix}"


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The sizes of an architecture that memory depends on, as its config.json has them."""

    layers: int
    hidden_size: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    stored_dtype: Literal["float32", "bfloat16", "float16"]
    encoder: bool
    """Bidirectional (BERT class)."""


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """A file in profiles/models/: facts about a model that do not need its weights."""

    name: str
    title: str
    sources: tuple[Source, ...]
    """In the order to try."""
    architecture: str
    parameters: int
    pooling: Pooling
    normalize: bool
    dimensions: int
    context_length: int
    licence: str
    instruction: str | None = None
    """Template for queries, with `{task}` and `{query}`; None where the model takes plain text."""
    end_token: str | None = None
    """Token the tokenizer must append to every text; empty: it must append none; None: unsaid."""
    matryoshka: bool = False
    """Whether vectors may be cut to fewer dimensions and normalised again."""
    sha256: dict[str, str] = {}
    """Hash by relative file name, checked after fetching from a `package:` source."""
    shape: Shape | None = None
    """For predicting memory before the model's files are here; None where nobody looked it up."""
    notes: str | None = None
    file: str = ""
    """Where the card was read from."""


class Prompts(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says of prompts: literal texts that a client puts before its own.

    `query` and `document` both empty or absent count as unsaid: sentence-transformers 5 and later
    write them so by themselves.
    """

    named: dict[str, str] = {}
    """Prompt by its name: query, document, or a task such as STS."""
    default: str | None = None
    """Name of the prompt before every text whose caller names none."""
    similarity: Similarity | None = None

    @property
    def plain(self) -> str:
        """Before a text whose caller names no prompt, as `encode` of sentence-transformers."""
        return self.document if self.default is None else self.named.get(self.default, "")

    @property
    def query(self) -> str:
        """Before a query, as `encode_query`: never the default prompt."""
        return self.named.get("query", "")

    @property
    def document(self) -> str:
        """Before a document: the first of document, passage and corpus that is not empty."""
        return next(filter(None, map(self.named.get, _DOCUMENT)), "")

    @property
    def pair(self) -> tuple[str, str]:
        """Before queries and before documents, of a program that embeds both.

        Where nothing is said of either: the default prompt before both, as callers of `encode` do.
        """
        either = self.query or self.document
        return (self.query, self.document) if either else (self.plain, self.plain)


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """What a model folder says of itself, without torch. Counts in elements, sizes in bytes."""

    path: Path
    architectures: tuple[str, ...]
    served_as: str = ""
    """Class in the engine that computes it; empty: the first of `architectures`."""
    unnamed: bool = False
    """config.json names no class; `architectures` is what its `model_type` stands for."""
    model_type: str
    hidden_size: int
    num_layers: int
    num_attention_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    context_length: int
    """Positions the model can really use: config, less RoBERTa's offset; `max_seq_length` of
    `sentence_bert_config.json` only where that is the only limit given."""
    stored_dtype: str
    """dtype of most weight elements as the safetensors headers say: float32, bfloat16, …"""
    parameters: int
    """Elements in all tensors of the safetensors files."""
    weight_bytes: int
    """Bytes of all tensors as stored."""
    weight_files: tuple[str, ...]
    pooling: Pooling
    pooling_source: str
    """Which file said so (`1_Pooling/config.json`), or the reason for the default."""
    normalize: bool
    normalize_source: str
    include_prompt: bool = True
    dense_dims: tuple[int, ...] = ()
    """Output widths of Dense modules, in order; the last is the served width."""
    dimensions: int
    """Width of a served vector."""
    max_seq_length: int | None = None
    """Tokens after which sentence-transformers cuts a text (`sentence_bert_config.json`); None
    where nothing says so. The engine does not cut there."""
    lower_case: bool = False
    """Texts are put in lower case before the tokenizer sees them (`do_lower_case` of
    `sentence_bert_config.json`)."""
    mended_tokenizer: bool = False
    """SGLang, without the plugin, changes what transformers makes of its tokenizer."""
    encoder: bool
    """Of the BERT class."""
    both_ways: bool = False
    """Every token sees those after it: encoders, and decoders whose config says so."""
    sliding_window: int | None = None
    """Tokens back that a decoder's layers see; its context ends there, so that all see all."""
    new_rotation: bool = False
    """Its rotation is given as transformers 5 writes it only (`rope_parameters`)."""
    quantization: str | None = None
    prompts: Prompts | None = None
    """What its config_sentence_transformers.json says of prompts; None where there is no file."""
    fingerprint: str
    """Changes whenever a file that changes vectors does; cheap (sizes, headers, small files and
    samples of the weights, not whole-file hashes)."""

    @property
    def engine_class(self) -> str:
        """Class in the engine that computes it."""
        return self.served_as or self.architectures[0]

    @property
    def whole_texts(self) -> bool:
        """Whether a cached prefix or a chunk would corrupt vectors: every token must be at hand."""
        return self.encoder or self.both_ways or self.pooling != "last"

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of key and value cache one token takes at 2 bytes an element.

        2 (K and V) * layers * KV heads * head size * 2 B: 112 KiB for Qwen3-Embedding-0.6B.
        """
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * 2
