"""What an installed engine's own parser accepts: read once, kept beside it, compared with ours.

The shipped tables say what a release has before anything is installed. An engine that is there can
be asked itself, and then its own parser decides: someone's patched environment may have an option
more or less. Building the parser imports half of SGLang (6 s of CPU time), so it is done once:
at the end of an install for our own environments (`options.json` beside `installed.json`), at the
first plan for the user's own (kept under the cache folder until that SGLang's files change).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from launcher.engine.environments.ask import NoAnswerError, ask_python, engine_environment
from launcher.engine.options import flags
from launcher.engine.options.flags import Option, Table
from launcher.engine.release import Engine, Release
from launcher.errors import ExitCode, QlaunchError
from launcher.linux.files import read_bounded, write_atomic

STORED: Final = "options.json"
_WORKER: Final = Path(__file__).with_name("options_worker.py")
TIMEOUT_S: Final = 300.0
"""The first import after an install reads gigabytes: 42 s were seen on a slow disk."""
LIMIT_BYTES: Final = 4 * 1024 * 1024
"""Of a stored table; a real one has 150 kB."""

_MADE_BY: Final = "read from the engine's own parser"
_TYPES: Final[dict[str, Literal["int", "float", "size", "json"]]] = {
    "int": "int",
    "float": "float",
    "human_readable_int": "size",
    "loads": "json",
    "json_list_type": "json",
    "parse_cuda_graph_config_arg": "json",
}
"""argparse `type=` callables by name; any other accepts every string, as in the shipped tables."""
_OUTSIDE: Final = frozenset({"--model-type"})
"""Options that `sglang serve` takes out of its arguments before argparse sees them."""
_STAMP: Final = """
import importlib.util, json, os, sys
spec = importlib.util.find_spec("sglang")
root = os.path.join(os.path.dirname(spec.origin), "srt") if spec and spec.origin else ""
files = [os.path.join(root, "server_args.py")]
for folder, _, names in sorted(os.walk(os.path.join(root, "arg_groups"))):
    files += [os.path.join(folder, name) for name in sorted(names) if name.endswith(".py")]
json.dump([[f, os.stat(f).st_mtime_ns, os.stat(f).st_size] for f in files if os.path.exists(f)],
          sys.stdout)
