"""Llama and Mistral for embeddings: with the causal class's names or the bare one's."""

from sglang.srt.models import llama as stock

from qlaunch_sglang.decoder import Embedding


class LlamaForCausalLM(Embedding, stock.LlamaForCausalLM):
    """SGLang's Llama; pooling, attention and names are the checkpoint's."""


class LlamaModel(LlamaForCausalLM):
    """The same under the bare class's name."""


class MistralForCausalLM(LlamaForCausalLM):
    """The same network: a context within its window needs none."""


class MistralModel(LlamaForCausalLM):
    """The same under the bare class's name."""


EntryClass = [LlamaForCausalLM, LlamaModel, MistralForCausalLM, MistralModel]
