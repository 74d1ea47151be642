"""Options of the catalogued releases: what exists, what it takes, what replaces what is gone."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.engine.options import flags
from launcher.engine.options.flags import FlagProblem, Option, check, require, table, versions
from launcher.engine.options.successors import SUCCESSORS
from launcher.errors import ExitCode, QlaunchError
from tests.patience import processor_time

if TYPE_CHECKING:
    from types import ModuleType

NEWEST, FALLBACK, CUDA12, TURING = "0.5.23", "0.5.15.post1", "0.5.10.post1", "0.5.1.post2"
TOOLS = Path(__file__).resolve().parents[2] / "tools"


def known(name: str, version: str) -> bool:
    found = table(version)
    assert found is not None
    return any(name in option.words for option in found.options)


def option(name: str, version: str) -> Option:
    found = table(version)
    assert found is not None
    return next(o for o in found.options if name in o.words)


def only(problems: list[FlagProblem]) -> FlagProblem:
    assert len(problems) == 1
    return problems[0]


# --- what the releases have ----------------------------------------------------------------------


def test_the_catalogued_releases_have_tables_oldest_first() -> None:
    assert versions() == (TURING, CUDA12, FALLBACK, NEWEST)


@pytest.mark.parametrize(
    ("name", "having"),
    [
        ("--cuda-graph-max-bs", {TURING, CUDA12, FALLBACK}),
        ("--disable-piecewise-cuda-graph", {CUDA12, FALLBACK}),
        ("--enable-piecewise-cuda-graph", {CUDA12}),
        ("--torchao-config", {TURING, CUDA12, FALLBACK}),
        ("--disable-cuda-graph", {TURING, CUDA12, FALLBACK, NEWEST}),
        ("--disable-prefill-cuda-graph", {FALLBACK, NEWEST}),
        ("--cuda-graph-max-bs-prefill", {FALLBACK, NEWEST}),
        ("--prefill-only-disable-kv-cache", {FALLBACK, NEWEST}),
        ("--weight-cache-mode", {NEWEST}),
        ("--ssl-keyfile", {CUDA12, FALLBACK, NEWEST}),
        ("--admin-api-key", {CUDA12, FALLBACK, NEWEST}),
        ("--model-type", {CUDA12, FALLBACK, NEWEST}),
        *(
            (f"--{name}", {TURING, CUDA12, FALLBACK, NEWEST})
            for name in (
                "dtype", "mem-fraction-static", "max-total-tokens", "max-running-requests",
                "chunked-prefill-size", "max-prefill-tokens", "context-length", "host", "port",
                "disable-radix-cache", "attention-backend", "disable-overlap-schedule", "log-level",
                "cpu-offload-gb", "quantization", "api-key", "is-embedding", "sleep-on-idle",
                "load-format", "watchdog-timeout", "skip-server-warmup", "json-model-override-args",
                "served-model-name", "model-path", "model", "device", "sampling-backend",
            )
        ),
    ],
)  # fmt: skip
def test_an_option_is_in_the_releases_that_have_it(name: str, having: set[str]) -> None:
    assert {version for version in versions() if known(name, version)} == having


def test_types_and_choices_come_from_the_source() -> None:
    assert option("--dtype", NEWEST).choices == (
        "auto", "half", "float16", "bfloat16", "float", "float32",
    )  # fmt: skip
    assert "torch_native" in option("--attention-backend", NEWEST).choices
    assert "w8a8_int8" in option("--quantization", TURING).choices
    assert option("--mem-fraction-static", CUDA12).type == "float"
    assert option("--cpu-offload-gb", NEWEST).type == "int"
    assert option("--is-embedding", TURING).type == "switch"
    assert option("--context-length", NEWEST).type == "size"
    assert option("--context-length", TURING).type == "int"
    assert option("--cuda-graph-config", NEWEST).type == "json"
    assert option("--cuda-graph-bs-prefill", NEWEST).nargs == "+"
    assert option("--model-path", NEWEST).required
    assert option("--port", NEWEST).default == 30000
    assert option("--disable-cuda-graph", NEWEST).deprecated


@pytest.mark.parametrize("version", versions())
def test_a_table_is_whole_and_each_word_means_one_option(version: str) -> None:
    found = table(version)
    assert found is not None
    assert found.version == version
    words = [word for o in found.options for word in o.words]
    assert len(words) == len(set(words)) > 190
    assert [o.name for o in found.options] == sorted(o.name for o in found.options)
    for o in found.options:
        assert o.name.startswith("--")
        assert not (o.choices and o.type == "switch")


def test_reading_a_table_is_quick() -> None:
    table.__wrapped__(NEWEST)
    with processor_time(10 * 0.05):
        for _ in range(10):
            table.__wrapped__(NEWEST)


# --- good options --------------------------------------------------------------------------------


CPU = [
    "--model-path", "/models/x", "--is-embedding", "--device", "cpu", "--attention-backend",
    "torch_native", "--disable-overlap-schedule", "--max-total-tokens", "16384", "--sleep-on-idle",
    "--chunked-prefill-size", "-1", "--mem-fraction-static=0.5", "--dtype=bfloat16",
]  # fmt: skip


@pytest.mark.parametrize("version", versions())
def test_what_profiles_pass_is_accepted_by_every_release(version: str) -> None:
    assert require(CPU, version) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--chunked-prefill-size", "-1"],
        ["--chunked-prefill-size=-1"],
        ["--mem-fraction-static", ".5"],
        ["--mem-fraction-static", "-0.5"],
        ["--context-length", "8Ki"],
        ["--context-length", "25.6k"],
        ["--cuda-graph-bs-prefill", "1", "2", "4", "--port", "1"],
        ["--model-checksum", "--port", "1"],
        ["--json-model-override-args", '{"is_matryoshka": true}'],
        ["--cuda-graph-config", "{}"],
        ["--served-model-name", "-"],
        ["--served-model-name", ""],
        ["--served-model-name", "-a name with spaces"],
        ["--served-model-name=--anything"],
        ["--no-dcp-replicate-q-proj"],
        ["--tensor-parallel-size", "1", "--data-parallel-size", "1"],
    ],
)
def test_values_are_read_as_argparse_reads_them(words: list[str]) -> None:
    assert check(words, NEWEST) == []


# --- problems ------------------------------------------------------------------------------------


def test_a_removed_option_names_its_successor() -> None:
    found = only(check(["--cuda-graph-max-bs", "4"], NEWEST))
    assert (found.option, found.kind) == ("--cuda-graph-max-bs", "removed")
    assert found.successor == "--cuda-graph-max-bs-prefill or --cuda-graph-max-bs-decode"
    assert "0.5.15.post1 is the last" in found.message


@pytest.mark.parametrize(
    ("word", "version", "successor"),
    [
        ("--torchao-config", NEWEST, "--quantization"),
        ("--disable-piecewise-cuda-graph", NEWEST,
         "--disable-prefill-cuda-graph or --disable-cuda-graph"),
        ("--enforce-piecewise-cuda-graph", NEWEST, "--cuda-graph-backend-prefill breakable"),
        ("--piecewise-cuda-graph-max-tokens", NEWEST, "--cuda-graph-max-bs-prefill"),
        ("--nsa-decode-backend", NEWEST, "--dsa-decode-backend"),
        ("--prefill-cp-mode", NEWEST, "--cp-strategy"),
        ("--disable-prefill-cuda-graph", CUDA12,
         "--disable-piecewise-cuda-graph or --disable-cuda-graph"),
        ("--disable-prefill-cuda-graph", TURING, "--disable-cuda-graph"),
        ("--cuda-graph-max-bs-prefill", TURING, "--cuda-graph-max-bs"),
        ("--prefill-only-disable-kv-cache", CUDA12, None),
    ],
)  # fmt: skip
def test_each_release_is_told_what_it_has_instead(
    word: str, version: str, successor: str | None
) -> None:
    found = only(check([word], version))
    assert (found.kind, found.successor) == ("removed", successor)


def test_an_option_that_is_too_new_says_since_when() -> None:
    found = only(check(["--prefill-only-disable-kv-cache"], CUDA12))
    assert "0.5.15.post1 is the first catalogued release that has it" in found.message


def test_a_slip_of_the_hand_is_unknown_and_names_the_nearest() -> None:
    found = only(check(["--max-runing-requests", "64"], NEWEST))
    assert found.kind == "unknown"
    assert found.nearest[0] == "--max-running-requests"
    assert found.fix is not None
    assert "did you mean --max-running-requests" in found.fix


def test_underscores_and_single_dashes_are_unknown_too() -> None:
    assert only(check(["--model_path=x"], NEWEST)).nearest[0] == "--model-path"
    assert only(check(["-dtype", "half"], NEWEST)).kind == "unknown"


def test_an_abbreviation_is_refused_although_argparse_takes_it() -> None:
    found = only(check(["--mem-frac", "0.9"], NEWEST))
    assert (found.kind, found.nearest) == ("abbreviated", ("--mem-fraction-static",))


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (["--port", "x"], "bad_type"),
        (["--port", "3e4"], "bad_type"),
        (["--cpu-offload-gb", "0.5"], "bad_type"),
        (["--mem-fraction-static", "half"], "bad_type"),
        (["--context-length", "8.5Ki"], "bad_type"),
        (["--context-length", "8K"], "bad_type"),
        (["--cuda-graph-config", "{"], "bad_type"),
        (["--cuda-graph-config", "[" * 100_000], "bad_type"),
        (["--is-embedding=true"], "bad_type"),
        (["--dtype", "halff"], "bad_choice"),
        (["--cuda-graph-backend-prefill", "tc_piecewise"], "bad_choice"),
        (["--port"], "missing_value"),
        (["--port", "--is-embedding"], "missing_value"),
        (["--cuda-graph-bs-prefill"], "missing_value"),
        (["--disable-cuda-graph"], "deprecated"),
        (["--port", "1", "--port=2"], "duplicate"),
        (["--model", "a", "--model-path", "b"], "duplicate"),
        (["--help"], "unknown"),
        (["-h"], "unknown"),
        (["--", "--port", "1"], "unknown"),
        (["stray"], "unknown"),
        (["--is-embedding", "true"], "unknown"),
        (["--port", "1", "2"], "unknown"),
        (["--"], "unknown"),
        ([""], "unknown"),
    ],
)
def test_each_kind_of_problem(words: list[str], kind: str) -> None:
    found = only(check(words, NEWEST))
    assert found.kind == kind
    assert found.is_error == (kind != "deprecated")
    assert found.message
    assert len(found.message) < 400


def test_every_problem_is_reported_in_order() -> None:
    words = ["--foo", "1", "--port", "x", "--torchao-config", "y", "--dtype", "half"]
    assert [p.option for p in check(words, NEWEST)] == ["--foo", "--port", "--torchao-config"]


def test_a_value_that_may_be_a_secret_is_never_repeated() -> None:
    canary = "sk-CANARY-1234"
    for words in (
        ["--api-key", f"-{canary}"],
        ["--api-key", f"--{canary}"],
        ["--api-key", "a", canary],
        ["--api_key", canary],
        [f"--api_key={canary}"],
        [f"--apikey={canary}", canary],
        [canary],
        ["--", canary],
    ):
        problems = check(words, NEWEST)
        assert problems
        assert canary not in str(msgspec.to_builtins(problems))


def test_control_characters_do_not_reach_the_message() -> None:
    problems = check(["--a\x1b[31m\nb", "--port", "\x1b]0;x\x07"], NEWEST)
    assert len(problems) == 2
    assert all(p.message.isprintable() for p in problems)


@pytest.mark.parametrize("version", ["0.5.22", "0.6.0", "../0.5.23", "", "x", "0.5.23/../0.5.23"])
def test_a_release_without_a_table_is_never_judged_by_another(version: str) -> None:
    found = only(check(["--anything"], version))
    assert found.kind == "no_table"
    with pytest.raises(QlaunchError) as raised:
        require([], version)
    assert raised.value.code == "flag_table_missing"


# --- require -------------------------------------------------------------------------------------


def test_require_names_every_problem_with_its_fix_and_exits_5() -> None:
    with pytest.raises(QlaunchError) as raised:
        require(["--cuda-graph-max-bs", "4", "--max-runing-requests", "1", "--port", "x"], NEWEST)
    error = raised.value
    assert (error.code, error.exit_code) == ("flag_unknown", ExitCode.ENGINE)
    assert "--cuda-graph-max-bs is not an option of SGLang 0.5.23" in error.message
    assert "--port takes a whole number, not `x`" in error.message
    assert error.fix is not None
    assert "use --cuda-graph-max-bs-prefill" in error.fix
    assert "did you mean --max-running-requests" in error.fix
    assert error.data is not None
    assert len(json.loads(json.dumps(error.data))["problems"]) == 3


def test_require_has_a_code_of_its_own_for_wrong_values() -> None:
    with pytest.raises(QlaunchError) as raised:
        require(["--dtype", "halff"], NEWEST)
    assert raised.value.code == "flag_invalid"
    assert raised.value.fix == "did you mean half?"


def test_require_returns_warnings() -> None:
    warning = only(require(["--disable-cuda-graph"], NEWEST))
    assert warning.kind == "deprecated"
    assert warning.successor == "--cuda-graph-backend-{decode,prefill}=disabled"


# --- successors ----------------------------------------------------------------------------------


def test_successors_are_options_of_some_release_and_replace_what_another_lacks() -> None:
    for old, candidates in SUCCESSORS.items():
        having = [v for v in versions() if known(old, v)]
        assert having
        assert len(having) < len(versions())
        for candidate in candidates:
            assert any(known(candidate.partition(" ")[0], v) for v in versions())


# --- properties ----------------------------------------------------------------------------------


def _parser(version: str) -> argparse.ArgumentParser:
    """What argparse itself makes of a table."""

    class Quiet(argparse.ArgumentParser):
        def error(self, message: str) -> Any:
            raise ValueError(message)

    parser = Quiet(add_help=False, allow_abbrev=False)
    found = table(version)
    assert found is not None
    for o in found.options:
        names = [o.name, *o.aliases]
        if o.negatable:
            parser.add_argument(*names, action=argparse.BooleanOptionalAction)
        elif o.type == "switch":
            parser.add_argument(*names, action="store_true")
        else:
            nargs: Any = int(o.nargs) if o.nargs and o.nargs.isdecimal() else o.nargs
            convert = flags._CONVERT[o.type]
            parser.add_argument(*names, type=convert, nargs=nargs, choices=o.choices or None)
    return parser


PARSER = _parser(NEWEST)
WORDS = st.one_of(
    st.sampled_from(sorted(flags._index(NEWEST))),
    st.sampled_from(["1", "-1", "0.5", "-0.5", "x", "", "-", "half", "{}", "-x y", "8Ki", "--nope",
                     "--port=1", "--port=x", "--is-embedding=1", "-.5", "-1e5", "--tp", "-1 2"]),
    st.text(max_size=4),
)  # fmt: skip


@given(st.lists(WORDS, max_size=8))
@settings(max_examples=400, deadline=None)
def test_words_are_refused_exactly_when_argparse_refuses_them(words: list[str]) -> None:
    problems = check(words, NEWEST)
    errors = [p for p in problems if p.is_error and p.kind != "duplicate"]
    if "--" in words:  # argparse alone would take one with nothing after it
        assert errors
        return
    try:
        PARSER.parse_args(words)
    except (ValueError, argparse.ArgumentError):
        assert errors
    else:
        assert not errors


@st.composite
def right_options(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A release and options that it accepts, each in one of its spellings."""
    version = draw(st.sampled_from(versions()))
    found = table(version)
    assert found is not None
    words: list[str] = []
    for o in draw(st.lists(st.sampled_from(found.options), max_size=6, unique_by=lambda o: o.name)):
        if o.type == "switch":
            words.append(draw(st.sampled_from(o.words)))
            continue
        values = {
            "int": st.integers().map(str),
            "float": st.floats(allow_nan=False, allow_infinity=False).map(lambda x: f"{x:f}"),
            "size": st.integers(0, 10**6).map(str) | st.sampled_from(["1k", "2Ki", "1.5M"]),
            "json": st.dictionaries(st.text(), st.integers()).map(json.dumps),
            "str": st.text(),
        }[o.type]
        if o.choices:
            values = st.sampled_from([str(choice) for choice in o.choices])
        words.append(f"{draw(st.sampled_from(o.words))}={draw(values)}")
    return version, words


