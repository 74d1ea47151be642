"""What `/v1/models` says of the model: its names, and how long a text may be. Pure."""

import json


def told(content, settings, name):
    """The engine's answer with every name of the model, or with the `name` that was asked for.

    `max_model_len` becomes what a text may have, special tokens counted. The engine tells its
    context, which no text may fill, and which is one above the positions of an encoder: clients
    that cut texts to it would be refused.
    """
    try:
        found = json.loads(content)
    except ValueError:
        return content
    for model in _models(found):
        length = model.get("max_model_len")
        if type(length) is int and settings.text_tokens is not None:
            model["max_model_len"] = min(length - 1, settings.text_tokens)
    if name in settings.aliases and isinstance(found, dict):
        found["id"] = name
    elif name is None and isinstance(found, dict) and isinstance(found.get("data"), list):
        models = _models(found)
        found["data"] += [{**one, "id": name} for one in models[:1] for name in settings.aliases]
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def _models(found):
    if not isinstance(found, dict):
        return []
    listed = found.get("data", [found])
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
