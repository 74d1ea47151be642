"""`qlaunch embed` as users meet it: formats, options, refusals, bad rows."""

from __future__ import annotations

import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.app import corpus_servers
from launcher.corpus import endpoints
from tests.cli.commandline import Answer, Run
from tests.corpus.server import Server
from tests.fake_engine import vector

Start = Callable[..., Server]
TEXTS = ["one two", 'quoted "three"', "four,five\tsix", "sieben\nacht", "語 \u2028 é \0"]


def write(path: Path, texts: list[str]) -> Path:
    """An input of any format with a column `id` beside the texts."""
    if path.suffix == ".txt":
        path.write_text("".join(f"{text}\n" for text in texts), "utf-8", newline="")
    elif path.suffix == ".jsonl":
        rows = [json.dumps({"id": at, "text": text}) for at, text in enumerate(texts)]
        path.write_text("".join(f"{row}\n" for row in rows))
    elif path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table({"id": range(len(texts)), "text": texts}), path)
    else:
        import csv

        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([("id", "text"), *enumerate(texts)])
    return path


def read(path: Path) -> tuple[list[dict[str, Any]], np.ndarray[Any, Any]]:
    """Columns other than the vectors, and the vectors."""
    if path.suffix == ".npy":
        return [], np.load(path)
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        rows = pq.read_table(path).to_pylist()
    else:
        rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    return rows, np.array([row.pop("embedding") for row in rows], np.float32)


def wanted(texts: list[str], prompt: str = "") -> np.ndarray[Any, Any]:
    return np.array([vector(prompt + text, 8) for text in texts], np.float32)


def bad(path: Path) -> list[tuple[int, str]]:
    lines = path.with_name(path.name + ".bad.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["row"], row["reason"]) for row in rows]


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "home"}


@pytest.mark.parametrize("out", ["o.jsonl", "o.npy", "o.parquet"])
@pytest.mark.parametrize("source", ["i.txt", "i.jsonl", "i.csv", "i.tsv", "i.parquet"])
def test_every_format_into_every_other(
    source: str, out: str, engine: str, run: Run, tmp_path: Path
) -> None:
    texts = [text for text in TEXTS * 20 if source != "i.txt" or "\n" not in text]
    path = write(tmp_path / source, texts)
    answer = run("embed", str(path), "-o", str(tmp_path / out), "--url", engine, "--json")
    assert answer.data["rows"] == len(texts)
    assert answer.data["bad"] == 0
    rows, vectors = read(tmp_path / out)
    assert np.array_equal(vectors, wanted(texts))
    if out != "o.npy":
        assert [row["text"] for row in rows] == texts
        if source != "i.txt":
            assert [int(row["id"]) for row in rows] == list(range(len(texts)))
    assert left(tmp_path) == {source, out}
    assert stat.S_IMODE((tmp_path / out).stat().st_mode) & 0o600 == 0o600


def test_rows_without_a_vector_have_a_file_of_their_own(
    engine: str, run: Run, tmp_path: Path
) -> None:
    texts = ["good", "", "  \t", "word " * 70, "good too"]
    out = tmp_path / "o.jsonl"
    source = str(write(tmp_path / "i.jsonl", texts))
    answer = run("embed", source, "-o", str(out), "--url", engine, "--json")
    assert answer.code == 10
    assert answer.data["reasons"] == {"empty": 2, "too_long": 1}
    assert answer.data["bad_file"] == f"{out}.bad.jsonl"
    assert answer.error["code"] == "bad_rows"
    assert bad(out) == [(2, "empty"), (3, "empty"), (4, "too_long")]
    rows, vectors = read(out)
    assert [row["id"] for row in rows] == [0, 4]
    assert np.array_equal(vectors, wanted(["good", "good too"]))


