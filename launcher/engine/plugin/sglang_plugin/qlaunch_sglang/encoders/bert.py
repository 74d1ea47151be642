"""BERT with the checkpoint's own pooling in place of SGLang's hard-coded CLS."""

from sglang.srt.models import bert as stock

from qlaunch_sglang.attention import whole_texts
from qlaunch_sglang.checkpoint import complete
from qlaunch_sglang.loading import released
from qlaunch_sglang.packed import pack_layers
from qlaunch_sglang.pooling import CheckpointPooler


class BertModel(stock.BertModel):
    """SGLang's BertModel with another attention and, where it serves embeddings, another pooler."""

    def __init__(self, *, config, **kwargs):
        complete(config)
        super().__init__(config=config, **kwargs)
        whole_texts(self.encoder)
        if not self.use_bert_pooler:
            self.pooler = CheckpointPooler.for_model(config)

    def load_weights(self, weights):
        """Load as SGLang does; the checkpoint's pages are given back on the way."""
        loaded = super().load_weights(released(weights))
        pack_layers(self, self.encoder, self.config.hidden_act)
        return loaded


class Contriever(BertModel):
    """SGLang's alias of BertModel under Contriever's name."""


EntryClass = [BertModel, Contriever, stock.BertForSequenceClassification]
