"""Check an engine's options against the table of its release, before anything starts.

The tables in `tables/` are derived from each release's own source by `tools/flag_tables.py`;
the table of an engine that is installed comes from its own parser (`parser_check`). Words are read
as that release's argparse parser reads them. Two of its habits are refused: abbreviations (they
change meaning when a release adds an option) and options given twice.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from launcher.engine.options.successors import SUCCESSORS
from launcher.errors import ExitCode, QlaunchError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TABLES = Path(__file__).with_name("tables")
NEGATIVE_NUMBER = re.compile(r"-\d+|-\d*\.\d+")
"""Words that argparse takes for a value although they start with a dash."""

LONGEST_NUMBER = 1000
"""Characters of a number with a unit: of some thousands of digits Python makes no text again."""
_ON_OFF = frozenset(("true", "false", "yes", "no", "on", "off", "1", "0"))

Kind = Literal[
    "unknown",
    "removed",
    "abbreviated",
    "bad_type",
    "bad_choice",
    "missing_value",
    "deprecated",
    "duplicate",
    "no_table",
]


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One option of a release."""

    name: str
    aliases: tuple[str, ...] = ()
    type: Literal["str", "int", "float", "size", "json", "switch"] = "str"
    """`size` is an integer that may be written 1k or 1Ki; `switch` takes no value."""
    nargs: str | None = None
    """As argparse has it: `?`, `*`, `+` or a number; None is exactly one value."""
    choices: tuple[str | int, ...] = ()
    default: Any = None
    required: bool = False
    negatable: bool = False
    """`--no-NAME` exists too."""
    deprecated: bool = False
    successor: str | None = None
    refused: str | None = None
    """The parser knows the option only to end with this message."""
    help: str | None = None

    @property
    def words(self) -> tuple[str, ...]:
        """Every spelling the parser accepts."""
        names = (self.name, *self.aliases)
        return (*names, *(f"--no-{n[2:]}" for n in names)) if self.negatable else names


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """All options of one release."""

    version: str
    options: tuple[Option, ...]
    made_by: str = ""

    def index(self) -> dict[str, Option]:
        """Every spelling the parser accepts, and the option it stands for."""
        return {word: option for option in self.options for word in option.words}


class FlagProblem(msgspec.Struct, frozen=True, kw_only=True):
    """One thing wrong with an option; the message never repeats a value that may be a secret."""

    option: str
    kind: Kind
    message: str
    successor: str | None = None
    """What to write instead, where the release has another name for it."""
    nearest: tuple[str, ...] = ()
    """Options or values the word is likely a slip for, best first."""
    advice: str | msgspec.UnsetType = msgspec.UNSET
    """What to do where no other word helps."""

    @property
    def is_error(self) -> bool:
        """Whether the engine would refuse it, or do something other than what is written."""
        return self.kind != "deprecated"

    @property
    def fix(self) -> str | None:
        """What to do, in one clause; None where nothing is known to help."""
        if self.successor:
            return f"use {self.successor} instead of {self.option}"
        if self.nearest:
            return f"did you mean {' or '.join(self.nearest)}?"
        return None if self.advice is msgspec.UNSET else self.advice


@cache
def versions() -> tuple[str, ...]:
    """Releases that have a table, oldest first."""
    from packaging.version import Version

    return tuple(sorted((path.stem for path in TABLES.glob("*.json")), key=Version))


@cache
def table(version: str) -> Table | None:
    """The table of a release; None where there is none for exactly that version."""
    if not re.fullmatch(r"[0-9][0-9a-z.+]*", version):
        return None
    try:
        return msgspec.json.decode((TABLES / f"{version}.json").read_bytes(), type=Table)
    except FileNotFoundError:
        return None


@cache
def _index(version: str) -> dict[str, Option]:
    found = table(version)
    return found.index() if found else {}


def is_option(word: str) -> bool:
    """Whether any release with a table here has an option `word`, `--context-length`."""
    return any(word in _index(version) for version in reversed(versions()))


def newest(word: str) -> str | None:
    """The main name that an option has in the newest release with a table; None if it has none."""
    found = _index(versions()[-1]).get(word)
    return found.name if found else None


def check(options: Sequence[str], against: str | Table) -> list[FlagProblem]:
    """What is wrong with `options`, the words after the engine's start command, in their order.

    Args:
        options: the words.
        against: a table, or the version of a release that has one here. A version without a table
            gives one problem of kind `no_table`: another release's table would say nothing certain.
    """
    if isinstance(against, Table):
        return _Reader(list(options), against.version, against.index()).read()
    if table(against) is None:
        message = f"there is no table of the options of SGLang {against}; tables exist for "
        return [FlagProblem(option="", kind="no_table", message=message + ", ".join(versions()))]
    return _Reader(list(options), against, _index(against)).read()