@given(right_options())
@settings(max_examples=200, deadline=None)
def test_right_options_pass_in_every_release(drawn: tuple[str, list[str]]) -> None:
    version, words = drawn
    assert [p for p in check(words, version) if p.is_error] == []


# --- the tool ------------------------------------------------------------------------------------


@pytest.fixture(name="tool")
def _tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(TOOLS))
    for name in ("static_values", "flag_tables"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("flag_tables")


OLD = """
import argparse
from sglang.srt.choices import Parsers, human_readable_int
KINDS = ["a", "b"]
KINDS_AND = KINDS + ["c"]
class ServerArgs:
    port: int = 30_000
    kind: str = "a"
    @staticmethod
    def add_cli_args(parser):
        names = list(Parsers.Table.keys())
        parser.add_argument("--port", "-p", type=int, default=ServerArgs.port, help="Port. More.")
        parser.add_argument("--kind", choices=KINDS_AND, default=ServerArgs.kind)
        parser.add_argument("--names", choices=names, nargs="*")
        parser.add_argument("--size", type=human_readable_int, default=1024 * 2)
        parser.add_argument("--gone", action=DeprecatedAction, error_message="use --kind")
        parser.add_argument("--old", action=DeprecatedStoreTrueAction, new_flag="--kind")
        parser.add_argument("--older", action="store_true", help="(Deprecated) Use --port instead.")
        parser.add_argument("--both", action=argparse.BooleanOptionalAction)
        parser.add_argument("--secret", default=compute(), choices=other())
"""
NEW = """
class ServerArgs:
    @staticmethod
    def add_cli_args(parser):
        add_cli_args_from_dataclass(parser, ServerArgs)
        parser.add_argument("--late", default=_declared_default("late"), choices=_late())
def _late():
    from sglang.srt.choices import Mode
    return [m.name.lower() for m in Mode]
"""
FIELDS = """
from typing import List, Literal, Optional
from sglang.srt.choices import CHOICES
class Model:
    model_path: A[str, Arg(help="Path.", aliases=["--model"])]
    flag: A[bool, "A switch."] = False
    number: A[Optional[float], "A number."] = None
    pick: A[Literal["x", "y"], "Pick."] = "x"
    many: A[Optional[List[int]], "Many."] = None
    chosen: A[str, Arg(choices=CHOICES, cli_name="--chosen-one")] = "q"
    data: A[Optional[dict], Arg(type_parser=json.loads)] = None
    hidden: A[bool, Arg(help="No.", no_cli=True)] = False
    late: str = "late default"
"""
CHOICES = """
from enum import IntEnum
CHOICES = ("p", "q")
class Parsers:
    Table = {"one": 1, "two": 2}
class Mode(IntEnum):
    FAST = 0
    SLOW = 1
"""


def wheel(folder: Path, version: str, files: dict[str, str]) -> Path:
    path = folder / f"sglang-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(f"sglang/{name}", text)
    return path


def test_add_argument_calls_become_a_table(tool: ModuleType, tmp_path: Path) -> None:
    files = {"srt/server_args.py": OLD, "srt/choices.py": CHOICES, "srt/__init__.py": ""}
    made = tool.table(tool.Tree(wheel(tmp_path, "0.5.9", files)))
    options = {o["name"]: o for o in made["options"]}
    assert made["version"] == "0.5.9"
    assert options["--port"] == {
        "name": "--port", "aliases": ["-p"], "type": "int", "default": 30000, "help": "Port.",
    }  # fmt: skip
    assert options["--kind"]["choices"] == ["a", "b", "c"]
    assert (options["--names"]["choices"], options["--names"]["nargs"]) == (["one", "two"], "*")
    assert (options["--size"]["type"], options["--size"]["default"]) == ("size", 2048)
    assert options["--gone"]["refused"] == "use --kind"
    assert (options["--old"]["type"], options["--old"]["successor"]) == ("switch", "--kind")
    assert (options["--older"]["deprecated"], options["--older"]["successor"]) == (True, "--port")
    assert options["--both"]["negatable"]
    assert options["--secret"] == {"name": "--secret", "type": "str"}


def test_annotated_fields_become_a_table(tool: ModuleType, tmp_path: Path) -> None:
    files = {
        "srt/server_args.py": NEW,
        "srt/arg_groups/fields/__init__.py": "",
        "srt/arg_groups/fields/model.py": FIELDS,
        "srt/choices.py": CHOICES,
        "cli/serve.py": 'arg == "--model-type"',
    }
    made = tool.table(tool.Tree(wheel(tmp_path, "0.5.99", files)))
    options = {o.pop("name"): o for o in made["options"]}
    assert options == {
        "--model-path": {"aliases": ["--model"], "type": "str", "required": True, "help": "Path."},
        "--flag": {"type": "switch", "help": "A switch."},
        "--number": {"type": "float", "help": "A number."},
        "--pick": {"type": "str", "choices": ["x", "y"], "default": "x", "help": "Pick."},
        "--many": {"type": "int", "nargs": "+", "help": "Many."},
        "--chosen-one": {"type": "str", "choices": ["p", "q"], "default": "q"},
        "--data": {"type": "json"},
        "--late": {"type": "str", "choices": ["fast", "slow"], "default": "late default"},
        "--model-type": {"type": "str", "help": "Backend selector of `sglang serve`."},
    }


def test_a_table_written_by_the_tool_is_read_back(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"srt/server_args.py": OLD, "srt/choices.py": CHOICES}
    monkeypatch.setattr(tool, "TABLES", tmp_path)
    monkeypatch.setattr(flags, "TABLES", tmp_path)
    assert tool.main(["write", str(wheel(tmp_path, "0.1.9", files))]) == 0
    found = table.__wrapped__("0.1.9")
    assert found is not None
    assert [o.name for o in found.options][:2] == ["--both", "--gone"]


@pytest.mark.parametrize("version", versions())
def test_the_shipped_tables_are_in_the_tools_own_form(tool: ModuleType, version: str) -> None:
    text = (flags.TABLES / f"{version}.json").read_text(encoding="utf-8")
    assert tool.dumped(json.loads(text)) == text


def test_the_tool_reads_an_unpacked_tree_and_runs_nothing_of_it(
    tool: ModuleType, tmp_path: Path
) -> None:
    files = {"srt/server_args.py": "raise SystemExit('ran')\n" + OLD, "srt/choices.py": CHOICES,
             "_version.py": "__version__ = version = '0.5.9'\n"}  # fmt: skip
    with zipfile.ZipFile(wheel(tmp_path, "0.5.9", files)) as archive:
        archive.extractall(tmp_path / "tree")
    assert tool.table(tool.Tree(tmp_path / "tree"))["version"] == "0.5.9"


def test_an_option_without_its_dashes_is_named_once() -> None:
    """It said twice that a value at the start belongs to no option."""
    with pytest.raises(QlaunchError) as caught:
        require(["max-total-tokens", "4"], "0.5.23")
    first, second = caught.value.message.split("; ", 1)[0], caught.value.message
    assert first == "max-total-tokens is not an option"
    assert "did you mean --max-total-tokens?" in second
    with pytest.raises(QlaunchError) as caught:
        require(["secret-1", "secret-2"], "0.5.23")
    assert caught.value.message == "a value at the start belongs to no option of SGLang 0.5.23"


@pytest.mark.parametrize("word", ["true", "False"])
def test_a_switch_with_a_quoted_true_is_to_be_written_without(word: str) -> None:
    """`trust-remote-code: 'true'` in a profile was refused without a word of what to write."""
    with pytest.raises(QlaunchError, match="is a switch and takes no value") as caught:
        require(["--trust-remote-code", word], "0.5.23")
    assert "in a profile true or false without quotes" in (caught.value.fix or "")