def test_a_bad_row_does_not_cost_its_neighbours(server: Start, run: Run, tmp_path: Path) -> None:
    """One text that a server refuses, or dies of, in calls of eight."""

    def decide(texts: list[str]) -> tuple[int, str] | None:
        if any("poison" in text for text in texts):
            return 500, "it failed"
        if any("refused" in text for text in texts):
            return 400, "not this one"
        return None

    texts = [f"t{at}" for at in range(40)]
    texts[5], texts[23] = "poison", "refused"
    out = tmp_path / "o.npy"
    source = str(write(tmp_path / "i.txt", texts))
    url = server(decide=decide).url
    answer = run("embed", source, "-o", str(out), "--url", url, "--batch", "8", "--json")
    assert (answer.code, answer.data["rows"]) == (10, 38)
    assert bad(out) == [(6, "failed"), (24, "refused")]
    good = [text for text in texts if text.startswith("t")]
    assert np.array_equal(np.load(out), wanted(good))


def test_servers_that_fail_on_everything_end_the_run_and_lose_nothing(
    server: Start, run: Run, tmp_path: Path
) -> None:
    broken = True

    def decide(texts: list[str]) -> tuple[int, str] | None:
        return (500, "it is broken") if broken and texts[0].startswith("t") else None

    texts = [f"t{at}" for at in range(40)]
    source, out = str(write(tmp_path / "i.txt", texts)), tmp_path / "o.npy"
    words = ("embed", source, "-o", str(out), "--url", server(decide=decide).url, "--batch", "1")
    answer = run(*words, "--json")
    assert (answer.code, answer.error["code"]) == (1, "embed_failed")
    assert "it is broken" in answer.error["message"]
    broken = False
    assert run(*words).code == 0
    assert np.array_equal(np.load(out), wanted(texts))


def test_truncation_keeps_all_words_that_fit(engine: str, run: Run, tmp_path: Path) -> None:
    """The engine takes 63 words and refuses 64, without saying how many there are."""
    texts = ["a b c", " ".join(f"w{at}" for at in range(500)), "x" * 40 + " y" * 100]
    out = tmp_path / "o.npy"
    source = str(write(tmp_path / "i.txt", texts))
    assert run("embed", source, "-o", str(out), "--url", engine, "--truncate").code == 0
    cut = [" ".join(text.split(" ")[:63]) for text in texts]
    assert np.array_equal(np.load(out), wanted(cut))


def test_truncation_by_the_counts_that_the_guard_gives(
    server: Start, run: Run, tmp_path: Path
) -> None:
    def decide(texts: list[str]) -> tuple[int, str] | None:
        most = max(len(text.split()) for text in texts)
        said = f"an input has {most} tokens, and this service takes 100 at most"
        return (400, said) if most > 100 else None

    asked = server(decide=decide)
    text = " ".join(f"w{at}" for at in range(5000))
    out = tmp_path / "o.npy"
    source = str(write(tmp_path / "i.txt", [text]))
    assert run("embed", source, "-o", str(out), "--url", asked.url, "--truncate").code == 0
    assert np.array_equal(np.load(out), wanted([" ".join(text.split()[:100])]))
    assert len(asked.calls) <= 10


def test_fewer_dimensions_are_asked_for(server: Start, run: Run, tmp_path: Path) -> None:
    source = str(write(tmp_path / "i.txt", ["a", "b"]))
    out = tmp_path / "o.npy"
    words = ("--url", server().url, "--dimensions", "4", "--json")
    assert run("embed", source, "-o", str(out), *words).data["dimensions"] == 4
    assert np.load(out).shape == (2, 4)


@pytest.mark.parametrize("suffix", ["jsonl", "npy", "parquet"])
def test_no_rows_make_an_empty_output(suffix: str, engine: str, run: Run, tmp_path: Path) -> None:
    out = tmp_path / f"o.{suffix}"
    source = str(write(tmp_path / "i.txt", []))
    assert run("embed", source, "-o", str(out), "--url", engine).code == 0
    rows, vectors = read(out)
    assert rows == []
    assert len(vectors) == 0


