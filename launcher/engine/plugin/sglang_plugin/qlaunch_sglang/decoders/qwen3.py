"""SGLang's Qwen3 as it is: it pools the last token and normalises, as Qwen3-Embedding says."""

from sglang.srt.models.qwen3 import Qwen3ForCausalLM

EntryClass = Qwen3ForCausalLM
