"""An embedding server's scheduler makes no grammar backend."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from launcher.engine import command

if str(command.PLUGIN) not in sys.path:
    sys.path.append(str(command.PLUGIN))

from qlaunch_sglang import no_grammar


@pytest.mark.parametrize(("embeds", "made"), [(True, None), (False, ("a backend", "tokenizer"))])
def test_only_what_generates_has_one(embeds: bool, made: object) -> None:
    arguments = SimpleNamespace(is_embedding=embeds)
    backend = no_grammar._around(lambda _args, *rest: ("a backend", *rest), arguments, "tokenizer")
    assert backend == made