def test_calls_go_to_all_servers_and_away_from_a_dead_one(
    server: Start, run: Run, tmp_path: Path
) -> None:
    servers: list[Server] = []

    def dies(_: list[str]) -> None:
        if len(servers[0].calls) == 10:
            servers[0]._http.socket.close()

    servers += [server(decide=dies), server()]
    texts = [f"t{at}" for at in range(200)]
    out = tmp_path / "o.npy"
    source = str(write(tmp_path / "i.txt", texts))
    urls = [word for each in servers for word in ("--url", each.url)]
    answer = run("embed", source, "-o", str(out), *urls, "--batch", "4")
    assert answer.code == 0
    assert np.array_equal(np.load(out), wanted(texts))
    assert all(len(each.calls) >= 5 for each in servers)


def test_one_of_several_servers_that_is_not_there_is_left_out(
    server: Start, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.service import ports

    monkeypatch.setattr("launcher.app.corpus_probe.ABSENT_S", 0.2)
    absent = f"http://127.0.0.1:{ports.pick_free('127.0.0.1')}/v1"
    source, out = str(write(tmp_path / "i.txt", ["a"])), tmp_path / "o.npy"
    words = ("--url", absent, "--url", server().url, "--model", "m")
    answer = run("embed", source, "-o", str(out), *words)
    assert answer.code == 0
    assert f"{absent} is left out: no endpoint has answered" in answer.err
    assert np.array_equal(np.load(out), wanted(["a"]))


def test_a_name_of_any_bytes(engine: str, run: Run, tmp_path: Path) -> None:
    """Names are bytes: these are no UTF-8, and JSON must hold them."""
    source = write(tmp_path / os.fsdecode(b"caf\xe9.txt"), ["a", ""])
    out = tmp_path / os.fsdecode(b"\xe9.jsonl")
    answer = run("embed", str(source), "-o", str(out), "--url", engine, "--json")
    assert answer.code == 10
    assert answer.data["rows"] == 1
    assert json.loads(Path(f"{out}.bad.jsonl").read_text())["file"].endswith("caf\\udce9.txt")


def test_servers_of_other_models_do_not_mix(server: Start, run: Run, tmp_path: Path) -> None:
    def other(texts: list[str]) -> list[list[float]]:
        return [vector("other " + text, 8)[::-1] for text in texts]

    source = str(write(tmp_path / "i.txt", ["a"]))
    urls = ("--url", server().url, "--url", server(decide=other).url)
    answer = run("embed", source, "-o", str(tmp_path / "o.npy"), *urls, "--json")
    assert (answer.code, answer.error["code"]) == (7, "servers_differ")
    assert left(tmp_path) == {"i.txt"}


def test_a_server_that_is_busy_or_away_is_waited_for(
    server: Start, run: Run, tmp_path: Path
) -> None:
    answers = iter([(503, "busy"), (429, "later"), (503, "busy")])

    def decide(texts: list[str]) -> tuple[int, str] | None:
        return next(answers, None) if texts == ["a"] else None

    source = str(write(tmp_path / "i.txt", ["a"]))
    out = tmp_path / "o.npy"
    assert run("embed", source, "-o", str(out), "--url", server(decide=decide).url).code == 0
    assert np.array_equal(np.load(out), wanted(["a"]))


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://user:geheim@127.0.0.1:1/v1", "holds a user or a password"),
        ("http://127.0.0.1:1/v1?key=geheim", "after ? or #"),
        ("http://127.0.0.1:1/v1#geheim", "after ? or #"),
        ("http://[::1/v1", "names no host and port"),
        ("http://127.0.0.1:99999", "names no host and port"),
        ("http://ge heim/v1", "blanks or control characters"),
        ("ftp://127.0.0.1", "not http:// or https://"),
        (" ", "is empty"),
    ],
)
def test_an_address_that_is_none_is_told_without_its_secrets(
    url: str, says: str, run: Run, tmp_path: Path
) -> None:
    """Its whole text was quoted, key and all; one with half a bracket was an unexpected error."""
    source = write(tmp_path / "in.txt", TEXTS[:1])
    answer = run("embed", str(source), "-o", str(tmp_path / "o.npy"), "--url", url, "--json")
    assert refused(answer) == (2, "bad_url")
    assert says in answer.error["message"]
    assert "geheim" not in json.dumps(answer.document)


