"""Options with which an engine serves no embeddings, or does not start, end in the plan."""

from __future__ import annotations

import pytest

from launcher.errors import QlaunchError
from launcher.plan.resolve import make_plan
from tests.plan.inputs import inputs

BOTH = ("enable-tokenizer-batch-encode", "enable-dynamic-batch-tokenizer")


def test_two_options_of_which_sglang_takes_one_are_refused() -> None:
    """`plan` was content, and `up` failed after 13 s."""
    for given in (
        inputs(flags=dict.fromkeys(BOTH, True)),
        inputs(flags={BOTH[0]: True}, extra=(f"--{BOTH[1]}",)),
    ):
        with pytest.raises(QlaunchError, match="SGLang takes one of them") as caught:
            make_plan(given)
        assert (caught.value.code, int(caught.value.exit_code)) == ("flag_invalid", 5)
    make_plan(inputs(flags={BOTH[0]: False, BOTH[1]: True}))


def test_an_engine_that_takes_no_texts_is_refused() -> None:
    """It started, failed its proof, and the advice was an option that it had."""
    with pytest.raises(QlaunchError, match="takes no texts") as caught:
        make_plan(inputs(flags={"skip-tokenizer-init": True}))
    assert caught.value.fix == "leave it out"
    make_plan(inputs(flags={"skip-tokenizer-init": False}))
