"""XLM-RoBERTa and RoBERTa with the checkpoint's own pooling in place of SGLang's hard-coded CLS.

SGLang has a class for XLM-RoBERTa only. RoBERTa is the same network: positions counted from behind
the padding index, the same tensor names; its vocabulary and token types are sizes in the config.
"""

from sglang.srt.models import roberta as stock

from qlaunch_sglang.attention import whole_texts
from qlaunch_sglang.checkpoint import Activation, complete, own_names
from qlaunch_sglang.loading import released
from qlaunch_sglang.packed import pack_layers
from qlaunch_sglang.pooling import CheckpointPooler
from qlaunch_sglang.portions import by_portions, token_types


class XLMRobertaModel(stock.XLMRobertaModel):
    """SGLang's XLMRobertaModel; only pooler and attention differ."""

    def __init__(self, *, config, **kwargs):
        complete(config)
        with Activation(config) as activation:
            super().__init__(config=config, **kwargs)
        activation.put_into(self.roberta.encoder)
        whole_texts(layer.attention.self_attn for layer in self.roberta.encoder.layer)
        # With SGLANG_EMBEDDINGS_SPARSE_HEAD the user asks for sparse vectors: SGLang's own matter.
        if not getattr(self, "_is_sparse", False):
            self.pooler = CheckpointPooler.for_model(config)

    def forward(self, input_ids, positions, forward_batch, input_embeds=None, get_embedding=False):
        """One vector a text; its tokens are looked up, computed and pooled in one portion."""

        def embed(start, end, lengths):
            its = token_types(forward_batch, start, end)
            return self.roberta.embeddings(
                input_ids=input_ids[start:end],
                seq_lens=lengths,
                position_ids=positions[start:end],
                forward_batch=its,
            )

        encoder = self.roberta.encoder
        found = by_portions(encoder, self.pooler, len(input_ids), forward_batch, embed)
        if found is not None:
            return found
        return super().forward(input_ids, positions, forward_batch, input_embeds, get_embedding)

    def load_weights(self, weights):
        """Load as SGLang does; the checkpoint's pages are given back on the way."""
        named = own_names(released(weights), self.roberta.config)
        loaded = super().load_weights(named)
        pack_layers(self, self.roberta.encoder, self.roberta.config.hidden_act)
        return loaded


class RobertaModel(XLMRobertaModel):
    """XLMRobertaModel under RoBERTa's name."""


EntryClass = [XLMRobertaModel, RobertaModel, stock.XLMRobertaForSequenceClassification]