def test_vectors_of_another_size_halfway_are_never_mixed(
    server: Start, run: Run, tmp_path: Path
) -> None:
    source = write(tmp_path / "in.txt", [f"t{n}" for n in range(40)])
    out = tmp_path / "o.jsonl"
    other = server()

    def changes(texts: list[str]) -> list[list[float]] | None:
        return [vector(text, 4) for text in texts] if len(other.calls) > 5 else None

    other.decide = changes
    words = ("embed", str(source), "-o", str(out), "--batch", "4", "--wait", "0.2", "--json")
    answer = run(*words, "--url", other.url)
    assert refused(answer)[1] == "embed_failed"
    assert "4 numbers instead of 8" in answer.error["message"]
    assert run(*words, "--url", other.url).error["code"] == "embed_differs"
    assert run(*words, "--url", server().url).code == 0
    assert read(out)[1].shape == (40, 8)


def test_a_byte_order_mark_alone_is_no_row(engine: str, run: Run, tmp_path: Path) -> None:
    source, out = tmp_path / "in.txt", tmp_path / "o.jsonl"
    source.write_bytes(b"\xef\xbb\xbf")
    answer = run("embed", str(source), "-o", str(out), "--url", engine, "--json")
    assert (answer.code, answer.data["rows"], answer.data["bad"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("status", "helps"), [(401, "--api-key-file"), (404, "--model NAME"), (405, "/v1/embeddings")]
)
def test_a_server_that_will_not_do_is_a_fault_of_the_command_line(
    status: int, helps: str, run: Run, server: Start, tmp_path: Path
) -> None:
    asked = server()
    asked.decide = lambda _batch: (status, "no")
    source, out = write(tmp_path / "i.txt", ["a"]), tmp_path / "o.npy"
    answer = run("embed", str(source), "-o", str(out), "--url", asked.url, "--model", "m", "--json")
    assert refused(answer) == (2, "embed_failed")
    assert helps in answer.error["fix"]


def test_nobody_there_ends_after_the_time_given(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from launcher.service import ports

    source = str(write(tmp_path / "i.txt", ["a"]))
    url = f"127.0.0.1:{ports.pick_free('127.0.0.1')}"
    monkeypatch.setattr(endpoints, "TELL_S", 0.1)
    words = ("--url", url, "--model", "m", "--wait", "0.5")
    answer = run("embed", source, "-o", str(tmp_path / "o.npy"), *words)
    assert answer.code == 8
    assert "asking again for up to 0 s (--wait)" in answer.err
    answer = run("embed", source, "-o", str(tmp_path / "o.npy"), *words, "--json")
    assert (answer.code, answer.error["code"]) == (8, "embed_failed")
    assert "no endpoint has answered for" in answer.error["message"]
    unnamed = ("--url", url, "--wait", "0.5", "--json")
    answer = run("embed", source, "-o", str(tmp_path / "o.npy"), *unnamed)
    assert (answer.code, answer.error["code"]) == (8, "models_unknown")


def test_a_server_that_comes_up_later_is_asked_for_its_model_then(
    run: Run, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = corpus_servers.served_model, []

    def at_the_third_time(url: str, key: str | None) -> str:
        asked.append(url)
        return real(url if len(asked) > 2 else "http://127.0.0.1:9/v1", key)

    monkeypatch.setattr(corpus_servers, "served_model", at_the_third_time)
    monkeypatch.setattr(corpus_servers, "ASK_AGAIN_S", 0.01)
    source, out = write(tmp_path / "i.txt", ["a"]), tmp_path / "o.npy"
    answer = run("embed", str(source), "-o", str(out), "--url", engine, "--json")
    assert (answer.code, answer.data["rows"], len(asked)) == (0, 1, 3)


def refused(answer: Answer) -> tuple[int, str]:
    return answer.code, answer.error["code"]


def test_outputs_that_cannot_be(engine: str, run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "i.jsonl", ["a"])

    def to(*out: str) -> tuple[int, str]:
        return refused(run("embed", str(source), "-o", *out, "--url", engine, "--json"))

    assert to(str(source)) == (2, "output_is_input")
    (tmp_path / "link.jsonl").symlink_to(source)
    assert to(str(tmp_path / "link.jsonl")) == (2, "output_is_input")
    os.link(source, tmp_path / "hard.npy")
    assert to(str(tmp_path / "hard.npy")) == (2, "output_is_input")
    bad = write(tmp_path / "w.jsonl.bad.part", ["a"])
    kept = bad.read_bytes()
    words = ("--input-format", "jsonl", "--force", "--restart", "--url", engine, "--json")
    reply = run("embed", str(bad), "-o", str(tmp_path / "w.jsonl"), *words)
    assert refused(reply) == (2, "output_is_input")
    assert bad.read_bytes() == kept  # it was emptied
    assert to(str(tmp_path / "absent" / "o.npy")) == (2, "output_unusable")
    (tmp_path / "folder.npy").mkdir()
    assert to(str(tmp_path / "folder.npy")) == (2, "output_unusable")
    assert to("/dev/null", "--format", "npy") == (2, "output_unusable")
    reader, writer = os.pipe()  # `-o /dev/stdout | head`: its name led to `pipe:[4824986]`
    assert to(f"/proc/self/fd/{writer}", "--format", "jsonl") == (2, "output_unusable")
    os.close(reader)
    os.close(writer)
    with tempfile.TemporaryFile() as nameless:  # a file `… (deleted)` was made beside it
        assert to(f"/proc/self/fd/{nameless.fileno()}", "--format", "jsonl") == (
            2,
            "output_unusable",
        )
    assert to(str(tmp_path / "o.xyz")) == (2, "unknown_format")
    assert to(str(tmp_path / "o")) == (2, "unknown_format")
    (tmp_path / "there.npy").write_bytes(b"mine")
    assert to(str(tmp_path / "there.npy")) == (9, "output_exists")
    assert (tmp_path / "there.npy").read_bytes() == b"mine"
    (tmp_path / "odd.npy.part").write_bytes(b"somebody's")
    assert to(str(tmp_path / "odd.npy")) == (9, "embed_damaged")
    assert (tmp_path / "odd.npy.part").read_bytes() == b"somebody's"
    assert not list(tmp_path.glob("*.journal"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written(engine: str, run: Run, tmp_path: Path) -> None:
    source = write(tmp_path / "i.jsonl", ["a"])
    (tmp_path / "shut").mkdir(mode=0o500)
    out = str(tmp_path / "shut" / "o.npy")
    answer = run("embed", str(source), "-o", out, "--url", engine, "--json")
    assert refused(answer) == (2, "output_unusable")


def test_inputs_that_cannot_be(engine: str, run: Run, tmp_path: Path) -> None:
    good = str(write(tmp_path / "i.jsonl", ["a"]))
    other = str(write(tmp_path / "i.txt", ["a"]))
    two = tmp_path / "two.csv"
    two.write_text("a,b\n1,2\n")
    odd = tmp_path / "odd.dat"
    odd.write_text("a\n")
    taken = tmp_path / "taken.csv"
    taken.write_text("text,embedding\n1,2\n")

    def of(*files: str) -> tuple[int, str]:
        out = str(tmp_path / "o.jsonl")
        return refused(run("embed", *files, "-o", out, "--url", engine, "--json"))

    assert of(str(tmp_path / "absent.txt")) == (2, "input_unreadable")
    assert of(str(tmp_path)) == (2, "input_unreadable")
    assert of(good, good) == (2, "input_unreadable")
    assert of(good, other) == (2, "input_unreadable")
    assert of(str(odd)) == (2, "unknown_format")
    assert of(str(two)) == (2, "column_unknown")
    assert of(str(two), "--column", "c") == (2, "column_unknown")
    assert of(str(taken)) == (2, "column_taken")
    assert of(good, "--prompt", "query") == (2, "prompt_unknown")
    assert of("cpu-minilm") == (2, "usage")
    assert left(tmp_path) == {"i.jsonl", "i.txt", "two.csv", "odd.dat", "taken.csv"}


def test_an_output_is_replaced_only_when_asked_and_only_when_whole(
    engine: str, run: Run, tmp_path: Path
) -> None:
    source, out = str(write(tmp_path / "i.txt", ["a"])), tmp_path / "o.npy"
    out.write_bytes(b"old")
    Path(f"{out}.bad.jsonl").write_bytes(b"old")
    assert run("embed", source, "-o", str(out), "--url", engine, "--force").code == 0
    assert np.array_equal(np.load(out), wanted(["a"]))
    assert left(tmp_path) == {"i.txt", "o.npy"}


def test_a_link_as_output_stays_a_link(engine: str, run: Run, tmp_path: Path) -> None:
    source = str(write(tmp_path / "i.txt", ["a"]))
    (tmp_path / "deep").mkdir()
    (tmp_path / "o.npy").symlink_to(tmp_path / "deep" / "real.npy")
    assert run("embed", source, "-o", str(tmp_path / "o.npy"), "--url", engine).code == 0
    assert (tmp_path / "o.npy").is_symlink()
    assert left(tmp_path / "deep") == {"real.npy"}


def test_parquet_without_pyarrow_is_a_sentence_and_the_rest_works(
    engine: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    source = str(write(tmp_path / "i.csv", ["a"]))
    for suffix in ("npy", "jsonl"):
        out = str(tmp_path / f"o.{suffix}")
        assert run("embed", source, "-o", out, "--url", engine).code == 0
    out = str(tmp_path / "o.parquet")
    answer = run("embed", source, "-o", out, "--url", engine, "--json")
    assert refused(answer) == (2, "extra_missing")
    assert "qlaunch[embed]" in answer.error["fix"]


def test_json_of_mixed_types_in_parquet(engine: str, run: Run, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "a", "n": 1, "x": 1, "big": 2**80, "only": True},
        {"n": 2.5, "text": "b", "x": "one", "nested": {"k": [1]}, "nothing": None},
    ]
    source, out = tmp_path / "i.jsonl", tmp_path / "o.parquet"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run("embed", str(source), "-o", str(out), "--url", engine).code == 0
    back, _ = read(out)
    absent: dict[str, Any] = dict.fromkeys(("only", "nested", "nothing", "big"))
    assert back == [
        {**absent, "text": "a", "n": 1.0, "x": "1", "big": str(2**80), "only": True},
        {**absent, "text": "b", "n": 2.5, "x": '"one"', "nested": '{"k":[1]}'},
    ]


def test_parquet_keeps_its_types(engine: str, run: Run, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "when": pa.array([1, None, 3], pa.timestamp("ns", "UTC")),
            "text": pa.array(["a", "b", "c"]).dictionary_encode(),
            "more": [{"a": [1]}, None, {"a": []}],
        }
    )
    pq.write_table(table, tmp_path / "i.parquet")
    out = tmp_path / "o.parquet"
    source = str(tmp_path / "i.parquet")
    words = ("--output-column", "v", "--column", "text", "--url", engine)
    assert run("embed", source, "-o", str(out), *words).code == 0
    back = pq.read_table(out)
    assert back.drop_columns("v").cast(table.schema).equals(table)
    assert str(back.schema.field("when").type) == "timestamp[ns, tz=UTC]"
