"""The shipped table of options against the parser of the SGLang that is installed."""

from __future__ import annotations

from launcher.engine import flags, parser_check
from launcher.engine.types import Engine


def test_the_shipped_table_is_what_the_real_parser_accepts(engine: Engine) -> None:
    own = parser_check.read_parser(engine.release, engine.python)
    shipped = flags.table(engine.version)
    assert shipped is not None
    assert own.version == engine.version
    assert parser_check.differences(shipped, own) == []
    assert parser_check.effective(own).index().keys() == shipped.index().keys()


def test_the_install_kept_what_the_parser_accepts(engine: Engine) -> None:
    kept = parser_check.stored(engine)
    assert kept is not None
    assert len(kept.options) > 400
