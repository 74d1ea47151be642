"""Readers: every row once, whatever stands in it, and from anywhere on."""

from __future__ import annotations

import csv
import io
import json
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.corpus.delimited import DelimitedSource
from launcher.corpus.inputs import InputFormat, Inputs
from launcher.corpus.lines import JsonlSource, TextSource
from launcher.corpus.records import RECORD_LIMIT, Position, Row, Source
from launcher.errors import QlaunchError

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
LINES = TEXTS.filter(lambda text: "\n" not in text and not text.endswith("\r"))
ODD = st.text(st.sampled_from(list('",\n\r\t\0 ;aé語\u2028\ufeff')), max_size=12)
START = Position()


def put(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def read(source: Source) -> list[Row]:
    """All rows, and proof that reading can begin behind any of them."""
    rows = list(source.rows(START))
    for at, row in enumerate(rows):
        assert list(source.rows(row.after)) == rows[at + 1 :]
    return rows


def texts(rows: Sequence[Row]) -> list[str]:
    assert [row.problem for row in rows] == [None] * len(rows)
    return [row.text for row in rows]


def problems(source: Source) -> list[tuple[int, str | None]]:
    rows = read(source)
    return [(row.number, row.problem.reason if row.problem else None) for row in rows]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inputs")


@given(st.lists(LINES, max_size=8), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_text_of_any_kind_comes_back_line_by_line(
    folder: Path, wanted: list[str], end: str, last: bool
) -> None:
    if wanted and wanted[0].startswith("\ufeff"):
        return  # at the start of a file that is a mark, and no text
    whole = end.join(wanted) + (end if wanted and (last or wanted[-1] == "") else "")
    path = put(folder, "a.txt", whole.encode())
    assert texts(read(TextSource(path, "values"))) == wanted


@given(
    st.lists(st.tuples(TEXTS | ODD, TEXTS | ODD), max_size=8),
    st.sampled_from([",", "\t"]),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_csv_with_anything_in_its_fields(
    folder: Path, wanted: list[tuple[str, str]], delimiter: str, end: str, mark: bool
) -> None:
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "text"), *wanted])
    path = put(folder, "a.csv", (b"\xef\xbb\xbf" if mark else b"") + made.getvalue().encode())
    source = DelimitedSource(path, delimiter, "text", "values")
    rows = read(source)
    assert texts(rows) == [text for _, text in wanted]
    assert [row.carried for row in rows] == [{"id": one, "text": two} for one, two in wanted]
    assert [row.number for row in rows] == list(range(1, len(wanted) + 1))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


@given(
    st.lists(st.tuples(TEXTS, st.dictionaries(TEXTS, JSON, max_size=3)), max_size=6),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
)
def test_json_lines_are_carried_byte_by_byte(
    folder: Path, wanted: list[tuple[str, dict[str, Any]]], ascii_only: bool, end: str
) -> None:
    objects = [
        {**{k: v for k, v in more.items() if k not in ("text", "embedding")}, "text": text}
        for text, more in wanted
    ]
    lines = [json.dumps(each, ensure_ascii=ascii_only, allow_nan=True) for each in objects]
    if any("Infinity" in line for line in lines):
        return  # no JSON
    path = put(folder, "a.jsonl", "".join(line + end for line in lines).encode())
    rows = read(JsonlSource(path, "text", "embedding", "json"))
    assert texts(rows) == [text for text, _ in wanted]
    assert [row.carried + b"}" for row in rows] == [line.encode() for line in lines]


def test_rows_of_text_that_are_none(tmp_path: Path) -> None:
    path = put(tmp_path, "a.txt", b"good\n\xff\xfe bad\n" + b"x" * 50 + b"\n\nlast\x00")
    source = TextSource(path, "values", limit=20)
    assert problems(source) == [
        (1, None),
        (2, "invalid_utf8"),
        (3, "too_long"),
        (4, None),
        (5, None),
    ]
    assert [row.text for row in read(source)][3:] == ["", "last\0"]


def test_rows_of_jsonl_that_are_none(tmp_path: Path) -> None:
    rows = [
        b'{"text": "good"}',
        b'{"text": 3}',
        b'{"text": null}',
        b'{"other": "x"}',
        b'["text"]',
        b"{'text': 1}",
        b'{"text": "caf\xe9"}',
        b'{"text": "\\ud800"}',
        b'{"text": "x", "embedding": 1}',
        b"[" * 100_000,
        b'{"text": "x", "v": NaN}',
        b'{"text": "last"}',
    ]
    path = put(tmp_path, "a.jsonl", b"\n".join(rows))
    assert problems(JsonlSource(path, "text", "embedding", "json")) == [
        (1, None),
        (2, "wrong_type"),
        (3, "wrong_type"),
        (4, "missing_column"),
        (5, "unreadable"),
        (6, "unreadable"),
        (7, "invalid_utf8"),
        (8, "unreadable"),
        (9, "column_taken"),
        (10, "unreadable"),
        (11, "unreadable"),
        (12, None),
    ]


