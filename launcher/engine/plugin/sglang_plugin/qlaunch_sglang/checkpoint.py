"""Checkpoints as the field writes them, made into what SGLang's classes read."""

DEFAULTS = {"position_embedding_type": "absolute", "type_vocab_size": 2, "layer_norm_eps": 1e-12}
"""Attributes that SGLang reads and that config.json need not give. transformers 5 no longer writes
the first, nor do its configuration classes have it any more."""


def complete(config) -> None:
    """Give `config` the attributes that it lacks."""
    for name, value in DEFAULTS.items():
        if getattr(config, name, None) is None:
            setattr(config, name, value)
