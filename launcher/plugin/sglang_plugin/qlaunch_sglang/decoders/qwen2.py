"""Qwen2 for embeddings: with the causal class's names or the bare one's."""

from sglang.srt.models import qwen2 as stock

from qlaunch_sglang.decoder import Embedding


class Qwen2ForCausalLM(Embedding, stock.Qwen2ForCausalLM):
    """SGLang's Qwen2; pooling, attention and names are the checkpoint's."""

    def __init__(self, config, **kwargs):
        # On a CPU SGLang notes the heads there are, and its Qwen2 then takes width by heads for the
        # size of one, whatever `head_dim` says: the first text would end the scheduler.
        if getattr(config, "head_dim", None) and hasattr(config, "original_num_attention_heads"):
            del config.original_num_attention_heads
        super().__init__(config, **kwargs)


class Qwen2Model(Qwen2ForCausalLM):
    """The same under the bare class's name."""


EntryClass = [Qwen2ForCausalLM, Qwen2Model]
