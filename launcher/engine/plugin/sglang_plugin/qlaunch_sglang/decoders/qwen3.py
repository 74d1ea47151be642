"""SGLang's Qwen3: it pools the last token and normalises, as Qwen3-Embedding says."""

from sglang.srt.models import qwen3 as stock

from qlaunch_sglang.loading import released


class Qwen3ForCausalLM(stock.Qwen3ForCausalLM):
    """SGLang's Qwen3; only the checkpoint's pages are given back while it loads."""

    def load_weights(self, weights):
        """Load as SGLang does."""
        return super().load_weights(released(weights))


EntryClass = Qwen3ForCausalLM
