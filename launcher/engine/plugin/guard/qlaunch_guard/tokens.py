"""Tokens that a text may become: none without a row in the embedding table.

Ids that clients send are checked in the body (`body.py`). A text becomes ids in SGLang's tokenizer
manager, and a tokenizer may know more of them than the model has rows, where tokens were added and
the model was not resized. One such id ends the scheduler.
"""


def bound(manager, vocabulary):
    """Let a tokenizer manager's class refuse texts that become an id of `vocabulary` or more.

    Every release asks `_validate_one_request(obj, input_ids)` for each text; its ValueError is a
    400 for the client.

    Raises:
        AttributeError: the class has no such method; the engine must not start then.
    """
    original = manager._validate_one_request

    def _validate_one_request(self, obj, input_ids):
        if input_ids and max(input_ids) >= vocabulary:
            raise ValueError(
                f"the text holds a token of id {max(input_ids)}, and the model has vectors for ids"
                f" below {vocabulary} only"
            )
        return original(self, obj, input_ids)

    manager._validate_one_request = _validate_one_request
