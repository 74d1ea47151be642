"""Checkpoints as the field writes them, made into what SGLang's encoder classes read.

The launcher has looked at config.json and at every tensor's name and shape before the start
(launcher/model/encoders.py): here is only what turns them into SGLang's.
"""

_DEFAULTS = {"position_embedding_type": "absolute"}
"""Attributes that SGLang reads and that config.json need not give. transformers 5 no longer writes
this one, nor do its configuration classes have it."""
_PREFIXES = ("bert.", "ernie.", "electra.", "distilbert.", "roberta.")
"""Before a name where the checkpoint was saved with a head."""
_BODY = ("embeddings.", "encoder.", "transformer.")
_NOT_READ = ("position_ids", "token_type_ids", "task_type_embeddings.weight")
_OLD_NAMES = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
"""From TensorFlow."""
_DISTIL = {
    "transformer.layer": "encoder.layer",
    "attention.q_lin": "attention.self.query",
    "attention.k_lin": "attention.self.key",
    "attention.v_lin": "attention.self.value",
    "attention.out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "ffn.lin1": "intermediate.dense",
    "ffn.lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
"""DistilBERT's names for BERT's parts."""


def complete(config) -> None:
    """Give `config` the attributes that it lacks."""
    for name, value in _DEFAULTS.items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)


class Activation:
    """While a model is built, a feed-forward activation that every SGLang has in its list.

    That list is short and differs between releases; transformers' own functions are put in later
    where another one is meant, so that both compute the same.
    """

    def __init__(self, config):
        self._config = config
        self._meant = config.hidden_act

    def __enter__(self):
        self._config.hidden_act = "gelu"
        return self

    def __exit__(self, *_):
        self._config.hidden_act = self._meant

    def put_into(self, encoder) -> None:
        """Give the layers of a BertEncoder the activation that is meant."""
        if self._meant == "gelu":
            return
        from transformers.activations import ACT2FN

        for layer in encoder.layer:
            layer.intermediate.intermediate_act_fn = ACT2FN[self._meant]


def own_names(weights, config, tables: int = 3):
    """Names and tensors as SGLang's BertModel reads them; heads and buffers left out.

    Args:
        weights: (name, tensor) of the whole checkpoint.
        tables: of embeddings that the model has.

    Raises:
        ValueError: at the end, if tensors of the network did not come: they would stay random.
    """
    seen = 0
    for name, tensor in weights:
        name = _own_name(name)
        if name is not None:
            seen += 1
            yield name, tensor
    wanted = tables + 2 + 16 * config.num_hidden_layers
    if seen != wanted:
        raise ValueError(f"the checkpoint holds {seen} tensors of the network, not {wanted}")


def _own_name(name: str) -> str | None:
    """A tensor's name in SGLang's BertModel before it joins query, key and value, or None."""
    prefix = next((each for each in _PREFIXES if name.startswith(each)), "")
    name = name[len(prefix) :]
    if not name.startswith(_BODY) or name.endswith(_NOT_READ):
        return None
    renames = _DISTIL if name.startswith("transformer.") else _OLD_NAMES
    for theirs, ours in renames.items():
        name = name.replace(theirs, ours)
    return name
