"""The shipped table of options against the parser of the SGLang that is installed."""

from __future__ import annotations

from launcher.engine.options import flags, own_options
from launcher.engine.release import Engine


def test_the_shipped_table_is_what_the_real_parser_accepts(engine: Engine) -> None:
    own = own_options.read_parser(engine.release, engine.python)
    shipped = flags.table(engine.version)
    assert shipped is not None
    assert own.version == engine.version
    assert own_options.differences(shipped, own) == []
    assert own_options.effective(own).index().keys() == shipped.index().keys()


def test_the_install_kept_what_the_parser_accepts(engine: Engine) -> None:
    kept = own_options.stored(engine)
    assert kept is not None
    assert len(kept.options) > 400