def test_rows_of_csv_that_are_none(tmp_path: Path) -> None:
    path = put(
        tmp_path,
        "a.csv",
        b'id,text\n1,good\n2\n3,a,b\n4,caf\xe9\n\n5,"a"b\n6,a\rb\n7,"two\nlines"\n8,"open\nto the',
    )
    assert problems(DelimitedSource(path, ",", "text", "json")) == [
        (1, None),
        (2, "missing_column"),
        (3, "unreadable"),
        (4, "invalid_utf8"),
        (5, "unreadable"),
        (6, "unreadable"),
        (7, None),
        (8, "unreadable"),
    ]


def test_a_row_that_an_open_quote_made_long_says_what_it_took_with_it(tmp_path: Path) -> None:
    data = b'id,text\n1,good\n2,"open\n3,lost\n4,"a"\n5,good\n6,"open\n7,lost\n8,lost\n'
    path = put(tmp_path, "a.csv", data)
    found = list(DelimitedSource(path, ",", "text", "json").rows(START))
    said = [(row.number, row.problem.message if row.problem else row.text) for row in found]
    assert [said[0], said[2]] == [(1, "good"), (3, "good")]
    lost, end = data.index(b"2,"), data.index(b"5,")
    assert f"3 lines, bytes {lost} to {end} of the file" in str(said[1][1])
    assert f"3 lines, bytes {data.index(b'6,')} to {len(data)} of the file" in str(said[3][1])