def require(options: Sequence[str], against: str | Table) -> list[FlagProblem]:
    """Check `options` as `check` does and return the warnings.

    Raises:
        QlaunchError: exit 5. `flag_table_missing`: no table for that version. `flag_unknown`: an
            option that the release does not have. `flag_invalid`: an option used wrongly. The
            message names every problem; `data["problems"]` holds them.
    """
    problems = check(options, against)
    errors = [problem for problem in problems if problem.is_error]
    if not errors:
        return problems
    kinds = {problem.kind for problem in errors}
    unknown = kinds & {"unknown", "removed", "abbreviated"}
    no_table = "no_table" in kinds
    fixes = dict.fromkeys(problem.fix for problem in errors if problem.fix)
    raise QlaunchError(
        "; ".join(dict.fromkeys(problem.message for problem in errors)),
        code="flag_unknown" if unknown else "flag_table_missing" if no_table else "flag_invalid",
        exit_code=ExitCode.ENGINE,
        fix="; ".join(fixes) or None,
        data={"problems": msgspec.to_builtins(problems)},
    )


@dataclass
class _Reader:
    """Reads words as argparse does: an option, then as many values as it takes."""

    words: list[str]
    version: str
    index: dict[str, Option]
    at: int = 0
    seen: set[str] = field(default_factory=set)

    def read(self) -> list[FlagProblem]:
        problems: list[FlagProblem] = []
        while self.at < len(self.words):
            problems += self._next()
        return problems

    def _next(self) -> Iterator[FlagProblem]:
        word = self.words[self.at]
        self.at += 1
        if word == "--":
            self.at = len(self.words)
            message = "`--` ends the options, and the engine takes nothing after it"
            yield FlagProblem(option="--", kind="unknown", message=message)
            return
        if not word.startswith("-") or self._is_value(word):
            previous = next((w for w in self.words[self.at - 2 :: -1] if self._known(w)), None)
            if previous and self._is_on_or_off(previous, word):
                yield _spelled_out(previous)
                return
            where = f"after {_shown(previous.partition('=')[0])}" if previous else "at the start"
            message = f"a value {where} belongs to no option of SGLang {self.version}"
            if f"--{word}" in self.index:  # no other value is shown: it may be a key
                message = f"{word} is not an option; did you mean --{word}?"
            yield FlagProblem(option="", kind="unknown", message=message)
            return
        name, equals, value = word.partition("=")
        option = self.index.get(name)
        if option is None:
            while self.at < len(self.words) and self._is_value(self.words[self.at]):
                self.at += 1
            yield _stranger(name, self.version, self.index)
            return
        given = [value] if equals else self._values(option)
        yield from self._used(name, option, given, explicit=bool(equals))

    def _is_on_or_off(self, option: str, word: str) -> bool:
        found = self.index.get(option)
        return found is not None and found.type == "switch" and word.lower() in _ON_OFF

    def _known(self, word: str) -> bool:
        return word.partition("=")[0] in self.index

    def _is_value(self, word: str) -> bool:
        if len(word) < 2 or not word.startswith("-") or NEGATIVE_NUMBER.fullmatch(word):
            return word != "--"
        return " " in word and not self._known(word)

    def _values(self, option: Option) -> list[str]:
        """The words after an option that it takes as its values."""
        most = (
            0 if option.type == "switch" else {None: 1, "?": 1}.get(option.nargs, len(self.words))
        )
        if option.nargs and option.nargs.isdecimal():
            most = int(option.nargs)
        start = self.at
        while self.at - start < most and self.at < len(self.words):
            if not self._is_value(self.words[self.at]):
                break
            self.at += 1
        return self.words[start : self.at]

    def _used(
        self, name: str, option: Option, given: list[str], *, explicit: bool
    ) -> Iterator[FlagProblem]:
        if option.refused:
            message = f"SGLang {self.version} refuses {name}: {_shown(option.refused, 200)}"
            yield FlagProblem(
                option=name, kind="removed", message=message, successor=option.successor
            )
        elif option.deprecated:
            yield _deprecated(name, option, self.version)
        if option.name in self.seen:
            message = f"{name} is given twice; the engine would silently take the last"
            yield FlagProblem(option=name, kind="duplicate", message=message)
        self.seen.add(option.name)
        if option.type == "switch":
            if explicit:
                message = f"{name} is a switch and takes no value"
                yield FlagProblem(option=name, kind="bad_type", message=message)
            return
        least = {None: 1, "+": 1, "?": 0, "*": 0}.get(option.nargs)
        if len(given) < (int(option.nargs or 0) if least is None else least):
            yield self._missing(name, option)
            return
        for value in given:
            yield from _value_problems(name, option, value)

    def _missing(self, name: str, option: Option) -> FlagProblem:
        """A value is missing; one that starts with a dash was meant as the value, perhaps."""
        message = f"{name} needs a value ({_wanted(option)})"
        if self.at < len(self.words) and not self._known(self.words[self.at]):
            self.at += 1
            message += f"; one that starts with a dash is written {name}=VALUE"
        return FlagProblem(option=name, kind="missing_value", message=message)