"""


class _Action(msgspec.Struct, frozen=True, kw_only=True):
    """One argparse action, as options_worker.py prints it."""

    names: tuple[str, ...]
    nargs: str | None
    required: bool
    type: str
    action: str
    choices: tuple[str | int, ...] | None
    default: Any
    successor: str | None
    refused: str | None


class _Parser(msgspec.Struct, frozen=True, kw_only=True):
    version: str
    options: tuple[_Action, ...]


def read_parser(release: Release, python: Path, *, timeout_s: float = TIMEOUT_S) -> Table:
    """Build the engine's own parser in its Python, and say what it accepts.

    Raises:
        QlaunchError: `engine_options_unreadable` (exit 5), with the engine's last words.
    """
    env = engine_environment(release, python)
    try:
        code = _WORKER.read_text("utf-8")
        return _table(ask_python(python, code, _Parser, timeout_s=timeout_s, env=env))
    except NoAnswerError as error:
        raise QlaunchError(
            f"the options of engine {release.name} cannot be read from its own parser: {error}",
            code="engine_options_unreadable",
            exit_code=ExitCode.ENGINE,
            fix=f"see whether it imports at all: qlaunch doctor --engine {release.name}",
        ) from error


def store(engine: Engine, root: Path) -> Table:
    """Read the parser of an environment of ours and keep its table there.

    Raises:
        QlaunchError: as `read_parser`.
        OSError: the table cannot be written.
    """
    table = read_parser(engine.release, engine.python)
    write_atomic(root / STORED, msgspec.json.encode(table), mode=0o644)
    return table


def stored(engine: Engine) -> Table | None:
    """The table kept in an environment of ours; None where there is none for this version."""
    return None if engine.root is None else _load(engine.root / STORED, engine.version)


def with_options(engine: Engine, cache: Path, progress: Callable[[str], None]) -> Engine:
    """`engine` with `options` set to what its own parser accepts, as far as that is known.

    Args:
        engine: installed by us, or the user's own.
        cache: folder of what can be computed again; used for the user's own engines only.
        progress: called with one line before anything that takes seconds.

    Never raises: an engine that cannot be asked is checked against the shipped table alone.
    """
    try:
        own = stored(engine) if engine.root is not None else _cached(engine, cache, progress)
    except (QlaunchError, OSError) as error:
        progress(f"{error}; checking against the table of SGLang {engine.version} instead")
        return engine
    if own is None:
        return engine
    return msgspec.structs.replace(engine, options=effective(own))


def _cached(engine: Engine, cache: Path, progress: Callable[[str], None]) -> Table:
    stamp = f"{engine.python}\n{engine.version}\n{_stamp(engine)}"
    path = cache / "options" / f"{hashlib.sha256(stamp.encode()).hexdigest()}.json"
    found = _load(path, engine.version)
    if found is not None:
        return found
    progress(f"reading the options of the engine of {engine.python} (once)")
    table = read_parser(engine.release, engine.python)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, msgspec.json.encode(table))
    return table


def _stamp(engine: Engine) -> str:
    """Changes whenever a file that declares options does: an editable SGLang keeps its version."""
    try:
        found = ask_python(engine.python, _STAMP, Any, timeout_s=60, env=None)
    except NoAnswerError as error:
        raise OSError(f"{engine.python} does not say where its SGLang is: {error}") from error
    return msgspec.json.encode(found).decode()


def _load(path: Path, version: str) -> Table | None:
    try:
        table = msgspec.json.decode(read_bounded(path, LIMIT_BYTES), type=Table)
    except (OSError, ValueError, msgspec.MsgspecError):
        return None
    return table if table.version == version else None


def effective(own: Table) -> Table:
    """The engine's own options, with what only the shipped table knows: successors, help.

    Options that never reach the parser come from the shipped table alone.
    """
    shipped = flags.table(own.version)
    if shipped is None:
        return own
    known = shipped.index()
    options = [_described(option, known.get(option.name)) for option in own.options]
    mine = own.index()
    options += [o for o in shipped.options if o.name in _OUTSIDE and o.name not in mine]
    return msgspec.structs.replace(own, options=tuple(options))


def _described(option: Option, shipped: Option | None) -> Option:
    if shipped is None:
        return option
    return msgspec.structs.replace(
        option,
        deprecated=option.deprecated or shipped.deprecated,
        successor=option.successor or shipped.successor,
        help=shipped.help,
    )


def differences(shipped: Table, own: Table) -> list[str]:
    """What the shipped table says otherwise than the engine's own parser; one clause each."""
    mine = {option.name: option for option in shipped.options if option.name not in _OUTSIDE}
    by_word = {word: option.name for option in mine.values() for word in option.words}
    found: list[str] = []
    for option in own.options:
        name = next((by_word[word] for word in option.words if word in by_word), None)
        if name is None or name not in mine:
            found.append(f"{option.name}: only the engine has it")
        else:
            found += _differing(mine.pop(name), option)
    return found + [f"{name}: only the table has it" for name in mine]


def _differing(ours: Option, theirs: Option) -> Iterator[str]:
    pairs: dict[str, tuple[Any, Any]] = {
        "names": (set(ours.words), set(theirs.words)),
        "type": (ours.type, theirs.type),
        "values": (ours.nargs, theirs.nargs),
        "required": (ours.required, theirs.required),
        "choices": (set(ours.choices), set(theirs.choices)),
        "default": (ours.default, theirs.default),
    }
    for what, (table, parser) in pairs.items():
        if table == parser or (what == "default" and parser == "?"):
            continue
        if isinstance(table, set):
            lacking, more = sorted(map(str, parser - table)), sorted(map(str, table - parser))
            text = " and ".join(
                [f"the table lacks {', '.join(lacking)}"] * bool(lacking)
                + [f"the engine lacks {', '.join(more)}"] * bool(more)
            )
        else:
            text = f"{table!r} in the table, {parser!r} in the engine"
        yield f"{ours.name}: {what}: {text}"


def _table(parser: _Parser) -> Table:
    options = [_option(action) for action in parser.options]
    options.sort(key=lambda option: option.name)
    return Table(version=parser.version, options=tuple(options), made_by=_MADE_BY)


def _option(action: _Action) -> Option:
    names = [n for n in action.names if n.startswith("--")] or list(action.names)
    negatives = {n for n in names if n.startswith("--no-") and f"--{n[5:]}" in names}
    name = names[0]
    switch = action.nargs == "0"
    return Option(
        name=name,
        aliases=tuple(sorted(n for n in action.names if n != name and n not in negatives)),
        type="switch" if switch else _TYPES.get(action.type, "str"),
        nargs=None if switch else action.nargs,
        choices=action.choices or (),
        default=None if switch else action.default,
        required=action.required,
        negatable=bool(negatives),
        deprecated=bool(re.match("Deprecated", action.action)),
        successor=action.successor,
        refused=action.refused,
    )
