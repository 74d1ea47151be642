"""What the YAML reader refuses, in how much time, and on which line it says so."""

from __future__ import annotations

import errno
import json
import os
import tracemalloc
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from launcher import yaml_reader
from launcher.config.profile import Profile
from launcher.errors import ExitCode, QlaunchError
from launcher.yaml_reader import did_you_mean, load_typed, nearest, shown
from tests.patience import processor_time

pytestmark = pytest.mark.usefixtures("_parser")


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def _parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers must say the same: not every PyYAML is built with libyaml."""
    if not hasattr(yaml, request.param):
        pytest.skip("this PyYAML has no libyaml")
    monkeypatch.setattr(yaml_reader, "_LOADER", getattr(yaml, request.param))


class Inner(msgspec.Struct, forbid_unknown_fields=True):
    size: int
    tags: list[str] = []


class Document(msgspec.Struct, forbid_unknown_fields=True):
    title: str = ""
    count: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1
    ratio: float = 1.0
    on: bool = False
    mode: Literal["fast", "slow"] = "fast"
    threads: int | Literal["auto"] = "auto"
    inner: Inner | None = None
    items: list[Inner] = []
    env: dict[str, str] = {}
    flags: dict[str, bool | int | float | str | list[str]] = {}
    nested: dict[str, dict[str, list[int]]] = {}
    anything: Any = None


def load(tmp_path: Path, content: str | bytes, type_: type[Any] = Document) -> Any:
    path = tmp_path / "x.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return load_typed(path, type_, what="document", code="document_invalid")


def refusal(tmp_path: Path, content: str | bytes) -> QlaunchError:
    with processor_time(5.0), pytest.raises(QlaunchError) as caught:
        load(tmp_path, content)
    assert caught.value.code == "document_invalid"
    assert caught.value.exit_code is ExitCode.USAGE
    assert str(tmp_path / "x.yaml") in caught.value.message
    assert "\n" not in caught.value.message
    return caught.value


def test_values_and_the_lines_they_stand_on(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "# comment\ntitle: hello\n\ninner:\n  size: 3\n  tags: [a,\n    b]\n"
        "flags:\n  x: |\n    t\n",
    )
    assert loaded.value.title == "hello"
    assert loaded.value.inner == Inner(3, ["a", "b"])
    assert loaded.value.flags == {"x": "t\n"}
    assert loaded.lines[("title",)] == 2
    assert loaded.lines[("inner", "size")] == 5
    assert loaded.lines[("inner", "tags", 0)] == 6
    assert loaded.lines[("inner", "tags", 1)] == 7
    assert loaded.lines[("flags", "x")] == 9
    assert loaded.line(("flags", "x", "beyond")) == 9
    assert ("count",) not in loaded.lines


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("y", "y"),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-3", -3),
        ("+3", 3),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2026-01-15", "2026-01-15"),
        ("1.2.3", "1.2.3"),
        ("0b11", "0b11"),
        ("=", "="),
        ("'1'", "1"),
        ('"true"', "true"),
        ("|\n  7", "7\n"),
        ("infinity", "infinity"),
        ("t\u00e9", "t\u00e9"),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(
    tmp_path: Path, text: str, value: object
) -> None:
    found = load(tmp_path, f"anything: {text}\n").value.anything
    assert found == value
    assert type(found) is type(value)


def test_keys_that_yaml_1_1_takes_for_booleans_stay_text(tmp_path: Path) -> None:
    loaded = load(tmp_path, "env:\n  on: 'x'\n  no: off\n  y: yes\n")
    assert loaded.value.env == {"on": "x", "no": "off", "y": "yes"}


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    loaded = load(tmp_path, b"\xef\xbb\xbftitle: a\r\ncount: 2\r\n")
    assert (loaded.value.title, loaded.value.count) == ("a", 2)
    assert loaded.lines[("count",)] == 2


def test_aliases_repeat_values(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, "inner: &i\n  size: 1\n  tags: &t [a]\nitems:\n  - *i\n  - {size: 2, tags: *t}\n"
    )
    assert loaded.value.items == [Inner(1, ["a"]), Inner(2, ["a"])]
    assert loaded.lines[("items", 0)] == 5
    assert loaded.line(("items", 0, "size")) == 5


@pytest.mark.parametrize(
    ("content", "line", "says"),
    [
        ("", 1, "is empty"),
        ("# only a comment\n", 1, "is empty"),
        ("---\n", 1, "is empty"),
        ("just text\n", 1, "must be a mapping"),
        ("- a\n- b\n", 1, "must be a mapping"),
        ("title: a\ncount: 1\ntitle: b\n", 3, "`title` is there twice (first on line 1)"),
        ("title: a\n'title': b\n", 2, "`title` is there twice"),
        ("env:\n  A: x\n  A: y\n", 3, "`A` is there twice"),
        ("title: a\n1: b\n", 2, "the key 1 is not text"),
        ("title: a\ntrue: b\n", 2, "the key true is not text"),
        ("title: a\n~: b\n", 2, "the key ~ is not text"),
        ("title: a\n[b]: c\n", 2, "a key must be plain text"),
        ("title: a\n? {b: c}\n: d\n", 2, "a key must be plain text"),
        ("title: &t a\n*t : c\n", 2, "a key must be plain text"),
        ("title: a\n<<: {count: 2}\n", 2, "merge keys"),
        ("title: !!python/object/apply:os.system [id]\n", 1, "tag"),
        ("title: a\nanything: !custom x\n", 2, "the tag `!custom` is not allowed"),
        ("title: a\nanything: !!str 5\n", 2, "tag"),
        ("title: a\nanything: !!binary aGk=\n", 2, "tag"),
        ("title: a\nanything: ! x\n", 2, "tag"),
        ("title: a\ninner: !!map\n  size: 1\n", 2, "tag"),
        ("title: a\n---\ntitle: b\n", 2, "second document"),
        ("inner:\n\tsize: 1\n", 2, "is indented with a tab"),
        ("inner:\n  size: 1\n\ttags: []\n", 3, "is indented with a tab"),
        ("\ttitle: a\n", 1, "is indented with a tab"),
        ("title: a\nenv: {A: b\n", 3, "not valid YAML"),
        ("title: 'a\ncount: 1\n", 3, "(begun on line 1)"),
        ("title: a: b\n", 1, "not valid YAML"),
        ("title: a\ntitle2: @b\n", 2, "not valid YAML"),
        ("title: a\n  count: 1\n", 2, "not valid YAML"),
        ("title: a\nanything: *nowhere\n", 2, "the alias `*nowhere` has no anchor"),
        ("title: a\nanything: &x\n  - *x\n", 3, "repeats a value that contains it"),
        ("title: a\nratio: .inf\n", 2, ".inf is not a finite number"),
        ("title: a\nratio: -.INF\n", 2, "not a finite number"),
        ("title: a\nratio: .nan\n", 2, "not a finite number"),
        ("title: a\nratio: 1e999\n", 2, "not a finite number"),
        (f"title: a\ncount: {'9' * 5000}\n", 2, "too long"),
        ('title: a\nanything: "\\0"\n', 2, "null character"),
        ("title: a\nanything: \x07\n", 2, "control character"),
        ("title: a\nanything: \x1b[31m\n", 2, "control character"),
        (b"title: a\nanything: \xff\n", 2, "is not UTF-8"),
        ("title: a\n".encode("utf-16"), 1, "UTF-16"),
        ("title: a\ncuont: 2\n", 2, "unknown key `cuont`; did you mean `count`?"),
        ("title: a\ninner:\n  size: 1\n  tag: []\n", 4, "unknown key `tag` in `inner`; did you"),
        ("items:\n  - size: 1\n  - size: 2\n    sise: 3\n", 4, "unknown key `sise` in `items[1]`"),
        ("title: a\ninner:\n  tags: []\n", 3, "the key `size` is missing in `inner`"),
        ("title: a\ncount: 0\n", 2, "`count` must be a whole number at least 1 and at most 9"),
        ("title: a\ncount: 1e1\n", 2, "found the number 10.0"),
        ("title: a\ncount: yes\n", 2, "found the text 'yes'"),
        ("title: a\non: yes\n", 2, "`on` must be true or false, found the text 'yes'"),
        ("count: 2\ntitle: 5\n", 2, "`title` must be text, found the number 5"),
        ("count: 2\ntitle: true\n", 2, "`title` must be text, found true"),
        ("count: 2\ntitle:\n", 2, "`title` must be text, found nothing"),
        ("title: a\nmode: fats\n", 2, "one of fast, slow, found the text 'fats'; did you mean"),
        ("title: a\nthreads: atuo\n", 2, "a whole number or auto, found the text 'atuo'"),
        ("title: a\ninner: 3\n", 2, "`inner` must be a mapping or nothing"),
        ("title: a\nitems:\n  size: 1\n", 3, "`items` must be a list, found a mapping"),
        ("env:\n  A: x\n  B: y\n  C: 3\n  D: z\n", 4, "`env.C` must be text"),
        ("flags:\n  a: 1\n  b: x\n  c:\n    d: 1\n", 5, "`flags.c` must be"),
        ("flags:\n  a: 1\n  c: [x,\n   2]\n", 4, "`flags.c[1]` must be text"),
        ("flags:\n  a: 1\n  c:\n", 3, "`flags.c` must be"),
        ("nested:\n  a: {x: [1]}\n  b:\n    y: [1]\n    z: [1, two]\n", 5, "`nested.b.z[1]`"),
    ],
)
def test_what_is_wrong_and_on_which_line(
    tmp_path: Path, content: str | bytes, line: int, says: str
) -> None:
    error = refusal(tmp_path, content)
    assert error.message.startswith(f"document {tmp_path}/x.yaml:{line}: ")
    assert says in error.message


def test_advice_where_something_can_be_advised(tmp_path: Path) -> None:
    assert refusal(tmp_path, "title: 5\n").fix == 'quote it if text is meant: "5"'
    assert refusal(tmp_path, "title: true\n").fix == 'quote it if text is meant: "true"'
    assert refusal(tmp_path, "on: yes\n").fix == "write true or false"
    assert "title, count" in (refusal(tmp_path, "zzz: 1\n").fix or "")


@pytest.mark.parametrize(
    "content",
    ["[" * 5000, "- " * 5000, "a: " + "{b: " * 5000, "? " * 5000, "[" * 200_000],
    ids=["lists", "block", "mappings", "keys", "many"],
)
def test_deep_nesting_is_refused_at_once(tmp_path: Path, content: str) -> None:
    assert ":1: " in refusal(tmp_path, content).message


def test_nesting_up_to_the_limit_is_read(tmp_path: Path) -> None:
    deep = yaml_reader.MAX_DEPTH - 1  # the mapping around it is one level
    assert load(tmp_path, "anything: " + "[" * deep + "]" * deep).value.anything
    error = refusal(tmp_path, "anything: " + "[" * (deep + 1) + "]" * (deep + 1))
    assert "deeper than 32" in error.message


def test_nesting_through_aliases_counts(tmp_path: Path) -> None:
    deep = "title: a\nanything:\n  - &a " + "[" * 20 + "]" * 20 + "\n  - "
    assert "deeper than 32" in refusal(tmp_path, deep + "[" * 15 + "*a" + "]" * 15).message


def test_a_billion_laughs_are_refused_at_once(tmp_path: Path) -> None:
    lines = ["anything:", "- &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"- &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 20)]
    with processor_time(1.0):
        assert "more than 10000 values" in refusal(tmp_path, "\n".join(lines)).message


def test_long_files_without_aliases_have_no_limit_but_their_size(tmp_path: Path) -> None:
    content = "anything:\n" + "- 1\n" * 20_000
    assert len(load(tmp_path, content).value.anything) == 20_000


def test_a_wrong_value_among_thousands_is_found_quickly(tmp_path: Path) -> None:
    rows = [f"  K{i}: v" for i in range(5000)]
    rows[3456] = "  K3456: 5"
    assert ":3458: `env.K3456`" in refusal(tmp_path, "env:\n" + "\n".join(rows)).message


def test_a_file_of_100_mb_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    with path.open("wb") as file:
        file.truncate(100_000_000)
    tracemalloc.start()
    with pytest.raises(QlaunchError, match="larger than 262144 bytes"):
        load_typed(path, Document, what="document")
    _now, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 10_000_000


def test_the_size_limit_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("title: abc\n")
    assert load_typed(path, Document, what="d", max_bytes=11).value.title == "abc"
    with pytest.raises(QlaunchError, match="larger than 10 bytes"):
        load_typed(path, Document, what="d", max_bytes=10)


def make_folder(path: Path) -> None:
    path.mkdir()


def make_loop(path: Path) -> None:
    path.symlink_to(path)


def make_dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: None, "there is no such file"),
        (make_folder, "is a folder where a file belongs"),
        (make_loop, "symbolic links lead in a circle"),
        (make_dangling, "there is no such file"),
        (make_pipe, "is not a regular file"),
    ],
)
def test_what_is_no_readable_file(tmp_path: Path, make: Any, says: str) -> None:
    path = tmp_path / "x.yaml"
    make(path)
    with pytest.raises(QlaunchError, match=says) as caught:
        load_typed(path, Document, what="document")
    assert caught.value.exit_code is ExitCode.USAGE
    assert caught.value.code == "profile_invalid"


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(yaml_reader, "_open_quickly", refuse)
    assert "permission denied" in refusal(tmp_path, "title: a\n").message


@pytest.mark.parametrize("name", ["a\0b", "a" * 300, "x/" + "b" * 5000, "file/inside"])
def test_names_that_no_file_can_have(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(QlaunchError):
        load_typed(tmp_path / name, Document, what="document")


def test_devices_are_no_files() -> None:
    with pytest.raises(QlaunchError, match="not a regular file"):
        load_typed(Path("/dev/zero"), Document, what="document")


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("title: a\n")
    (tmp_path / "x.yaml").symlink_to("real.yaml")
    assert load_typed(tmp_path / "x.yaml", Document, what="document").value.title == "a"


def test_messages_are_safe_on_a_terminal(tmp_path: Path) -> None:
    error = refusal(tmp_path, 'title: a\nmode: "\\e[31m\\n' + "x" * 500 + '"\n')
    assert "\x1b" not in error.message
    assert len(error.message) < 300 + len(str(tmp_path))
    with pytest.raises(QlaunchError) as caught:
        load_typed(tmp_path / "\x1b[2J\udcff", Document, what="document")
    caught.value.message.encode()
    assert "\x1b" not in caught.value.message


def test_nearest_names() -> None:
    names = ["cpu-minilm", "cpu-qwen3-0.6b", "t4-fp16"]
    assert nearest("cpu-minlm", names) == ["cpu-minilm"]
    assert nearest("CPU-MiniLM", names)[0] == "cpu-minilm"
    assert nearest("zzz", names) == []
    assert nearest("x" * 1_000_000, names) == []
    assert nearest("a", []) == []
    assert did_you_mean("t4-fp61", names) == "; did you mean `t4-fp16`?"
    assert did_you_mean("zzz", names) == ""


def test_shown_cuts_and_escapes() -> None:
    assert shown("a\nb\x1b\u202e") == "a\\nb\\x1b\\u202e"
    assert shown("x" * 100, 10) == "x" * 9 + "…"


FUZZ = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def never_surprises(tmp_path: Path, content: bytes) -> None:
    for type_ in (Document, Profile):
        refused = None
        with processor_time(5.0):
            try:
                load(tmp_path, content, type_)
            except QlaunchError as error:
                refused = error
        if refused is not None:
            assert refused.exit_code is ExitCode.USAGE
            refused.message.encode()


@FUZZ
@given(content=st.binary(max_size=300))
def test_random_bytes_never_surprise(tmp_path: Path, content: bytes) -> None:
    never_surprises(tmp_path, content)


PIECES = ["a", "title", "env", "flags", "inner", "items", "1", "1e3", "~", "é", ": ", ":", "- "]
PIECES += ["\n", "\n  ", "\t", "[", "]", "{", "}", ", ", "? ", "&x ", "*x", "!t ", "|\n", ">", "#"]
PIECES += ["'", '"', "<<: ", "---\n", "%YAML 1.2\n", "\\x", '"\\UFFFFFFFF"', '"\\uD800"']
PIECES += ["\u2028", "\x85"]
TOKENS = st.sampled_from(PIECES)


@FUZZ
@given(content=st.lists(TOKENS, max_size=40).map("".join))
def test_random_yaml_tokens_never_surprise(tmp_path: Path, content: str) -> None:
    never_surprises(tmp_path, content.encode())


KEYS = st.sampled_from([*Document.__struct_fields__, *Profile.__struct_fields__, "size", "tags"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@FUZZ
@given(value=st.dictionaries(KEYS, VALUES, max_size=5))
def test_random_structures_never_surprise(tmp_path: Path, value: dict[str, Any]) -> None:
    never_surprises(tmp_path, yaml.safe_dump(value, allow_unicode=True).encode())


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@FUZZ
@given(value=PLAIN)
def test_json_is_read_as_json(tmp_path: Path, value: Any) -> None:
    content = json.dumps({"anything": value}, ensure_ascii=True)
    if any(refused in content for refused in ("\\u0000", "\\ud", '"<<"', "\x7f")):
        return  # null, surrogates spelt as escapes, merge keys, unprintable in YAML
    assert load(tmp_path, content).value.anything == value
