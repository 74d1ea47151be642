"""What `/v1/models` says of a text's length. Pure."""

import json


def told(content, most):
    """The engine's answer, where `max_model_len` is what a text may have, special tokens counted.

    The engine tells its context, which no text may fill, and which is one above the positions of an
    encoder: clients that cut texts to it would be refused.
    """
    try:
        found = json.loads(content)
    except ValueError:
        return content
    for model in _models(found):
        length = model.get("max_model_len")
        if type(length) is int:
            model["max_model_len"] = min(length - 1, most)
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def _models(found):
    if not isinstance(found, dict):
        return []
    listed = found.get("data", [found])
    return [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
