"""Tokens that a text may become: one at least, and none without a row in the embedding table.

Ids that clients send are checked in the body (`body.py`). A text becomes ids in SGLang's tokenizer
manager, and a tokenizer may know more of them than the model has rows, where tokens were added and
the model was not resized; where it adds no special tokens, a text of characters that it drops has
none. Either ends the scheduler.
"""

NUMBER = "qlaunch_number"
"""Attribute of what is asked of one text of several, its number (qlaunch_sglang/call_slices.py)."""


def bound(manager, vocabulary):
    """Let a tokenizer manager's class refuse texts that become no id, or one too high.

    Every release asks `_validate_one_request(obj, input_ids)` for each text; its ValueError is a
    400 for the client.

    Raises:
        AttributeError: the class has no such method; the engine must not start then.
    """
    original = manager._validate_one_request

    def _validate_one_request(self, obj, input_ids):
        try:
            return _checked(self, obj, input_ids)
        except ValueError as error:
            number = getattr(obj, NUMBER, None)
            if number is None:
                raise
            raise ValueError(f"input[{number}]: {error}") from error

    def _checked(self, obj, input_ids):
        if input_ids is not None and not len(input_ids):
            raise ValueError("the text holds nothing that this model's tokenizer makes a token of")
        if input_ids is not None and max(input_ids) >= vocabulary:
            raise ValueError(
                f"the text holds a token of id {max(input_ids)}, and the model has vectors for ids"
                f" below {vocabulary} only"
            )
        return original(self, obj, input_ids)

    manager._validate_one_request = _validate_one_request