def _spelled_out(name: str) -> FlagProblem:
    message = f"{name} is a switch and takes no value"
    advice = f"after `--` write {name} alone, or nothing; in a profile true or false without quotes"
    return FlagProblem(option=name, kind="unknown", message=message, advice=advice)


def _deprecated(name: str, option: Option, version: str) -> FlagProblem:
    message = f"{name} still works in SGLang {version}, but is deprecated"
    return FlagProblem(option=name, kind="deprecated", message=message, successor=option.successor)


def _stranger(word: str, version: str, index: dict[str, Option]) -> FlagProblem:
    """The problem with a word that is no option of this release."""
    name = _shown(word)
    message = f"{name} is not an option of SGLang {version}"
    if word in ("--help", "-h"):
        message = f"{word} prints the engine's options and serves nothing"
        return FlagProblem(option=word, kind="unknown", message=message)
    elsewhere = [v for v in versions() if v != version and word in _index(v)]
    if elsewhere:
        successor = _successor(word, index, elsewhere)
        message += f" ({_when(version, elsewhere)})"
        return FlagProblem(option=name, kind="removed", message=message, successor=successor)
    full = tuple(sorted(w for w in index if len(word) > 2 and w.startswith(word)))
    if full:
        message = f"{name} is an abbreviation, which another release may read differently"
        return FlagProblem(option=name, kind="abbreviated", message=message, nearest=full[:3])
    from launcher.yaml_reader import nearest

    near = tuple(nearest(word.replace("_", "-"), index))
    return FlagProblem(option=name, kind="unknown", message=message, nearest=near)


def _when(version: str, elsewhere: list[str]) -> str:
    """Which catalogued releases have an option that this one lacks."""
    from packaging.version import Version

    older = [v for v in elsewhere if Version(v) < Version(version)]
    if older:
        return f"{older[-1]} is the last catalogued release that has it"
    return f"{elsewhere[0]} is the first catalogued release that has it"


def _successor(word: str, index: dict[str, Option], elsewhere: list[str]) -> str | None:
    """What replaces an option here: by hand, else what the last release that has it names."""
    named = (_index(v)[word].successor for v in reversed(elsewhere))
    for candidates in (SUCCESSORS.get(word, ()), tuple(name for name in named if name)):
        found = [c for c in candidates if re.split(r"[= ]", c, maxsplit=1)[0] in index]
        if found:
            return " or ".join(dict.fromkeys(found))
    return None


def _value_problems(name: str, option: Option, value: str) -> Iterator[FlagProblem]:
    """What is wrong with one value: its type, or that it is none of the choices."""
    try:
        converted = _CONVERT[option.type](value)
    except (ValueError, RecursionError):
        message = f"{name} takes {_wanted(option)}, not `{_shown(value, 40)}`"
        yield FlagProblem(option=name, kind="bad_type", message=message)
        return
    if option.choices and converted not in option.choices:
        from launcher.yaml_reader import nearest

        choices = [str(choice) for choice in option.choices]
        near = tuple(nearest(value, choices))
        message = f"{name} does not take `{_shown(value, 40)}`"
        if len(choices) <= 12:
            message += f"; it takes {', '.join(choices)}"
        yield FlagProblem(option=name, kind="bad_choice", message=message, nearest=near)


def _size(text: str) -> int:
    """SGLang's `human_readable_int` (srt/utils/common.py): 1k, 25.6k, 1Ki; case matters."""
    if len(text) > LONGEST_NUMBER:
        raise ValueError(text)
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(Ki|Mi|Gi|Ti|k|M|G|T)", text.strip())
    if not match:
        return int(text)
    number, suffix = match[1], match[2]
    power = "kMGT".index(suffix[0].lower() if suffix[0] == "K" else suffix[0]) + 1
    if not suffix.endswith("i"):
        return int(Decimal(number) * 1000**power)
    if "." in number:
        raise ValueError(text)
    return int(number) << 10 * power


def whole_number(text: str, option: Option) -> int | None:
    """The number that the engine reads in `text` for an option that takes one; else None."""
    if option.type not in ("int", "size"):
        return None
    try:
        return int(_CONVERT[option.type](text))
    except ValueError:
        return None


_CONVERT: dict[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": float,
    "size": _size,
    "json": json.loads,
}


def _wanted(option: Option) -> str:
    named = {
        "int": "a whole number",
        "float": "a number",
        "size": "a whole number, such as 8192, 8k or 8Ki",
        "json": "JSON",
    }
    if option.choices and len(option.choices) <= 12:
        return "one of " + ", ".join(map(str, option.choices))
    return named.get(option.type, "text")


def _shown(text: str, limit: int = 80) -> str:
    """`text` cut and safe on a terminal; PyYAML, which the function lives beside, comes late."""
    from launcher.yaml_reader import shown

    return shown(text, limit)