def test_a_quote_that_nobody_closes_does_not_take_the_memory(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", b'text\ngood\n"open\n' + b"more\n" * 1000)
    source = DelimitedSource(path, ",", "text", "json", limit=500)
    rows = source.rows(START)
    assert next(rows).text == "good"
    with pytest.raises(QlaunchError, match="row 2 ends after more than 500 bytes") as raised:
        next(rows)
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("size", [499, 500, 501, 1000])
def test_one_csv_line_about_as_long_as_the_limit(tmp_path: Path, size: int) -> None:
    path = put(tmp_path, "a.csv", b"text\n" + b"x" * size + b"\nlast\n")
    source = DelimitedSource(path, ",", "text", "json", limit=500)
    if size < 499:
        assert texts(read(source)) == ["x" * size, "last"]
    else:
        with pytest.raises(QlaunchError, match="more than 500 bytes"):
            list(source.rows(START))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "it is empty"),
        (b"a,b,a\n", "names the column 'a' twice"),
        (b'"a\n', "names no columns"),
        (b"\xff\xfea\0,\0", "UTF-16"),
        (b"caf\xe9,b\n", "not valid UTF-8"),
    ],
)
def test_csv_files_that_are_none(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(QlaunchError, match=words) as raised:
        DelimitedSource(put(tmp_path, "a.csv", data), ",", None, "json")
    assert (raised.value.code, raised.value.exit_code) == ("input_unreadable", 2)


def test_parquet_of_every_type_from_any_row_on(tmp_path: Path) -> None:
    from launcher.corpus.parquet import ParquetSource

    count = 1000
    table = pa.table(
        {
            "id": pa.array(range(count), pa.int16()),
            "text": pa.array([None if i % 7 == 3 else f"t{i}" for i in range(count)]),
            "when": pa.array(range(count), pa.timestamp("ns")),
            "more": pa.array([{"a": [i]} for i in range(count)]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=300)
    source = ParquetSource(tmp_path / "a.parquet", "text", "json")
    rows = list(source.rows(START))
    assert [row.number for row in rows] == list(range(1, count + 1))
    assert [row.number for row in rows if row.problem] == list(range(4, count + 1, 7))
    assert json.loads(rows[2].carried + b"}")["more"] == {"a": [2]}
    for at in (0, 255, 256, 299, 300, 511, 998, 999):
        assert [row.number for row in source.rows(rows[at].after)] == list(range(at + 2, count + 1))


def test_parquet_with_bytes_that_are_no_text(tmp_path: Path) -> None:
    from launcher.corpus.parquet import ParquetSource

    offsets = pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0")
    column = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"a\xff"))
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    source = ParquetSource(tmp_path / "a.parquet", "text", "json")
    assert problems(source) == [(1, None), (2, "invalid_utf8")]


def test_several_files_are_one_after_another(tmp_path: Path) -> None:
    paths = [put(tmp_path, f"{n}.txt", f"{n}a\n{n}b\n".encode()) for n in range(3)]
    inputs = Inputs(paths, "text", None, "embedding", "json")
    rows = list(inputs.rows(START))
    assert texts(rows) == ["0a", "0b", "1a", "1b", "2a", "2b"]
    for at, row in enumerate(rows):
        assert list(inputs.rows(row.after)) == rows[at + 1 :]
    assert [round(inputs.share(row.after), 3) for row in rows][-3:] == [0.667, 0.833, 1.0]


LETTERS = st.text(string.ascii_letters, min_size=1, max_size=5)


@given(st.lists(LETTERS, min_size=1, max_size=4, unique=True))
def test_the_column_of_the_texts_is_text_or_the_only_one(folder: Path, names: list[str]) -> None:
    path = put(folder, "b.csv", (",".join(names) + "\n" + ",".join(names) + "\n").encode())
    if "text" in names or len(names) == 1:
        wanted = "text" if "text" in names else names[0]
        assert Inputs([path], "csv", None, "embedding", "nothing").column == wanted
    else:
        with pytest.raises(QlaunchError, match="several columns") as raised:
            Inputs([path], "csv", None, "embedding", "nothing")
        assert raised.value.code == "column_unknown"


def refusal(path: Path, kind: Any) -> QlaunchError:
    with pytest.raises(QlaunchError) as refused:
        Inputs([path], kind, None, "embedding", "json")
    assert refused.value.exit_code == 2
    return refused.value


@pytest.mark.parametrize("names", [["text", "text"], ["text", "x", "x"]])
def test_a_parquet_file_that_names_a_column_twice_is_refused(
    tmp_path: Path, names: list[str]
) -> None:
    """Of `text` it was an unexpected error, of another column one of both was lost."""
    path = tmp_path / "i.parquet"
    table = pa.Table.from_arrays([pa.array(["a", "b"]) for _ in names], names=names)
    pq.write_table(table, path)
    error = refusal(path, "parquet")
    assert error.code == "input_unreadable"
    assert f"names the column {names[-1]!r} twice" in error.message


@pytest.mark.parametrize("columns", [{}, {"x": [1]}, {"x": [1], "y": [2.5]}])
def test_a_file_without_texts_is_told_so(tmp_path: Path, columns: dict[str, Any]) -> None:
    """Of one column, or none, it was said that there are several."""
    path = tmp_path / "i.parquet"
    pq.write_table(pa.table(columns), path)
    error = refusal(path, "parquet")
    assert error.code == "column_unknown"
    assert "no column of texts" in error.message
    assert "several" not in error.message


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_fields_divided_by_something_else_are_no_texts(tmp_path: Path, mark: str) -> None:
    """Whole lines of a file of semicolons were embedded as texts."""
    path = put(tmp_path, "a.csv", f"text{mark}id\na{mark}1\n".encode())
    error = refusal(path, "csv")
    assert error.code == "column_unknown"
    assert f"divided by {mark!r}" in error.message
    named = Inputs([path], "csv", f"text{mark}id", "embedding", "nothing")
    assert texts(list(named.rows(START))) == [f"a{mark}1"]


@pytest.mark.parametrize("name", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_other_encodings_are_named_with_what_converts_them(tmp_path: Path, name: str) -> None:
    """UTF-32 was taken for UTF-16, which its own mark begins like."""
    path = put(tmp_path, "a.txt", "\ufeffh\u00e9".encode(name))
    error = refusal(path, "text")
    assert f"iconv -f {name[:6]} -t UTF-8" in (error.fix or "")


@pytest.mark.parametrize("name", ["UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE"])
def test_other_encodings_without_a_mark_are_refused_too(tmp_path: Path, name: str) -> None:
    """Their zeros were embedded as characters, and the exit code was 0."""
    path = put(tmp_path, "a.txt", "hello\nyou\n".encode(name))
    assert f"iconv -f {name} -t UTF-8" in (refusal(path, "text").fix or "")


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("text", b"a\rb\r"),
        ("csv", b"text,id\ra,1\rb,2\r"),
        ("jsonl", b'{"text":"a"}\r{"text":"b"}\r'),
    ],
)
def test_lines_that_end_with_carriage_returns_alone_are_no_lines(
    tmp_path: Path, kind: InputFormat, data: bytes
) -> None:
    """The whole file was one text, and the exit code was 0."""
    error = refusal(put(tmp_path, "a b", data), kind)
    assert "carriage returns alone" in error.message
    assert error.fix is not None
    assert "tr '\\r' '\\n' < '" in error.fix


def test_a_carriage_return_within_a_text_or_at_its_end_stays(tmp_path: Path) -> None:
    for data, found in ((b"a\rb\r\nc\r", ["a\rb", "c"]), (b"a\r", ["a"])):
        source = Inputs([put(tmp_path, "a.txt", data)], "text", None, "embedding", "nothing")
        assert texts(list(source.rows(START))) == found


def test_a_text_of_parquet_has_the_bound_of_all_records(tmp_path: Path) -> None:
    path = tmp_path / "i.parquet"
    texts_of = ["ok", "x" * (RECORD_LIMIT + 1), "\u8a9e" * (RECORD_LIMIT // 3), "end"]
    pq.write_table(pa.table({"text": texts_of}), path)
    rows = list(Inputs([path], "parquet", None, "embedding", "nothing").rows(START))
    assert [row.problem and row.problem.reason for row in rows] == [None, "too_long", None, None]
