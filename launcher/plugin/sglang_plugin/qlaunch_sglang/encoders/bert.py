"""BERT with the checkpoint's own pooling in place of SGLang's hard-coded CLS."""

from sglang.srt.models import bert as stock

from qlaunch_sglang.attention import whole_texts
from qlaunch_sglang.checkpoint import Activation, complete, own_names
from qlaunch_sglang.loading import released
from qlaunch_sglang.packed import pack_layers
from qlaunch_sglang.pooling import CheckpointPooler
from qlaunch_sglang.portions import by_portions, token_types


class BertModel(stock.BertModel):
    """SGLang's BertModel with another attention and, where it serves embeddings, another pooler."""

    tables = 3

    def __init__(self, *, config, **kwargs):
        complete(config)
        with Activation(config) as activation:
            super().__init__(config=config, **kwargs)
        activation.put_into(self.encoder)
        whole_texts(layer.attention.self_attn for layer in self.encoder.layer)
        if not self.use_bert_pooler:
            self.pooler = CheckpointPooler.for_model(config)

    def forward(self, input_ids, positions, forward_batch, input_embeds=None, get_embedding=False):
        """One vector a text; its tokens are looked up, computed and pooled in one portion."""

        def embed(start, end, _lengths):
            its = token_types(forward_batch, start, end)
            return self.embeddings(
                input_ids=input_ids[start:end],
                positions=positions[start:end],
                forward_batch=its,
            )

        found = by_portions(self.encoder, self.pooler, len(input_ids), forward_batch, embed)
        if found is not None:
            return found
        return super().forward(input_ids, positions, forward_batch, input_embeds, get_embedding)

    def load_weights(self, weights):
        """Load as SGLang does; the checkpoint's pages are given back on the way."""
        named = own_names(released(weights), self.config, self.tables)
        loaded = super().load_weights(named)
        pack_layers(self, self.encoder, self.config.hidden_act)
        return loaded


class DistilBertModel(BertModel):
    """DistilBERT: BERT's layers under other names, without token types."""

    tables = 2

    def __init__(self, *, config, **kwargs):
        config.hidden_act = config.activation
        config.intermediate_size = config.hidden_dim
        config.layer_norm_eps = 1e-12
        config.type_vocab_size = 1
        super().__init__(config=config, **kwargs)

    def load_weights(self, weights):
        """Load as SGLang does; the one token type adds nothing."""
        self.embeddings.token_type_embeddings.weight.data.zero_()
        return super().load_weights(weights)


class Contriever(BertModel):
    """SGLang's alias of BertModel under Contriever's name."""


EntryClass = [BertModel, DistilBertModel, Contriever, stock.BertForSequenceClassification]
