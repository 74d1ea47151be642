"""The options of an engine as its own parser has them: read, kept, compared, checked against."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from launcher import child_environment
from launcher.engine import releases
from launcher.engine.options import flags, own_options
from launcher.engine.options.flags import Option, Table
from launcher.engine.release import Engine
from launcher.errors import ExitCode, QlaunchError

VERSION = "0.5.23"
RELEASE = releases.release("cuda13")  # without stand-ins: PYTHONPATH is left to the test
SERVER_ARGS = """\
import argparse, os, sys
print("a banner that every import prints")
os.write(1, b"and one from native code\\n")
with open(__file__ + ".count", "a") as file:
    file.write("x")
def human_readable_int(text): return int(text)
class DeprecatedStoreTrueAction(argparse._StoreTrueAction):
    new_flag = "--better"
class ServerArgs:
    @staticmethod
    def add_cli_args(parser):
        parser.add_argument("--model-path", "--model", required=True)
        parser.add_argument("--port", type=int, default=30000)
        parser.add_argument("--max-total-tokens", type=human_readable_int)
        parser.add_argument("--dtype", choices=["auto", "half"], default="auto")
        parser.add_argument("--is-embedding", action="store_true")
        parser.add_argument("--graphs", action=argparse.BooleanOptionalAction)
        parser.add_argument("--old", action=DeprecatedStoreTrueAction)
        parser.add_argument("--sizes", type=int, nargs="+", default=[1, 2])
        parser.add_argument("--odd", default=object())
        parser.add_argument("--only-here", default=argparse.SUPPRESS)
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An SGLang of which only the parser is there, found by this Python; the parser's file."""
    root = tmp_path / "site"
    (root / "sglang" / "srt" / "arg_groups").mkdir(parents=True)
    (root / "sglang" / "__init__.py").touch()
    (root / "sglang" / "srt" / "__init__.py").touch()
    source = root / "sglang" / "srt" / "server_args.py"
    source.write_text(SERVER_ARGS)
    info = root / f"sglang-{VERSION}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sglang\nVersion: {VERSION}\n")
    real = child_environment.foreign_python
    found = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    monkeypatch.setattr(child_environment, "foreign_python", lambda environ: real(environ) | found)
    return source


def reads(source: Path) -> int:
    """How often the parser has been built."""
    count = source.with_name(source.name + ".count")
    return len(count.read_text()) if count.exists() else 0


def engine(root: Path | None = None) -> Engine:
    return Engine(release=RELEASE, python=Path(sys.executable), version=VERSION, root=root)


def quiet(_line: str) -> None:
    pass


def names(problems: list[flags.FlagProblem]) -> list[tuple[str, str]]:
    return [(problem.option, problem.kind) for problem in problems]


# --- reading -------------------------------------------------------------------------------------


def test_the_parser_is_read_as_a_table(package: Path) -> None:
    table = own_options.read_parser(RELEASE, Path(sys.executable))
    assert table.version == VERSION
    assert table.options == tuple(sorted(table.options, key=lambda option: option.name))
    found = {option.name: option for option in table.options}
    assert found["--model-path"] == Option(name="--model-path", aliases=("--model",), required=True)
    assert found["--port"] == Option(name="--port", type="int", default=30000)
    assert found["--max-total-tokens"].type == "size"
    assert found["--dtype"].choices == ("auto", "half")
    assert found["--is-embedding"] == Option(name="--is-embedding", type="switch")
    assert found["--graphs"].words == ("--graphs", "--no-graphs")
    assert (found["--old"].deprecated, found["--old"].successor) == (True, "--better")
    assert (found["--sizes"].nargs, found["--sizes"].default) == ("+", [1, 2])
    assert (found["--odd"].default, found["--only-here"].default) == ("?", None)


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("raise ImportError('libcuda.so.1: cannot open')", "ImportError: libcuda.so.1"),
        ("import os; os._exit(7)", "it ended with 7"),
        ("import os; os._exit(0)", "it printed something unexpected"),
        ("class ServerArgs: pass", "AttributeError"),
    ],
)
def test_a_parser_that_cannot_be_built_is_one_sentence(package: Path, code: str, why: str) -> None:
    package.write_text(code)
    with pytest.raises(QlaunchError, match=why) as caught:
        own_options.read_parser(RELEASE, Path(sys.executable))
    assert caught.value.code == "engine_options_unreadable"
    assert caught.value.exit_code == ExitCode.ENGINE
    assert "Traceback" not in caught.value.message


def test_a_parser_that_hangs_is_given_up_on(package: Path) -> None:
    package.write_text("import time; time.sleep(60)")
    with pytest.raises(QlaunchError, match=r"within 0\.5 s"):
        own_options.read_parser(RELEASE, Path(sys.executable), timeout_s=0.5)


def test_a_python_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(QlaunchError, match="No such file"):
        own_options.read_parser(RELEASE, tmp_path / "python")


# --- keeping -------------------------------------------------------------------------------------


