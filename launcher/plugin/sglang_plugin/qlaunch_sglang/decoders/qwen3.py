"""Qwen3 for embeddings: with the causal class's names or the bare one's."""

from sglang.srt.models import qwen3 as stock

from qlaunch_sglang.decoder import Embedding


class Qwen3ForCausalLM(Embedding, stock.Qwen3ForCausalLM):
    """SGLang's Qwen3; pooling, attention and names are the checkpoint's."""


class Qwen3Model(Qwen3ForCausalLM):
    """The same under the bare class's name."""


EntryClass = [Qwen3ForCausalLM, Qwen3Model]
