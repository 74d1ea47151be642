"""One spelling of each engine option: its main name, and whole numbers as numbers. Pure.

The engine's parser takes `--data-parallel-size` for `--dp-size`, and `2k` or, from a profile,
`"2000"` for 2000. Whoever asks for `dp-size` and a number would find neither: sizes would go
unchecked, and memory would be predicted for the engine's own default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from launcher.argv import FlagValue, grouped
from launcher.engine.options.flags import Option, newest, whole_number


def spelled(
    flags: Mapping[str, FlagValue], known: Mapping[str, Option]
) -> tuple[dict[str, FlagValue], dict[str, str]]:
    """`flags` in one spelling, and the main name by each other one that was written.

    What the engine will not take stays as it is, for its table to refuse; and so does a second
    spelling of an option that is there already.

    Args:
        flags: options by long name without dashes.
        known: the release's options, by every spelling (`Table.index`).
    """
    found: dict[str, FlagValue] = {}
    renamed: dict[str, str] = {}
    for name, value in flags.items():
        option = known.get(f"--{name}")
        main = name if option is None else _main(option, f"--{name}").removeprefix("--")
        if main != name and (main in flags or main in found):
            main = name
        if main != name:
            renamed[name] = main
        found[main] = value if option is None else _plain(value, option)
    return found, renamed


def spelled_words(words: tuple[str, ...], known: Mapping[str, Option]) -> tuple[str, ...]:
    """The same of options as they stand in a command."""
    return tuple(word for group in grouped(words) for word in _group(group, known))


def _group(group: tuple[str, ...], known: Mapping[str, Option]) -> Iterator[str]:
    name, equals, value = group[0].partition("=")
    option = known.get(name)
    if option is None:
        yield from group
        return
    main = _main(option, name)
    if equals:
        yield f"{main}={_plain(value, option)}"
        yield from group[1:]
        return
    yield main
    if len(group) == 2:
        yield str(_plain(group[1], option))
        return
    yield from group[1:]


def _main(option: Option, written: str) -> str:
    """The main name of an option that is `written` so: the newest release's, for older ones have
    `--tensor-parallel-size` for the main name and `--tp-size` for the other one."""
    names = (option.name, *option.aliases)
    if written not in names:
        return written  # --no-NAME
    return next((name for name in names if newest(name) == name), option.name)


def _plain(value: FlagValue, option: Option) -> FlagValue:
    """A list of one as that one, where the option takes one; a whole number as a number."""
    if isinstance(value, list) and len(value) == 1 and option.nargs is None:
        value = value[0]
    if not isinstance(value, str) or option.nargs is not None:
        return value
    number = whole_number(value, option)
    return value if number is None else number