def test_an_installed_engine_is_read_once(package: Path, tmp_path: Path) -> None:
    mine = engine(tmp_path)
    assert own_options.stored(mine) is None
    table = own_options.store(mine, tmp_path)
    assert own_options.stored(mine) == table
    assert reads(package) == 1
    known = own_options.with_options(mine, tmp_path / "cache", quiet)
    assert known.options is not None
    assert "--only-here" in known.options.index()
    assert reads(package) == 1
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version": 5}', b"\xff" * 100])
def test_a_damaged_table_is_no_table(tmp_path: Path, data: bytes) -> None:
    (tmp_path / own_options.STORED).write_bytes(data)
    assert own_options.stored(engine(tmp_path)) is None
    assert own_options.with_options(engine(tmp_path), tmp_path, quiet).options is None


def test_the_table_of_another_version_is_not_used(tmp_path: Path) -> None:
    other = Table(version="0.5.22", options=())
    (tmp_path / own_options.STORED).write_bytes(msgspec.json.encode(other))
    assert own_options.stored(engine(tmp_path)) is None


def test_a_users_own_engine_is_read_once_and_again_when_it_changes(
    package: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    cache = tmp_path / "cache"
    first = own_options.with_options(engine(), cache, said.append)
    again = own_options.with_options(engine(), cache, said.append)
    assert first == again
    assert reads(package) == 1
    assert len(said) == 1
    package.write_text(SERVER_ARGS.replace("--only-here", "--another"))
    changed = own_options.with_options(engine(), cache, quiet)
    assert changed.options is not None
    assert "--another" in changed.options.index()
    assert reads(package) == 2


def test_an_engine_that_cannot_be_asked_is_left_to_the_shipped_table(
    package: Path, tmp_path: Path
) -> None:
    package.write_text("raise RuntimeError('no GPU')")
    said: list[str] = []
    found = own_options.with_options(engine(), tmp_path / "cache", said.append)
    assert found.options is None
    assert "RuntimeError: no GPU" in said[-1]
    assert VERSION in said[-1]


def test_a_cache_that_cannot_be_written_costs_no_plan(package: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where a folder belongs")
    said: list[str] = []
    assert own_options.with_options(engine(), tmp_path / "cache", said.append).options is None
    assert len(said) == 2


# --- the engine's own parser decides -------------------------------------------------------------


def shipped() -> Table:
    found = flags.table(VERSION)
    assert found is not None
    return found


def changed(*drop: str, add: tuple[Option, ...] = ()) -> Table:
    """The engine's own table, as if someone had changed its parser by hand."""
    kept = (o for o in shipped().options if o.name not in (*drop, "--model-type"))
    plain = (msgspec.structs.replace(o, help=None, successor=None) for o in kept)
    return Table(version=VERSION, options=(*plain, *add))


def test_an_option_that_only_the_engine_has_passes() -> None:
    own = own_options.effective(changed(add=(Option(name="--patched", type="int"),)))
    assert names(flags.check(["--patched", "5"], VERSION)) == [("--patched", "unknown")]
    assert flags.check(["--patched", "5"], own) == []
    assert names(flags.check(["--patched", "five"], own)) == [("--patched", "bad_type")]


def test_an_option_that_only_the_shipped_table_has_is_refused() -> None:
    own = own_options.effective(changed("--sleep-on-idle"))
    assert flags.check(["--sleep-on-idle"], VERSION) == []
    with pytest.raises(QlaunchError, match="--sleep-on-idle") as caught:
        flags.require(["--sleep-on-idle"], own)
    assert caught.value.code == "flag_unknown"


def test_successors_and_what_never_reaches_the_parser_come_from_the_shipped_table() -> None:
    own = own_options.effective(changed())
    assert own.index() == shipped().index()
    assert flags.check(["--model-type", "auto"], own) == flags.check(
        ["--model-type", "auto"], VERSION
    )
    removed = flags.check(["--cuda-graph-max-bs", "8"], own)
    assert removed == flags.check(["--cuda-graph-max-bs", "8"], VERSION)
    assert removed[0].successor


def test_a_version_without_a_shipped_table_is_checked_all_the_same() -> None:
    own = Table(version="0.5.99", options=(Option(name="--port", type="int"),))
    assert own_options.effective(own) == own
    assert flags.check(["--port", "1"], own) == []
    assert names(flags.check(["--torchao-config", "x"], own)) == [("--torchao-config", "removed")]


# --- comparing -----------------------------------------------------------------------------------


def test_equal_tables_do_not_differ() -> None:
    assert own_options.differences(shipped(), changed()) == []


def test_every_kind_of_difference_is_named() -> None:
    table = Table(
        version="1",
        options=(
            Option(name="--same", default=1),
            Option(name="--unknown-default", default=1),
            Option(name="--type", type="int"),
            Option(name="--choice", choices=("a", "b")),
            Option(name="--gone"),
            Option(name="--named", aliases=("--alias",)),
            Option(name="--model-type"),
        ),
    )
    own = Table(
        version="1",
        options=(
            Option(name="--same", default=1),
            Option(name="--unknown-default", default="?"),
            Option(name="--type", type="float", required=True),
            Option(name="--choice", choices=("b", "c")),
            Option(name="--alias"),
            Option(name="--new"),
        ),
    )
    assert own_options.differences(table, own) == [
        "--type: type: 'int' in the table, 'float' in the engine",
        "--type: required: False in the table, True in the engine",
        "--choice: choices: the table lacks c and the engine lacks a",
        "--named: names: the engine lacks --named",
        "--new: only the engine has it",
        "--gone: only the table has it",
    ]
